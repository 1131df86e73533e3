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


PYTHON_STEPS = 2
"""The first steps of a run, always Python's: in the first one optimizers make their state, and some
models what they keep.

It is a number of the run and not of the process, so that a resumed run changes kernels at the same
step.
"""


@final
class FirstSteps:
    """Python's steps until captured ones were verified; then :attr:`successor` goes on."""

    kind: Kind = "graph"
    fallback_reason = ""

    def __init__(self, work: Work, make: MakeCaptured) -> None:
        self._eager = EagerSteps(work)
        self._make = make
        self._made = 0
        self.kernels = self._eager.kernels
        self.successor: Stepper = self

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the metrics."""
        return self._eager.names

    def steps(self, indices: Tensor, should_stop: ShouldStop) -> Tensor:
        """Make one step by Python, then capture the following ones if this one allows it."""
        trainer, kernels = self._eager.work.trainer, self._eager.work.kernels
        before = python_state(trainer)
        metrics = self._eager.steps(indices[:1], should_stop)
        self._made += 1
        changed = first_difference(before, python_state(trainer))
        # What decides about kernels comes at the same step in every process of a run. Else a stop
        # does not wait for it, and the first step of a process may keep something in Python.
        decides = kernels.python != kernels.captured
        later = (changed or should_stop()) and not decides
        if changed and self._made > 1:
            self._fall_back(changes_message(changed))
        elif not later and int(trainer.iteration) >= PYTHON_STEPS:
            self._capture(indices)
        return metrics

    def _capture(self, indices: Tensor) -> None:
        work = self._eager.work
        devices = [work.device.index or 0] if work.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):  # streams that no step should use, but some do
                self.successor = capture_and_verify(work, self._eager.names, self._make, indices)
        except ContractError as error:
            self._fall_back(str(error))
        except Exception as error:  # noqa: BLE001 (Python runs the steps then)
            self._fall_back(first_line(error))

    def _fall_back(self, why: str) -> None:
        self._eager.fallback_reason = f"the step cannot be captured: {why}"
        self.successor = self._eager
