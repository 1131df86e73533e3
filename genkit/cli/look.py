"""Commands that show what a run has learned, in pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..storage.folder import (
    ANIMATION,
    INTERPOLATION,
    LATENT_MAP,
    RECONSTRUCTIONS,
    SAMPLES_PICTURE,
)
from .options import (
    MAX_LABELS,
    count_option,
    data_root_option,
    dataset_option,
    labels_option,
    out_option,
    parse_labels,
    run_argument,
    seed_option,
)
from .output import print_line

if TYPE_CHECKING:
    from torch import Tensor


@click.command()
@run_argument
@count_option("Number of images.", 16)
@seed_option("The same seed draws the same images.")
@out_option(
    ".png for a grid, .npy for a uint8 array (N, H, W) or (N, H, W, C), no suffix for a folder of "
    "PNGs.",
    SAMPLES_PICTURE.format(seed="S"),
)
@labels_option("Classes for a conditional model, repeated in turn until there are --count.")
def sample(run: Path, count: int, seed: int, out: Path | None, labels: str | None) -> None:
    """Draw images from the newest checkpoint of the run in the folder RUN. Prints their path."""
    from ..data.saving import save_chunks
    from ..run import Run

    def draw() -> "Iterator[Tensor]":  # only once it is known that all of them fit
        yield from opened.sample_chunks(count, seed, parse_labels(labels, count))

    opened = Run.open(run)
    path = out or opened.folder.default_output(SAMPLES_PICTURE.format(seed=seed))
    save_chunks(draw(), count, opened.spec.shape, path, show_progress=True)
    print_line(path)


@click.command()
@run_argument
@count_option("Number of images.  [default: 10, or all that are held out if they are fewer]", None)
@dataset_option
@data_root_option
@out_option("PNG file.", RECONSTRUCTIONS)
def reconstruct(
    run: Path, count: int | None, dataset: str | None, data_root: Path | None, out: Path | None
) -> None:
    """Show held-out images above their reconstructions, for models with an encoder. Prints the path
    of the picture.
    """
    from ..data import images
    from ..run import Run

    opened = Run.open(run)
    path = out or opened.folder.default_output(RECONSTRUCTIONS)
    if count is not None:
        images.check_grid(2 * count, opened.spec.shape, rows=2)
    originals = opened.originals(count, data_root, dataset=dataset)
    images.save_pairs(originals, opened.reconstruct(originals), path)
    print_line(path)


@click.command()
@run_argument
@count_option("Pairs of latent codes, one row of images per pair.", 8, name="--pairs")
@count_option("Images in a row.", 10, least=2, name="--steps")
@seed_option("The same seed draws the same latent codes.")
@labels_option("Classes for a conditional model, one per pair, repeated in turn until --pairs.")
@out_option("PNG file.", INTERPOLATION.format(seed="S"))
def interpolate(
    run: Path, pairs: int, steps: int, seed: int, labels: str | None, out: Path | None
) -> None:
    """Show images between pairs of latent codes: along an arc where the prior is Gaussian, along a
    straight line elsewhere. Prints the path of the picture.
    """
    from ..report import pictures
    from ..run import Run

    chosen = parse_labels(labels, min(pairs, MAX_LABELS))
    path = pictures.draw_interpolation(
        Run.open(run), out, pairs=pairs, steps=steps, seed=seed, labels=chosen
    )
    print_line(path)


@click.command()
@run_argument
@click.option(
    "--method",
    type=click.Choice(["pca", "tsne"]),
    default="pca",
    show_default=True,
    help="How codes of more than two numbers are projected.",
)
@count_option("Held-out images, or all if they are fewer.", 2000, least=4)
@seed_option("Seed of the choice of images, and of t-SNE.")
@dataset_option
@data_root_option
@out_option("PNG file.", LATENT_MAP.format(method="METHOD"))
def latent(
    run: Path,
    method: Literal["pca", "tsne"],
    count: int,
    seed: int,
    dataset: str | None,
    data_root: Path | None,
    out: Path | None,
) -> None:
    """Map the latent codes of held-out images, coloured by label, for models with an encoder.

    Codes of two numbers are drawn without a projection. A second picture then shows what the latent
    space decodes to. Prints the paths of the pictures.
    """
    from ..report import pictures
    from ..run import Run

    opened = Run.open(run)
    path = pictures.draw_latent_map(
        opened, out, method=method, count=count, seed=seed, data_root=data_root, dataset=dataset
    )
    print_line(path)
    if pictures.has_manifold(opened):
        beside = out and out.with_name(f"{out.stem}-manifold.png")
        print_line(pictures.draw_manifold(opened, beside))


@click.command()
@run_argument
@click.option(
    "--fps", type=click.IntRange(1, 50), default=4, show_default=True, help="Frames per second."
)
@out_option(".gif, or .mp4 with ffmpeg.", ANIMATION)
def animate(run: Path, fps: int, out: Path | None) -> None:
    """Show the training: the run's sample grids, which are all drawn from the same latent codes.
    Prints the path of the animation.
    """
    from ..report import pictures
    from ..run import Run

    print_line(pictures.draw_animation(Run.open(run), out, fps=fps))
