"""The files of one run: their names, and how each is read and written.

Whatever is read may be someone else's: sizes are capped, and no path leaves the folder, not through
a symbolic link either.
"""

import errno
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import GenkitWarning, RunError, first_line
from . import atomic, rows
from .rows import Row

RUN = "run.json"
"""Options, seed, versions, dataset and environment."""
METRICS = "metrics.jsonl"
"""A row per log interval: the step and the means. It holds no clock, so that runs can be compared
byte by byte."""
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
"""``step`` and ``reason`` of the error that ended the training; removed when it is resumed."""
LOCK = ".lock"
"""An empty file, locked by the process that trains."""
FILES = (RUN, METRICS, TIMING, ALARM, EVALUATION, FAILURE)
FOLDERS = ("checkpoints", "samples", "plots")
"""Of a run: what training writes."""
MERGE_LOCK = ".{name}.lock"
"""An empty file, locked by the process that merges values into the JSON file ``name``."""
MERGE_TIMEOUT_SECONDS = 30.0
"""How long one waits for another, which takes milliseconds."""
THINNED_ROWS = 100_000
"""More than a picture can show."""
MAX_JSON_BYTES = 2**20
"""Of a JSON file, written or read."""


class RunFolder:
    """The files of the run in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def inside(self, name: str) -> Path:
        """The path of a file of the run.

        Raises:
            RunError: it could lie outside the folder, because a symbolic link is on the way.
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
        """The path of the sample grid of a step."""
        return self.inside(f"samples/{step:09d}.png")

    def all_samples(self) -> list[Path]:
        """The sample grids of the training, by step."""
        found = [
            path
            for path in self.inside("samples").glob("*.png")
            if path.stem.isascii() and path.stem.isdigit()
        ]
        return sorted(found, key=lambda path: int(path.stem))

    def default_output(self, name: str) -> Path:
        """Where a command writes its picture or page, unless the user names a file; checked before
        anything is computed for it.

        Raises:
            RunError: it cannot be written there.
        """
        path = self.inside(name)
        existing = next(folder for folder in path.parents if folder.exists())
        if not os.access(existing, os.W_OK):
            raise RunError(f"{existing} cannot be written: pass --out to write elsewhere")
        return path

    def has_curves(self) -> bool:
        """Whether there are two rows of metrics, the fewest that make a curve.

        Raises:
            RunError: the file cannot be read.
        """
        return rows.has_two(self.inside(METRICS))

    def is_complete(self, step: int) -> bool:
        """Whether all that follows the last step was written: its sample grid and the curves."""
        drawn = self.inside(CURVES).exists() or not self.has_curves()
        return self.samples(step).exists() and drawn

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            FileNotFoundError: it does not exist.
            RunError: it cannot be read, is too large, or is not JSON.
        """
        path = self.inside(name)
        try:
            data = atomic.read(path, MAX_JSON_BYTES)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise RunError(f"{path}: {error}") from None
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged ({type(error).__name__})") from None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file; an older one stays until the new one is durable.

        Raises:
            RunError: it would be larger than what is read again.
            OSError: the disk refused.
        """
        path, data = self.inside(name), (json.dumps(content, indent=2) + "\n").encode()
        if len(data) > MAX_JSON_BYTES:
            raise RunError(
                f"{path} would take {len(data)} bytes, more than {MAX_JSON_BYTES}, "
                "so that it could not be read again"
            )
        atomic.replace(path, data)

    def merge_json(self, name: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Merge sections into a JSON file, each value by its name; NaN and infinity become null.

        Of several processes that merge at once, each keeps what the others wrote.

        Raises:
            RunError: what is there is damaged, or the file would become too large.
            OSError: the disk refused.
        """
        with self._merging(name):
            self._merge(name, sections)

    @contextmanager
    def _merging(self, name: str) -> Iterator[None]:
        """Keep other processes from merging into the file ``name``. Where the file system has no
        locks, that is a warning.
        """
        path = self.inside(MERGE_LOCK.format(name=name))
        lock = FileLock(path, timeout=MERGE_TIMEOUT_SECONDS)
        try:
            lock.acquire(poll_interval=0.01)
        except Timeout:
            raise RunError(f"{path}: another process holds it") from None
        except (NotImplementedError, OSError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC
            if full or not os.access(self.path, os.W_OK):
                raise  # the file could not be written either
            message = (
                f"{self.path / name} is written without a lock ({first_line(error)}): "
                "evaluate a run by one command at a time"
            )
            warnings.warn(message, GenkitWarning, stacklevel=4)
            yield
            return
        try:
            yield
        finally:
            if sys.platform != "win32":  # an open file cannot be removed there
                path.unlink(missing_ok=True)  # who waits for it sees that, and makes another
            lock.release()

    def _merge(self, name: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
        try:
            known = self.read_json(name)
        except FileNotFoundError:
            known = {}
        try:
            merged = {
                section: _without_nan({**known.get(section, {}), **values})
                for section, values in sections.items()
            }
        except (TypeError, AttributeError) as error:
            path = self.path / name
            raise RunError(f"{path} is damaged ({type(error).__name__}); move it away") from None
        self.write_json(name, {**known, **merged})

    def read_rows(self, name: str) -> list[Row]:
        """Read all rows of a file; a last line that a crash cut short is left out.

        Raises:
            RunError: the file is damaged, or its rows do not fit in memory.
        """
        return self._undamaged(name, *rows.read(self.inside(name)))

    def thinned_rows(self, name: str, least: int = THINNED_ROWS) -> list[Row]:
        """Rows for a picture, in bounded memory: all, or of more than ``2 * least`` about ``least``
        at equal distances, and the last one.

        Raises:
            RunError: the file is damaged.
        """
        return self._undamaged(name, *rows.read_thinned(self.inside(name), least))

    def _undamaged(self, name: str, found: list[Row], damage: str) -> list[Row]:
        if damage:
            raise RunError(f"{self.path / name} is damaged ({damage})")
        return found

    def readable_rows(self, name: str) -> list[Row]:
        """The rows before the first damaged line, for a file that training can do without."""
        return rows.read(self.inside(name))[0]

    def last_row(self, name: str) -> Row:
        """The last whole row of a file, read from its end alone; empty if there is none.

        Raises:
            RunError: it is damaged.
        """
        return rows.read_last(self.inside(name))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a row to a file; it is durable after :meth:`sync_rows`.

        Raises:
            RunError: it is longer than what is read again.
            OSError: the disk refused.
        """
        atomic.append(self.inside(name), rows.encode(row))

    def sync_rows(self) -> None:
        """Flush all rows to disk, before a checkpoint that counts on them is written."""
        for name in (METRICS, TIMING, ALARM):
            if (path := self.inside(name)).exists():
                atomic.sync_file(path)
        atomic.sync_folder(self.path)

    def forget_after(self, step: int, grid: int) -> None:
        """Restore the state of the folder when training was at ``step``.

        Removes later rows, which includes a damaged end that no checkpoint counts on, the alarm's
        rows and sample grids after step ``grid``, the curves and the record of a failure.

        Raises:
            RunError: a file has no row of ``step``.
        """
        for name in (METRICS, TIMING):
            rows.replace_after(self.inside(name), step)
        if self.inside(ALARM).exists():
            kept = [row for row in self.readable_rows(ALARM) if row["step"] <= grid]
            atomic.replace(self.inside(ALARM), map(rows.encode, kept))
        for path in self.all_samples():
            if int(path.stem) > grid:
                path.unlink()
        for name in (CURVES, FAILURE):
            self.inside(name).unlink(missing_ok=True)


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON, which has no NaN and no infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
