"""Metrics of nearest neighbours."""

import torch
from torch import Tensor

import genkit

NEIGHBOURS = 3
MAX_COPY_RATIO = 1 / 3
"""A sample counts as a copy where its distance to the nearest training image is at most this part
of that to the second nearest.
"""
CHUNK = 500
"""Images compared with all others at a time."""
MAX_DISTANCES = 2**25
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
    # In double precision, as in single precision equal features have a distance.
    samples, real = samples.double(), real.double()
    return {"precision": _covered(samples, real), "recall": _covered(real, samples)}


def _covered(features: Tensor, by: Tensor) -> Tensor:
    """Share of ``features`` within a ball around one of ``by``, whose radius is the distance of
    that one to its third neighbour.
    """
    parts = [
        torch.cdist(part, by).topk(NEIGHBOURS + 1, largest=False).values[:, -1]
        for part in torch.split(by, CHUNK)
    ]
    radii = torch.cat(parts)  # (M,); the nearest is the image itself
    inside = [(torch.cdist(part, by) <= radii).any(1) for part in torch.split(features, CHUNK)]
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
    for part in torch.split(pixels, max(1, MAX_DISTANCES // len(known))):
        squared = lengths - 2 * part @ known.T  # squared distance, but for a constant; (B, M)
        nearest = squared.topk(2, largest=False).indices  # (B, 2)
        # Exact, so that a copy is at distance 0.
        difference = part[:, None] - known[nearest]  # (B, 2, C*H*W)
        parts.append(difference.square().mean(2).sqrt().sort(1).values)
    first, second = torch.cat(parts).unbind(1)  # (N,) each
    return {
        "distance": first.mean(),
        "ratio": (first / second.clamp_min(1e-12)).mean(),
        "copies": (first <= MAX_COPY_RATIO * second).float().mean(),
    }
