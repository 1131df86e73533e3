"""What commands print for people."""

import click

from ..errors import printable


def say(line: object, *, error: bool = False) -> None:
    """Print one line, on standard error if ``error``; nothing in it can move the cursor or colour the terminal."""
    click.echo(printable(str(line)), err=error)
