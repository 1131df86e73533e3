"""Checks of metrics."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import GenkitError
from ...interfaces import DataSpec
from ..subject import MetricSubject, Skipped, made_images, metric_check, untouched_global_randomness

COUNT = 40
COLUMNS = 8
"""Of rows that are no images: fewer than there are images, as a covariance needs."""


def _pair(
    subject: MetricSubject, shape: tuple[int, int, int] = (1, 28, 28)
) -> tuple[Tensor, Tensor]:
    """What the metric is called with, 40 rows each."""
    real = made_images(DataSpec(*shape), 2 * COUNT).train.images.float() / 127.5 - 1
    reference = real[:COUNT].clone()
    noise = 0.1 * torch.rand(reference.shape, generator=torch.Generator().manual_seed(3))
    images = reference if subject.entry.compares == "reconstructions" else real[-COUNT:]
    return _seen(subject, (0.8 * images + noise).clamp(-1, 1), reference)


def _seen(subject: MetricSubject, images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The two tensors that the metric declares, made from images ``(40, C, H, W)`` in [-1, 1]."""
    entry = subject.entry
    if entry.compares == "reconstructions" or (
        entry.compares == "samples" and entry.of == "pixels"
    ):
        return images, reference
    first, second = _projected(images, COLUMNS), _projected(reference, COLUMNS)
    if entry.compares == "samples":
        return (
            (first.relu(), second.relu())
            if entry.of == "features"
            else (first.softmax(1), second.softmax(1))
        )
    if entry.compares == "posterior":
        return first, -second.abs()
    return -100 - 10 * _projected(images, entry.codes).abs(), 5 + _projected(
        reference, entry.codes
    ).abs()


def _projected(images: Tensor, columns: int) -> Tensor:
    """Rows of ``columns`` numbers of the order of 1."""
    size = images[0].numel()
    axes = torch.randn(size, columns, generator=torch.Generator().manual_seed(4)) / size**0.5
    rows: Tensor = 2 * images.flatten(1) @ axes
    return rows


def _paired(subject: MetricSubject) -> bool:
    """Whether the two tensors belong together row by row."""
    return subject.entry.compares != "samples"


def _figures(subject: MetricSubject, images: Tensor, reference: Tensor) -> dict[str, float]:
    found = subject.measure(images, reference)
    assert isinstance(found, Mapping), f"it gives {type(found).__name__}, not tensors by name"
    assert found, "it gives no figure"
    for name, value in found.items():
        assert isinstance(name, str), f"a figure is called {name!r}"
        assert isinstance(value, Tensor), f"{name} is {type(value).__name__}, not a tensor"
        assert value.dim() == 0, f"{name} has shape {tuple(value.shape)}, not ()"
    return {name: float(value) for name, value in found.items()}


@metric_check
def figures_are_named_finite_scalars(subject: MetricSubject) -> None:
    """0-d tensors by name, finite."""
    images, reference = _pair(subject)
    for name, value in _figures(subject, images, reference).items():
        assert torch.isfinite(torch.tensor(value)), f"{name} is {value}"


@metric_check
def metric_is_a_pure_function(subject: MetricSubject) -> None:
    """The same images give the same figures; inputs and global randomness stay as they are."""
    images, reference = _pair(subject)
    copies = images.clone(), reference.clone()
    with untouched_global_randomness("the metric"):
        first = _figures(subject, images, reference)
    assert images.equal(copies[0]), "it changes the images in place"
    assert reference.equal(copies[1]), "it changes the reference in place"
    assert first == _figures(subject, images, reference), (
        "the same images give other figures the second time"
    )


@metric_check
def order_does_not_matter(subject: MetricSubject) -> None:
    """A figure is of a set of images, or of a set of pairs."""
    images, reference = _pair(subject)
    shuffle = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    paired = _paired(subject)
    usual = _figures(subject, images, reference)
    shuffled = _figures(subject, images[shuffle], reference[shuffle] if paired else reference)
    for name, value in usual.items():
        change = abs(shuffled[name] - value)
        assert change <= 1e-4 * max(1.0, abs(value)), (
            f"{name} is {value} and, in another order, {shuffled[name]}"
        )


@metric_check
def metric_tells_images_apart(subject: MetricSubject) -> None:
    """Noise does not measure like the reference itself."""
    reference = made_images(DataSpec(1, 28, 28), 2 * COUNT).train.images[:COUNT].float() / 127.5 - 1
    noise = 2 * torch.rand(reference.shape, generator=torch.Generator().manual_seed(2)) - 1
    same, other = (
        _figures(subject, *_seen(subject, images, reference)) for images in (reference, noise)
    )
    assert same != other, "noise measures like the reference itself"


@metric_check
def any_number_of_channels_and_shape(subject: MetricSubject) -> None:
    """Three channels, not square; or a GenkitError that says which images are possible."""
    if subject.entry.compares in ("posterior", "bounds") or subject.entry.of != "pixels":
        raise Skipped("it sees no pixels")
    for shape in ((3, 28, 28), (1, 20, 28)):
        try:
            _figures(subject, *_pair(subject, shape))
        except GenkitError:
            continue
