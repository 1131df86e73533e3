"""The files of one run: their names, and how each is read and written.

Whatever is read may be someone else's: sizes are capped, and no path leaves the folder, not through
a symbolic link either.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError
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
MAX_JSON_BYTES = 2**20


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
        """Write a JSON file; an older one stays until the new one is durable."""
        atomic.replace(self.inside(name), (json.dumps(content, indent=2) + "\n").encode())

    def merge_json(self, name: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Merge sections into a JSON file, each value by its name; NaN and infinity become null.

        Raises:
            RunError: what is there is damaged.
            OSError: the disk refused.
        """
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
            RunError: the file is damaged.
        """
        found, damage = rows.read(self.inside(name))
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
        """Append a row to a file; it is durable after :meth:`sync_rows`."""
        atomic.append(self.inside(name), rows.encode([row]))

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
            found, damage = rows.read(self.inside(name))
            kept = [row for row in found if row["step"] <= step]
            if step and (not kept or kept[-1]["step"] != step):
                reason = damage or f"it has no row of step {step}"
                raise RunError(f"{self.path / name} is damaged ({reason})")
            atomic.replace(self.inside(name), rows.encode(kept))
        if self.inside(ALARM).exists():
            kept = [row for row in self.readable_rows(ALARM) if row["step"] <= grid]
            atomic.replace(self.inside(ALARM), rows.encode(kept))
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
