"""The trainings that checks look at: registered models, and small ones made here."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import genkit
from genkit.config import TrainOptions
from genkit.data.datasets import ImageData
from genkit.data.in_memory import from_images
from genkit.errors import UnknownNameError
from genkit.hookspecs import ModelEntry
from genkit.models import build
from genkit.plugins.registry import discover
from genkit.training.session import Training

from .finding import Context, NotApplicableError

LATENT, HIDDEN = 8, 16
LOG_INTERVAL = 1000
"""Of the trainings here: as many steps as their metrics are kept for."""
Schedule = Literal["none", "tensor", "buffer", "iteration"]
RATE, DECAY = 0.1, 0.9
"""A scheduled learning rate at first, and what each step multiplies it by."""


def find_model(name: str) -> type[genkit.Trainer]:
    """A registered model.

    Raises:
        NotApplicableError: it is not installed.
    """
    try:
        found: type[genkit.Trainer] = discover().find(ModelEntry, name).target()
    except UnknownNameError:
        raise NotApplicableError(f"{name} is not installed") from None
    return found


def prepare(
    context: Context,
    model: str | type[genkit.Trainer],
    config: dict[str, Any] | None = None,
    how: dict[str, Any] | None = None,
    **options: Any,
) -> Training:
    """A training on the context's images and device; its steps are captured where that is possible.

    Args:
        context: of the check.
        model: a registered model's name, or a class.
        config: the model's options.
        how: more arguments of :meth:`Training.prepare`.
        options: of :class:`TrainOptions`, where others than here.
    """
    common = {"device": context.device, "batch_size": context.batch}
    return prepare_on(context.data, model, config, how, **common | options)


def prepare_on(
    data: ImageData,
    model: str | type[genkit.Trainer],
    config: dict[str, Any] | None = None,
    how: dict[str, Any] | None = None,
    **options: Any,
) -> Training:
    """As :func:`prepare`, on other images."""
    trainer = find_model(model) if isinstance(model, str) else model
    # torch's kernels, since others may round differently from steps that Python runs.
    defaults = {"engine": "graph", "kernels": "torch", "log_interval": LOG_INTERVAL}
    chosen = TrainOptions(**defaults | options)
    make_trainer = partial(build, trainer, trainer.Config(**config or {}), data.spec, chosen.seed)
    return Training.prepare(make_trainer, data, chosen, **how or {})


def load_data(arguments: dict[str, Any]) -> ImageData:
    """The images that another process wrote."""
    return from_images(np.load(arguments["images"], allow_pickle=False))


def describe_engine(training: Training) -> str:
    """``graph``, or ``eager`` and why."""
    reason = training.stepper.fallback_reason
    return training.stepper.kind + (f" ({reason})" if reason else "")


def run_windows(training: Training, *windows: int) -> None:
    """Make steps, a window after the other."""
    for steps in windows:
        training.run(steps)


Parameters = Sequence[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
    "AdamW amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, amsgrad=True),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=1e-2),
    "Adafactor": lambda parameters: torch.optim.Adafactor(parameters),
    "Muon": lambda parameters: torch.optim.Muon([p for p in parameters if p.dim() == 2]),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
}
"""By name, as :class:`Small` takes them."""


class SmallGenerator(genkit.Generator):
    """A code → two linear layers → an image."""

    def __init__(self, spec: genkit.DataSpec, dropout: float) -> None:
        super().__init__()
        self.shape = spec.shape
        between = [nn.ReLU(), nn.Dropout(dropout)] if dropout else [nn.ReLU()]
        self.layers = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), *between, nn.Linear(HIDDEN, spec.size), nn.Tanh()
        )

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, LATENT)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.shape)  # (B, C, H, W)


class Small(genkit.Trainer):
    """The smallest trainer: random codes, and the squared distance of their images to real ones."""

    class Config(genkit.Config):
        optimizer: str = genkit.Field("Adam", description="its name in OPTIMIZERS")
        dropout: float = genkit.Field(0.0, ge=0, lt=1, description="from torch's global stream")

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator = SmallGenerator(spec, config.dropout)
        parameters = list(self.generator.parameters())
        self.optimizers = {"generator": OPTIMIZERS[config.optimizer](parameters)}

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        fake = self.generator(self.generator.prior(len(batch.images), rng))
        loss = (fake - batch.images).square().mean()
        self.update(generator=loss)
        return {"loss": loss.detach()}


class Scheduled(Small):
    """Its learning rate falls by a tenth each step, and is changed in place.

    It is a tensor that the optimizer alone holds, a buffer of the trainer, or is computed from
    ``iteration``.
    """

    class Config(Small.Config):
        schedule: Schedule = genkit.Field("tensor", description="where the rate is kept")

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        rate = torch.tensor(RATE)
        if config.schedule == "buffer":
            self.register_buffer("rate", rate)
            rate = self.rate
        parameters = list(self.generator.parameters())
        self.optimizers = {"generator": torch.optim.Adam(parameters, lr=rate)}

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        rate = self.optimizers["generator"].param_groups[0]["lr"]
        if self.config.schedule == "iteration":
            rate.copy_(RATE * DECAY ** (self.iteration + 1).float())
        else:
            (self.rate if self.config.schedule == "buffer" else rate).mul_(DECAY)
        return super().step(batch, rng)


class Heavy(Small):
    """A step that takes as long as so many products of square matrices."""

    class Config(Small.Config):
        width: int = genkit.Field(512, ge=1, description="rows and columns of a matrix")
        products: int = genkit.Field(1, ge=1, description="products in a step")

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.register_buffer("matrix", torch.eye(config.width))

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        metrics = super().step(batch, rng)
        product = self.matrix
        for _ in range(self.config.products):
            product = product @ self.matrix
        return {**metrics, "trace": product.diagonal().mean()}
