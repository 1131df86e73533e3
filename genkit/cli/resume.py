"""genkit resume RUN."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    help="The total to go to, not what to add.  [default: the run's own]",
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the datasets, if they moved."
)
@click.option("--device", metavar="TEXT", help="Another device than the run was started with.")
@click.option(
    "--stop-on-collapse/--no-stop-on-collapse",
    default=None,
    help="Changes what the run was started with.",
)
def resume(
    run: Path,
    iterations: int | None,
    data_root: Path | None,
    device: str | None,
    stop_on_collapse: bool | None,
) -> None:
    """Go on with the run in the folder RUN from its newest checkpoint, to a total of --iterations."""
    from .. import api

    api.resume(
        run, iterations, data_root=data_root, device=device, stop_on_collapse=stop_on_collapse
    )
