"""Measuring a run: what a metric is given, the floor beside its figures, and ``evaluation.json``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from ..data.datasets import ImageData, Notify
from ..data.images import from_uint8
from ..errors import (
    ContractError,
    DataError,
    GenkitError,
    PluginError,
    UsageError,
    attribute_errors,
)
from ..hookspecs import Metric
from ..interfaces import HasLikelihood, Posterior, Reconstructs, evaluating
from ..plugins.registry import Registered
from ..rng import Rng
from ..run import Run
from . import extractor
from .extractor import Extractor, ExtractorInfo, Rows
from .latents import find_encoder

CHUNK = 1000
"""Images that a model makes at a time."""
TRAINING_NUMBERS = 2**28
"""Pixels of training images that are compared with at a time, as floats."""
NUMBERS = 2**23
"""In an array of decoded codes, at a time."""

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Measurement:
    """The figures of one metric, and what they rest on."""

    figures: dict[str, float]
    floor: dict[str, float] | None
    """Those of real images in place of samples; None where there are too few, or the metric is not
    of samples.
    """
    step: int
    """Updates behind the weights."""
    images: int
    """Of the model."""
    held_out: int
    """Held-out images, compared with or, where samples are compared with training images, in the
    floor.
    """
    floor_images: int | None
    """Real images in the place of samples."""
    seed: int
    """Of the samples."""
    extractor: ExtractorInfo | None
    """Whose features the figures are in, if any's."""

    def content(self) -> dict[str, Any]:
        """For JSON; what there is not is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def evaluate(
    run: Run, data: ImageData, metrics: Sequence[str], count: int, seed: int, notify: Notify
) -> dict[str, Measurement]:
    """Measure a run by metrics, and write ``evaluation.json``; see :func:`genkit.evaluate`."""
    if count < 1:
        raise UsageError(f"count is {count}: measure one image or more")
    if not len(data.test):
        raise DataError(f"{run.info.dataset.name} holds out no images to compare with")
    subject = _Subject(run, data, count, seed, notify)
    chosen = [run.registry.find(Metric, name) for name in metrics] or _own(subject)
    measured: dict[str, Measurement] = {}
    refused: GenkitError | None = None
    for metric in chosen:
        try:
            measured[metric.entry.name] = _measure(metric, subject)
        except (
            UsageError,
            ContractError,
            PluginError,
        ) as error:  # one bad metric does not take the others with it
            if metrics:
                raise
            refused = refused or error
            notify(f"{metric.entry.name} is left out: {error}")
    if not measured and refused is not None:
        raise refused
    return measured


def _own(subject: "_Subject") -> list[Registered[Metric]]:
    """genkit's own metrics that the model can be measured by."""
    trainer = subject.run.trainer
    able = {
        "samples": True,
        "reconstructions": isinstance(trainer, Reconstructs),
        "posterior": subject.has_posterior,
        "bounds": subject.has_posterior and isinstance(trainer, HasLikelihood),
    }
    return [
        r
        for r in subject.run.registry.builtin(Metric)
        if r.entry.default and able[r.entry.compares]
    ]


class _Subject:
    """A run and its dataset, as metrics see them; each tensor is made when it is first needed, and
    once.
    """

    def __init__(self, run: Run, data: ImageData, count: int, seed: int, notify: Notify) -> None:
        self.run, self.data, self.count, self.seed, self.notify = run, data, count, seed, notify
        self.pixels = cache(self._pixels)
        self.rows = cache(self._rows)
        self.posterior = cache(self._posterior)
        self.bounds = cache(self._bounds)

    @cached_property
    def extractor(self) -> Extractor:
        """What makes features of the images of the run's dataset."""
        info = self.run.info.dataset
        return extractor.find(
            self.run.dataset_entry, self.data, info.name, info.fingerprint, self.notify
        )

    @cached_property
    def has_posterior(self) -> bool:
        """Whether the model's encoder gives distributions over codes, not codes."""
        try:
            return isinstance(self._encode(self.pixels("held-out")[:1]), Posterior)
        except UsageError:  # there is no encoder
            return False

    def _pixels(self, which: str) -> Tensor:
        """``samples``, ``held-out``, ``training``, ``floor`` or ``reconstructions``: ``(N, C, H,
        W)`` in [-1, 1].
        """
        if which == "samples":
            return self._samples()
        if which == "reconstructions":
            return torch.cat(
                [self.run.reconstruct(part) for part in torch.split(self.pixels("held-out"), CHUNK)]
            )
        return from_uint8(self._real(which))

    def _real(self, which: str) -> Tensor:
        train = self.data.train.images
        if which == "held-out":
            return self.some(self.data.test.images, self.count)
        if which == "floor":  # real images that are not among the held-out ones
            generator = Rng(self.seed, "floor").generator
            return train[torch.randperm(len(train), generator=generator)[: self.count]]
        fit = max(2, TRAINING_NUMBERS // train[0].numel())
        if len(train) > fit:
            self.notify(
                f"compared with {fit} of the {len(train)} training images, which fit in memory"
            )
        return self.some(train, fit)

    def some(self, images: Tensor, limit: int | None) -> Tensor:
        """All of ``images``, or ``limit`` drawn from them, because datasets are often sorted by
        class.

        From as many rows the same ones are drawn, so that pairs stay pairs.
        """
        if limit is None or len(images) <= limit:
            return images
        return images[
            torch.randperm(len(images), generator=Rng(self.seed, "some").generator)[:limit]
        ]

    def _samples(self) -> Tensor:
        trainer, rng = self.run.trainer, Rng(self.seed, "samples")
        self.notify(f"drawing {self.count} samples")
        with attribute_errors(self.run.owner, "to sample"):
            labels = trainer.labels_for(self.count)
            parts = [
                trainer.sample(
                    min(CHUNK, self.count - i),
                    rng,
                    None if labels is None else labels[i : i + CHUNK],
                )
                for i in range(0, self.count, CHUNK)
            ]
        samples = torch.cat(parts)  # (count, C, H, W)
        if samples.shape[1:] != self.run.spec.shape or not bool(torch.isfinite(samples).all()):
            raise PluginError(
                f"{self.run.info.model.name} gave samples of another shape, or that are not finite"
            )
        return samples

    def _rows(self, which: str) -> Rows:
        """Features and class probabilities of the same images."""
        if which != "training":
            return self.extractor(self.pixels(which))
        parts = [
            self.extractor(from_uint8(part)) for part in torch.split(self._real(which), CHUNK)
        ]  # they may be many
        return Rows(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _encode(self, images: Tensor) -> Any:
        encoder = find_encoder(self.run.trainer, self.run.info.model.name)
        with evaluating(encoder), attribute_errors(self.run.owner, "to encode"):
            return encoder(images)

    def _posterior(self, limit: int | None) -> Posterior:
        """Of held-out images, in batches of the run's size, in order: as the trainer itself is
        evaluated.
        """
        if not self.has_posterior:
            raise UsageError(f"{self.run.info.model.name} has no encoder that gives a posterior")
        parts = [self._encode(part) for part in self._batches(limit)]
        return Posterior(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _batches(self, limit: int | None) -> Iterator[Tensor]:
        yield from torch.split(
            self.some(self.pixels("held-out"), limit), self.run.info.options.batch_size
        )

    def _bounds(self, codes: int, limit: int | None) -> Pair:
        """log p(x | z) and log q(z | x) - log p(z) of ``codes`` codes an image, ``(N, K)``; with
        one, the exact KL.
        """
        trainer, name = self.run.trainer, self.run.info.model.name
        posterior = self.posterior(limit)
        if not isinstance(trainer, HasLikelihood):
            raise UsageError(f"{name} has no log_likelihood(images, z)")
        images = self.some(self.pixels("held-out"), limit)
        if codes == 1:  # the stream, the order and the batches of the trainer's own test loss
            rng, size = (
                Rng(self.run.info.options.seed, "evaluation"),
                self.run.info.options.batch_size,
            )
        else:
            rng, size = Rng(self.seed, "importance"), max(1, NUMBERS // (codes * images[0].numel()))
        parts = []
        with evaluating(trainer), attribute_errors(self.run.owner, "to give its likelihood"):
            for i in range(0, len(images), size):
                many = images[i : i + size].repeat_interleave(codes, 0)  # (B * K, C, H, W)
                q = Posterior(
                    *(part[i : i + size].repeat_interleave(codes, 0) for part in posterior)
                )  # (B * K, L)
                z = q.sample(rng)  # (B * K, L)
                divergence = q.kl() if codes == 1 else _log_ratio(q, z)  # (B * K,)
                likelihood = trainer.log_likelihood(many, z)  # (B * K,)
                if likelihood.shape != divergence.shape:
                    raise ContractError(
                        f"{name}: log_likelihood gave {tuple(likelihood.shape)}, not {tuple(z.shape[:1])}"
                    )
                parts.append((likelihood.view(-1, codes), divergence.view(-1, codes)))
        first, second = (torch.cat(part) for part in zip(*parts, strict=True))
        return first, second


def _log_ratio(q: Posterior, z: Tensor) -> Tensor:
    """log q(z) - log p(z) for a standard normal p, ``(B,)``; the factors of 2 pi cancel."""
    squared = (z - q.mean).square() / q.log_variance.exp()
    return 0.5 * (z.square() - squared - q.log_variance).sum(1)


def _measure(metric: Registered[Metric], subject: _Subject) -> Measurement:
    """One metric's figures and, of samples, its floor."""
    entry = metric.entry
    if entry.compares == "samples":
        if entry.of == "probabilities" and subject.extractor.info.accuracy is None:
            raise UsageError(
                f"{entry.name} needs labels, and {subject.run.info.dataset.name} has none"
            )
        return _of_samples(metric, subject)
    pair: Pair
    if entry.compares == "reconstructions":
        both = subject.pixels("reconstructions"), subject.pixels("held-out")
        pair = subject.some(both[0], entry.limit), subject.some(both[1], entry.limit)
    elif entry.compares == "posterior":
        pair = subject.posterior(entry.limit)
    elif entry.compares == "bounds":
        if entry.codes > 1:
            subject.notify(f"{entry.name}: drawing {entry.codes} codes an image")
        pair = subject.bounds(entry.codes, entry.limit)
    else:
        raise ContractError(
            f"metric {metric.qualified_name} compares {entry.compares!r}, which is unknown"
        )
    return _measurement(subject, _figures(metric, *pair), None, len(pair[0]), len(pair[0]))


def _of_samples(metric: Registered[Metric], subject: _Subject) -> Measurement:
    entry = metric.entry
    see: Callable[[str], Tensor]
    if entry.of == "pixels":
        see = subject.pixels
    elif entry.of == "features":
        see = lambda which: subject.rows(which).features  # noqa: E731
    elif entry.of == "probabilities":
        see = lambda which: subject.rows(which).probabilities  # noqa: E731
    else:
        raise ContractError(f"metric {metric.qualified_name} is of {entry.of!r}, which is unknown")
    by_training = entry.reference == "training"
    reference = see("training") if by_training else subject.some(see("held-out"), entry.limit)
    samples = subject.some(see("samples"), entry.limit)
    real = subject.some(see("held-out" if by_training else "floor"), entry.limit)
    figures = _figures(metric, samples, reference)
    floor = None
    try:
        floor = _figures(metric, real, reference)
    except UsageError as error:
        subject.notify(f"{entry.name} has no floor: {error}")
    held_out = real if by_training else reference
    known = subject.extractor.info if entry.of != "pixels" else None
    if len(real) < len(samples) or len(held_out) < len(samples):
        subject.notify(
            f"{entry.name}: {len(samples)} samples, {len(held_out)} held out, {len(real)} in the floor"
        )
    return _measurement(subject, figures, floor, len(samples), len(held_out), len(real), known)


def _measurement(
    subject: _Subject,
    figures: dict[str, float],
    floor: dict[str, float] | None,
    images: int,
    held_out: int,
    floor_images: int | None = None,
    known: ExtractorInfo | None = None,
) -> Measurement:
    floor_images = None if floor is None else floor_images
    return Measurement(
        figures, floor, subject.run.step, images, held_out, floor_images, subject.seed, known
    )


def _figures(metric: Registered[Metric], first: Tensor, second: Tensor) -> dict[str, float]:
    measure = metric.target()
    with torch.no_grad(), attribute_errors(f"metric {metric.qualified_name}", "to measure"):
        found = measure(first, second)
    if not isinstance(found, Mapping):
        raise ContractError(
            f"metric {metric.qualified_name} gave {type(found).__name__}, not 0-d tensors by name"
        )
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.dim():
            given = (
                f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise ContractError(
                f"metric {metric.qualified_name} gave {name} as {given}, not as a 0-d tensor"
            )
        if not bool(torch.isfinite(value)):
            raise ContractError(f"metric {metric.qualified_name} gave {name} as {float(value)}")
    return {name: float(value) for name, value in found.items()}
