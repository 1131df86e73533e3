"""The whole contract between genkit and a model: Generator, Discriminator, Encoder, Trainer.

Images between a dataset and a network are float ``(B, C, H, W)`` in [-1, 1]. Random numbers come
from the :class:`genkit.Rng` that is handed in, never from torch's global generator. Whoever keeps
this contract gets exact resume and every engine with no further code.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from . import config as options, processes, updates
from .errors import UsageError
from .rng import Rng

CHUNK_NUMBERS, CHUNK_IMAGES = 2**23, 2**14
"""Numbers in the images that a generator makes at a time, and the most images."""
ALIGNMENT = 16
"""Chunks but the last are of a multiple of so many images, and the last has at least as many. torch
draws normal numbers on the CPU in groups of 16, so that a prior of one draw gives the same codes in
chunks as in one call.
"""

Metrics = Mapping[str, Tensor]
"""Detached 0-d tensors by name. A name that is or ends in ``loss`` or ``accuracy`` is plotted as
such.
"""


@dataclass(frozen=True)
class DataSpec:
    """What a model may know of its dataset before it sees an image."""

    channels: int
    height: int
    width: int
    classes: int | None = None
    """Number of labels, or None where the images bear none."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return (self.channels, self.height, self.width)

    @property
    def size(self) -> int:
        """Numbers in one image: C x H x W."""
        return self.channels * self.height * self.width


class Batch(NamedTuple):
    """Real images and, where the dataset has them, their labels."""

    images: Tensor
    """``(B, C, H, W)`` in [-1, 1]; with ``batches_per_step = n``, n batches one behind the other.
    """
    labels: Tensor | None
    """int64 ``(B,)``."""


class Posterior(NamedTuple):
    """A diagonal Gaussian over latent codes."""

    mean: Tensor
    """``(B, L)``."""
    log_variance: Tensor
    """``(B, L)``, natural logarithm."""

    def sample(self, rng: Rng) -> Tensor:
        """One code for each image, ``(B, L)``, differentiable in both parameters.

        Kingma & Welling 2014, section 2.4.
        """
        return self.mean + torch.exp(0.5 * self.log_variance) * rng.normal(*self.mean.shape)

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence from a standard normal, nats, ``(B,)``.

        Kingma & Welling 2014, appendix B.
        """
        return 0.5 * (self.log_variance.exp() + self.mean.square() - 1.0 - self.log_variance).sum(1)


class Generator(nn.Module, abc.ABC):
    """Latent codes → images: the part of a model that is sampled."""

    @abc.abstractmethod
    def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
        """``n`` latent codes to sample from, ``(n, ...)``; n may be 0."""

    @abc.abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Codes ``(B, ...)`` → images ``(B, C, H, W)`` in [-1, 1]."""

    @final
    def sample(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
        """``n`` images ``(n, C, H, W)`` in [-1, 1], in evaluation mode; each module's mode is
        restored after.
        """
        with evaluating(self):
            images: Tensor = self(self.prior(n, rng, labels))
        return images


class Discriminator(nn.Module, abc.ABC):
    """Images → how real they look."""

    @abc.abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1] → logits ``(B,)``; above 0 means real."""


class Encoder(nn.Module, abc.ABC):
    """Images → latent codes, or a posterior over them."""

    @abc.abstractmethod
    def forward(self, images: Tensor) -> Any:
        """Images ``(B, C, H, W)`` in [-1, 1] → codes ``(B, L)`` or a :class:`Posterior`."""


class Trainer(nn.Module, abc.ABC):
    """One training algorithm. It owns its networks (child modules) and its optimizers.

    A subclass declares ``Config``, takes ``(config, spec)``, builds its networks and
    ``self.optimizers``, and says in :meth:`step` what one full update is. All that changes from
    step to step lives in parameters, buffers and optimizer state, and changes in place; nothing in
    ``step`` waits for the device (``.item()``, ``.numpy()``, ``print``, shapes that depend on
    data). What varies with time reads ``self.iteration``.

    It may also implement :class:`Evaluates` and :class:`Reconstructs`.
    """

    Config: ClassVar[type[options.Config]] = options.Config
    """The model's options."""
    preferred_datasets: ClassVar[tuple[str, ...]] = ()
    """Tried in order where the user names none."""
    batches_per_step: ClassVar[int] = 1
    """Real batches that one step consumes."""
    conditional: ClassVar[bool] = False
    """Whether it learns from labels: then it is trained on labelled images only, and always sampled
    with labels.
    """
    log_format: ClassVar[str] = ""
    """How the metrics read in one line of the log, for ``str.format(**metrics)``; empty: name and
    value of each.
    """

    generator: Generator
    iteration: Tensor
    """int64, 0-d: finished updates. Counted by genkit, never by the trainer."""

    def __init__(self, config: Any, spec: DataSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._observers = updates.Observers()
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))

    @abc.abstractmethod
    def step(self, batch: Batch, rng: Rng) -> Metrics:
        """One full update, all phases. The same names every time, in the same order."""

    @final
    def update(self, **losses: Tensor) -> None:
        """Step the named optimizers, each down the gradient of its own loss:
        ``self.update(discriminator=loss)``.

        All gradients are computed before any parameter moves, each for its optimizer's parameters
        only and in their memory layout, so a phase cannot move, or leave gradients on, another
        network. A parameter that its loss does not reach is left alone, and so is a frozen one.

        Raises:
            ContractError: no optimizer has this name, or a gradient is sparse.
        """
        if not losses:
            raise TypeError("update() needs a loss: self.update(NAME_OF_AN_OPTIMIZER=loss)")
        gradients = updates.compute_gradients(losses, self.optimizers, self._name_of)
        self._observers.update(self.optimizers, gradients)

    @final
    def on_update(self, observer: updates.Observer, *, after: bool = False) -> Callable[[], None]:
        """Call ``observer(gradients)`` in every update that Python runs; never in a replay.

        ``gradients`` maps the name of each optimizer of the update to its parameters that learn,
        each with its gradient, or None where the loss does not reach it. An observer changes
        neither.

        Args:
            observer: called once all gradients of an update are computed, before any optimizer
            steps.
            after: call it once the optimizers have stepped instead.

        Returns:
            What removes the observer.
        """
        return self._observers.add(observer, after=after)

    @final
    def without_observers(self) -> AbstractContextManager[None]:
        """Inside, no observer is called."""
        return self._observers.suspended()

    def _name_of(self, parameter: Tensor) -> str:
        names = (name for name, known in self.named_parameters() if known is parameter)
        return next(names, "a parameter")

    @final
    def sample(self, n: int, rng: Rng, labels: Sequence[int] | Tensor | None = None) -> Tensor:
        """``n`` images ``(n, C, H, W)`` in [-1, 1] from the generator.

        Args:
            n: how many.
            rng: what the latent codes are drawn from.
            labels: for a conditional model, ``(n,)``; None: 0, 1, 2 … in turn.

        Raises:
            UsageError: labels for a model that learns without them, too few, too many, or of no
            class.
        """
        if labels is not None:
            labels = self.labels_for(n, labels)
        chunks = self.sample_chunks(n, rng, labels)
        first = next(chunks)
        if len(first) == n:
            return first
        images = first.new_empty((n, *first.shape[1:]))
        images[: len(first)] = first
        done = len(first)
        for chunk in chunks:
            images[done : done + len(chunk)] = chunk
            done += len(chunk)
        return images

    @final
    def sample_chunks(
        self, n: int, rng: Rng, labels: Sequence[int] | Tensor | None = None
    ) -> Iterator[Tensor]:
        """The images of :meth:`sample` in parts, so that few of them are in memory at a time.

        Parts have at most 16,399 images, and 8 million numbers where that is 16 images or more; the
        generator's ``prior`` is called once for each. Between two of them the modules are in the
        mode that they had before.

        Args:
            n: how many, in all.
            rng: what the latent codes are drawn from.
            labels: for a conditional model, classes that are repeated in turn until there are n;
                None: 0, 1, 2 … in turn.

        Raises:
            UsageError: labels for a model that learns without them, or of no class.
        """
        chosen = self.labels_for(self.spec.classes or 1) if self.conditional else None
        if labels is not None:
            chosen = self.labels_for(len(labels), labels)
            if chosen is not None and n and not len(chosen):
                raise UsageError("there are no labels to repeat")
        return _sample_chunks(self.generator, self.spec.size, n, rng, chosen)

    @final
    def labels_for(self, n: int, labels: Sequence[int] | Tensor | None = None) -> Tensor | None:
        """What ``prior`` gets for ``n`` images: int64 ``(n,)``; None for an unconditional model."""
        if not self.conditional:
            if labels is not None:
                raise UsageError(f"{type(self).__name__} is not conditional: it takes no labels")
            return None
        classes = self.spec.classes or 1
        try:
            chosen = torch.arange(n) % classes if labels is None else torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            chosen = torch.empty(0)
        if (
            chosen.is_floating_point()
            or chosen.shape != (n,)
            or not bool(((chosen >= 0) & (chosen < classes)).all())
        ):
            raise UsageError(f"labels have to be {n} whole numbers from 0 to {classes - 1}")
        return chosen.to(self.iteration.device, torch.int64)

    @final
    def mean_over_processes(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes of a run.

        Whatever a trainer's ``step`` computes from its batch and keeps in a buffer goes through
        here.
        """
        return processes.mean(value)


@runtime_checkable
class Evaluates(Protocol):
    """A trainer that measures itself on held-out images, for instance by a test loss."""

    def evaluate(self, batch: Batch, rng: Rng) -> Metrics:
        """Means over the batch; called in evaluation mode, without gradients."""


@runtime_checkable
class Reconstructs(Protocol):
    """A trainer that can map images to their reconstructions."""

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1] → the same shape; called in evaluation mode, without
        gradients.
        """


@runtime_checkable
class HasLikelihood(Protocol):
    """A trainer that knows how likely images are, given codes."""

    def log_likelihood(self, images: Tensor, z: Tensor) -> Tensor:
        """log p(images | z), nats, ``(B,)``; called in evaluation mode, without gradients."""


def _sample_chunks(
    generator: Generator, numbers: int, n: int, rng: Rng, labels: Tensor | None
) -> Iterator[Tensor]:
    start = 0
    for count in chunk_sizes(n, numbers):
        part = labels
        if labels is not None:
            turn = torch.arange(start, start + count, device=labels.device)
            part = labels[turn % max(1, len(labels))]  # (count,)
        yield generator.sample(count, rng, part)
        start += count


def chunk_sizes(count: int, numbers: int) -> Iterator[int]:
    """How many of ``count`` images of so many ``numbers`` each are made at a time; one chunk of 0
    where there are none.
    """
    most = min(CHUNK_IMAGES, CHUNK_NUMBERS // max(1, numbers))
    size = max(1, most // ALIGNMENT) * ALIGNMENT
    while count >= size + ALIGNMENT:
        yield size
        count -= size
    yield count


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; each module's mode is restored after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
