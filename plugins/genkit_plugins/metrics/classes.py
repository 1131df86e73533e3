"""Which classes samples belong to, by the classifier of the dataset."""

import torch
from torch import Tensor

import genkit

MIN_SHARE = 0.1
"""A class is covered where samples have at least this part of its share among real images."""


def class_coverage(samples: Tensor, real: Tensor) -> genkit.Metrics:
    """Classes of samples, by probabilities ``(N, K)``, beside those of real images ``(M, K)``.

    ``covered``: classes with at least a tenth of their share among real images. ``entropy``: of the
    classes' shares, in nats; log K where all are equal, 0 where there is one. ``confidence``: mean
    probability of the top class.
    """
    shares, expected = _shares(samples), _shares(real)  # (K,) each
    present = expected > 0
    return {
        "covered": ((shares >= MIN_SHARE * expected) & present).sum().float(),
        "entropy": torch.special.entr(shares).sum().abs(),
        "confidence": samples.max(1).values.mean(),
    }


def _shares(probabilities: Tensor) -> Tensor:
    counts = probabilities.argmax(1).bincount(minlength=probabilities.shape[1])  # (K,)
    return counts.double() / len(probabilities)
