"""What the latent dimensions of a model are used for."""

from torch import Tensor

import genkit

MIN_VARIANCE = 0.01
"""Above it, over the images, the mean of an active dimension varies."""
MAX_NAMED = 64
"""Dimensions that are listed one by one."""


def kl_per_dimension(mean: Tensor, log_variance: Tensor) -> genkit.Metrics:
    """KL divergence of the posterior, ``(N, L)`` each, from a standard normal, nats, its mean over
    the images.

    In all, the least and the most of one dimension, and each by its number where there are at most
    64.
    """
    kl = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).mean(0)  # (L,)
    values = {"total": kl.sum(), "least": kl.min(), "most": kl.max()}
    if len(kl) <= MAX_NAMED:
        values.update({f"dimension_{number}": value for number, value in enumerate(kl.unbind())})
    return values


def active_units(mean: Tensor, log_variance: Tensor) -> genkit.Metrics:
    """Dimensions whose posterior mean has a variance above 0.01 over the images (Burda et al. 2016,
    section 5.2).

    Raises:
        UsageError: fewer than two images.
    """
    if len(mean) < 2:
        raise genkit.UsageError("active-units is of two images or more")
    variance = mean.double().var(0)  # (L,)
    return {
        "active": (variance > MIN_VARIANCE).sum().float(),
        "of": mean.new_tensor(mean.shape[1]),
        "variance": variance.mean(),
    }
