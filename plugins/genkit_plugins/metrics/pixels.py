"""Metrics of pixels: of images ``(N, C, H, W)`` in [-1, 1]. Values are for pixels in [0, 1]."""

import torch
from torch import Tensor

import genkit

CHUNK = 500
"""Images whose similarity is computed at a time."""
SIGMA = 1.5
"""Standard deviation of SSIM's Gaussian window, in pixels; it is then 11 pixels wide (Wang et al.
2004).
"""


def reconstruction_error(images: Tensor, reference: Tensor) -> genkit.Metrics:
    """Mean absolute and squared difference of ``images`` from their originals, both ``(N, C, H,
    W)``, and SSIM.

    The structural similarity (Wang et al. 2004) is 1 for equal images. Its window is smaller where
    an image has no room for 11 pixels; below 3 there is none.
    """
    difference = 0.5 * (images - reference)
    values = {
        "mean_absolute_error": difference.abs().mean(),
        "mean_squared_error": difference.square().mean(),
    }
    radius = min(5, (min(images.shape[2:]) - 1) // 2)  # pixels on each side of the window's centre
    if radius:
        values["structural_similarity"] = _similarity(
            images, reference, SIGMA if radius == 5 else radius / 3.5
        )
    return values


def _similarity(images: Tensor, reference: Tensor, sigma: float) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    total = torch.zeros((), dtype=torch.float64)
    for part, original in zip(
        torch.split(images, CHUNK), torch.split(reference, CHUNK), strict=True
    ):
        each = ssim(
            0.5 * (part + 1.0),
            0.5 * (original + 1.0),
            sigma=sigma,
            data_range=1.0,
            reduction="none",
        )
        assert isinstance(each, Tensor)
        total += each.double().sum()
    return total / len(images)


def diversity(images: Tensor, reference: Tensor) -> genkit.Metrics:
    """Root mean square distance between two images of a set, for ``images`` and ``reference`` ``(N,
    C, H, W)``.

    ``ratio`` near 1: the samples differ among themselves as much as real images; near 0: they are
    all alike.

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
