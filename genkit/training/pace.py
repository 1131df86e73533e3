"""How fast a training goes by the clock: what a person who waits wants to know."""

import time
from dataclasses import dataclass
from typing import final

SECONDS = 10.0
"""Between two readings, and before the first."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    step: int
    iterations: int
    rate: float
    """Iterations a second since the training was started or resumed."""

    @property
    def seconds_left(self) -> float:
        """At this rate."""
        return (self.iterations - self.step) / self.rate


@final
class Pace:
    """Tells when a reading is due, and reads."""

    def __init__(self, step: int, iterations: int) -> None:
        self._first = step
        self._iterations = iterations
        self._began = time.perf_counter()
        self._next = self._began + SECONDS

    def due(self) -> bool:
        """Whether the last reading is so long ago."""
        return time.perf_counter() >= self._next

    def read(self, step: int) -> Progress | None:
        """Where the training stands, if that is due and a step was made."""
        now = time.perf_counter()
        if now < self._next or step == self._first:
            return None
        self._next = now + SECONDS
        return Progress(step, self._iterations, (step - self._first) / (now - self._began))


def duration(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.5 h``: two digits are enough for an estimate."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
