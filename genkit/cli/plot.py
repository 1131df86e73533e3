"""genkit plot RUN."""

from pathlib import Path

import click

from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="PNG file.  [default: plots/curves.png in the run]",
)
def plot(run: Path, out: Path | None) -> None:
    """Draw the curves of metrics.jsonl. Prints where the picture is."""
    from ..report.plotting import draw_curves
    from ..run import Run

    say(draw_curves(Run.open(run), out))
