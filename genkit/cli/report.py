"""genkit report RUN."""

from pathlib import Path

import click

from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="HTML file.  [default: report.html in the run]"
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the datasets, if they moved."
)
def report(run: Path, out: Path | None, data_root: Path | None) -> None:
    """Write the report of the run in the folder RUN: one HTML file that loads nothing. Prints where
    it is.

    What was trained on what, samples over time, curves, reconstructions, interpolation, latent map,
    evaluation, options, environment, and the command that trains it anew.
    """
    from ..report.html import write_report
    from ..run import Run

    say(write_report(Run.open(run), out, data_root))
