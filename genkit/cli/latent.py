"""genkit latent RUN."""

from pathlib import Path
from typing import Literal

import click

from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(["pca", "tsne"]),
    default="pca",
    show_default=True,
    help="How codes of more than two numbers are laid out.",
)
@click.option(
    "--count",
    type=click.IntRange(min=4),
    default=2000,
    show_default=True,
    help="Held-out images, or all there are.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the choice of images, and of t-SNE.",
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the datasets, if they moved."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="PNG file.  [default: plots/latent-METHOD.png in the run]",
)
def latent(
    run: Path,
    method: Literal["pca", "tsne"],
    count: int,
    seed: int,
    data_root: Path | None,
    out: Path | None,
) -> None:
    """Map the latent codes of held-out images, coloured by label, for models with an encoder.

    A latent of two numbers is drawn as it is, and what it decodes to as a second picture beside it.
    Prints where the pictures are.
    """
    from ..report import pictures
    from ..run import Run

    opened = Run.open(run)
    say(
        pictures.draw_latent_map(
            opened, out, method=method, count=count, seed=seed, data_root=data_root
        )
    )
    if pictures.has_manifold(opened):
        say(pictures.draw_manifold(opened, out and out.with_name(f"{out.stem}-manifold.png")))
