"""How many CPU threads torch uses, and how many train a model fastest: that is measured."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ..config import TrainOptions
from ..data.datasets import Notify
from ..errors import UsageError

ROUNDS = 3
SECONDS = 0.3
"""Of a turn, about. Each number of threads has one a round."""
MIN_SPEEDUP = 1.03
"""A larger number of threads has to be this much faster: fewer leave room for others."""


class Runs(Protocol):
    """What is timed: a training."""

    def run(self, steps: int) -> None:
        """Make steps."""


def set_threads(number: int | str | None) -> None:
    """Let torch use ``number`` threads; None: leave it at what it uses."""
    if isinstance(number, int) and number != torch.get_num_threads():
        torch.set_num_threads(number)


def fastest_threads(
    prepare: Callable[[TrainOptions], Runs],
    options: TrainOptions,
    device: torch.device,
    notify: Notify,
) -> int:
    """The number of threads with the highest median rate, by training throw-away models on the
    run's images.

    Another number of threads may give other bits: the run records the number, and resuming takes
    it.

    Raises:
        UsageError: training is on another device than a CPU.
    """
    if device.type != "cpu":
        raise UsageError(
            f"--threads probe measures steps on a CPU, but they run on {device.type}: leave it out"
        )
    before = torch.get_num_threads()
    short = {"threads": None, "log_interval": 100, "iterations": 100}
    training = prepare(options.model_copy(update=short))
    rates: dict[int, list[float]] = {number: [] for number in candidates(before)}
    try:
        _rate(training, SECONDS)
        for _ in range(ROUNDS):
            for number in rates:
                set_threads(number)
                _rate(training, 0.1 * SECONDS)  # the threads have to be made first
                rates[number].append(_rate(training, SECONDS))
    finally:
        set_threads(before)
    medians = {number: statistics.median(measured) for number, measured in rates.items()}
    best = choose(medians)
    measured = ", ".join(f"{number}: {rate:.4g} it/s" for number, rate in medians.items())
    notify(f"threads: {best} ({measured})")
    return best


def candidates(most: int) -> Sequence[int]:
    """Powers of two below ``most``, and ``most``: torch's default, the number of cores."""
    powers = [2**exponent for exponent in range(most.bit_length()) if 2**exponent < most]
    return [*powers, most]


def choose(rates: dict[int, float]) -> int:
    """The fewest threads that are as fast as any, but for ``MIN_SPEEDUP``."""
    best = max(rates.values())
    return min(number for number, rate in rates.items() if rate * MIN_SPEEDUP >= best)


def _rate(training: Runs, seconds: float) -> float:
    """Iterations a second, over about so many seconds."""
    steps, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        training.run(1)
        steps += 1
    return steps / passed
