"""Which engine makes the steps, and the first steps until it can."""

from typing import final

import torch
from torch import Tensor

from ..errors import ContractError, first_line
from .base import Kind, ShouldStop, Stepper, Work
from .cuda_graph import CudaGraphSteps
from .eager import EagerSteps
from .plan import PlanSteps
from .python_state import first_difference, python_state
from .verify import MakeCaptured, capture_and_verify, changes_message

_CAPTURES: dict[str, MakeCaptured] = {"cuda": CudaGraphSteps, "cpu": PlanSteps}
"""What captures steps, by type of device."""


def choose_stepper(option: str, work: Work, make: MakeCaptured | None = None) -> Stepper:
    """The engine that ``--engine`` asks for: ``auto``, ``eager`` or ``graph``.

    Args:
        option: the option's value.
        work: what steps are made of.
        make: captures steps; None: what there is for the device.
    """
    make = make or _CAPTURES.get(work.device.type)
    if option == "eager":
        return EagerSteps(work)
    if make is None:
        why = f"graphs need a CUDA device or a CPU, and this is {work.device.type}"
        return EagerSteps(work, why if option == "graph" else "")
    return FirstSteps(work, make)


@final
class FirstSteps:
    """Python's steps until captured ones were verified; then :attr:`successor` goes on.

    The first step is always Python's: optimizers make their state in it.
    """

    kind: Kind = "graph"
    fallback_reason = ""

    def __init__(self, work: Work, make: MakeCaptured) -> None:
        self._eager = EagerSteps(work)
        self._make = make
        self._first_step_may_mutate = True
        """Whether a step may change what is no tensor, and a first step alone is not worth a
        capture.
        """
        self.successor: Stepper = self

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the metrics."""
        return self._eager.names

    def steps(self, indices: Tensor, should_stop: ShouldStop) -> Tensor:
        """Make one step by Python, then capture the following ones if this one allows it."""
        work = self._eager.work
        before = python_state(work.trainer)
        metrics = self._eager.steps(indices[:1], should_stop)
        changed = first_difference(before, python_state(work.trainer))
        alone = len(indices) == 1 and self._first_step_may_mutate and work.loader.chunk > 1
        if changed and not self._first_step_may_mutate:
            self._fall_back(changes_message(changed))
        elif changed or should_stop() or alone:  # some models keep what their first step computed
            self._first_step_may_mutate = False
        else:
            self._capture(indices)
        return metrics

    def _capture(self, indices: Tensor) -> None:
        try:
            with torch.random.fork_rng(devices=[]):  # which no step should use, but some do
                self.successor = capture_and_verify(self._eager, self._make, indices)
        except ContractError as error:
            self._fall_back(str(error))
        except Exception as error:  # noqa: BLE001 (Python runs the steps then)
            self._fall_back(first_line(error))

    def _fall_back(self, why: str) -> None:
        self._eager.fallback_reason = f"the step cannot be captured: {why}"
        self.successor = self._eager
