"""What commands print for people: lines and tables."""

import io
import sys
from collections.abc import Sequence

import click

from ..errors import printable
from ..training.terminal import NAMES, discard_pending

MAX_CELL = 60
"""Characters of a cell whose text may come from a stranger's run. A longer one ends in ``…``."""


def print_line(line: object, *, error: bool = False) -> None:
    """Print one line, on standard error if ``error``. Nothing in it can move the cursor or colour
    the terminal.

    Raises:
        OSError: standard output cannot be written. A line for standard error is dropped then.
    """
    print_text(printable(str(line)), error=error)


def print_text(text: str, *, error: bool = False) -> None:
    """Print ``text`` as it is; otherwise as :func:`print_line`."""
    try:
        click.echo(text, err=error)
    except OSError as problem:
        discard_pending(sys.stderr if error else sys.stdout)
        if not error:
            raise OSError(problem.errno, problem.strerror, NAMES["stdout"]) from problem


def print_table(rows: Sequence[Sequence[str]], *, max_cell: int | None = None) -> None:
    """Print rows in aligned columns, the names of the columns first.

    The text is the same on a terminal and in a pipe: no colour, nothing wrapped, and nothing cut
    but cells longer than ``max_cell`` characters.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[_shorten(text, max_cell) for text in row] for row in rows]
    grid = Table.grid(padding=(0, 2))
    for _ in cells[0]:
        grid.add_column(no_wrap=True, overflow="ignore")
    for row in cells:
        grid.add_row(*map(Text, row))
    widest = sum(2 + 2 * max(map(len, column)) for column in zip(*cells, strict=True))
    buffer = io.StringIO()
    console = Console(file=buffer, width=widest, color_system=None, force_terminal=False)
    console.print(grid)
    for line in buffer.getvalue().removesuffix("\n").split("\n"):
        print_line(line.rstrip())


def _shorten(text: str, max_cell: int | None) -> str:
    if max_cell is None:
        return printable(text)
    shown = printable(text[: max_cell + 1])
    return shown if len(shown) <= max_cell else shown[: max_cell - 1] + "…"
