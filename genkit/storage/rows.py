"""Files of rows: a JSON object a line, with a step and numbers by name.

Whatever is read may be someone else's: sizes are capped and every row is checked.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError, first_line
from . import atomic

MAX_BYTES, MAX_ROWS = 2**28, 2_000_000
MAX_LAST_ROW_BYTES = 2**16

Row = dict[str, float]
"""``step`` and finite numbers by name."""


def read(path: Path) -> tuple[list[Row], str]:
    """Read the rows before the first damaged line, and what is wrong with that line.

    A last line that a crash cut short is left out and counts as no damage.

    Raises:
        RunError: the file is too large, not a regular file or cannot be read.
    """
    try:
        lines = atomic.read(path, MAX_BYTES).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None
    if len(lines) > MAX_ROWS:
        raise RunError(f"{path} has more than {MAX_ROWS} rows")
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(_parse(line))
        except (ValueError, OverflowError, RecursionError) as error:
            return rows, f"line {number}: {first_line(error)}"
    return rows, ""


def read_last(path: Path) -> Row:
    """Read the last whole row, from the end of the file alone; empty if there is none.

    Raises:
        RunError: it is damaged.
    """
    try:
        lines = atomic.read_end(path, MAX_LAST_ROW_BYTES).split(b"\n")
        return _parse(lines[-2]) if len(lines) > 1 else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunError(f"{path} is damaged ({reason})") from None


def has_two(path: Path) -> bool:
    """Whether there are two whole rows, read from the end of the file alone.

    Raises:
        RunError: the file is not a regular file or cannot be read.
    """
    try:
        return atomic.read_end(path, 2 * MAX_LAST_ROW_BYTES).count(b"\n") >= 2
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None


def encode(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parse(line: str | bytes) -> Row:
    row = json.loads(line)
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("step"), int)
        or not all(isinstance(v, int | float) and math.isfinite(v) for v in row.values())
    ):
        raise ValueError("not a step with its metrics")
    return row
