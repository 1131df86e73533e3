"""Checks of metrics."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import GenkitError
from ...evaluation.inputs import Pair, get_maker
from ...interfaces import DataSpec
from ..subject import MetricSubject, Skipped, made_images, metric_check, untouched_global_randomness

COUNT = 40
"""Images in each of the two tensors."""
SHAPE = (1, 28, 28)


def _make_images(shape: tuple[int, int, int]) -> Tensor:
    """Images as of a dataset, ``(72, C, H, W)`` in [-1, 1]."""
    return made_images(DataSpec(*shape), 2 * COUNT).train.images.float() / 127.5 - 1


def _make_pair(subject: MetricSubject, shape: tuple[int, int, int] = SHAPE) -> Pair:
    """What the metric is called with: from real images, and from others that are noised."""
    maker, real = get_maker(subject.entry), _make_images(shape)
    reference = real[:COUNT].clone()
    noise = 0.1 * torch.rand(reference.shape, generator=torch.Generator().manual_seed(3))
    images = reference if maker.paired else real[-COUNT:]
    return maker.make_test_pair((0.8 * images + noise).clamp(-1, 1), reference)


def _measure(subject: MetricSubject, first: Tensor, second: Tensor) -> dict[str, float]:
    values = subject.measure(first, second)
    assert isinstance(values, Mapping), f"it gives {type(values).__name__}, not tensors by name"
    assert values, "it gives no value"
    for name, value in values.items():
        assert isinstance(name, str), f"a value is called {name!r}"
        assert isinstance(value, Tensor), f"{name} is {type(value).__name__}, not a tensor"
        assert value.dim() == 0, f"{name} has shape {tuple(value.shape)}, not ()"
    return {name: float(value) for name, value in values.items()}


@metric_check
def figures_are_named_finite_scalars(subject: MetricSubject) -> None:
    """0-d tensors by name, finite."""
    for name, value in _measure(subject, *_make_pair(subject)).items():
        assert torch.isfinite(torch.tensor(value)), f"{name} is {value}"


@metric_check
def metric_is_a_pure_function(subject: MetricSubject) -> None:
    """The same images give the same values; inputs and global randomness stay as they are."""
    first, second = _make_pair(subject)
    copies = first.clone(), second.clone()
    with untouched_global_randomness("the metric"):
        values = _measure(subject, first, second)
    assert first.equal(copies[0]), "it changes the images in place"
    assert second.equal(copies[1]), "it changes the reference in place"
    assert values == _measure(subject, first, second), (
        "the same images give other values the second time"
    )


@metric_check
def order_does_not_matter(subject: MetricSubject) -> None:
    """A value is of a set of images, or of a set of pairs."""
    first, second = _make_pair(subject)
    shuffle = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    paired = get_maker(subject.entry).paired
    usual = _measure(subject, first, second)
    shuffled = _measure(subject, first[shuffle], second[shuffle] if paired else second)
    for name, value in usual.items():
        change = abs(shuffled[name] - value)
        assert change <= 1e-4 * max(1.0, abs(value)), (
            f"{name} is {value} and, in another order, {shuffled[name]}"
        )


@metric_check
def metric_tells_images_apart(subject: MetricSubject) -> None:
    """Noise does not measure like the reference itself."""
    maker, reference = get_maker(subject.entry), _make_images(SHAPE)[:COUNT]
    noise = 2 * torch.rand(reference.shape, generator=torch.Generator().manual_seed(2)) - 1
    of_reference, of_noise = (
        _measure(subject, *maker.make_test_pair(images, reference)) for images in (reference, noise)
    )
    assert of_reference != of_noise, "noise measures like the reference itself"


@metric_check
def any_number_of_channels_and_shape(subject: MetricSubject) -> None:
    """Three channels, not square; or a GenkitError that says which images are possible."""
    if not get_maker(subject.entry).uses_pixels:
        raise Skipped("its inputs are not images")
    for shape in ((3, 28, 28), (1, 20, 28)):
        try:
            _measure(subject, *_make_pair(subject, shape))
        except GenkitError:
            continue
