"""Record the tensor operations of one step and replay them: what a CUDA graph does, on any device.

A replay runs the very same operations on the very same tensors, and no Python. So whatever a step
does outside tensors (a counter in Python, a value read by ``.item()``, a tensor replaced instead of
changed in place) stays frozen in a replay, and shows as a difference from a step run by Python.
"""

import math
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import ContractError

_READS = {
    *(
        "_local_scalar_dense",
        "allclose",
        "_pack_padded_sequence",
        "nonzero",
        "masked_select",
        "equal",
        "is_nonzero",
    ),
    *("_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount"),
}
_TAGS = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
"""Operations that wait for the device, or give a shape that depends on data; by name and by torch's
tags.
"""
_INDEXING = ("aten.index.", "aten.index_put")  # depend on data only where an index is a mask
_METHODS = ("numpy", "tolist", "__array__", "__repr__", "__format__")
"""What reads a tensor on the host without an operation."""


@dataclass(frozen=True)
class Operation:
    """A tensor operation that was run: what was called, with what, and what it gave."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Any]

    def inputs(self) -> list[Tensor]:
        """The tensors it was called with."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def outputs(self) -> list[Tensor]:
        """The tensors it gave, some of which may be inputs."""
        return [result for result in self.results if isinstance(result, Tensor)]

    def writes(self) -> bool:
        """Whether it changes an input."""
        # The schema of batch_norm does not declare that it does.
        schema = getattr(self.function, "_schema", None)
        return schema is not None and (bool(schema.is_mutable) or "batch_norm" in schema.name)

    def views(self) -> bool:
        """Whether it gives its inputs in other shapes and computes nothing."""
        given = {storage(tensor) for tensor in self.inputs()}
        made = self.outputs()
        return not self.writes() and bool(made) and all(storage(tensor) in given for tensor in made)


def storage(tensor: Tensor) -> int:
    """What tells one piece of memory from another, as long as a tensor that lies in it lives."""
    return int(tensor.untyped_storage()._cdata)


@dataclass
class Recording:
    """Operations in order. It keeps all their tensors, so a tensor is known by its ``id``."""

    operations: list[Operation] = field(default_factory=list)
    host_reads: list[str] = field(default_factory=list)
    """What waits for the device or has a shape that depends on data, and where the model does it.
    """
    optimizer_reads: list[str] = field(default_factory=list)
    """The same inside an optimizer of torch, which is its own affair."""

    def replay(self) -> dict[int, Tensor]:
        """Run the operations again; the results, by the ``id`` of the tensor that was there when
        recording.
        """
        made: dict[int, Tensor] = {}

        def now(tensor: Tensor) -> Tensor:
            return made.get(id(tensor), tensor)

        with torch.no_grad():
            for operation in self.operations:
                given = tree_map_only(Tensor, now, (operation.args, operation.kwargs))
                values = tree_leaves(operation.function(*given[0], **given[1]))
                made |= {
                    id(then): value for then, value in zip(operation.results, values, strict=True)
                }
        return made

    def note_read(self, what: str) -> None:
        """Something reads a tensor on the host, now."""
        frames = traceback.extract_stack()
        if any(Path(frame.filename).parent == _OPTIMIZERS for frame in frames):
            self.optimizer_reads.append(what)
        else:
            self.host_reads.append(f"{what} ({_caller(frames)})")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recording: Recording, max_bytes: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording
        self.left = max_bytes
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operation = Operation(func, args, kwargs or {}, tree_leaves(result))
        if str(func).startswith(_INDEXING):
            reads = any(
                tensor.dtype in (torch.bool, torch.uint8) for tensor in operation.inputs()[1:]
            )
        else:
            reads = func.overloadpacket.__name__ in _READS or not _TAGS.isdisjoint(func.tags)
        if reads:
            self.recording.note_read(str(func))
        self.recording.operations.append(operation)
        for tensor in operation.outputs() if self.left < math.inf else ():
            if (held := storage(tensor)) not in self.seen:
                self.seen.add(held)
                self.left -= tensor.untyped_storage().nbytes()
        if self.left < 0:
            raise ContractError("the tensors of a step take too much memory to be kept at once")
        return result


_one_at_a_time = threading.RLock()
_OPTIMIZERS = Path(torch.optim.__file__).parent


def _caller(frames: traceback.StackSummary) -> str:
    """File and line of the model that is at work: the innermost frame that is neither torch's nor
    genkit's.
    """
    own = {Path(torch.__file__).parent, Path(__file__).parent.parent}
    places = (
        f"{Path(f.filename).name}:{f.lineno}"
        for f in reversed(frames)
        if own.isdisjoint(Path(f.filename).parents)
    )
    return next(places, "unknown")


def record(step: Callable[[], Any], max_bytes: float = math.inf) -> tuple[Any, Recording]:
    """Run ``step`` once and record its tensor operations; what it returned, and the recording.

    Raises:
        ContractError: the tensors that it makes or sees, all of which are kept, take more
            than ``max_bytes``.
    """
    recording, thread = Recording(), threading.get_ident()

    def intercept(name: str) -> Callable[..., Any]:
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == thread:
                recording.note_read(f"Tensor.{name}")
            return originals[name](tensor, *args, **kwargs)

        return call

    with _one_at_a_time:
        originals = {name: getattr(Tensor, name) for name in _METHODS}
        # Some are inherited: those are deleted after, not set.
        defined = {name: method for name, method in originals.items() if name in vars(Tensor)}
        try:
            for name in _METHODS:
                setattr(Tensor, name, intercept(name))
            with _Recorder(recording, max_bytes):
                result = step()
        finally:
            for name in _METHODS:
                if name in defined:
                    setattr(Tensor, name, defined[name])
                else:
                    delattr(Tensor, name)
    return result, recording
