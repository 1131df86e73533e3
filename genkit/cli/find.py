"""Commands that list: the runs in a folder, and what is installed. No torch here."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..hookspecs import CallbackEntry, ClassifierEntry, DatasetEntry, Entry, MetricEntry, ModelEntry
from ..plugins.registry import discover
from ..storage.folder import RUN
from .options import json_option
from .output import MAX_CELL, print_line, print_table

ENTRY_KINDS: dict[str, type[Entry]] = {
    "models": ModelEntry,
    "datasets": DatasetEntry,
    "metrics": MetricEntry,
    "callbacks": CallbackEntry,
    "classifiers": ClassifierEntry,
}
KINDS = (*ENTRY_KINDS, "plugins")
ENTRY_COLUMNS = ("name", "summary", "distribution")
PLUGIN_COLUMNS = ("name", "distribution", "version", "origin")
RUNS = Path("runs")
"""Where runs are, unless one is trained with ``--out``."""
MAX_REASON = 500
"""Characters of the reason why a run failed."""


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=RUNS)
@json_option
def runs(folder: Path, as_json: bool) -> None:
    """List the runs in the folder DIR (runs/): how far each has come, its state, its last losses
    and a metric.

    The metric is the first in evaluation.json that was measured on the most images. A run is
    running, finished, interrupted (genkit resume continues it), failed (the reason follows) or
    damaged.
    """
    from ..report.summary import find_runs

    found = find_runs(folder) if folder != RUNS or folder.exists() else []
    if as_json:
        click.echo(json.dumps([{**asdict(run), "path": str(run.path)} for run in found], indent=2))
        return
    if not found:
        if (folder / RUN).exists():
            print_line(f"{folder} is a run itself: list the folder that it is in, or genkit report")
        else:
            print_line(
                f"no runs in {folder.absolute()}: genkit train MODEL makes one in runs/, "
                "and genkit runs DIR lists those of another folder"
            )
        return
    head = ("name", "model", "dataset", "step", "state", "last losses", "metric")
    print_table([head, *map(_run_cells, found)], max_cell=MAX_CELL)
    for run in found:
        if run.reason:
            print_line(f"{run.path.name}: {run.reason[:MAX_REASON]}")


def _run_cells(run: Any) -> tuple[str, ...]:
    losses = ", ".join(f"{name} {value:.4g}" for name, value in list(run.losses.items())[:4])
    best = f"{run.headline.title} {run.headline.value:.4g}" if run.headline else ""
    step = f"{run.step}/{run.iterations}" if run.model else ""
    return run.path.name, run.model, run.dataset, step, run.state, losses, best


@click.command("list")
@click.argument("kind", metavar="[KIND]", type=click.Choice(KINDS), required=False)
@json_option
def list_kind(kind: str | None, as_json: bool) -> None:
    """List what is installed of a KIND: models, datasets, metrics, callbacks, classifiers or
    plugins.

    Without KIND, print how many there are of each. Listing the plugins imports none of them.
    """
    if kind is not None:
        _print_kind(kind, as_json)
        return
    counts = [{"kind": kind, "installed": len(_rows_of(kind))} for kind in KINDS]
    _print_rows(("kind", "installed"), counts, as_json)


def _alias(kind: str) -> click.Command:
    @click.command(kind, help=f"List the {kind}, as genkit list {kind} does.", hidden=True)
    @json_option
    def command(as_json: bool) -> None:
        _print_kind(kind, as_json)

    return command


ALIASES = ("models", "datasets", "metrics", "callbacks", "plugins")
models, datasets, metrics, callbacks, plugins = map(_alias, ALIASES)


def _print_kind(kind: str, as_json: bool) -> None:
    columns = PLUGIN_COLUMNS if kind == "plugins" else ENTRY_COLUMNS
    _print_rows(columns, _rows_of(kind), as_json)


def _rows_of(kind: str) -> list[dict[str, str]]:
    registry = discover()
    if kind == "plugins":
        return [{c: getattr(plugin, c) for c in PLUGIN_COLUMNS} for plugin in registry.plugins]
    found = registry.all(ENTRY_KINDS[kind])
    names = [registered.entry.name for registered in found]
    return [
        {
            "name": r.entry.name
            if names.count(r.entry.name) == 1 or r.plugin.builtin
            else r.qualified_name,
            "summary": r.entry.summary,
            "distribution": r.plugin.distribution,
            "version": r.plugin.version,
        }
        for r in found
    ]


def _print_rows(columns: Sequence[str], rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        print_table([columns, *([str(row[column]) for column in columns] for row in rows)])
