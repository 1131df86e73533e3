"""Commands that say how good a run is: metrics, comparisons, reports and curves."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..storage.folder import CURVES, REPORT
from .options import (
    count_option,
    data_root_option,
    dataset_option,
    json_option,
    out_option,
    run_argument,
    seed_option,
)
from .output import MAX_CELL, print_line, print_table

if TYPE_CHECKING:
    from ..evaluation.measure import Measurement


@click.command()
@run_argument
@click.option(
    "--metrics",
    metavar="NAME,NAME",
    default="",
    help="Metrics by name.  [default: all of genkit's own that apply]",
)
@count_option("Number of samples, and of held-out images.", 10_000)
@seed_option("Seed of the samples.")
@dataset_option
@data_root_option
@json_option
def evaluate(
    run: Path,
    metrics: str,
    count: int,
    seed: int,
    dataset: str | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Measure the model of the run in the folder RUN, and write the values to evaluation.json.

    The floor is the value that real images get in the place of samples. N is samples/held-out
    images. `genkit list metrics` lists the metrics.
    """
    from .. import api

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    measured = api.evaluate(
        run, names, count=count, seed=seed, dataset=dataset, data_root=data_root
    )
    if as_json:
        contents = {name: measurement.content() for name, measurement in measured.items()}
        click.echo(json.dumps(contents, indent=2))
    else:
        head = ("metric", "figure", "value", "floor", "N", "extractor")
        print_table([head, *_measurement_cells(measured)])


def _measurement_cells(measured: "Mapping[str, Measurement]") -> Iterator[tuple[str, ...]]:
    from ..report.summary import describe_extractor, shorten_values

    for metric, found in measured.items():
        about = found.extractor and describe_extractor(
            found.extractor.name, found.extractor.sha256, found.extractor.accuracy
        )
        shown, more = shorten_values(list(found.figures.items()))
        for name, value in shown:
            floor = f"{found.floor[name]:.6g}" if found.floor and name in found.floor else ""
            counts = f"{found.images}/{found.held_out}"
            yield metric, name, f"{value:.6g}", floor, counts, about or ""
        if more:
            yield metric, more, "", "", "", ""


@click.command()
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN RUN …", type=click.Path(path_type=Path)
)
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page, too."
)
def compare(runs: tuple[Path, ...], html: Path | None) -> None:
    """Show the runs in the folders RUN side by side: options that differ, last losses, metrics and
    samples.

    Values that cannot be compared are marked: those measured at another step, or with another
    number of images, seed or extractor.
    """
    from ..report.comparison import NONE, compare_runs, last_grid

    comparison = compare_runs(runs)
    for table in comparison.tables:
        print_line(table.title)
        if table.rows:
            head = (table.what, *comparison.names)
            print_table([head, *(row.cells for row in table.rows)], max_cell=MAX_CELL)
        else:
            print_line(table.reason)
        for note in table.notes:
            print_line(f"not comparable: {note}")
        print_line("")
    print_line("Samples")
    grids = (str(last_grid(run.path) or NONE) for run in comparison.runs)
    cells = zip(comparison.names, grids, strict=True)
    print_table([("run", "newest grid"), *cells], max_cell=MAX_CELL)
    if html:
        from ..report.html import write_comparison

        print_line(write_comparison(comparison, html))


@click.command()
@run_argument
@out_option("HTML file.", REPORT)
@dataset_option
@data_root_option
def report(run: Path, out: Path | None, dataset: str | None, data_root: Path | None) -> None:
    """Write the report of the run in the folder RUN: one HTML file that loads nothing. Prints its
    path.

    Contents: model and dataset, samples over time, curves, reconstructions, interpolation, latent
    map, evaluation, options, environment, and the command that reproduces the run.
    """
    from ..report.html import write_report
    from ..run import Run

    print_line(write_report(Run.open(run), out, data_root, dataset))


@click.command()
@run_argument
@out_option("PNG file.", CURVES)
def plot(run: Path, out: Path | None) -> None:
    """Draw the curves of metrics.jsonl. Prints the path of the picture."""
    from ..report.plotting import draw_curves
    from ..run import Run

    print_line(draw_curves(Run.open(run), out))
