"""Progress as people read it: a bar with rate and losses on a terminal, plain lines elsewhere.

Only this imports rich.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ..callback import Callback, describe
from ..errors import printable
from .pace import SECONDS, duration
from .terminal import Output

MOST_SECONDS_SILENT = 30.0
"""Between two lines that tell that training goes on, where there is no bar."""


class Console(Callback):
    """Log lines on standard output, notices and the bar on standard error.

    The last line is the run's folder, the one before says where the latest samples are. Where a
    stream cannot be written, its lines are dropped; the other one says so, once.
    """

    def __init__(self) -> None:
        self._out, self._errors = Output("stdout"), Output("stderr")
        self._loss_was_shown = False
        # rich takes a file as it is, and draws from a thread of its own.
        self._terminal = RichConsole(file=cast(IO[str], self._errors))
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._log_format = ""
        self._said: set[str] = set()
        self._last_line = -math.inf
        """When a line was printed that tells that training goes on, by the clock."""

    def on_notice(self, message: str) -> None:
        self._print(f"note: {message}", to_stderr=True)

    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        self._log_format = log_format
        start = f"from step {step} " if step else ""
        self._print(f"training {start}to {iterations} iterations in {path}", to_stderr=True)
        if self._terminal.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}", markup=False, style="dim"),
                console=self._terminal,
                transient=True,
                refresh_per_second=2,  # by a thread: often enough to read, at no cost
            )
            self._task = self._bar.add_task(
                "", total=iterations, completed=step, rate="", metrics=""
            )
            self._bar.start()

    def on_progress(self, step: int, iterations: int, rate: float, seconds_left: float) -> None:
        speed = f"{rate:,.0f} it/s" if rate >= 10 else f"{rate:.2g} it/s"
        if self._bar:
            self._bar.update(self._task, completed=step, rate=speed)
        elif time.monotonic() - self._last_line >= MOST_SECONDS_SILENT - SECONDS:
            left = f"about {duration(seconds_left)} left" if step < iterations else "done"
            self._print(f"step {step} of {iterations}: {speed}, {left}", to_stderr=True)
            self._last_line = time.monotonic()

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._bar:
            speed = self._bar.tasks[0].speed
            rate = f"{speed:,.0f} it/s" if speed else ""
            self._bar.update(
                self._task,
                completed=step,
                rate=rate,
                metrics=printable(describe(self._log_format, metrics)),
            )

    def on_sample(self, step: int, path: Path, metrics: Mapping[str, float]) -> None:
        self._print(f"{step} {describe(self._log_format, metrics)}")
        if self._last_line > -math.inf:  # the rate and the time left were said once
            self._last_line = time.monotonic()

    def on_alarm(self, step: int, figures: Mapping[str, float], wrong: Mapping[str, str]) -> None:
        for kind in wrong.keys() - self._said:  # once, and again if it came back
            self._print(f"alarm: step {step}: {wrong[kind]}", to_stderr=True)
        self._said = set(wrong)

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        self._print(f"test after {step} iterations: {describe('', metrics)}")

    def on_stop(self, step: int) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def on_end(self, step: int, path: Path, samples: Path | None) -> None:
        self._print(f"samples: {samples}")
        self._print(str(path))

    def _print(self, line: str, *, to_stderr: bool = False) -> None:
        line = printable(line)
        if self._bar and self._out.isatty():  # through the bar, which would overwrite it otherwise
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._errors if to_stderr else self._out, flush=True)
        if self._out.problem and not self._loss_was_shown:
            self._loss_was_shown = True
            self._print(f"note: {self._out.problem}; going on without", to_stderr=True)
