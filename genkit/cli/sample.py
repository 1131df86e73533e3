"""genkit sample RUN."""

from itertools import cycle, islice
from pathlib import Path

import click

from .options import whole_numbers
from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--count", type=click.IntRange(min=1), default=16, show_default=True, help="Number of images."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="One seed, the same images.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=".png for a grid, .npy for a uint8 array (N, H, W) or (N, H, W, C), else a folder of PNGs.  "
    "[default: plots/samples-seed-S.png in the run]",
)
@click.option(
    "--labels",
    metavar="LABEL,LABEL",
    help="Of a conditional model: which classes, in turn until there are --count.  [default: all of them]",
)
def sample(run: Path, count: int, seed: int, out: Path | None, labels: str | None) -> None:
    """Draw images from the newest checkpoint of the run in the folder RUN. Prints where they are."""
    from ..data import images
    from ..run import Run

    opened = Run.open(run)
    path = out or opened.folder.inside(f"plots/samples-seed-{seed}.png")
    chosen = (
        None if labels is None else list(islice(cycle(whole_numbers(labels, "--labels")), count))
    )
    images.save(opened.sample(count, seed, chosen), path)
    say(path)
