"""Latent codes: interpolation, an estimate of the prior, and the codes of images."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.datasets import Split
from ..data.images import from_uint8
from ..errors import ContractError, UsageError
from ..interfaces import Encoder, Generator, Posterior, Trainer, evaluating
from ..rng import Rng

MAX_DRAWS, MAX_NUMBERS = 4096, 2**22
"""Codes that a prior is estimated from; fewer where they would hold more numbers in all."""
Z_SCORE = 5.0
"""A mean within this many standard errors of 0, or a variance of 1, is taken as equal to it."""
BATCH = 500
"""Images that are encoded at a time."""


def slerp(start: Tensor, end: Tensor, t: float, centre: Tensor | float = 0.0) -> Tensor:
    """The codes at ``t`` in [0, 1] on the arcs about ``centre`` from ``start`` to ``end``, all
    ``(B, ...)``.

    Spherical linear interpolation (Shoemake 1985; for latents: White 2016): a Gaussian in many
    dimensions has its codes near a sphere, and a straight line leaves it. Where the two point the
    same or the opposite way, or one is the centre, there is no one arc, and the straight line is
    taken. Numbers that both ends share, as the one-hot of a label behind a code, stay what they
    are.
    """
    if t in (0, 1):
        return end if t else start
    a, b = ((codes - centre).flatten(1).double() for codes in (start, end))  # (B, L)
    shared = a == b
    p, q = a.masked_fill(shared, 0), b.masked_fill(shared, 0)
    angle = F.cosine_similarity(p, q, dim=1).clamp(-1, 1).acos()[:, None]  # (B, 1)
    zero = (p.norm(dim=1) * q.norm(dim=1) == 0)[:, None]
    straight = zero | (angle.sin() < 1e-4)
    of_p = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / angle.sin())
    of_q = torch.where(straight, t, (t * angle).sin() / angle.sin())
    path = torch.where(shared, a, of_p * p + of_q * q)
    return (path.view_as(start) + centre).to(start.dtype)


def lerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """The codes at ``t`` in [0, 1] on the straight lines from ``start`` to ``end``, both ``(B,
    ...)``.
    """
    if t in (0, 1):
        return end if t else start
    return torch.where(start == end, start, torch.lerp(start, end, t))


class Prior(NamedTuple):
    """A prior, as estimated from codes drawn from it."""

    draws: Tensor
    """``(N, ...)``."""
    centre: Tensor
    """Mean of each number, ``(...)``; 0 where that is within the error of the draws."""
    gaussian: bool
    """Whether it has a Gaussian's tails: its excess kurtosis, a mean over the numbers that vary, is
    near 0.
    """
    standard: bool
    """Whether it is Gaussian, and all means are 0 and all variances 1 within the error of the
    draws.
    """


def estimate_prior(generator: Generator, rng: Rng, label: int | None = None) -> Prior:
    """Estimate a generator's prior from draws, for one ``label`` if it has them.

    Raises:
        UsageError: its codes are integers, which cannot be interpolated.
    """
    one = _draw(generator, 1, rng, label)
    if not one.is_floating_point():
        raise UsageError("the latent codes are whole numbers: there is nothing between two of them")
    count = max(64, min(MAX_DRAWS, MAX_NUMBERS // max(1, one.numel())))
    draws = _draw(generator, count, rng, label)  # (N, ...)
    flat = draws.flatten(1).double()  # (N, L)
    mean, variance = flat.mean(0), flat.var(0, correction=0)  # (L,)
    error = (variance / len(flat)).sqrt()
    centre = torch.where(mean.abs() > Z_SCORE * error, mean, 0.0)
    varies = variance > 1e-10 * variance.max()
    kurtosis = (flat - mean)[:, varies].pow(4).mean(0) / variance[varies].square() - 3.0
    gaussian = not bool(varies.any()) or abs(float(kurtosis.mean())) < 0.5
    unit = bool(((variance - 1).abs() < Z_SCORE * (2 / len(flat)) ** 0.5).all())
    return Prior(
        draws,
        centre.view_as(one[0]).to(one.dtype),
        gaussian,
        gaussian and unit and not bool(centre.any()),
    )


def _draw(generator: Generator, n: int, rng: Rng, label: int | None) -> Tensor:
    return generator.prior(n, rng, None if label is None else torch.full((n,), label))


def quantiles(prior: Prior, count: int) -> Tensor:
    """For each number of a code, values with equal steps of probability between them, ``(count,
    L)``.

    Exact for a standard normal prior (Kingma & Welling 2014, appendix A), else those of the draws.
    """
    probabilities = (torch.arange(count) + 0.5) / count
    flat = prior.draws.flatten(1)  # (N, L)
    if prior.standard:
        values: Tensor = torch.special.ndtri(probabilities)  # (count,)
        return values[:, None].expand(count, flat.shape[1])
    return torch.quantile(flat.float(), probabilities, dim=0)


def find_encoder(trainer: Trainer, name: str) -> Encoder:
    """The trainer's child module that is a :class:`genkit.Encoder`: ``trainer.encoder``, or the
    only one.

    Raises:
        UsageError: it has none, or several of other names.
    """
    encoders = {
        child: module for child, module in trainer.named_children() if isinstance(module, Encoder)
    }
    if not encoders:
        raise UsageError(f"{name} has no encoder, so it gives no latent codes of images")
    if len(encoders) > 1 and "encoder" not in encoders:
        raise UsageError(
            f"{name} has several encoders ({', '.join(encoders)}) and none is called encoder"
        )
    return encoders.get("encoder") or next(iter(encoders.values()))


def encode(encoder: Encoder, split: Split, chosen: Tensor, name: str) -> Tensor:
    """The codes of the images ``chosen`` ``(N,)`` of a split, or the means of their posteriors,
    ``(N, L)``, in evaluation mode. Images that are mapped are read in parts.

    Raises:
        ContractError: the encoder gives something else, or numbers that are not finite.
    """
    parts = []
    with evaluating(encoder):
        for numbers in torch.split(chosen, BATCH):
            batch = split.images[numbers]  # (B, C, H, W)
            output = encoder(from_uint8(batch))
            codes = output.mean if isinstance(output, Posterior) else output  # (B, L)
            if not isinstance(codes, Tensor) or codes.dim() != 2 or len(codes) != len(batch):
                given = (
                    f"shape {tuple(codes.shape)}"
                    if isinstance(codes, Tensor)
                    else type(codes).__name__
                )
                raise ContractError(
                    f"the encoder of {name} gave {given}, "
                    "not codes (B, L) or a genkit.Posterior of such"
                )
            parts.append(codes)
            if split.release is not None:
                split.release()
    codes = torch.cat(parts)  # (N, L)
    if not bool(torch.isfinite(codes).all()):
        raise ContractError(f"the encoder of {name} gave codes that are not finite")
    return codes
