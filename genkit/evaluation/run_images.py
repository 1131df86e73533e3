"""The images of a run and its dataset, and what encoder and extractor make of them."""

from collections.abc import Iterator
from enum import Enum
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from ..data.datasets import ImageData, Notify
from ..data.images import from_uint8
from ..errors import PluginError, UsageError, attribute_errors
from ..interfaces import Posterior, evaluating
from ..rng import Rng
from ..run import Run
from .classifier import ClassifierOutput
from .extractor import Extractor, get_extractor
from .latents import find_encoder

CHUNK = 1000
"""Images that a model makes at a time."""
MAX_TRAINING_NUMBERS = 2**28
"""Floats in the training images that samples are compared with; it limits how many are used."""


class Source(Enum):
    """Where images come from."""

    SAMPLES = "samples of the model"
    RECONSTRUCTIONS = "reconstructions of the held-out images"
    HELD_OUT = "held-out images"
    TRAINING = "training images"
    FLOOR = "training images, drawn in place of samples"


class RunImages:
    """The images of a run, and what its encoder and its classifier make of them.

    Each tensor is made when it is first needed, and once.
    """

    def __init__(self, run: Run, data: ImageData, count: int, seed: int, notify: Notify) -> None:
        self.run, self.data, self.count, self.seed, self.notify = run, data, count, seed, notify
        self.pixels = cache(self._pixels)
        self.classify = cache(self._classify)
        self.posterior = cache(self._posterior)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.run.info.model.name

    @cached_property
    def extractor(self) -> Extractor:
        """The extractor for the run's dataset."""
        return get_extractor(self.run, self.data, self.notify)

    @cached_property
    def has_posterior(self) -> bool:
        """Whether the model's encoder gives distributions over codes, not codes."""
        try:
            return isinstance(self._encode(self.pixels(Source.HELD_OUT)[:1]), Posterior)
        except UsageError:  # there is no encoder
            return False

    def subsample(self, images: Tensor, limit: int | None) -> Tensor:
        """All of ``images``, or ``limit`` drawn from them, because datasets are often sorted by
        class.

        Two tensors of one length are cut to the same rows, so that pairs stay pairs.
        """
        if limit is None or len(images) <= limit:
            return images
        generator = Rng(self.seed, "some").generator
        return images[torch.randperm(len(images), generator=generator)[:limit]]

    def _pixels(self, source: Source) -> Tensor:
        """Images ``(N, C, H, W)`` in [-1, 1]."""
        if source is Source.SAMPLES:
            return self._sample()
        if source is Source.RECONSTRUCTIONS:
            held_out = torch.split(self.pixels(Source.HELD_OUT), CHUNK)
            return torch.cat([self.run.reconstruct(part) for part in held_out])
        return from_uint8(self._real(source))

    def _real(self, source: Source) -> Tensor:
        """Images of the dataset, uint8 ``(N, C, H, W)``."""
        train = self.data.train.images
        if source is Source.HELD_OUT:
            return self.subsample(self.data.test.images, self.count)
        if source is Source.FLOOR:
            generator = Rng(self.seed, "floor").generator
            return train[torch.randperm(len(train), generator=generator)[: self.count]]
        limit = max(2, MAX_TRAINING_NUMBERS // train[0].numel())
        if len(train) > limit:
            self.notify(
                f"compared with {limit} of the {len(train)} training images, which fit in memory"
            )
        return self.subsample(train, limit)

    def _sample(self) -> Tensor:
        trainer, rng = self.run.trainer, Rng(self.seed, "samples")
        self.notify(f"drawing {self.count} samples")
        parts = []
        with attribute_errors(self.run.owner, "to sample"):
            labels = trainer.labels_for(self.count)
            for start in range(0, self.count, CHUNK):
                part = None if labels is None else labels[start : start + CHUNK]
                parts.append(trainer.sample(min(CHUNK, self.count - start), rng, part))
        samples = torch.cat(parts)  # (count, C, H, W)
        if samples.shape[1:] != self.run.spec.shape or not bool(torch.isfinite(samples).all()):
            raise PluginError(f"{self.model} gave samples of another shape, or that are not finite")
        return samples

    def _classify(self, source: Source) -> ClassifierOutput:
        """Features and class probabilities of the same images."""
        if source is not Source.TRAINING:
            return self.extractor(self.pixels(source))
        # They may be many: converted to floats part by part.
        parts = [
            self.extractor(from_uint8(part)) for part in torch.split(self._real(source), CHUNK)
        ]
        return ClassifierOutput(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _encode(self, images: Tensor) -> Any:
        encoder = find_encoder(self.run.trainer, self.model)
        with evaluating(encoder), attribute_errors(self.run.owner, "to encode"):
            return encoder(images)

    def _posterior(self, limit: int | None) -> Posterior:
        """Of held-out images; in batches of the run's size, as the trainer's own test loss."""
        if not self.has_posterior:
            raise UsageError(f"{self.model} has no encoder that gives a posterior")
        parts = [self._encode(batch) for batch in self._batches(limit)]
        return Posterior(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _batches(self, limit: int | None) -> Iterator[Tensor]:
        held_out = self.subsample(self.pixels(Source.HELD_OUT), limit)
        yield from torch.split(held_out, self.run.info.options.batch_size)
