"""Whole training steps without Python's share, on a CPU: what a CUDA graph is on a GPU.

The operations of a step are recorded once. Views are made once, memory is laid out once, and what
is left is a list of calls that compute: no graph for autograd is built, and no optimizer's Python
is run.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import ContractError
from . import kernels
from .base import Kind, ShouldStop, Work
from .recording import Operation, record, storage

MAX_RECORDED_BYTES = 2**30
"""Bytes of a step's tensors, all of which a recording keeps; a step that makes more is not planned.
"""
RELEASE_ABOVE_BYTES = 2**20
"""Bytes of a result from which on it is let go after its last use; a smaller one stays until the
next replay.
"""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Rewrite = Callable[[Sequence[Operation]], Sequence[Operation]]


@final
class PlanSteps:
    """Steps as a :class:`Plan` of one step, replayed for each.

    Args:
        work: what a step is made of; one was made already, so that optimizers have their state.
        names: those of its metrics.

    Raises:
        ContractError: the step reads tensors on the host, or does what cannot be repeated in place.
    """

    kind: Kind = "graph"
    fallback_reason = ""
    steps_per_replay = 1
    """More at once would be no faster."""

    def __init__(self, work: Work, names: tuple[str, ...]) -> None:
        self.names = names
        self.replays = 0
        """Steps replayed; a fall-back to Python would leave it where it is."""
        self._index = torch.zeros(work.per_step, dtype=torch.int64)
        self._metrics = torch.zeros(len(names))
        rewrite = kernels.replace if work.kernels == "onednn" else list
        self._plan = record_plan(
            lambda: self._metrics.copy_(work.stacked_step(self._index)), rewrite
        )

    def steps(self, indices: Tensor, should_stop: ShouldStop) -> Tensor:
        """See :meth:`genkit.engines.base.Stepper.steps`."""
        result = self._metrics.new_empty(len(indices), len(self.names))
        for number, (index, metrics) in enumerate(zip(indices, result, strict=True)):
            if number and should_stop():
                return result[:number]
            self._index.copy_(index)
            self._plan.run()
            self.replays += 1
            metrics.copy_(self._metrics)
        return result


def record_plan(work: Callable[[], object], rewrite: Rewrite = list) -> "Plan":
    """A plan that repeats the operations of ``work``, which is done once.

    Args:
        work: what is repeated.
        rewrite: gives the operations that are run in place of those recorded.

    Raises:
        ContractError: the work reads tensors on the host, or does what cannot be repeated in place.
    """
    _, recording = record(work, MAX_RECORDED_BYTES)
    if reads := recording.host_reads:
        raise ContractError(
            f"it waits for the device, or has shapes that depend on data: {reads[0]}"
        )
    if recording.optimizer_reads:
        raise ContractError(
            f"an optimizer reads its state on the host: {recording.optimizer_reads[0]}"
        )
    return Plan(rewrite(recording.operations))


@final
class Plan:
    """Operations in order, on tensors in fixed places.

    A tensor that was there before the operations stays where it is. Where an operation can write
    its result into memory that is given to it, tensors of different times share blocks. Any other
    result is taken over as it comes.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        changed = {
            storage(t) for operation in operations if operation.writes() for t in operation.inputs()
        }
        computing = [
            operation
            for operation in operations
            if not operation.views() and not _constant(operation, changed)
        ]
        held = [
            {storage(t) for t in (*operation.inputs(), *operation.outputs())}
            for operation in computing
        ]
        last = {one: number for number, several in enumerate(held) for one in several}
        self._memory = _Memory()
        self._calls: list[Call] = []
        for number, operation in enumerate(computing):
            function, args, kwargs = self._call(operation)
            self._calls.append((_callable(function), args, kwargs))
            for one in held[number]:
                if last[one] == number and (call := self._memory.release(one)):
                    self._calls.append(call)
        del self._memory

    def run(self) -> None:
        """Run the operations again."""
        with torch.no_grad():
            for function, args, kwargs in self._calls:
                function(*args, **kwargs)

    def _call(self, operation: Operation) -> Call:
        if (name := str(operation.function)).startswith(_UNSAFE_WHEN_TRACED):
            raise ContractError(f"torch differentiates {name} in another way while it is recorded")
        if torch.Tag.inplace_view in getattr(operation.function, "tags", ()):
            raise ContractError(f"{operation.function} changes a tensor's shape in place")
        place = self._memory.place
        inputs = {storage(tensor) for tensor in operation.inputs()}
        args, kwargs = tree_map_only(Tensor, place, (operation.args, operation.kwargs))
        new = [t for t in operation.outputs() if storage(t) not in inputs]
        if not new:
            return operation.function, args, kwargs
        writing, names = _writing_variant(operation)
        if writing is not None and len(new) == len(operation.results):
            for tensor in new:
                self._memory.reserve(tensor)
            return writing, args, {**kwargs, **dict(zip(names, map(place, new), strict=True))}
        # Of several results in one piece of memory the first stands for it.
        first = {storage(tensor): tensor for tensor in reversed(new)}
        slots = [
            self._memory.defer_output(t)
            if isinstance(t, Tensor) and first.get(storage(t)) is t
            else None
            for t in operation.results
        ]
        if _returns_one_tensor(operation) and slots[0] is not None:
            return _call_and_bind_one, (_callable(operation.function), args, kwargs, slots[0]), {}
        return _call_and_bind, (_callable(operation.function), args, kwargs, slots), {}


# fmt: off
_CONSTANTS = {
    "ones_like", "zeros_like", "full_like", "ones", "zeros", "full", "arange", "eye",
    "linspace",
}
_FUNCTIONS = {
    "mm", "addmm", "bmm", "baddbmm", "add", "sub", "mul", "div", "neg", "abs", "sgn", "sign",
    "pow", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "erf",
    "sigmoid", "tanh", "lerp", "addcmul", "addcdiv", "maximum", "minimum", "clamp",
    "clamp_min", "clamp_max", "where", "cat", "stack", "gt", "ge", "lt", "le", "eq", "ne",
    "index_select", "gather",
}
# fmt: on
"""Operations that write into given memory and compute the same: torch's functions with ``out``."""
# fmt: off
_OVERLOADS = {
    "rsub", "sigmoid_backward", "tanh_backward", "leaky_relu", "leaky_relu_backward", "relu",
    "threshold_backward", "softplus", "softplus_backward", "silu", "silu_backward", "gelu",
    "gelu_backward", "elu", "sum", "mean",
}
# fmt: on
"""More of them, which have only overloads; to call one takes longer by a third of a microsecond."""
_FOREACH_OPS = {"_fused_adam_", "_fused_adamw_", "_fused_sgd_", "_fused_adagrad_", "_foreach_add_"}
"""Operations on lists, which a call of an overload converts slowly."""
_UNSAFE_WHEN_TRACED = (
    "aten.prod.",
    "aten.cumprod.",
    "aten.masked_fill.Tensor",
    "aten._linalg_det.",
    "aten._linalg_slogdet.",
)
"""Operations for which autograd asks whether something looks on, and then takes a formula that
rounds differently.
"""
Shape = tuple[int, torch.Size, tuple[int, ...]]
"""Where in its storage a tensor begins, its sizes and its strides."""
OutputSlots = list[tuple[Tensor, Shape | None]]
"""Planned tensors that take over a result's memory: in the shape given, or (None) the result's."""


@final
class _Memory:
    """Where the tensors of a plan lie, while it is made."""

    def __init__(self) -> None:
        self._places: dict[int, Tensor] = {}  # by the id of the recorded tensor
        self._blocks: dict[int, torch.UntypedStorage] = {}  # by recorded storage, as is the next
        self._awaited: dict[int, tuple[Tensor, OutputSlots]] = {}
        self._large: set[int] = set()
        self._free: list[torch.UntypedStorage] = []

    def place(self, tensor: Tensor) -> Tensor:
        """What stands for a recorded tensor in the plan: itself, if no operation made it."""
        own = storage(tensor)
        if own not in self._blocks and own not in self._awaited:
            return tensor
        if id(tensor) not in self._places:
            if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_conj() or tensor.is_neg():
                raise ContractError(
                    f"a {type(tensor).__name__} of a special kind cannot be planned"
                )
            placed = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            shape = (int(tensor.storage_offset()), tensor.size(), tensor.stride())
            if own in self._blocks:
                placed.set_(self._blocks[own], *shape)
            else:
                result, slots = self._awaited[own]
                slots.append((placed, None if tensor is result else shape))
            self._places[id(tensor)] = placed
        return self._places[id(tensor)]

    def reserve(self, tensor: Tensor) -> None:
        """Give the recorded tensor's storage a block: the smallest free one that is large enough,
        or a new one.
        """
        size = tensor.untyped_storage().nbytes()
        block = min(
            (b for b in self._free if b.nbytes() >= size), key=lambda b: b.nbytes(), default=None
        )
        if block is None:
            make: Any = torch.UntypedStorage
            block = make(size, device=tensor.device)
            assert isinstance(block, torch.UntypedStorage)
        else:
            self._free = [b for b in self._free if b is not block]
        self._blocks[storage(tensor)] = block

    def defer_output(self, tensor: Tensor) -> OutputSlots:
        """What takes over the memory of the recorded result, as each replay gives it; this list is
        still filled.
        """
        if tensor.untyped_storage().nbytes() >= RELEASE_ABOVE_BYTES:
            self._large.add(storage(tensor))
        return self._awaited.setdefault(storage(tensor), (tensor, []))[1]

    def release(self, own: int) -> Call | None:
        """The recorded storage is not used any more; what has to be called in the plan for that."""
        if own in self._blocks:
            self._free.append(self._blocks[own])
        return (_release, (self._awaited[own][1],), {}) if own in self._large else None


def _constant(operation: Operation, changed: set[int]) -> bool:
    """Whether it gives the same each time and nothing changes that: its result can stay."""
    name = _name(operation.function)
    known = name in _CONSTANTS and (name.endswith("_like") or not operation.inputs())
    return known and all(storage(tensor) not in changed for tensor in operation.outputs())


def _name(function: Callable[..., Any]) -> str:
    """That of an operation of torch; an extension's may be called the same, and compute something
    else.
    """
    packet: Any = getattr(function, "overloadpacket", None)
    return str(packet.__name__) if getattr(function, "namespace", "") == "aten" else ""


def _callable(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation without torch's wrapper in Python, and what is slow to call in it as a function
    of torch.
    """
    name = _name(function)
    bare: Callable[..., Any] = (
        getattr(torch, name) if name in _FOREACH_OPS else getattr(function, "_op", function)
    )
    return bare


def _returns_one_tensor(operation: Operation) -> bool:
    """One, and not a list of one."""
    schema: Any = getattr(operation.function, "_schema", None)  # kernels.py has functions without
    return len(operation.results) == 1 and (
        schema is None or str(schema.returns[0].type) == "Tensor"
    )


def _call_and_bind(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    slots: list[OutputSlots | None],
) -> None:
    for slot, value in zip(slots, tree_leaves(function(*args, **kwargs)), strict=True):
        if slot:
            _bind(value, slot)


def _call_and_bind_one(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], slots: OutputSlots
) -> None:
    _bind(function(*args, **kwargs), slots)


def _bind(value: Tensor, slots: OutputSlots) -> None:
    for tensor, shape in slots:
        if shape is None:
            tensor.set_(value)  # type: ignore[call-overload]
        else:
            tensor.set_(value.untyped_storage(), *shape)


def _release(slots: OutputSlots) -> None:
    for tensor, _ in slots:
        tensor.set_()  # type: ignore[call-overload]


def _writing_variant(operation: Operation) -> tuple[Callable[..., Any] | None, list[str]]:
    """What computes the same into tensors given to it, and their names; None where there is
    nothing.

    Only operations that are known to: some of torch compute elsewhere and copy, resize what they
    are given, or are wrong (batch normalisation of what is not contiguous, a mean of
    cross-entropies; torch 2.14).
    """
    name = _name(operation.function)
    packet = getattr(torch.ops.aten, name) if name in _FUNCTIONS | _OVERLOADS else None
    for overload in (getattr(packet, each) for each in packet.overloads()) if packet else ():
        given = [(a.name, str(a.type)) for a in overload._schema.arguments if not a.is_out]
        outs = [a.name for a in overload._schema.arguments if a.is_out]
        schema: Any = operation.function._schema  # type: ignore[attr-defined]
        taken = [(a.name, str(a.type)) for a in schema.arguments]
        if outs and given == taken and len(outs) == len(operation.results):
            return getattr(torch, name) if name in _FUNCTIONS else overload, outs
    return None, []
