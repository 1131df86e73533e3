"""Interpolation: images between pairs of latent codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.images import check_png_name, grid, write_picture
from ...errors import UsageError, attribute_errors
from ...evaluation.latents import estimate_prior, lerp, slerp
from ...interfaces import evaluating
from ...rng import Rng
from ...run import Run
from ...storage.folder import INTERPOLATION
from ..plotting import Axis, class_text, render_sheet
from .sheet import check_size, decode, make_heading


@dataclass(frozen=True)
class Interpolation:
    """Images between pairs of latent codes."""

    images: Tensor
    """``(pairs, steps, C, H, W)`` in [-1, 1]. First and last column: the images of the codes
    themselves.
    """
    spherical: bool
    """Whether along an arc; else along a straight line, because the prior is not Gaussian."""
    labels: Tensor | None
    """int64 ``(pairs,)``: the class that a conditional model drew, at both ends of a pair."""


def interpolate(
    run: Run,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    labels: Sequence[int | str] | Tensor | None = None,
) -> Interpolation:
    """Interpolate between pairs of codes from the prior: those of ``run.sample(2 * pairs, seed)``,
    first half to second.

    Where draws from the prior look Gaussian, the path is :func:`genkit.evaluation.latents.slerp`
    about the prior's mean; elsewhere it is straight. A conditional model draws the classes
    ``labels`` ``(pairs,)``, or 0, 1, 2 … in turn.

    Raises:
        UsageError: labels that the model does not have, integer codes, or too many images.
    """
    if pairs < 1 or steps < 2:
        raise UsageError(
            f"{pairs} pairs in {steps} steps: there has to be a pair and two steps or more"
        )
    check_size(run, pairs, steps)
    generator = run.trainer.generator
    chosen = run.trainer.labels_for(pairs, run.label_numbers(labels))
    with evaluating(generator), attribute_errors(run.owner, "to interpolate"):
        # One call for all ends, as sampling has: the same bits on every machine.
        codes = generator.prior(
            2 * pairs, Rng(seed, "samples"), None if chosen is None else chosen.repeat(2)
        )
        ends = decode(run, codes, 2 * pairs)
        start, end = codes[:pairs], codes[pairs:]  # (pairs, ...) each
        kinds = [None] * pairs if chosen is None else chosen.tolist()
        priors = {
            label: estimate_prior(generator, Rng(seed, "survey"), label) for label in set(kinds)
        }
        spherical = all(prior.gaussian for prior in priors.values())
        centre = torch.stack([priors[label].centre for label in kinds])  # (pairs, ...)
        columns = [ends[:pairs]]
        for number in range(1, steps - 1):
            t = number / (steps - 1)
            between = slerp(start, end, t, centre) if spherical else lerp(start, end, t)
            columns.append(decode(run, between, pairs))
    return Interpolation(torch.stack([*columns, ends[pairs:]], 1), spherical, chosen)


def render_interpolation(
    run: Run,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    labels: Sequence[int | str] | Tensor | None = None,
) -> bytes:
    """:func:`interpolate` as a PNG with axes, one row of images for each pair."""
    found = interpolate(run, pairs, steps, seed, labels)
    images = np.asarray(grid(found.images.flatten(0, 1), columns=steps))
    path = "spherical" if found.spherical else "linear"
    ticks = [f"{number / (steps - 1):.2g}" for number in range(steps)]
    if found.labels is None:
        rows = Axis("pair of latent codes", [str(number + 1) for number in range(pairs)])
    else:
        shown = [class_text(number, run.class_names) for number in found.labels.tolist()]
        rows = Axis("label of both codes", shown)
    columns = Axis("position between the two codes (fraction of the way)", ticks)
    heading = make_heading(run, f"{path} interpolation, seed {seed}")
    return render_sheet(images, heading, columns, rows)


def draw_interpolation(
    run: Run,
    path: Path | None = None,
    *,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    labels: Sequence[int | str] | Tensor | None = None,
) -> Path:
    """Write :func:`render_interpolation` to ``path`` (None: to ``plots/`` in the run)."""
    path = path or run.folder.default_output(INTERPOLATION.format(seed=seed))
    check_png_name(path)
    write_picture(render_interpolation(run, pairs, steps, seed, labels), path)
    return path
