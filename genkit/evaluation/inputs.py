"""What metrics are called with: how each kind of input is made from a run.

A new kind is a record in :mod:`genkit.hookspecs` and one class here, which makes its two tensors,
its floor, and a pair for the contract checks.
"""

import abc
import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..data.images import describe_images
from ..errors import ContractError, UsageError, attribute_errors
from ..hookspecs import (
    Bounds,
    MetricEntry,
    MetricInputs,
    Posteriors,
    Reconstructions,
    Samples,
    UnknownInputs,
)
from ..interfaces import HasLikelihood, Posterior, Reconstructs, evaluating
from ..rng import Rng
from ..run import Run
from ..storage import capacity
from .extractor import ExtractorInfo
from .run_images import RunImages, Source

MAX_DECODED_NUMBERS = 2**23
"""Floats in the images decoded at a time."""
COPIES = 2
"""Of the pixels that a metric gets, with those that it makes itself."""
FLOAT_BYTES, INDEX_BYTES = 4, 8
"""Of a number of an image, and of the number of a sample in the choice of some."""
MAX_COUNT = 2**40
"""No count of images that fit in memory is larger."""
TEST_FEATURES = 8
"""Numbers that stand for an image in the contract checks: fewer than images, as a covariance needs.
"""

Pair = tuple[Tensor, Tensor]
InputsT = TypeVar("InputsT", bound=MetricInputs)


@dataclass(frozen=True, kw_only=True)
class MetricTensors:
    """What one metric is called with."""

    first: Tensor
    """A row for each image of the model, ``(N, ...)``."""
    second: Tensor
    """What it is compared with, ``(M, ...)``."""
    held_out: int
    """Held-out images among them; those of the floor, where ``second`` is of training images."""
    floor: Tensor | None = None
    """Real images in place of ``first``; None: the inputs are not samples."""
    extractor: ExtractorInfo | None = None
    """Whose features they are, if any's."""


class InputMaker(abc.ABC, Generic[InputsT]):
    """Makes what a metric is called with, for one kind of inputs."""

    paired: ClassVar[bool] = True
    """Whether a row of both tensors is of the same image."""

    def __init__(self, entry: MetricEntry, inputs: InputsT) -> None:
        self.entry, self.inputs = entry, inputs

    @property
    def uses_pixels(self) -> bool:
        """Whether the metric gets images as they are."""
        return False

    @abc.abstractmethod
    def applies_to(self, images: RunImages) -> bool:
        """Whether the model can be measured so."""

    @abc.abstractmethod
    def make(self, images: RunImages) -> MetricTensors:
        """The tensors of a run.

        Raises:
            UsageError: the model, or its dataset, lacks what they are made from.
        """

    @abc.abstractmethod
    def make_test_pair(self, images: Tensor, reference: Tensor) -> Pair:
        """Two tensors as the metric declares them, for the contract checks.

        From images of a model and real ones, both ``(N, C, H, W)`` in [-1, 1].
        """


class SampleMaker(InputMaker[Samples]):
    """Samples and real images; the floor is of other real images."""

    paired = False

    @property
    def uses_pixels(self) -> bool:
        return self.inputs.representation == "pixels"

    def applies_to(self, images: RunImages) -> bool:
        return True

    def make(self, images: RunImages) -> MetricTensors:
        limit, by_training = self.entry.limit, self.inputs.reference == "training"
        other, floor_source = Source.HELD_OUT, Source.FLOOR
        if by_training:
            other, floor_source = Source.TRAINING, Source.HELD_OUT
        extractor = None if self.uses_pixels else images.extractor.info
        if self.inputs.representation == "probabilities" and images.extractor.info.accuracy is None:
            dataset = images.run.info.dataset.name
            raise UsageError(f"{self.entry.name} needs labels, and {dataset} has none")
        limits = {Source.SAMPLES: limit, other: None if by_training else limit, floor_source: limit}
        self._require_memory(images, limits)
        reference, samples, floor = (
            self._represent(images, source, limits[source])
            for source in (other, Source.SAMPLES, floor_source)
        )
        return MetricTensors(
            first=samples,
            second=reference,
            held_out=len(floor if by_training else reference),
            floor=floor,
            extractor=extractor,
        )

    def _require_memory(self, images: RunImages, limits: Mapping[Source, int | None]) -> None:
        if self.uses_pixels:
            _require_memory(self.entry.name, images, limits, COPIES * images.run.spec.size)
        else:  # of all images, whatever the metric's limit
            everything = dict.fromkeys(limits)
            _require_memory(self.entry.name, images, everything, images.classified_numbers)

    def _represent(self, images: RunImages, source: Source, limit: int | None) -> Tensor:
        """Pixels ``(N, C, H, W)``, features ``(N, D)`` or probabilities ``(N, K)``."""
        if self.uses_pixels:
            return images.pixels(source, limit)
        features, probabilities = images.classify(source)
        wanted = features if self.inputs.representation == "features" else probabilities
        return images.subsample(wanted, limit)

    def make_test_pair(self, images: Tensor, reference: Tensor) -> Pair:
        if self.uses_pixels:
            return images, reference
        first, second = _project(images, TEST_FEATURES), _project(reference, TEST_FEATURES)
        if self.inputs.representation == "features":
            return first.relu(), second.relu()
        return first.softmax(1), second.softmax(1)


class ReconstructionMaker(InputMaker[Reconstructions]):
    """Reconstructions of held-out images, and their originals."""

    @property
    def uses_pixels(self) -> bool:
        return True

    def applies_to(self, images: RunImages) -> bool:
        return isinstance(images.run.trainer, Reconstructs)

    def make(self, images: RunImages) -> MetricTensors:
        limits = dict.fromkeys((Source.RECONSTRUCTIONS, Source.HELD_OUT), self.entry.limit)
        _require_memory(self.entry.name, images, limits, COPIES * images.run.spec.size)
        first, second = (images.pixels(source, limit) for source, limit in limits.items())
        return MetricTensors(first=first, second=second, held_out=len(second))

    def make_test_pair(self, images: Tensor, reference: Tensor) -> Pair:
        return images, reference


class PosteriorMaker(InputMaker[Posteriors]):
    """The encoder's posteriors for held-out images."""

    def applies_to(self, images: RunImages) -> bool:
        return images.has_posterior

    def make(self, images: RunImages) -> MetricTensors:
        mean, log_variance = images.posterior(self.entry.limit)
        return MetricTensors(first=mean, second=log_variance, held_out=len(mean))

    def make_test_pair(self, images: Tensor, reference: Tensor) -> Pair:
        return _project(images, TEST_FEATURES), -_project(reference, TEST_FEATURES).abs()


class BoundMaker(InputMaker[Bounds]):
    """Likelihoods of held-out images by codes of their posteriors, and what the codes cost."""

    def applies_to(self, images: RunImages) -> bool:
        return images.has_posterior and isinstance(images.run.trainer, HasLikelihood)

    def make(self, images: RunImages) -> MetricTensors:
        count, limit = self.inputs.importance_samples, self.entry.limit
        if count > 1:
            images.notify(f"{self.entry.name}: drawing {count} codes per image")
        posterior = images.posterior(limit)
        if not isinstance(images.run.trainer, HasLikelihood):
            raise UsageError(f"{images.model} has no log_likelihood(images, z)")
        options = images.run.info.options
        if count == 1:  # the stream, the order and the batches of the trainer's own test loss
            rng, size = Rng(options.seed, "evaluation"), options.batch_size
        else:
            rng = Rng(images.seed, "importance")
            size = max(1, MAX_DECODED_NUMBERS // (count * images.run.spec.size))
        parts, start = [], 0
        for batch in images.held_out_batches(size, limit):
            mean, log_variance = (part[start : start + size] for part in posterior)
            parts.append(self._bound(images.run, batch, Posterior(mean, log_variance), rng))
            start += size
        first, second = (torch.cat(part) for part in zip(*parts, strict=True))
        return MetricTensors(first=first, second=second, held_out=len(first))

    def _bound(self, run: Run, images: Tensor, posterior: Posterior, rng: Rng) -> Pair:
        """log p(x | z) and log q(z | x) - log p(z), ``(B, K)``; with one code, the exact KL."""
        count, trainer, name = self.inputs.importance_samples, run.trainer, run.info.model.name
        assert isinstance(trainer, HasLikelihood)
        images = images.repeat_interleave(count, 0)  # (B * K, C, H, W)
        q = Posterior(*(part.repeat_interleave(count, 0) for part in posterior))  # (B * K, L)
        with evaluating(run.trainer), attribute_errors(run.owner, "to give its likelihood"):
            z = q.sample(rng)  # (B * K, L)
            divergence = q.kl() if count == 1 else _log_ratio(q, z)  # (B * K,)
            likelihood = trainer.log_likelihood(images, z)  # (B * K,)
        if likelihood.shape != divergence.shape:
            raise ContractError(
                f"{name}: log_likelihood gave {tuple(likelihood.shape)}, not {tuple(z.shape[:1])}"
            )
        return likelihood.view(-1, count), divergence.view(-1, count)

    def make_test_pair(self, images: Tensor, reference: Tensor) -> Pair:
        first, second = (
            _project(part, self.inputs.importance_samples).abs() for part in (images, reference)
        )
        return -100 - 10 * first, 5 + second


MAKERS: dict[type[MetricInputs], type[InputMaker[Any]]] = {
    Samples: SampleMaker,
    Reconstructions: ReconstructionMaker,
    Posteriors: PosteriorMaker,
    Bounds: BoundMaker,
}
"""Kind of inputs → what makes them."""


def get_maker(entry: MetricEntry) -> InputMaker[Any]:
    """What makes the inputs that a metric declares.

    Raises:
        ContractError: they are of an unknown kind.
    """
    kind = type(entry.inputs)
    if isinstance(entry.inputs, UnknownInputs):
        raise ContractError(f"metric {entry.name} has unknown inputs: {entry.inputs.declared}")
    if kind not in MAKERS:
        known = ", ".join(maker.__name__ for maker in MAKERS)
        raise ContractError(
            f"metric {entry.name} has inputs of kind {kind.__name__}, which is none of {known}"
        )
    return MAKERS[kind](entry, entry.inputs)


def _require_memory(
    name: str, images: RunImages, limits: Mapping[Source, int | None], numbers: int
) -> None:
    """Refuse a metric whose tensors do not fit in memory: of each source, at most so many images,
    of so many ``numbers`` each.

    Raises:
        UsageError: they do not.
    """

    def rows(count: int) -> int:
        found = ((images.count_of(source, count), limit) for source, limit in limits.items())
        return sum(most if limit is None else min(most, limit) for most, limit in found)

    def needed(count: int) -> int:
        drawn = count if Source.SAMPLES in limits else 0
        return FLOAT_BYTES * numbers * rows(count) + INDEX_BYTES * drawn

    free = capacity.free_memory()
    if free is not None and needed(images.count) > free:
        fits = bisect.bisect_right(range(1, MAX_COUNT), free, key=needed)
        capacity.require_memory(
            needed(images.count),
            f"{name}: {describe_images(rows(images.count), images.run.spec.shape)}",
            f"ask for fewer (a --count of {fits:,} fits)" if fits else "measure something else",
        )


def _log_ratio(q: Posterior, z: Tensor) -> Tensor:
    """log q(z) - log p(z) for a standard normal p, ``(B,)``; the factors of 2 pi cancel."""
    squared = (z - q.mean).square() / q.log_variance.exp()
    return 0.5 * (z.square() - squared - q.log_variance).sum(1)


def _project(images: Tensor, columns: int) -> Tensor:
    """Random projections of images, of the order of 1: ``(N, C, H, W)`` → ``(N, columns)``."""
    size = images[0].numel()
    axes = torch.randn(size, columns, generator=torch.Generator().manual_seed(4)) / size**0.5
    rows: Tensor = 2 * images.flatten(1) @ axes
    return rows
