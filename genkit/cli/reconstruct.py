"""genkit reconstruct RUN."""

from pathlib import Path

import click

from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--count",
    type=click.IntRange(min=1),
    help="Number of images.  [default: 10, or as many as are held out]",
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the datasets, if they moved."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="PNG file.  [default: plots/reconstructions.png in the run]",
)
def reconstruct(run: Path, count: int | None, data_root: Path | None, out: Path | None) -> None:
    """Held-out images above their reconstructions, for models with an encoder. Prints where the
    picture is.
    """
    from ..data import images
    from ..run import Run

    opened = Run.open(run)
    path = out or opened.folder.inside("plots/reconstructions.png")
    originals = opened.originals(count, data_root)
    images.save_pairs(originals, opened.reconstruct(originals), path)
    say(path)
