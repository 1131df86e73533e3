"""genkit compare RUN RUN …: runs side by side. No torch here, but for the page."""

from pathlib import Path

import click

from ..report.comparison import NONE, compare_runs as side_by_side, last_grid
from .output import say, table


@click.command()
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN RUN …", type=click.Path(path_type=Path)
)
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write them as a page, too."
)
def compare(runs: tuple[Path, ...], html: Path | None) -> None:
    """Set the runs in the folders RUN side by side: options that differ, last losses, figures and
    samples.

    A figure that rests on another step, number of images, seed or extractor is marked: it cannot be
    compared.
    """
    found = side_by_side(runs)
    for part in found.tables:
        say(part.title)
        if part.rows:
            table((part.what, *found.names), [row.cells for row in part.rows])
        else:
            say(part.reason)
        for note in part.notes:
            say(f"not comparable: {note}")
        say("")
    say("Samples")
    table(
        ("run", "newest grid"),
        [
            (n, str(last_grid(run.path) or NONE))
            for n, run in zip(found.names, found.runs, strict=True)
        ],
    )
    if html:
        from ..report.html import write_comparison

        say(write_comparison(found, html))
