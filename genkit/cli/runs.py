"""genkit runs: the runs in a folder. No torch here."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..report.summary import Summary, find_runs
from .output import say, table


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def runs(folder: Path, as_json: bool) -> None:
    """List the runs in the folder DIR (runs/): how far each is, how it ended, its last losses and a
    metric.

    The metric is the first of evaluation.json that rests on the most images. A run is running,
    finished, interrupted (genkit resume goes on), failed (the reason follows) or damaged.
    """
    found = find_runs(folder)
    if as_json:
        click.echo(json.dumps([{**asdict(run), "path": str(run.path)} for run in found], indent=2))
        return
    if not found:
        say(f"no runs in {folder}")
        return
    table(
        ("name", "model", "dataset", "step", "state", "last losses", "metric"),
        [_row(run) for run in found],
    )
    for run in found:
        if run.reason:
            say(f"{run.path.name}: {run.reason[:500]}")


def _row(run: Summary) -> tuple[str, ...]:
    losses = ", ".join(f"{name} {value:.4g}" for name, value in list(run.losses.items())[:4])
    best = f"{run.headline.title} {run.headline.value:.4g}" if run.headline else ""
    step = f"{run.step}/{run.iterations}" if run.model else ""
    return run.path.name, run.model, run.dataset, step, run.state, losses, best
