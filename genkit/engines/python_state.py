"""What a trainer keeps besides tensors: a replay would leave it as it is, so a change of it is
looked for.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from numbers import Number

import torch
from torch import Tensor

from ..interfaces import Trainer
from ..storage import state
from ._torch_internals import version_of

MAX_PARTS = 1_000
"""Of a list, or the like, that is looked through for numbers."""
MEMORY = "memory of "
"""Begins the names of where parameters and buffers lie."""
_REGISTERED = ("_parameters", "_buffers", "_modules", "state", "param_groups", "defaults")


def python_state(trainer: Trainer) -> dict[str, object]:
    """What may change unseen, by name: all but parameters, buffers and optimizer state that a
    trainer keeps.

    Numbers, strings, tensors (which, and how often changed) and random streams: the trainer's, its
    networks' and optimizers', and those of what they hold, a list or a schedule for example.
    """
    seen = {id(trainer), *map(id, trainer.parameters()), *map(id, trainer.buffers())}
    seen |= {id(slot.tensor) for slot in state.slots(trainer) if slot.holder is not None}
    optimizers = {f"optimizer {name}": o for name, o in trainer.optimizers.items()}
    found = state.scalars(trainer)
    for slot in state.slots(trainer):
        if slot.holder is None:
            found[f"{MEMORY}{slot.path}"] = slot.tensor.data_ptr()
    for prefix, holder in {**dict(trainer.named_modules()), **optimizers}.items():
        inner = isinstance(holder, torch.optim.Optimizer)  # whose private names are torch's affair
        for name, value in vars(holder).items():
            if name not in _REGISTERED and not (inner and name.startswith("_")):
                # Networks may keep what they compute from parameters, as a normalised weight.
                kept = not prefix or inner
                found |= _values(f"{prefix}.{name}" if prefix else name, value, seen, kept)
    return found


def first_difference(before: Mapping[str, object], now: Mapping[str, object]) -> str | None:
    """The first name of :func:`python_state` whose value is another, or new; None where there is
    none.
    """
    for name, value in now.items():
        if name not in before:
            return name
        known = before[name]
        both_nan = value != value and known != known
        if value != known and not both_nan:
            return name
    return None


def _values(
    name: str, value: object, seen: set[int], computed: bool
) -> Iterator[tuple[str, object]]:
    """Numbers and the like by name; tensors with a graph only with ``computed``."""
    if value is None or isinstance(value, Number | str | bytes):
        yield name, value
    elif isinstance(value, torch.Generator):
        yield name, value.get_state().numpy().tobytes()
    elif (
        id(value) in seen
        or isinstance(value, torch.nn.Module | torch.optim.Optimizer)
        or callable(value)
    ):
        return
    elif isinstance(value, Tensor):
        if value.grad_fn is None or computed:
            yield name, (id(value), version_of(value))
    else:
        yield from _parts(name, value, seen, computed)


def _parts(
    name: str, value: object, seen: set[int], computed: bool
) -> Iterator[tuple[str, object]]:
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts = [(str(number), part) for number, part in enumerate(value)]
    else:
        parts = list(getattr(value, "__dict__", {}).items())
    for key, part in parts if len(parts) <= MAX_PARTS else ():
        yield from _values(f"{name}.{key}" if name else key, part, seen, computed)
