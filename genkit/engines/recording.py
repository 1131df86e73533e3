"""Record the tensor operations of one step and replay them: what a CUDA graph does, on any device.

A replay runs the very same operations on the very same tensors, and no Python. So whatever a step
does outside tensors (a counter in Python, a value read by ``.item()``, a tensor replaced instead of
changed in place) stays frozen in a replay, and shows as a difference from a step run by Python.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ContractError
from ._torch_internals import TorchDispatchMode, schema_of, tree_leaves, tree_map_only
from .host_reads import HostReads, innermost_place

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
        schema = schema_of(self.function)
        return schema is not None and (bool(schema.is_mutable) or "batch_norm" in schema.name)

    def views(self) -> bool:
        """Whether it gives its inputs in other shapes and computes nothing: only where its schema
        declares so.
        """
        schema = schema_of(self.function)
        if schema is None or self.writes() or not schema.returns:
            return False
        declared = all(returned.alias_info is not None for returned in schema.returns)
        given = {storage(tensor) for tensor in self.inputs()} if declared else set()
        # Some declare it and copy where they have to.
        return declared and all(storage(tensor) in given for tensor in self.outputs())


def storage(tensor: Tensor) -> int:
    """What tells one piece of memory from another, as long as a tensor that lies in it lives."""
    return tensor.untyped_storage().data_ptr()


def is_ordinary(tensor: Tensor) -> bool:
    """Whether its numbers lie in memory as they are: no subclass, and nothing yet to compute."""
    return type(tensor) in (Tensor, nn.Parameter) and not (tensor.is_conj() or tensor.is_neg())


@dataclass
class Recording:
    """Operations in order. It keeps all their tensors, so a tensor is known by its ``id``."""

    operations: list[Operation] = field(default_factory=list)
    host_reads: list[str] = field(default_factory=list)
    """What waits for the device or has a shape that depends on data, and where the model does it.
    """
    optimizer_reads: list[str] = field(default_factory=list)
    """The same inside the step of an optimizer of torch, which is its own affair."""
    count: int = 0
    """Operations that were run; more than are kept, where they were not to be."""

    def check_no_reads(self) -> None:
        """Raise ContractError if something was read on the host, as a replay would not do."""
        if reads := self.host_reads:
            raise ContractError(
                f"it waits for the device, or has shapes that depend on data: {reads[0]}"
            )
        if reads := self.optimizer_reads:
            raise ContractError(f"an optimizer reads its state on the host: {reads[0]}")

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
        place = innermost_place()
        if place is None:
            self.optimizer_reads.append(what)
        else:
            self.host_reads.append(f"{what} ({place})")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations and, with ``keep``, keeps their tensors up to ``max_bytes``."""

    def __init__(self, recording: Recording, max_bytes: float, keep: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording
        self.max_bytes = max_bytes
        self.keep = keep
        self.made = 0
        """Bytes of new tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operation = Operation(func, args, kwargs or {}, tree_leaves(result))
        if str(func).startswith(_INDEXING):
            reads = any(
                tensor.dtype in (torch.bool, torch.uint8) for tensor in operation.inputs()[1:]
            )
        else:
            reads = func.overloadpacket.__name__ in _READS or not _TAGS.isdisjoint(func.tags)
        if reads or _crosses_devices(operation):
            self.recording.note_read(str(func))
        self._keep(operation)
        return result

    def _keep(self, operation: Operation) -> None:
        self.recording.count += 1
        if self.max_bytes < math.inf:
            self._count(operation)
        if self.made <= self.max_bytes and self.keep:
            self.recording.operations.append(operation)
        else:  # the rest is only counted
            self.recording.operations.clear()

    def _count(self, operation: Operation) -> None:
        given = {storage(tensor) for tensor in operation.inputs() if is_ordinary(tensor)}
        made = [tensor for tensor in operation.outputs() if is_ordinary(tensor)]
        new = {storage(tensor): tensor.untyped_storage().nbytes() for tensor in made}
        self.made += sum(size for held, size in new.items() if held not in given)


def _crosses_devices(operation: Operation) -> bool:
    """Whether it copies between the host's memory, which is not pinned, and the device's."""
    if operation.function not in _COPIES:
        return False
    tensors = (*operation.inputs(), *operation.outputs())
    pinned = any(t.device.type == "cpu" and t.is_pinned() for t in tensors)
    return len({tensor.device.type for tensor in tensors}) > 1 and not pinned


_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


def record(
    step: Callable[[], Any], max_bytes: float = math.inf, *, keep: bool = True
) -> tuple[Any, Recording]:
    """Run ``step`` once and record its tensor operations; what it returned, and the recording.

    Args:
        step: what is run.
        max_bytes: of the tensors that it may make.
        keep: keep the operations and all their tensors; else only reads are noted.

    Raises:
        ContractError: the tensors that it makes, all of which are kept, take more than
            ``max_bytes``.
    """
    recording = Recording()
    recorder = _Recorder(recording, max_bytes, keep)
    with HostReads(recording.note_read), recorder:
        result = step()
    if recorder.made > max_bytes:
        raise ContractError(
            f"a step makes {_mib(recorder.made)} MiB of tensors, "
            f"{_mib(recorder.made - max_bytes)} MiB more than the {_mib(max_bytes)} MiB that are "
            "kept for replays"
        )
    return result, recording


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f}" if size >= 2**20 else f"{size / 2**20:.2g}"
