"""Training: one training in memory. Whatever trains a model, trains it through this."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import nn

from ..config import TrainOptions
from ..data.datasets import ImageData, Split
from ..data.loader import Loader, Order, Streamed, make_loader
from ..engines import kernels, settings
from ..engines.base import (
    TRAINING_STREAM,
    ShouldStop,
    Stepper,
    Work,
    choose_device,
    never_stop,
)
from ..engines.cuda_graph import common_window
from ..engines.first_steps import FirstSteps, choose_stepper
from ..engines.verify import MakeCaptured, stream_states
from ..errors import CheckpointError, ContractError, GenkitWarning, attribute_errors, first_line
from ..interfaces import Trainer
from ..models import ModelInfo
from ..rng import Rng
from ..run_info import Environment, current_environment
from ..storage import state
from ..storage.state import Tensors
from ..updates import prefer_fused
from . import streams
from .metric_buffer import MetricBuffer
from .threads import set_threads

MakeTrainer = Callable[[torch.device], Trainer]
MakeLoader = Callable[[Split, Order, torch.device], Loader]
WINDOW = "window/"
"""Where the metrics since the last log row are in a checkpoint."""


@final
class Training:
    """A trainer, the images it learns from, its random streams, its engine and its metrics. See
    :meth:`prepare`.
    """

    def __init__(
        self,
        work: Work,
        stepper: Stepper,
        data: ImageData,
        options: TrainOptions,
        owner: str | None,
    ) -> None:
        self.work = work
        self.stepper = stepper
        self.data = data
        self.options = options
        self.owner = owner
        self.step = 0
        """Finished updates."""
        kept = min(options.log_interval, options.iterations)
        self.metrics = MetricBuffer(options.log_interval, kept, work.device)
        tensors = state.everything(work.trainer)
        self.may_be_infinite = {n for n, t in tensors.items() if not torch.isfinite(t).all()}
        """Tensors that were infinite when they were made, as the mask of an attention, and may stay
        so.
        """
        self._scalars = state.scalars(work.trainer)
        self._first_step_after_restore = False
        self._summary: tuple[int, tuple[dict[str, float], bool, bool]] | None = None
        """What was read of the device last, and at which step."""

    @classmethod
    def prepare(
        cls,
        make_trainer: MakeTrainer,
        data: ImageData,
        options: TrainOptions,
        *,
        owner: str | None = None,
        make_captured: MakeCaptured | None = None,
        loader_factory: MakeLoader = make_loader,
    ) -> "Training":
        """Set the threads, build the trainer, and make all that it is trained with.

        Args:
            make_trainer: gives the trainer, on the device it is handed.
            data: what it is trained on.
            options: of the run; ``threads`` is a number or None, not ``probe``.
            owner: the plugin's name of the model, to attribute errors to; None for a class of the
            user's.
            make_captured: captures steps for the engine ``graph``; None: CUDA graphs, or plans on a
            CPU.
            loader_factory: makes what brings the images to the device.

        Raises:
            DeviceError: a device or kernels that there are not.
            GenkitError: the trainer cannot be built.
        """
        set_threads(options.threads)
        device = choose_device(options.device)
        settings.set_exact(device)
        chosen = kernels.choose(options.kernels, device, options.engine)
        with attribute_errors(owner, "to be built"):
            trainer = make_trainer(device)
        device = trainer.iteration.device
        if options.channels_last:
            nn.Module.to(trainer, memory_format=torch.channels_last)
        prefer_fused(trainer.optimizers)
        per_step = trainer.batches_per_step * options.batch_size
        order = Order(len(data.train), per_step, options.seed)
        loader = loader_factory(data.train, order, device)
        intervals = options.log_interval, options.sample_interval, options.checkpoint_interval
        window = common_window(intervals, loader.chunk)
        loader.chunk = min(loader.chunk, window)
        work = Work(
            trainer,
            loader,
            streams.random_stream(options.seed, TRAINING_STREAM, device),
            per_step,
            chosen,
            options.precision,
            torch.channels_last if options.channels_last else torch.contiguous_format,
            window,
            streams.make_augmentation(data, options, device),
        )
        stepper = choose_stepper(options.engine, work, make_captured)
        return cls(work, stepper, data, options, owner)

    @property
    def trainer(self) -> Trainer:
        """What is trained."""
        return self.work.trainer

    @property
    def rng(self) -> Rng:
        """The random stream that the trainer's steps draw from."""
        return self.work.rng

    @property
    def device(self) -> torch.device:
        """Where training happens."""
        return self.work.device

    @property
    def streamed(self) -> bool:
        """Whether the images do not fit on the device, and are brought there as they are needed."""
        return isinstance(self.work.loader, Streamed)

    def run(self, steps: int, should_stop: ShouldStop = never_stop) -> None:
        """Make ``steps`` updates, at most to the end of the log interval; fewer, but one, where one
        is to stop.
        """
        goal = self.step + steps
        for indices in self.work.loader.windows(self.step, steps):
            while len(indices):
                part = indices[:1] if self._first_step_after_restore else indices
                with self._step_errors():
                    metrics = self.stepper.steps(part, should_stop)
                self.metrics.add(self.step, self.stepper.names, metrics)
                self.step += len(metrics)
                indices = indices[len(metrics) :]
                if isinstance(self.stepper, FirstSteps):
                    self.stepper = self.stepper.successor
                if should_stop() and self.step < goal:
                    return

    @contextmanager
    def _step_errors(self) -> Iterator[None]:
        """Errors of a step name the model, and after a restore the checkpoint.

        Optimizer state that no rule could judge shows in the first step after it was loaded.
        """
        with attribute_errors(self.owner, f"in a step after {self.step}"):
            try:
                yield
            except _STATE_ERRORS as error:
                if not self._first_step_after_restore:
                    raise
                raise CheckpointError(
                    f"the first step after loading the checkpoint of step {self.step} failed: "
                    f"{first_line(error)}; it was written by another version, or tampered with"
                ) from error
        self._first_step_after_restore = False

    def close(self) -> None:
        """No further step follows: release what brings the images."""
        self.work.loader.close()

    def means(self) -> dict[str, float]:
        """Means of the metrics since the log interval began; empty before a step."""
        return self._read()[0] if self.metrics.names else self.metrics.means(self.step)

    def not_finite(self) -> str | None:
        """What is NaN or infinite: the first metric since the log interval began, or a tensor of a
        network now.
        """
        if self.metrics.names:
            _, metrics_finite, networks_finite = self._read()
        else:
            metrics_finite, networks_finite = True, bool(self._networks_finite())
        if not metrics_finite:
            return self.metrics.first_not_finite(self.step)
        if networks_finite:
            return None
        tensors = self._watched()
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
        wrong = (name for name, good in zip(tensors, finite, strict=True) if not good)
        return next((f"{n} has NaN or infinite values at step {self.step}" for n in wrong), None)

    def _read(self) -> tuple[dict[str, float], bool, bool]:
        """Means, and whether all metrics and all networks are finite: one wait for the device, and
        none if it was read at this step already, since nothing but a step changes them.
        """
        if self._summary is None or self._summary[0] != self.step:
            summary = self.metrics.summary(self.step)
            finite = self._networks_finite().to(summary.device).to(summary.dtype)
            *means, metrics_finite, networks_finite = torch.cat([summary, finite[None]]).tolist()
            named = dict(zip(self.metrics.names, means, strict=True))
            self._summary = self.step, (named, bool(metrics_finite), bool(networks_finite))
        return self._summary[1]

    def _networks_finite(self) -> torch.Tensor:
        """Whether all numbers of the networks are finite; 0-d, on the device."""
        tensors = self._watched()
        if not tensors:
            return torch.ones(())
        # A number that is not finite makes its sum so; very large numbers may do that, too.
        sums = torch.stack([tensor.sum().abs().float() for tensor in tensors.values()])
        return torch.isfinite(sums).all()

    def _watched(self) -> Tensors:
        networks = state.networks(self.trainer)
        return {n: tensor for n, tensor in networks.items() if n not in self.may_be_infinite}

    def state(self) -> Tensors:
        """All that moves outside the networks: what :meth:`restore` needs to go on as if nothing
        had happened.

        Raises:
            ContractError: an optimizer's number was changed, which no checkpoint could hold.
        """
        now = state.scalars(self.trainer)
        for name, value in now.items():
            if value != (known := self._scalars.get(name)):
                raise ContractError(
                    f"{name} went from {known} to {value}: a schedule has to be a tensor "
                    "(lr=torch.tensor(...), changed in place), or resuming would forget it"
                )
        window = {WINDOW + name: values for name, values in self.metrics.state(self.step).items()}
        return state.training(self.trainer) | stream_states(self.work) | window

    def restore(self, step: int, model: Tensors, saved: Tensors) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it does not fit; the trainer is as it was.
        """
        window = {
            name.removeprefix(WINDOW): t for name, t in saved.items() if name.startswith(WINDOW)
        }
        self.metrics.check(step, window)
        iteration = saved.get("trainer/iteration")
        if (
            iteration is None
            or iteration.shape
            or iteration.dtype != torch.int64
            or int(iteration) != step
        ):
            raise CheckpointError("the checkpoint's iteration count is not its step")
        names = tuple(self.work.streams)
        found, problems = streams.saved_streams(saved, names, step, self.options.seed, self.device)
        for problem in problems:
            warnings.warn(problem, GenkitWarning, stacklevel=3)
        state.restore(
            self.trainer,
            model,
            {n: t for n, t in saved.items() if n not in streams.NAMES and not n.startswith(WINDOW)},
        )
        for name, rng in self.work.streams.items():
            # In place: a captured graph draws from this very stream.
            rng.set_state(found[name].state())
        self.step = step
        self._summary = None
        self.metrics.restore(window)
        self._first_step_after_restore = True

    def environment(self, model: ModelInfo) -> Environment:
        """What bit-exactness depends on, and the engine, on which it does not."""
        return current_environment(
            self.device,
            model,
            kernels=self.stepper.kernels,
            **settings.describe(self.device),
            engine=self.stepper.kind,
            fallback_reason=self.stepper.fallback_reason,
        )


_STATE_ERRORS = (
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
)
"""What an optimizer raises that was given state it cannot use."""
