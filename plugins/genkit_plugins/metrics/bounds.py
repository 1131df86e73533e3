"""Bounds on the log-likelihood of held-out images, in nats per image."""

import math

from torch import Tensor

import genkit


def elbo(log_likelihood: Tensor, divergence: Tensor) -> genkit.Metrics:
    """The evidence lower bound (Kingma & Welling 2014), negative, as losses are, and its two terms.

    From log p(x | z) for one code and the exact KL divergence from the prior, both ``(N, 1)``.
    """
    reconstruction, kl = -log_likelihood.double().mean(), divergence.double().mean()
    return {"negative_elbo": reconstruction + kl, "reconstruction_loss": reconstruction, "kl": kl}


def log_likelihood(log_likelihood: Tensor, divergence: Tensor) -> genkit.Metrics:
    """Importance-weighted bounds (Burda et al. 2016, equation 8) with 1, 10, 100 … codes, up to K.

    From log p(x | z) and log q(z | x) - log p(z), both ``(N, K)``. Every bound takes all K weights,
    in K / k groups of k, so that a larger k never gives a looser bound.
    """
    weights = (log_likelihood - divergence).double()  # log p(x, z) / q(z | x), (N, K)
    images, codes = weights.shape
    bounds = {}
    for k in (10**power for power in range(len(str(codes)))):
        whole = weights[:, : codes - codes % k].view(images, -1, k)  # (N, K/k, k)
        bounds[f"bound_{k}"] = (whole.logsumexp(2) - math.log(k)).mean()
    return bounds
