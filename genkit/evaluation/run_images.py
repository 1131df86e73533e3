"""The images of a run and its dataset, and what encoder and extractor make of them."""

import time
from collections.abc import Iterator
from enum import Enum
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from ..data.datasets import ImageData, Notify, Split
from ..data.images import from_uint8
from ..errors import PluginError, UsageError, attribute_errors
from ..interfaces import Posterior, evaluating
from ..rng import Rng
from ..run import Run
from .classifier import ClassifierOutput
from .extractor import Extractor, get_extractor
from .latents import find_encoder

CHUNK = 1000
"""Images that are made, or read, at a time."""
MAX_TRAINING_NUMBERS = 2**28
"""Floats in the training images that samples are compared with; it limits how many are used."""
MAX_HELD_BYTES = 2**29
"""Of the images that a model makes: more are made again for every metric that needs them."""
SECONDS_BETWEEN_LINES = 10.0
"""Between two lines on how many images were made."""


class Source(Enum):
    """Where images come from."""

    SAMPLES = "samples of the model"
    RECONSTRUCTIONS = "reconstructions of the held-out images"
    HELD_OUT = "held-out images"
    TRAINING = "training images"
    FLOOR = "training images, drawn in place of samples"


class RunImages:
    """The images of a run, and what its encoder and its classifier make of them.

    Images are made when they are needed, :data:`CHUNK` at a time. Those that the model makes are
    kept while they take little memory; made again, they are the same.
    """

    def __init__(self, run: Run, data: ImageData, count: int, seed: int, notify: Notify) -> None:
        self.run, self.data, self.count, self.seed, self.notify = run, data, count, seed, notify
        self.classify = cache(self._classify)
        self.posterior = cache(self._posterior)
        self._numbers = cache(self._choose_numbers)
        self._held = cache(self._hold)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.run.info.model.name

    @cached_property
    def extractor(self) -> Extractor:
        """The extractor for the run's dataset."""
        return get_extractor(self.run, self.data, self.notify)

    @cached_property
    def classified_numbers(self) -> int:
        """Numbers that the extractor makes of an image: D features and K probabilities."""
        output = self.extractor(torch.zeros(1, *self.run.spec.shape))
        return sum(part.shape[1] for part in output)

    @cached_property
    def has_posterior(self) -> bool:
        """Whether the model's encoder gives distributions over codes, not codes."""
        try:
            return isinstance(self._encode(next(self.held_out_batches(1, None))), Posterior)
        except UsageError:  # there is no encoder
            return False

    def count_of(self, source: Source, count: int | None = None) -> int:
        """How many images there are of a source, if ``count`` were asked for (None: as many as
        are).
        """
        count = self.count if count is None else count
        train, test = len(self.data.train), len(self.data.test)
        match source:
            case Source.SAMPLES:
                return count
            case Source.TRAINING:
                return min(train, self._most_training)
            case Source.FLOOR:
                return min(train, count)
            case _:
                return min(test, count)

    def subsample(self, rows: Tensor, limit: int | None) -> Tensor:
        """All of ``rows``, one for each image, or ``limit`` drawn from them, because datasets are
        often sorted by class.

        Two tensors of one length are cut to the same rows, so that pairs stay pairs.
        """
        chosen = self._choose(len(rows), limit)
        return rows if chosen is None else rows[chosen]

    def pixels(self, source: Source, limit: int | None = None) -> Tensor:
        """Images ``(N, C, H, W)`` in [-1, 1]: all of a source, or those that :meth:`subsample`
        would draw from them.
        """
        count = self.count_of(source)
        chosen = self._choose(count, limit)
        if source in (Source.SAMPLES, Source.RECONSTRUCTIONS):
            held = self._held(source)
            if held is not None:
                return held if chosen is None else held[chosen]
            return _collect(self.chunks(source), count, chosen)
        total = count if chosen is None else len(chosen)
        return _collect(self._read(source, chosen, CHUNK), total, None)

    def chunks(self, source: Source) -> Iterator[Tensor]:
        """All images of a source, at most :data:`CHUNK` at a time, in [-1, 1]."""
        if source not in (Source.SAMPLES, Source.RECONSTRUCTIONS):
            return self._read(source, None, CHUNK)
        held = self._held(source)
        return self._make(source) if held is None else iter(torch.split(held, CHUNK))

    def held_out_batches(self, size: int, limit: int | None) -> Iterator[Tensor]:
        """The images of ``pixels(Source.HELD_OUT, limit)``, ``size`` at a time."""
        chosen = self._choose(self.count_of(Source.HELD_OUT), limit)
        return self._read(Source.HELD_OUT, chosen, size)

    @property
    def _most_training(self) -> int:
        return max(2, MAX_TRAINING_NUMBERS // self.run.spec.size)

    def _choose(self, count: int, limit: int | None) -> Tensor | None:
        """Which ``limit`` of ``count`` images; None: all of them."""
        if limit is None or count <= limit:
            return None
        return torch.randperm(count, generator=Rng(self.seed, "some").generator)[:limit]

    def _choose_numbers(self, source: Source) -> Tensor | None:
        """Which images of the dataset, int64 ``(N,)``; None: all of its split."""
        if source is Source.HELD_OUT:
            return self._choose(len(self.data.test), self.count)
        train, most = len(self.data.train), self._most_training
        if source is Source.FLOOR:
            generator = Rng(self.seed, "floor").generator
            return torch.randperm(train, generator=generator)[: self.count]
        if train > most:
            self.notify(f"compared with {most} of the {train} training images, which fit in memory")
        return self._choose(train, most)

    def _read(self, source: Source, chosen: Tensor | None, size: int) -> Iterator[Tensor]:
        """Images of the dataset, ``size`` at a time; those ``chosen`` of the source, or all."""
        split: Split = self.data.test if source is Source.HELD_OUT else self.data.train
        numbers = self._numbers(source)
        if numbers is None:
            numbers = chosen
        elif chosen is not None:
            numbers = numbers[chosen]
        for start in range(0, len(split) if numbers is None else len(numbers), size):
            part = slice(start, start + size)
            yield from_uint8(split.images[part if numbers is None else numbers[part]])
            if split.release is not None:
                split.release()

    def _hold(self, source: Source) -> Tensor | None:
        """All images that the model makes; None: they take too much memory."""
        count = self.count_of(source)
        if count * self.run.spec.size * torch.float32.itemsize > MAX_HELD_BYTES:
            return None
        return _collect(self._make(source), count, None)

    def _make(self, source: Source) -> Iterator[Tensor]:
        if source is Source.SAMPLES:
            return self._say_how_far(self._sample(), self.count)
        return (self.run.reconstruct(part) for part in self._read(Source.HELD_OUT, None, CHUNK))

    def _sample(self) -> Iterator[Tensor]:
        trainer, rng = self.run.trainer, Rng(self.seed, "samples")
        self.notify(f"drawing {self.count} samples")
        for start in range(0, self.count, CHUNK):
            count = min(CHUNK, self.count - start)
            with attribute_errors(self.run.owner, "to sample"):
                labels = None
                if trainer.conditional:
                    labels = torch.arange(start, start + count) % (self.run.spec.classes or 1)
                samples = trainer.sample(count, rng, labels)  # (count, C, H, W)
            shape = self.run.spec.shape
            if samples.shape[1:] != shape or not bool(torch.isfinite(samples).all()):
                raise PluginError(
                    f"{self.model} gave samples of another shape, or that are not finite"
                )
            yield samples

    def _say_how_far(self, chunks: Iterator[Tensor], total: int) -> Iterator[Tensor]:
        done, last = 0, time.monotonic()
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                self.notify(f"{done:,} of {total:,} samples")

    def _classify(self, source: Source) -> ClassifierOutput:
        """Features and class probabilities of the same images."""
        whole: ClassifierOutput | None = None
        start, count = 0, self.count_of(source)
        for images in self.chunks(source):
            output = self.extractor(images)
            if whole is None:
                empty = (rows.new_empty(count, *rows.shape[1:]) for rows in output)
                whole = ClassifierOutput(*empty)
            for rows, part in zip(whole, output, strict=True):
                rows[start : start + len(part)] = part
            start += len(images)
        assert whole is not None, "a source has an image or more"
        return whole

    def _encode(self, images: Tensor) -> Any:
        encoder = find_encoder(self.run.trainer, self.model)
        with evaluating(encoder), attribute_errors(self.run.owner, "to encode"):
            return encoder(images)

    def _posterior(self, limit: int | None) -> Posterior:
        """Of held-out images; in batches of the run's size, as the trainer's own test loss."""
        if not self.has_posterior:
            raise UsageError(f"{self.model} has no encoder that gives a posterior")
        size = self.run.info.options.batch_size
        parts = [self._encode(batch) for batch in self.held_out_batches(size, limit)]
        return Posterior(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _collect(chunks: Iterator[Tensor], count: int, chosen: Tensor | None) -> Tensor:
    """``count`` images that come in ``chunks``, in one tensor; those ``chosen`` of them, or all."""
    images: Tensor | None = None
    start = 0
    for chunk in chunks:
        if images is None:
            images = chunk.new_empty((count if chosen is None else len(chosen), *chunk.shape[1:]))
        if chosen is None:
            images[start : start + len(chunk)] = chunk
        else:
            here = (chosen >= start) & (chosen < start + len(chunk))
            images[here] = chunk[chosen[here] - start]
        start += len(chunk)
    assert images is not None, "a source has an image or more"
    return images
