"""Measures that rest on the nearest neighbours of an image."""

import torch
from torch import Tensor

import genkit

NEIGHBOURS = 3
COPY = 1 / 3
"""Nearer than this part of the way to the second nearest training image, a sample counts as a copy.
"""
CHUNK = 500
DISTANCES = 2**25
"""Distances in memory at once."""


def precision_recall(samples: Tensor, real: Tensor) -> genkit.Metrics:
    """Improved precision and recall of features ``(N, D)`` and ``(M, D)`` (Kynkaanniemi et al.
    2019), k = 3.

    ``precision``: the share of samples that lie no farther from some real image than its third
    nearest real one does; ``recall``: the same with the parts exchanged.

    Raises:
        UsageError: fewer than four images.
    """
    if min(len(samples), len(real)) <= NEIGHBOURS:
        raise genkit.UsageError(f"precision-recall is of {NEIGHBOURS + 1} images or more")
    samples, real = (
        samples.double(),
        real.double(),
    )  # in single precision equal rows have a distance
    return {"precision": _covered(samples, real), "recall": _covered(real, samples)}


def _covered(rows: Tensor, by: Tensor) -> Tensor:
    """Share of ``rows`` within the ball of one of ``by``, whose radius is the distance to its third
    neighbour.
    """
    parts = [
        torch.cdist(part, by).topk(NEIGHBOURS + 1, largest=False).values[:, -1]
        for part in torch.split(by, CHUNK)
    ]
    radii = torch.cat(parts)  # (M,); the nearest is the image itself
    inside = [(torch.cdist(part, by) <= radii).any(1) for part in torch.split(rows, CHUNK)]
    return torch.cat(inside).float().mean()  # ()


def memorisation(samples: Tensor, training: Tensor) -> genkit.Metrics:
    """How near images ``(N, C, H, W)`` lie to training images ``(M, C, H, W)``, pixel by pixel.

    ``distance``: root mean square difference from the nearest training image, pixels in [0, 1], its
    mean over the samples. ``ratio``: that to the nearest beside that to the second nearest, its
    mean. ``copies``: the share of samples with a ratio below a third (Yoon et al. 2023): nothing
    explains such a sample but that one training image.

    Raises:
        UsageError: fewer than two training images.
    """
    if len(training) < 2:
        raise genkit.UsageError("memorisation is of two training images or more")
    pixels, known = 0.5 * samples.flatten(1), 0.5 * training.flatten(1)  # (N, C*H*W), (M, C*H*W)
    lengths = known.square().sum(1)  # (M,)
    parts = []
    for part in torch.split(pixels, max(1, DISTANCES // len(known))):
        nearest = (
            (lengths - 2 * part @ known.T).topk(2, largest=False).indices
        )  # by squared distance; (B, 2)
        difference = (
            part[:, None] - known[nearest]
        )  # exact again, so that a copy is at no distance; (B, 2, C*H*W)
        parts.append(difference.square().mean(2).sqrt().sort(1).values)
    first, second = torch.cat(parts).unbind(1)  # (N,) each
    return {
        "distance": first.mean(),
        "ratio": (first / second.clamp_min(1e-12)).mean(),
        "copies": (first <= COPY * second).float().mean(),
    }
