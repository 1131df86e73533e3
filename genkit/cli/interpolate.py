"""genkit interpolate RUN."""

from itertools import cycle, islice
from pathlib import Path

import click

from .options import whole_numbers
from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Pairs of latents, a row each.",
)
@click.option(
    "--steps", type=click.IntRange(min=2), default=10, show_default=True, help="Images in a row."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="One seed, the same latents.",
)
@click.option(
    "--labels",
    metavar="LABEL,LABEL",
    help="Of a conditional model: the classes of the pairs, in turn until there are --pairs.  [default: all of them]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="PNG file.  [default: plots/interpolation-seed-S.png in the run]",
)
def interpolate(
    run: Path, pairs: int, steps: int, seed: int, labels: str | None, out: Path | None
) -> None:
    """Walk from one latent to another, on an arc where they are Gaussian. Prints where the picture
    is.
    """
    from ..report import pictures
    from ..run import Run

    chosen = (
        None
        if labels is None
        else list(islice(cycle(whole_numbers(labels, "--labels")), min(pairs, 10_000)))
    )
    say(
        pictures.draw_interpolation(
            Run.open(run), out, pairs=pairs, steps=steps, seed=seed, labels=chosen
        )
    )
