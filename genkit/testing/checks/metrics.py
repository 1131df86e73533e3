"""Checks of metrics."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import GenkitError
from ...interfaces import DataSpec
from ..subject import MetricSubject, made_images, metric_check, untouched_global_randomness

COUNT = 40


def _pair(subject: MetricSubject, shape: tuple[int, int, int] = (1, 28, 28)) -> tuple[Tensor, Tensor]:
    """Images and what they are compared with, ``(40, C, H, W)`` each, in [-1, 1]."""
    real = made_images(DataSpec(*shape), 2 * COUNT).train.images.float() / 127.5 - 1
    reference = real[:COUNT].clone()
    noise = 0.1 * torch.rand(reference.shape, generator=torch.Generator().manual_seed(3))
    images = reference if subject.compares == "reconstructions" else real[-COUNT:]
    return (0.8 * images + noise).clamp(-1, 1), reference


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
    assert first == _figures(subject, images, reference), "the same images give other figures the second time"


@metric_check
def order_does_not_matter(subject: MetricSubject) -> None:
    """A figure is of a set of images, or of a set of pairs."""
    images, reference = _pair(subject)
    shuffle = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    paired = subject.compares == "reconstructions"
    usual = _figures(subject, images, reference)
    shuffled = _figures(subject, images[shuffle], reference[shuffle] if paired else reference)
    for name, value in usual.items():
        change = abs(shuffled[name] - value)
        assert change <= 1e-4 * max(1.0, abs(value)), f"{name} is {value} and, in another order, {shuffled[name]}"


@metric_check
def metric_tells_images_apart(subject: MetricSubject) -> None:
    """Noise does not measure like the reference itself."""
    _, reference = _pair(subject)
    noise = 2 * torch.rand(reference.shape, generator=torch.Generator().manual_seed(2)) - 1
    same, other = (_figures(subject, images, reference) for images in (reference, noise))
    assert same != other, "noise measures like the reference itself"


@metric_check
def any_number_of_channels_and_shape(subject: MetricSubject) -> None:
    """Three channels, not square; or a GenkitError that says which images are possible."""
    for shape in ((3, 28, 28), (1, 20, 28)):
        try:
            _figures(subject, *_pair(subject, shape))
        except GenkitError:
            continue
