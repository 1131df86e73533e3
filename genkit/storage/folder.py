"""The files of one run on disk: where they are, how they are read and written, and who may.

Whatever is read may come from a stranger: sizes are capped, and no path leaves the folder, by a
symbolic link either.
"""

import json
import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from ..errors import RunError, first_line
from . import atomic

MAX_JSON_BYTES = 2**20
MAX_ROWS_BYTES, MAX_ROWS = 2**28, 2_000_000
LOCK = ".lock"
"""An empty file; held by the process that trains."""
PATIENCE = 0.5
"""Seconds: who wants to train waits so long, since :meth:`RunFolder.in_use` holds the lock for a
moment too.
"""
RUN = "run.json"
METRICS = "metrics.jsonl"
"""A row each log interval: the step and the means; no clock, so that two runs can be compared byte by byte."""
TIMING = "timing.jsonl"
ALARM = "alarm.jsonl"
EVALUATION = "evaluation.json"
CURVES = "plots/curves.png"
SAMPLES_PICTURE = "plots/samples-seed-{seed}.png"
RECONSTRUCTIONS = "plots/reconstructions.png"
INTERPOLATION = "plots/interpolation-seed-{seed}.png"
LATENT_MAP = "plots/latent-{method}.png"
MANIFOLD = "plots/manifold.png"
ANIMATION = "plots/animation.gif"
REPORT = "report.html"
"""From CURVES on: where a command writes its picture or page, unless the user names a file."""
FAILURE = "failure.json"
"""``step`` and ``reason`` of the error that ended the training; gone when it is resumed."""
MAX_TAIL_BYTES = 2**16
_NUMBER = re.compile(r"(\d+)-")


class RunFolder:
    """The files of the run in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def claim(cls, out: Path | None, title: str) -> Iterator["RunFolder"]:
        """A new folder that is this process's alone: ``out``, or ``runs/`` with the next number and
        ``title``.

        Raises:
            RunError: there is something in it, another process has it, or it cannot be written.
        """
        try:
            if out:
                atomic.make_folder(out)
            folder = cls(out or _next_number(Path("runs"), title))
        except OSError as error:
            raise RunError(
                f"cannot write the run folder {out or 'runs'}: {error.strerror}"
            ) from error
        with folder.exclusive():
            if (folder.path / RUN).exists():
                hint = f"go on with `genkit resume {shlex.quote(str(folder.path))}`, or choose another --out"
                raise RunError(f"{folder.path} already holds a run: {hint}")
            if any(path.name != LOCK and not _is_temporary(path) for path in folder.path.iterdir()):
                raise RunError(f"{folder.path} is not empty: choose another --out")
            yield folder

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other process trains in the folder meanwhile; a process that dies leaves nothing to
        clean up.

        Raises:
            RunError: another one does.
        """
        path = self.inside(LOCK)
        if path.exists() and not path.is_file():
            raise RunError(f"{path}: no plain file; remove it")
        lock = FileLock(path, timeout=PATIENCE)
        try:
            lock.acquire(poll_interval=PATIENCE / 10)
        except NotImplementedError:
            raise RunError(
                f"{self.path}: this file system has no locks; choose another --out"
            ) from None
        except Timeout:
            raise RunError(f"{self.path}: another process is training in this folder") from None
        except OSError as error:
            raise RunError(f"cannot write the run folder {self.path}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    def in_use(self) -> bool:
        """Whether a process trains in the folder. Nothing is written; one that is about to train
        waits for the answer.

        Raises:
            RunError: that is not to be known here.
        """
        path = self.inside(LOCK)
        if not path.is_file():
            return False
        try:
            with path.open("rb") as file:
                return not _lock_for_a_moment(file)
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}") from None

    def inside(self, name: str) -> Path:
        """The path of a file of the run.

        Raises:
            RunError: a symbolic link is on the way, so that it might be anywhere.
        """
        path = self.path
        for part in Path(name).parts:
            path = path / part
            if part == ".." or path.is_symlink():
                raise RunError(f"{path} leads out of the run folder: remove it")
        return path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.inside("checkpoints")

    def samples(self, step: int) -> Path:
        """Where the sample grid of a step is."""
        return self.inside(f"samples/{step:09d}.png")

    def all_samples(self) -> list[Path]:
        """The sample grids of the training, in the order of their steps."""
        found = [
            path
            for path in self.inside("samples").glob("*.png")
            if path.stem.isascii() and path.stem.isdigit()
        ]
        return sorted(found, key=lambda path: int(path.stem))

    def has_curves(self) -> bool:
        """Whether there are two rows of metrics, which make a curve."""
        try:
            with self.inside(METRICS).open("rb") as file:
                return len([line for line in islice(file, 2) if line.endswith(b"\n")]) == 2
        except FileNotFoundError:
            return False

    def is_complete(self, step: int) -> bool:
        """Whether all that follows the last step was done at ``step``: its grid and the curves are there."""
        drawn = self.inside(CURVES).exists() or not self.has_curves()
        return self.samples(step).exists() and drawn

    def read_json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            FileNotFoundError: there is none.
            RunError: it cannot be read, is too large, or is no JSON.
        """
        path = self.inside(name)
        try:
            return json.loads(_read(path, MAX_JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged ({type(error).__name__})") from None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file; the one before, if any, stays until the new one is safe on disk."""
        atomic.replace(self.inside(name), (json.dumps(content, indent=2) + "\n").encode())

    def read_rows(self, name: str) -> list[dict[str, float]]:
        """The rows of a file of JSON lines; a last line that was cut short by a crash is left out.

        Raises:
            RunError: the file is damaged.
        """
        rows, damaged = self._rows(name)
        if damaged:
            raise RunError(f"{self.path / name} is damaged ({damaged})")
        return rows

    def readable_rows(self, name: str) -> list[dict[str, float]]:
        """The rows before the first that is damaged, of a file that training can do without."""
        return self._rows(name)[0]

    def _rows(self, name: str) -> tuple[list[dict[str, float]], str]:
        """The rows before the first damaged line, and what is wrong with that; a last line cut
        short is not wrong.
        """
        try:
            lines = _read(self.inside(name), MAX_ROWS_BYTES).decode(errors="replace").split("\n")
        except FileNotFoundError:
            return [], ""
        if len(lines) > MAX_ROWS:
            raise RunError(f"{self.path / name} has more than {MAX_ROWS} rows")
        rows: list[dict[str, float]] = []
        for number, line in enumerate(lines[:-1]):
            try:
                row = json.loads(line)
                if not _is_row(row):
                    raise ValueError("not a step with its figures")
            except (ValueError, OverflowError, RecursionError) as error:
                return rows, f"line {number + 1}: {first_line(error)}"
            rows.append(row)
        return rows, ""

    def last_row(self, name: str) -> dict[str, float]:
        """The last whole row of a file of JSON lines, found without reading the file; empty where
        there is none.

        Raises:
            RunError: it is damaged.
        """
        path = self.inside(name)
        try:
            lines = atomic.read_end(path, MAX_TAIL_BYTES).split(b"\n")
            row = json.loads(lines[-2]) if len(lines) > 1 else {"step": 0}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{path} is damaged ({getattr(error, 'strerror', None) or type(error).__name__})"
            ) from None
        if not _is_row(row):
            raise RunError(f"{path} is damaged (its last line is not a step with its figures)")
        return row if len(lines) > 1 else {}

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a row to a file of JSON lines; on disk after :meth:`sync_rows`."""
        atomic.append(self.inside(name), (json.dumps(row) + "\n").encode())

    def sync_rows(self) -> None:
        """Return when all rows are on disk: a checkpoint that is safe must not know of rows that
        are not.
        """
        for name in (METRICS, TIMING, ALARM):
            if (path := self.inside(name)).exists():
                atomic.sync_file(path)
        atomic.sync_folder(self.path)

    def forget_after(self, step: int, grid: int) -> None:
        """Cut rows after ``step``, what was seen of samples after ``grid``, and the curves, as if
        training ended there.

        What is damaged behind the row of ``step`` was never safe, and goes with the rest.

        Raises:
            RunError: there is no row of ``step``.
        """
        for name in (METRICS, TIMING):
            found, damaged = self._rows(name)
            rows = [row for row in found if row["step"] <= step]
            if step and (not rows or rows[-1]["step"] != step):
                raise RunError(
                    f"{self.path / name} is damaged ({damaged or f'it has no row of step {step}'})"
                )
            atomic.replace(
                self.inside(name), "".join(json.dumps(row) + "\n" for row in rows).encode()
            )
        if self.inside(ALARM).exists():
            rows = [row for row in self._rows(ALARM)[0] if row["step"] <= grid]
            atomic.replace(
                self.inside(ALARM), "".join(json.dumps(row) + "\n" for row in rows).encode()
            )
        for path in self.all_samples():
            if int(path.stem) > grid:
                path.unlink()
        for name in (CURVES, FAILURE):
            self.inside(name).unlink(missing_ok=True)


def _lock_for_a_moment(file: BinaryIO) -> bool:
    """Whether the lock of :meth:`RunFolder.exclusive` was free; a reader's right to the file is
    enough.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed
    except BlockingIOError:
        return False
    return True


def _read(path: Path, limit: int) -> bytes:
    try:
        return atomic.read(path, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("step"), int)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in row.values())
    )


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _next_number(parent: Path, title: str) -> Path:
    """Make ``parent/0007-title`` with the next free number; of two processes at once, each gets its
    own.
    """
    atomic.make_folder(parent)
    while True:
        numbers = [
            int(match[1]) for path in parent.iterdir() if (match := _NUMBER.match(path.name))
        ]
        path = parent / f"{max(numbers, default=0) + 1:04d}-{title}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        atomic.sync_folder(parent)
        return path
