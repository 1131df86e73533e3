"""genkit plot RUN."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="PNG file.  [default: plots/curves.png in the run]")
def plot(run: Path, out: Path | None) -> None:
    """Draw the curves of metrics.jsonl. Prints where the picture is."""
    from ..plotting import plot_curves
    from ..run import Run

    opened = Run.open(run)
    path = out or run / "plots" / "curves.png"
    plot_curves(opened.metrics(), path, title=f"{opened.info['model']['name']} on {opened.info['dataset']['name']}")
    click.echo(path)
