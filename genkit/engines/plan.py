"""Whole training steps without Python's share, on a CPU: what a CUDA graph is on a GPU.

The operations of a step are recorded once, with all their tensors. A replay runs those that compute
on the very same tensors, and writes their results where the recorded ones lie: views need nothing,
no graph for autograd is built, and no optimizer's Python is run.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..errors import ContractError
from . import kernels
from ._torch_internals import schema_of, tree_leaves, tree_map_only, without_wrapper
from .base import Kind, ShouldStop, Work
from .recording import Operation, is_ordinary, record, storage

MAX_RECORDED_BYTES = 2**30
"""Bytes of a step's tensors, all of which a plan keeps; a step that makes more is not planned."""

MIN_MOVED_BYTES = 2**17
"""Of a result with views that are pointed at it; to copy a smaller one is faster."""

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
        self.kernels = work.kernels.captured
        self.replays = 0
        """Steps replayed; a fall-back to Python would leave it where it is."""
        self._index = torch.zeros(work.per_step, dtype=torch.int64)
        self._metrics = torch.zeros(len(names))
        rewrite = kernels.replace if self.kernels == "onednn" else list
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
    recording.check_no_reads()
    return Plan(rewrite(recording.operations))


@final
class Plan:
    """Operations in order, on the tensors that they were recorded with.

    An operation that can write into given memory writes into its recorded result. The result of any
    other is copied there or, where no other tensor lies in that memory, takes its place.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            _check_replayable(operation)
        operations = _without_graphs(operations)
        changed = {
            storage(t) for operation in operations if operation.writes() for t in operation.inputs()
        }
        sharing = _tensors_by_storage(operations)
        computing = [
            operation
            for operation in operations
            if not operation.views() and not _constant(operation, changed)
        ]
        self._calls: list[Call] = [_call(operation, sharing) for operation in computing]
        _share_memory(computing, self._calls, sharing)

    def run(self) -> None:
        """Run the operations again."""
        with torch.no_grad():
            for function, args, kwargs in self._calls:
                function(*args, **kwargs)


def _without_graphs(operations: Sequence[Operation]) -> list[Operation]:
    """The same on the same memory, of tensors that autograd does not look after: calls are faster,
    and the graphs of the recorded step are let go.
    """
    made: dict[int, Tensor] = {}

    def bare(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach() if tensor.requires_grad else tensor
        return made[id(tensor)]

    return [
        Operation(o.function, *tree_map_only(Tensor, bare, (o.args, o.kwargs, o.results)))
        for o in operations
    ]


def _check_replayable(operation: Operation) -> None:
    """Raise ContractError for what cannot be repeated in place."""
    function, name = operation.function, str(operation.function)
    if getattr(function, "namespace", "") in _COLLECTIVES:
        raise ContractError(f"{name} waits for other processes")
    if name.startswith(_UNSAFE_WHEN_TRACED):
        raise ContractError(f"torch differentiates {name} in another way while it is recorded")
    inplace_view = torch.Tag.inplace_view in getattr(function, "tags", ())
    if inplace_view or _name(function) in _RESHAPING:
        raise ContractError(f"{name} changes a tensor's shape in place")
    for tensor in operation.outputs():
        if not is_ordinary(tensor):
            raise ContractError(f"a {type(tensor).__name__} of a special kind cannot be planned")


Sharing = dict[int, dict[int, Tensor]]
"""Storage → the recorded tensors that lie in it, by id."""


def _tensors_by_storage(operations: Sequence[Operation]) -> Sharing:
    found: Sharing = {}
    for operation in operations:
        for tensor in (*operation.inputs(), *operation.outputs()):
            found.setdefault(storage(tensor), {})[id(tensor)] = tensor
    return found


def _share_memory(operations: Sequence[Operation], calls: Sequence[Call], sharing: Sharing) -> None:
    """Let results lie where others of the same size lay that are not needed any more.

    Only those that calls write into. It keeps what a step works on in the cache: for the article's
    autoencoder that is worth 3 to 7 %.
    """
    held = {number: place for place, tensors in sharing.items() for number in tensors}
    last: dict[int, int] = {}
    for number, operation in enumerate(operations):
        for tensor in (*operation.inputs(), *operation.outputs()):
            last[held[id(tensor)]] = number
    free: dict[int, list[torch.UntypedStorage]] = {}
    ending: dict[int, list[Tensor]] = {}
    for number, (operation, (_, _, kwargs)) in enumerate(zip(operations, calls, strict=True)):
        given = {id(tensor) for tensor in kwargs.values() if isinstance(tensor, Tensor)}
        given -= {id(tensor) for tensor in operation.inputs()}  # written into by the step itself
        for tensor in operation.outputs():
            place = held[id(tensor)]
            if id(tensor) not in given:
                continue
            if blocks := free.get(tensor.untyped_storage().nbytes()):
                memory = blocks.pop()
                for each in sharing[place].values():  # it, and its views
                    shape = int(each.storage_offset()), each.size(), each.stride()
                    each.set_(memory, *shape)
            ending.setdefault(last[place], []).append(tensor)
        for tensor in ending.pop(number, ()):
            memory = tensor.untyped_storage()
            free.setdefault(memory.nbytes(), []).append(memory)


def _call(operation: Operation, sharing: Sharing) -> Call:
    """What repeats an operation."""
    args, kwargs = operation.args, operation.kwargs
    inputs = {storage(tensor) for tensor in operation.inputs()}
    new = [t for t in operation.outputs() if storage(t) not in inputs]
    function = _callable(operation.function)
    if not new:
        return function, args, kwargs
    writing, names = _writing_variant(operation)
    if writing is not None and len(new) == len(operation.results):
        return writing, args, {**kwargs, **dict(zip(names, new, strict=True))}
    keepers = [
        _keeper(t, sharing) if any(t is one for one in new) else None for t in operation.results
    ]
    if _returns_one_tensor(operation) and keepers[0]:
        return _call_and_keep, (function, args, kwargs, keepers[0]), {}
    return _call_and_keep_each, (function, args, kwargs, keepers), {}


Keeper = Callable[[Tensor], object]
"""Takes a result to where its recorded form lies."""


def _keeper(recorded: Tensor, sharing: Sharing) -> Keeper:
    """A large result takes the memory of the recorded one's place, and its views go along; a small
    one is copied.
    """
    lying = list(sharing[storage(recorded)].values())
    keep: Any = recorded.copy_
    if len(lying) == 1 and recorded.numel():
        keep = recorded.set_
    elif recorded.untyped_storage().nbytes() >= MIN_MOVED_BYTES:
        shapes = [(int(t.storage_offset()), t.size(), t.stride()) for t in lying]
        keep = functools.partial(_move, list(zip(lying, shapes, strict=True)))
    return keep  # type: ignore[no-any-return]


def _move(
    places: list[tuple[Tensor, tuple[int, torch.Size, tuple[int, ...]]]], new: Tensor
) -> None:
    memory = new.untyped_storage()
    for tensor, shape in places:
        tensor.set_(memory, *shape)


def _call_and_keep(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], keep: Keeper
) -> None:
    keep(function(*args, **kwargs))


def _call_and_keep_each(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    keepers: list[Keeper | None],
) -> None:
    for keep, value in zip(keepers, tree_leaves(function(*args, **kwargs)), strict=True):
        if keep:
            if not isinstance(value, Tensor):
                raise ContractError(f"{function} gives another number of tensors when repeated")
            keep(value)


_COLLECTIVES = {"c10d", "_c10d_functional", "c10d_functional", "symm_mem"}
"""Namespaces of operations that wait for other processes; a replay would not wait for them."""
_RESHAPING = {"set_", "resize_", "resize_as_"}
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
_OF_LISTS = {"_fused_adam_", "_fused_adamw_", "_fused_sgd_", "_fused_adagrad_", "_foreach_add_"}
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
    if name in _OF_LISTS and hasattr(torch, name):
        bare: Callable[..., Any] = getattr(torch, name)
        return bare
    return without_wrapper(function)


def _returns_one_tensor(operation: Operation) -> bool:
    """One, and not a list of one."""
    schema = schema_of(operation.function)  # kernels.py has functions without
    return len(operation.results) == 1 and (
        schema is None or str(schema.returns[0].type) == "Tensor"
    )


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
        declared = schema_of(overload).arguments
        given = [(a.name, str(a.type)) for a in declared if not a.is_out]
        outs = [a.name for a in declared if a.is_out]
        taken = [(a.name, str(a.type)) for a in schema_of(operation.function).arguments]
        if outs and given == taken and len(outs) == len(operation.results):
            return getattr(torch, name) if name in _FUNCTIONS else overload, outs
    return None, []
