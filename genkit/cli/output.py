"""What commands print for people."""

from collections.abc import Sequence

import click

from ..errors import printable

MAX_CELL = 60
"""Characters of a table's cell; what is longer ends in ``…``."""


def say(line: object, *, error: bool = False) -> None:
    """Print one line, on standard error if ``error``; nothing in it can move the cursor or colour
    the terminal.
    """
    click.echo(printable(str(line)), err=error)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns under their names."""
    cells = [[_cell(text) for text in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(text: str) -> str:
    shown = printable(text[: MAX_CELL + 1])
    return shown if len(shown) <= MAX_CELL else shown[: MAX_CELL - 1] + "…"
