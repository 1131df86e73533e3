"""What a check is, what it is given, and what it finds."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from genkit.data.datasets import ImageData
from genkit.data.in_memory import from_images

Status = Literal["passed", "failed", "not applicable", "error"]


@dataclass(frozen=True)
class Finding:
    """The outcome of a check."""

    number: int
    title: str
    status: Status
    line: str
    """The outcome in one line."""
    details: dict[str, Any] = field(default_factory=dict)
    """Numbers and names, for JSON."""


@dataclass(frozen=True)
class Check:
    """One question, and the function that answers it."""

    number: int
    title: str
    seconds: float
    """Its budget; a check that is over it stops early."""
    run: Callable[["Context"], Finding]


@dataclass
class Context:
    """What a check is given."""

    check: Check
    device: str
    """``cpu``, ``cuda`` or ``cuda:N``."""
    images: np.ndarray
    """uint8 ``(N, 28, 28)``."""
    quick: bool
    """Whether a few steps have to do."""
    scratch: Path
    """A folder for files that nobody needs afterwards."""
    log: Callable[[str], None]
    end: float
    """When its budget is spent, by ``time.perf_counter``."""

    @cached_property
    def data(self) -> ImageData:
        """The images as a dataset."""
        return from_images(self.images)

    @cached_property
    def images_path(self) -> str:
        """The images in a file, for other processes."""
        path = self.scratch / "images.npy"
        if not path.exists():
            np.save(path, self.images, allow_pickle=False)
        return str(path)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU of NVIDIA's or AMD's."""
        return self.device.startswith("cuda")

    @property
    def batch(self) -> int:
        """Images a batch."""
        return 16 if self.quick else 128

    def left(self) -> float:
        """Seconds left of the budget; below 0 when it is spent."""
        return self.end - time.perf_counter()

    def pick(self, full: Any, quick: Any) -> Any:
        """The value for a full run or for a quick one."""
        return quick if self.quick else full

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


class NotApplicableError(Exception):
    """A part that does not apply here; ``str()`` of it says why."""


@dataclass
class Part:
    """One part of a check: its numbers, and what is wrong."""

    name: str
    details: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def require(self, holds: object, otherwise: str) -> None:
        """Note a failure unless the condition holds; the part goes on."""
        if not holds:
            self.failures.append(otherwise)


class Parts:
    """Runs the parts of a check, each by itself, and sums them up."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.details: dict[str, Any] = {}
        self.failures: list[str] = []
        self.errors: list[str] = []
        self.skipped: list[str] = []
        self.unfinished: list[str] = []
        """Parts for which no time was left."""

    def run(
        self, name: str, function: Callable[..., None], *given: Any, takes_time: bool = True
    ) -> dict[str, Any]:
        """Call ``function(part, context, *given)``; the numbers that it left, none after an error.

        An error does not end the check: its first line is in the finding, its traceback in the log.
        What takes time is not begun when the budget is spent.
        """
        if takes_time and self.context.left() < 0:
            self.unfinished.append(name)
            return {}
        part = Part(name)
        try:
            function(part, self.context, *given)
        except NotApplicableError as error:
            self.skip(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001 (the other parts are to be run)
            self.context.log(f"{self.context.check.title}, {name}:\n{traceback.format_exc()}")
            self.errors.append(f"{name}: {describe_error(error)}")
        self.failures += [f"{name}: {failure}" for failure in part.failures]
        if part.details:
            self.details[name] = part.details
        return part.details

    def skip(self, what: str) -> None:
        """Note what does not apply here, and why."""
        self.skipped.append(what)

    def need_cuda(self, what: str) -> bool:
        """Whether the device is a GPU; if not, note that only one can answer ``what``."""
        if not self.context.cuda:
            self.skip(f"not applicable on a CPU: {what}")
        return self.context.cuda

    def finding(self, summary: str) -> Finding:
        """All parts in one."""
        check = self.context.check
        wrong = self.failures + self.errors
        status: Status = "passed"
        if wrong:
            status = "failed" if self.failures else "error"
        elif not self.details:
            status = "not applicable"
        parts = [*wrong, *([summary] if summary else []), *self.skipped]
        if self.unfinished:
            parts.append(f"not run, the budget was spent: {', '.join(self.unfinished)}")
        return Finding(check.number, check.title, status, "; ".join(parts), self.details)


def describe_error(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
