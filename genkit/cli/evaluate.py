"""genkit evaluate RUN."""

import json
from pathlib import Path

import click

from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--metrics", metavar="NAME,NAME", default="", help="Metrics by name.  [default: genkit's own that apply]")
@click.option(
    "--count", type=click.IntRange(min=1), default=1000, show_default=True, help="Images, generated and held out each."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the samples.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder of the datasets, if they moved.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def evaluate(run: Path, metrics: str, count: int, seed: int, data_root: Path | None, as_json: bool) -> None:
    """Measure the samples or reconstructions of the run in the folder RUN, and keep the figures in evaluation.json.

    `genkit metrics` lists the metrics.
    """
    from .. import api

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    figures = api.evaluate(run, names, count=count, seed=seed, data_root=data_root)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    for metric, values in figures.items():
        for name, value in values.items():
            say(f"{metric}  {name}  {value:.6g}")
