"""genkit sample RUN."""

from pathlib import Path

import click

from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True, help="Number of images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="One seed, the same images.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=".png for a grid, .npy for a uint8 array (N, H, W) or (N, H, W, C), else a folder of PNGs.  "
    "[default: plots/samples-seed-S.png in the run]",
)
def sample(run: Path, count: int, seed: int, out: Path | None) -> None:
    """Draw images from the newest checkpoint of the run in the folder RUN. Prints where they are."""
    from .. import images
    from ..run import Run

    opened = Run.open(run)
    path = out or run / "plots" / f"samples-seed-{seed}.png"
    images.save(opened.sample(count, seed), path)
    say(path)
