"""genkit models, datasets, metrics, callbacks, plugins: what is installed. No torch here."""

import json
from collections.abc import Sequence
from typing import Any

import click

from ..hookspecs import CallbackEntry, Dataset, Entry, Metric, Model
from ..plugins.registry import discover
from .output import say

as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")


@click.command(help="List the models.")
@as_json
def models(as_json: bool) -> None:
    _show_entries(Model, as_json)


@click.command(help="List the datasets.")
@as_json
def datasets(as_json: bool) -> None:
    _show_entries(Dataset, as_json)


@click.command(help="List the metrics, for genkit evaluate RUN --metrics NAME.")
@as_json
def metrics(as_json: bool) -> None:
    _show_entries(Metric, as_json)


@click.command(help="List the callbacks, for genkit train MODEL --callbacks NAME.")
@as_json
def callbacks(as_json: bool) -> None:
    _show_entries(CallbackEntry, as_json)


@click.command(
    help="List the plugins: name, distribution, version and where each is installed. None is imported."
)
@as_json
def plugins(as_json: bool) -> None:
    columns = ("name", "distribution", "version", "origin")
    _show(
        columns,
        [{column: getattr(plugin, column) for column in columns} for plugin in discover().plugins],
        as_json,
    )


def _show_entries(kind: type[Entry], as_json: bool) -> None:
    found = discover().all(kind)
    bare = [registered.entry.name for registered in found]
    rows = [
        {
            "name": r.entry.name
            if bare.count(r.entry.name) == 1 or r.plugin.builtin
            else r.qualified_name,
            "summary": r.entry.summary,
            "distribution": r.plugin.distribution,
            "version": r.plugin.version,
        }
        for r in found
    ]
    _show(("name", "summary", "distribution"), rows, as_json)


def _show(columns: Sequence[str], rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    widths = [max(len(str(row[column])) for row in [*rows, {column: column}]) for column in columns]
    for row in [{column: column for column in columns}, *rows]:
        say("  ".join(str(row[c]).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
