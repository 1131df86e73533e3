"""Names of torch that it does not promise to keep, all of them, and what happens where one is
missing.

Whatever is imported here was there in the oldest and in the newest torch that ``just oldest`` and
CI run. The names of operations in the lists of ``plan.py`` and ``recording.py`` are compared with
what a step runs: one that torch does not have matches nothing.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["TorchDispatchMode", "tree_leaves", "tree_map_only"]
# Documented by torch, in modules whose names begin with an underscore. Without them nothing can be
# recorded: importing genkit's engines fails with the name.


def schema_of(function: Callable[..., Any]) -> Any:
    """What an operation declares of its arguments and results; None where it declares nothing.

    Without schemas every operation would count as one that computes and gives new tensors: plans
    would be slower, and the comparison with Python's steps would refuse those that are wrong.
    """
    return getattr(function, "_schema", None)


def without_wrapper(operation: Callable[..., Any]) -> Callable[..., Any]:
    """An operation as C++ offers it, which saves a call of Python; itself where it has no such
    form.
    """
    bare: Callable[..., Any] = getattr(operation, "_op", operation)
    return bare


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 for one of inference mode, which does not count.

    Without it, changes of tensors that are no buffers would go unseen until steps are compared.
    """
    return 0 if tensor.is_inference() else int(getattr(tensor, "_version", 0))


def onednn_linear() -> Callable[..., Tensor]:
    """oneDNN's product of matrices, bias and activation: the operation that torch uses for linear
    layers in inference.

    Raises:
        AttributeError: this build of torch lacks it; ``--kernels onednn`` is refused then.
    """
    overload: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return overload


def silence_capturable_warning(optimizer: torch.optim.Optimizer) -> None:
    """Keep a copy of an optimizer from warning that it steps outside a CUDA graph.

    Where torch does not know the mark, it is an attribute that nobody reads.
    """
    optimizer._warned_capturable_if_run_uncaptured = True


def register_generator(graph: Any, generator: torch.Generator) -> None:
    """Let a CUDA graph draw from ``generator``; from torch 2.14 on graphs find generators
    themselves, and the call only prints a warning.
    """
    release = re.findall(r"\d+", torch.__version__)[:2]
    if tuple(map(int, release)) < (2, 14) and hasattr(graph, "register_generator_state"):
        graph.register_generator_state(generator)
