"""genkit new-plugin NAME [DIR]."""

import shlex
from pathlib import Path

import click

from .. import __version__
from .output import say


@click.command()
@click.argument("name")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def new_plugin(name: str, folder: Path | None) -> None:
    """Write a small plugin package NAME into the folder DIR (default: ./NAME).

    It installs, trains and passes the checks as it is.
    """
    from ..errors import UsageError
    from ..hookspecs import Model
    from ..plugins.registry import discover
    from ..plugins.scaffold import write_plugin

    for registered in discover().builtin(Model):
        if registered.answers_to(name):
            raise UsageError(f"{name} is the name of one of genkit's own models; choose another")
    target = folder or Path(name)
    for path in write_plugin(name, target, __version__):
        say(path)
    say(
        f"next: pip install -e {shlex.quote(f'{target}[test]')} && genkit train {name} && genkit check {name}"
    )
