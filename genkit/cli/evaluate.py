"""genkit evaluate RUN."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import say

if TYPE_CHECKING:
    from ..evaluation.extractor import ExtractorInfo
    from ..evaluation.measure import Measurement


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--metrics",
    metavar="NAME,NAME",
    default="",
    help="Metrics by name.  [default: genkit's own that apply]",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Images, generated and held out each.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the samples."
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the datasets, if they moved."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def evaluate(
    run: Path, metrics: str, count: int, seed: int, data_root: Path | None, as_json: bool
) -> None:
    """Measure the model of the run in the folder RUN, and keep the figures in evaluation.json.

    The floor is what the metric says of real images in the place of samples; N is samples/held-out
    images. `genkit metrics` lists the metrics.
    """
    from .. import api

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    measured = api.evaluate(run, names, count=count, seed=seed, data_root=data_root)
    if as_json:
        click.echo(
            json.dumps({name: found.content() for name, found in measured.items()}, indent=2)
        )
        return
    _table([("metric", "figure", "value", "floor", "N", "extractor"), *_rows(measured)])


SHOWN = 8
"""Figures of one metric."""


def _rows(measured: "Mapping[str, Measurement]") -> Iterator[tuple[str, ...]]:
    for metric, found in measured.items():
        for number, (name, value) in enumerate(found.figures.items()):
            if number == SHOWN:
                yield (
                    metric,
                    f"and {len(found.figures) - SHOWN} more, in evaluation.json",
                    "",
                    "",
                    "",
                    "",
                )
                break
            floor = (
                "" if found.floor is None or name not in found.floor else f"{found.floor[name]:.6g}"
            )
            about = "" if found.extractor is None else _described(found.extractor)
            yield metric, name, f"{value:.6g}", floor, f"{found.images}/{found.held_out}", about


def _described(extractor: "ExtractorInfo") -> str:
    accuracy = "" if extractor.accuracy is None else f" ({extractor.accuracy:.2%} right)"
    return f"{extractor.name} {extractor.sha256[:12]}{accuracy}"


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
