"""Captured steps are held against Python's, bit for bit, before they are used."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ContractError
from ..storage import state
from .base import Stepper, Work, never_stop
from .eager import EagerSteps
from .python_state import MEMORY, first_difference, python_state

VERIFY_STEPS = 3
"""Steps, at least, over which replays are compared with the same steps run by Python."""


class Captured(Stepper, Protocol):
    """An engine that replays captured steps."""

    steps_per_replay: int
    replays: int


MakeCaptured = Callable[[Work, tuple[str, ...]], Captured]
"""Captures steps, given the names of their metrics; training moves meanwhile."""


def capture_and_verify(
    work: Work, names: tuple[str, ...], make: MakeCaptured, indices: Tensor
) -> Captured:
    """Capture steps, compare replays with Python's steps over ``indices``, and undo all that was
    done for it.

    Args:
        work: what steps are made of; one was made already.
        names: those of its metrics.
        make: captures.
        indices: int64 ``(steps, per_step)``: sample numbers to try; repeated where they are few.

    Raises:
        ContractError: replays compute something else, or steps change what is no tensor.
        Exception: whatever the capture itself raises.
    """
    eager = EagerSteps(work, kernels=work.kernels.captured)
    before, options = take_snapshot(work), state.group_options(work.trainer)
    with work.trainer.without_observers():
        python_before = python_state(work.trainer)
        try:
            captured = make(work, names)
            count = max(VERIFY_STEPS, captured.steps_per_replay)
            order = indices[torch.arange(count, device=work.device) % len(indices)]
            expected = {name: t.clone() for name, t in _run(eager, order, work, before).items()}
            if name := _first_difference(expected, _run(captured, order, work, before)):
                if again := _first_difference(expected, _run(eager, order, work, before)):
                    raise ContractError(f"the step gives {again} in other bits each time it is run")
                raise ContractError(
                    f"{name} differs between replayed steps and the same steps run by Python"
                )
            if changed := first_difference(python_before, python_state(work.trainer)):
                raise ContractError(changes_message(changed))
            captured.replays = 0
            return captured
        except torch.OutOfMemoryError as error:
            raise ContractError(
                "too little memory on the device to capture steps and to compare them with Python's"
            ) from error
        finally:
            for group, values in options:
                group.update(values)
            restore_snapshot(work, before)
            if work.device.type == "cuda":
                torch.cuda.empty_cache()  # what was needed to compare


def _run(stepper: Stepper, order: Tensor, work: Work, before: state.Tensors) -> state.Tensors:
    """Metrics, and all tensors that a step changes, after the steps of ``order`` from the state
    ``before``; not copied.
    """
    if late := restore_snapshot(work, before):
        raise ContractError(f"{min(late)} appears after the first step")
    metrics = stepper.steps(order, never_stop)
    return {"metrics": metrics, **state.everything(work.trainer), **stream_states(work)}


def _first_difference(expected: state.Tensors, found: state.Tensors) -> str | None:
    return next((n for n, tensor in expected.items() if not _same(tensor, found[n])), None)


def take_snapshot(work: Work) -> state.Tensors:
    """A copy of all that a step changes, the random streams included."""
    return {**state.snapshot(work.trainer), **stream_states(work)}


def stream_states(work: Work) -> state.Tensors:
    """Where the random streams stand, by name; copies."""
    return {name: rng.state() for name, rng in work.streams.items()}


def restore_snapshot(work: Work, before: state.Tensors) -> set[str]:
    """All as it was; the paths of what optimizers have made since, which is gone."""
    streams = work.streams
    tensors = {path: tensor for path, tensor in before.items() if path not in streams}
    late = state.restore_snapshot(work.trainer, tensors)
    for name, rng in streams.items():
        rng.set_state(before[name])
    return late


def changes_message(name: str) -> str:
    """Why a step that changes what is no tensor cannot be captured."""
    if name.startswith(MEMORY):
        return f"it replaces {name.removeprefix(MEMORY)} instead of changing it in place"
    return f"it changes {name}, which is no parameter or buffer"


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are equal; NaN equals NaN."""
    return one.equal(other) or (
        one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )
