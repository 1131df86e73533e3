"""Files of rows: a JSON object a line, with a step and numbers by name.

There is no bound on rows: a file is read line by line. Whatever is read may be someone else's: a
line has a bound, and every row is checked.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError, first_line
from . import atomic, capacity

MAX_ROW_BYTES = 2**16
"""Of a row that is written, so that the last row is found in the end of a file."""
MAX_LINE_BYTES = 2**22
"""Of a line that is read."""
WRITE_BYTES = 2**20
"""Of rows that are written at a time."""
MEMORY_FACTOR = 12
"""Bytes of memory for a byte of a file, when all its rows are held at once."""

Row = dict[str, float]
"""``step`` and finite numbers by name."""


class DamagedRowError(ValueError):
    """A line that is not a row; the message says which and why."""


def read(path: Path) -> tuple[list[Row], str]:
    """Read the rows before the first damaged line, and what is wrong with that line.

    A last line that a crash cut short is left out and counts as no damage.

    Raises:
        RunError: the file is not a regular file or cannot be read, or its rows do not fit in
            memory.
    """
    size, free = path.stat().st_size if path.is_file() else 0, capacity.free_memory()
    if free is not None and MEMORY_FACTOR * size > free:
        limit = free // MEMORY_FACTOR
        raise RunError(f"{path}: {size} bytes, more than the limit of {limit} that memory has")
    rows: list[Row] = []
    try:
        rows.extend(row for row, _ in _iterate(path))
    except DamagedRowError as error:
        return rows, str(error)
    return rows, ""


def read_thinned(path: Path, least: int) -> tuple[list[Row], str]:
    """As :func:`read`, in bounded memory: of more than ``2 * least`` rows, ``least`` or more at
    equal distances, and the last one.

    Raises:
        RunError: the file is not a regular file or cannot be read.
    """
    kept: list[Row] = []
    last: Row | None = None
    stride, damage = 1, ""
    try:
        for number, (row, _) in enumerate(_iterate(path)):
            last = row
            if number % stride:
                continue
            kept.append(row)
            if len(kept) > 2 * least:
                kept, stride = kept[::2], 2 * stride
    except DamagedRowError as error:
        damage = str(error)
    if last is not None and kept[-1] is not last:
        kept.append(last)
    return kept, damage


def replace_after(path: Path, step: int) -> None:
    """Leave only the rows up to ``step``, in bounded memory; a crash leaves all rows or those.

    Also a damaged end goes, if no row up to ``step`` is behind it.

    Raises:
        RunError: there is no row of ``step``, though it is not 0; nothing was changed.
        OSError: the disk refused.
    """
    atomic.replace(path, _lines_until(path, step))


def _lines_until(path: Path, step: int) -> Iterator[bytes]:
    last: float = 0
    damage, part = "", bytearray()
    try:
        for row, line in _iterate(path):
            if row["step"] <= step:
                last = row["step"]
                part += line
                if len(part) >= WRITE_BYTES:
                    yield bytes(part)
                    part.clear()
    except DamagedRowError as error:
        damage = str(error)
    if step and last != step:
        raise RunError(f"{path} is damaged ({damage or f'it has no row of step {step}'})")
    yield bytes(part)


def _iterate(path: Path) -> Iterator[tuple[Row, bytes]]:
    """Rows, and the lines that they stand in.

    Raises:
        DamagedRowError: at the first damaged line.
        RunError: the file is not a regular file or cannot be read.
    """
    try:
        with atomic.open_regular(path) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    if len(line) == MAX_LINE_BYTES:
                        raise DamagedRowError(f"line {number}: longer than {MAX_LINE_BYTES} bytes")
                    return  # a crash cut it short
                try:
                    row = _parse(line.decode(errors="replace"))
                except (ValueError, OverflowError, RecursionError) as error:
                    raise DamagedRowError(f"line {number}: {first_line(error)}") from None
                yield row, line
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None


def read_last(path: Path) -> Row:
    """Read the last whole row, from the end of the file alone; empty if there is none.

    Raises:
        RunError: it is damaged.
    """
    try:
        lines = atomic.read_end(path, MAX_ROW_BYTES).split(b"\n")
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
        return atomic.read_end(path, 2 * MAX_ROW_BYTES).count(b"\n") >= 2
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None


def encode(row: Mapping[str, Any]) -> bytes:
    """The row as a line of JSON.

    Raises:
        RunError: it is longer than what is read again.
    """
    line = (json.dumps(row) + "\n").encode()
    if len(line) > MAX_ROW_BYTES:
        raise RunError(
            f"a row with {len(row)} values takes {len(line)} bytes, more than {MAX_ROW_BYTES}: "
            "let the model give fewer metrics, or shorter names"
        )
    return line


def _parse(line: str | bytes) -> Row:
    row = json.loads(line, object_pairs_hook=_interned)
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("step"), int)
        or not all(isinstance(v, int | float) and math.isfinite(v) for v in row.values())
    ):
        raise ValueError("not a step with its metrics")
    return row


def _interned(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The names of a million rows are the same few strings, in memory once."""
    return {sys.intern(name): value for name, value in pairs}
