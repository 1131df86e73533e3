"""Steps that Python runs, one by one."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from ..errors import ContractError
from ..interfaces import Metrics
from ..storage import state
from .base import Kind, ShouldStop, Work, advance
from .kernels import kernel_mode


@final
class EagerSteps:
    """Python runs every step; the engine that the others are held against.

    Args:
        work: what steps are made of.
        fallback_reason: why they are not captured, where that was to be.
        kernels: other ones than those that Python's steps have.
    """

    kind: Kind = "eager"

    def __init__(self, work: Work, fallback_reason: str = "", kernels: str = "") -> None:
        self.work = work
        self.fallback_reason = fallback_reason
        self.kernels = kernels or work.kernels.python
        self.names: tuple[str, ...] = ()
        self._shared = False
        """Whether a metric is a buffer or parameter itself, which the next step changes."""

    def steps(self, indices: Tensor, should_stop: ShouldStop) -> Tensor:
        """See :meth:`genkit.engines.base.Stepper.steps`."""
        work = self.work
        values: list[Tensor] = []
        with kernel_mode(self.kernels):
            for index in indices.unbind():
                metrics = advance(work.trainer, work.batch(index), work.rng, work.precision)
                if not isinstance(metrics, Mapping) or not metrics or tuple(metrics) != self.names:
                    self._name_metrics(metrics)
                given = metrics.values()
                values.extend([value.clone() for value in given] if self._shared else given)
                if should_stop():
                    break
        # Stacked once a window: each step, it would cost more than an update of a few biases.
        return torch.stack(values).view(-1, len(self.names)).float()

    def _name_metrics(self, metrics: Metrics) -> None:
        """Check what the first step returned, and note its names."""
        check_metrics(metrics)
        if self.names:
            raise ContractError(
                f"step gave the metrics {tuple(metrics)}, and {self.names} the time before"
            )
        self.names = tuple(metrics)
        held = {_address(tensor) for tensor in state.everything(self.work.trainer).values()}
        self._shared = any(_address(value) in held for value in metrics.values())


def check_metrics(metrics: Metrics) -> None:
    """Detached 0-d tensors by name, as a step has to return.

    Raises:
        ContractError: what is wrong with which metric.
    """
    if not isinstance(metrics, Mapping) or not metrics or "step" in metrics:
        given = tuple(metrics) if isinstance(metrics, Mapping) else type(metrics).__name__
        raise ContractError(
            f"step gave the metrics {given}: there must be some by name, and none called 'step'"
        )
    for name, value in metrics.items():
        if not isinstance(value, Tensor):
            raise ContractError(f"step gave {name} as {type(value).__name__}, not a tensor")
        if value.dim():
            raise ContractError(f"step gave {name} with the shape {tuple(value.shape)}, not ()")
        if value.requires_grad:
            raise ContractError(f"step gave {name} with its graph: return {name}.detach()")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
