"""The built-in metrics: pure functions of two sets of images in [-1, 1]. Figures are in pixels of [0, 1]."""

import torch
from torch import Tensor

import genkit


def reconstruction_error(images: Tensor, reference: Tensor) -> genkit.Metrics:
    """Mean absolute and mean squared difference of ``images`` from their originals, both ``(N, C, H, W)``."""
    difference = 0.5 * (images - reference)
    return {"mean_absolute_error": difference.abs().mean(), "mean_squared_error": difference.square().mean()}


def diversity(images: Tensor, reference: Tensor) -> genkit.Metrics:
    """Root mean square distance between two images of a set, for ``images`` and ``reference`` ``(N, C, H, W)``.

    ``ratio`` near 1: the samples differ among themselves as much as real images; near 0: they are all alike.

    Raises:
        UsageError: fewer than two images.
    """
    if min(len(images), len(reference)) < 2:
        raise genkit.UsageError("diversity is of two images or more")
    samples, held_out = _spread(images), _spread(reference)
    return {"samples": samples, "held_out": held_out, "ratio": samples / held_out.clamp_min(1e-12)}


def _spread(images: Tensor) -> Tensor:
    # E|x - y|^2 over pairs is twice the total variance: no need to form the pairs.
    pixels = 0.5 * images.flatten(1).double()  # (N, C*H*W)
    return torch.sqrt(2 * pixels.var(0, correction=1).sum()).to(images.dtype)  # ()
