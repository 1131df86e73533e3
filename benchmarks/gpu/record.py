"""What is kept of a run: lines as checks are done, ``gpu.json`` and ``gpu.log``."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .finding import Finding

MAX_LINE = 400
"""Characters of a line that are printed; ``gpu.json`` has all of it."""


class Record:
    """Findings in the order in which they come.

    ``gpu.json`` is written after each, so that a run that is killed keeps what it had.

    Args:
        folder: where the files go; made if it does not exist.
        header: what ``gpu.json`` says before the findings.
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        """Findings, each with its seconds."""
        self._header = header
        self.write()

    def add(self, finding: Finding, seconds: float) -> None:
        """Print, log and write a finding."""
        row = asdict(finding) | {"seconds": round(seconds, 1)}
        self.rows.append(row)
        line = (
            f"{finding.number:2} {finding.title}: {finding.status} ({seconds:.1f} s): "
            f"{finding.line}"
        )
        print(shorten(line), flush=True)
        self.log(line)
        self.write()

    def merge(self, other: Path) -> None:
        """Take over the findings in another ``gpu.json``, which were printed already."""
        self.rows += json.loads(other.read_text())["findings"]
        self.write()

    def log(self, text: str) -> None:
        """Append to ``gpu.log``, with the time."""
        with (self.folder / "gpu.log").open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text.rstrip()}\n")

    def write(self) -> None:
        """Write ``gpu.json``, all of it or nothing."""
        path = self.folder / "gpu.json"
        temporary = path.with_suffix(".tmp")
        content = self._header | {"findings": self.rows}
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
        os.replace(temporary, path)  # noqa: PTH105 (Path.replace is the same)

    @property
    def good(self) -> bool:
        """Whether no check failed or ended in an error."""
        return all(row["status"] in ("passed", "not applicable") for row in self.rows)


def shorten(line: str) -> str:
    """One line of at most ``MAX_LINE`` characters."""
    line = " ".join(line.split())
    return line if len(line) <= MAX_LINE else line[: MAX_LINE - 4] + " ..."


def tabulate(rows: Sequence[dict[str, Any]]) -> str:
    """The findings as a table in Markdown."""
    lines = ["| # | check | status | s | finding |", "|---|---|---|---|---|"]
    for row in rows:
        finding = shorten(row["line"]).replace("|", "/")
        lines.append(
            f"| {row['number']} | {row['title']} | {row['status']} | {row['seconds']} | {finding} |"
        )
    return "\n".join(lines)
