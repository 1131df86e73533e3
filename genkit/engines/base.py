"""What makes the steps of a training: the one update, and what an engine is; never what is
computed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..data.loader import Loader
from ..errors import DeviceError
from ..interfaces import Batch, Metrics, Trainer
from ..rng import Rng
from .augmentation import Augmentation
from .kernels import TORCH, Choice

Kind = Literal["eager", "graph"]
Precision = Literal["fp32", "bf16"]
ShouldStop = Callable[[], bool]
STREAMS = "rng/"
TRAINING_STREAM, AUGMENTATION_STREAM = f"{STREAMS}training", f"{STREAMS}augmentation"
"""Where random streams are among the tensors of a snapshot or a checkpoint."""


def never_stop() -> bool:
    """No: make all the steps."""
    return False


def advance(trainer: Trainer, batch: Batch, rng: Rng, precision: Precision = "fp32") -> Metrics:
    """Make one update and count it: the only place where a training calls ``step``."""
    with _autocast(trainer, precision):
        metrics = trainer.step(batch, rng)
    trainer.iteration.add_(1)
    return metrics


def _autocast(trainer: Trainer, precision: str) -> AbstractContextManager[object]:
    if precision == "fp32":
        return _FULL_PRECISION
    # Without the cache: it would hand a second forward pass the weights from before an update.
    return torch.autocast(trainer.iteration.device.type, torch.bfloat16, cache_enabled=False)


_FULL_PRECISION = nullcontext()


@dataclass(frozen=True)
class Work:
    """What steps are made of, whichever engine makes them."""

    trainer: Trainer
    loader: Loader
    rng: Rng
    per_step: int
    """Samples of a step: ``batches_per_step`` times the batch size."""
    kernels: Choice = TORCH
    precision: Precision = "fp32"
    memory_format: torch.memory_format = torch.contiguous_format
    window: int = 1
    """Steps that windows are made of: a replay of as many, or of a divisor, leaves none over."""
    augmentation: Augmentation | None = None
    """What changes the images of batches; None: nothing does."""

    @property
    def device(self) -> torch.device:
        """Where the trainer is."""
        return self.trainer.iteration.device

    @property
    def streams(self) -> dict[str, Rng]:
        """The random streams that steps draw from, by name."""
        if self.augmentation is None:
            return {TRAINING_STREAM: self.rng}
        return {TRAINING_STREAM: self.rng, AUGMENTATION_STREAM: self.augmentation.rng}

    def batch(self, index: Tensor) -> Batch:
        """The batch of the sample numbers ``(per_step,)``, augmented."""
        batch = self.loader.batch(index, self.memory_format)
        if self.augmentation is None:
            return batch
        images = self.augmentation(batch.images)
        return Batch(images.contiguous(memory_format=self.memory_format), batch.labels)

    def stacked_step(self, index: Tensor) -> Tensor:
        """One update from sample numbers, and its metrics as ``(M,)``: what is captured."""
        metrics = advance(self.trainer, self.batch(index), self.rng, self.precision)
        return torch.stack([*metrics.values()]).float()


class Stepper(Protocol):
    """An engine: makes steps from the numbers of their samples."""

    kind: Kind
    fallback_reason: str
    """Why steps are not captured where that was tried or asked for; else empty."""
    kernels: str
    """``torch`` or ``onednn``: those that its steps have."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the metrics; known after the first step."""

    def steps(self, indices: Tensor, should_stop: ShouldStop) -> Tensor:
        """Make a step for each row of ``indices``, int64 ``(steps, per_step)``.

        Fewer, but one, where ``should_stop()`` holds after a step, or where another engine is to go
        on.

        Returns:
            The metrics, float32 ``(steps made, M)``, on the device.
        """


def choose_device(name: str) -> torch.device:
    """``auto``: cuda, then mps, then cpu.

    Raises:
        DeviceError: a device that this machine or this build of torch does not have.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(
            f"--device {name}: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here"
        )
    if device.type == "mps" and not mps:
        raise DeviceError(f"--device {name}: torch {torch.__version__} sees no Apple GPU here")
    return device
