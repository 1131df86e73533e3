"""The manifold: what a grid through a two-dimensional latent space decodes to."""

from pathlib import Path

import numpy as np
import torch

from ...data.images import check_png_name, grid, write_picture
from ...errors import UsageError, attribute_errors
from ...evaluation.latents import estimate_prior, quantiles
from ...interfaces import evaluating
from ...rng import Rng
from ...run import Run
from ...storage.folder import MANIFOLD
from ..plotting import Axis, render_sheet
from .sheet import check_size, decode, make_heading


def has_manifold(run: Run) -> bool:
    """Whether the run's model can be drawn: unconditional, with codes of two numbers."""
    generator = run.trainer.generator
    if run.trainer.conditional:
        return False
    with evaluating(generator), attribute_errors(run.owner, "to sample"):
        return tuple(generator.prior(1, Rng(0, "survey")).shape) == (1, 2)


def render_manifold(run: Run, side: int = 20) -> bytes:
    """``side`` x ``side`` images on a grid through a 2-D latent space, as PNG.

    The codes have equal steps of the prior's probability between them (Kingma & Welling 2014,
    figure 4). The first number of the code increases to the right, the second upwards.

    Raises:
        UsageError: the prior's codes are not two numbers, or the model is conditional.
    """
    check_size(run, side, side)
    generator = run.trainer.generator
    if run.trainer.conditional:
        raise UsageError(
            f"{run.info.model.name} is sampled by label: it has more than the one manifold"
        )
    with evaluating(generator), attribute_errors(run.owner, "to draw the manifold"):
        prior = estimate_prior(generator, Rng(0, "survey"))
        shape = tuple(prior.centre.shape)
        if shape != (2,):
            raise UsageError(
                f"{run.info.model.name} has latent codes of shape {shape}; "
                "the manifold needs two numbers"
            )
        values = quantiles(prior, side).to(prior.draws.dtype)  # (side, 2)
        across = values[:, 0].repeat(side)  # (side * side,)
        up = values[:, 1].flip(0).repeat_interleave(side)
        images = decode(run, torch.stack([across, up], 1), side * side)
    x, y = ([f"{value:.3g}" for value in column.tolist()] for column in values.T)
    return render_sheet(
        np.asarray(grid(images, columns=side)),
        make_heading(run, "decoded codes at equal steps of the prior's probability"),
        Axis("latent 1 (no unit)", x),
        Axis("latent 2 (no unit)", y[::-1]),
    )


def draw_manifold(run: Run, path: Path | None = None, *, side: int = 20) -> Path:
    """Write :func:`render_manifold` to ``path`` (None: to ``plots/`` in the run)."""
    path = path or run.folder.default_output(MANIFOLD)
    check_png_name(path)
    write_picture(render_manifold(run, side), path)
    return path
