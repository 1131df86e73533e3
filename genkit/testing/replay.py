"""Record the tensor operations of one step and replay them: what a CUDA graph does, on any device.

A replay runs the very same operations on the very same tensors, and no Python. So whatever a step does outside tensors
(a counter in Python, a value read by ``.item()``, a tensor replaced instead of changed in place) stays frozen in a
replay, and shows as a difference from a step run by Python.
"""

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

_READS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"),
    *("_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount"),
}
"""Operations that wait for the device, or whose result has a shape that depends on data."""
_METHODS = ("numpy", "tolist", "__array__", "__repr__", "__format__")
"""What reads a tensor on the host without an operation."""


@dataclass
class Recording:
    """Operations in order; results that a later operation uses are handed on by number."""

    operations: list[tuple[Callable[..., Any], list[Any], Any, list[int | None]]] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)
    """Every tensor seen, so that no identity is used twice while recording."""
    host_reads: list[str] = field(default_factory=list)
    """What waits for the device or has a shape that depends on data, and where the model does it."""
    optimizer_reads: list[str] = field(default_factory=list)
    """The same inside an optimizer of torch, which is its own affair."""

    def replay(self) -> dict[int, Tensor]:
        """Run the operations again; the results by number."""
        results: dict[int, Tensor] = {}
        with torch.no_grad():
            for function, leaves, spec, outputs in self.operations:
                given = [results[leaf.number] if isinstance(leaf, _Result) else leaf for leaf in leaves]
                args, kwargs = tree_unflatten(given, spec)
                values = tree_flatten(function(*args, **kwargs))[0]
                results |= {n: value for n, value in zip(outputs, values, strict=True) if n is not None}
        return results

    def note_read(self, what: str) -> None:
        """Something reads a tensor on the host, now."""
        frames = traceback.extract_stack()
        if any(Path(frame.filename).parent == _OPTIMIZERS for frame in frames):
            self.optimizer_reads.append(what)
        else:
            self.host_reads.append(f"{what} ({_caller(frames)})")

    def number_of(self, tensor: Tensor) -> int | None:
        """The number under which :meth:`replay` gives what ``tensor`` was when recording."""
        return self.numbers.get(id(tensor))


@dataclass(frozen=True)
class _Result:
    number: int


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        recording = self.recording
        leaves, spec = tree_flatten((args, kwargs or {}))
        inputs = {id(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        handed = [
            _Result(recording.numbers[id(leaf)]) if isinstance(leaf, Tensor) and id(leaf) in recording.numbers else leaf
            for leaf in leaves
        ]
        result = func(*args, **(kwargs or {}))
        outputs: list[int | None] = []
        for value in tree_flatten(result)[0]:
            fresh = isinstance(value, Tensor) and id(value) not in inputs
            if fresh and id(value) not in recording.numbers:
                recording.numbers[id(value)] = len(recording.numbers)
            outputs.append(recording.numbers.get(id(value)) if isinstance(value, Tensor) else None)
            recording.kept.append(value)
        recording.kept.extend(leaves)
        masks = str(func).startswith("aten.index.") and any(
            isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in leaves[1:]
        )
        if func.overloadpacket.__name__ in _READS or masks:
            recording.note_read(str(func))
        recording.operations.append((func, handed, spec, outputs))
        return result


_OPTIMIZERS = Path(torch.optim.__file__).parent


def _caller(frames: traceback.StackSummary) -> str:
    """File and line of the model that is at work: the innermost frame that is neither torch's nor genkit's."""
    own = {Path(torch.__file__).parent, Path(__file__).parents[1]}
    places = (
        f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames) if own.isdisjoint(Path(f.filename).parents)
    )
    return next(places, "unknown")


def record(step: Callable[[], Any]) -> tuple[Any, Recording]:
    """Run ``step`` once and record its tensor operations; what it returned, and the recording."""
    recording = Recording()

    def noting(name: str) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            recording.note_read(f"Tensor.{name}")
            return method(tensor, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for name in _METHODS:
            stack.enter_context(mock.patch.object(Tensor, name, noting(name)))
        stack.enter_context(_Recorder(recording))
        result = step()
    return result, recording
