"""Progress of long work on data: a bar on a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TextIO, cast

from ..errors import printable

SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal; work that takes less prints nothing there."""

Advance = Callable[[int], None]
"""Called with the number of items that were done since the last call, from any thread."""


@contextmanager
def track(what: str, total: int, show: bool) -> Iterator[Advance]:
    """Show on standard error how much of some work is done::

        with track("decoding", len(paths), show) as advance:
            for path in paths:
                decode(path)
                advance(1)

    Nothing that is wrong with standard error, such as that it was closed, reaches the caller.

    Args:
        what: what is being done, in a word or two.
        total: the number of items.
        show: False shows nothing.
    """
    stream = _Stderr()
    if not show or not total:
        yield _ignore
    elif stream.isatty():
        with _bar(what, total, stream) as advance:
            yield advance
    else:
        yield _Lines(what, total, stream).advance


def _ignore(count: int) -> None:
    """Show nothing."""


@contextmanager
def _bar(what: str, total: int, stream: "_Stderr") -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=Console(file=cast(IO[str], stream)),
        transient=True,
        refresh_per_second=4,
    )
    task = bar.add_task(printable(what), total=total)
    with bar:
        yield lambda count: bar.advance(task, count)


class _Lines:
    """Prints a line every ``SECONDS_BETWEEN_LINES``."""

    def __init__(self, what: str, total: int, stream: "_Stderr") -> None:
        self._what, self._total, self._stream = printable(what), total, stream
        self._done = 0
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + SECONDS_BETWEEN_LINES
            line = f"{self._what}: {self._done:,} of {self._total:,}\n"
            self._stream.write(line)
            self._stream.flush()


class _Stderr:
    """Standard error, as a file that never fails: nothing that only informs ends the work."""

    def __init__(self) -> None:
        self._stream: TextIO | None = sys.stderr
        self.encoding = getattr(sys.stderr, "encoding", "utf-8")

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it was closed
            return False

    def fileno(self) -> int:
        """Rich asks the terminal for its size by this."""
        if self._stream is None:
            raise OSError("there is no standard error")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # its reader has gone: from here on nothing is shown
                self._stream = None
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None
