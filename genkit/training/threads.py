"""How many CPU threads train a model fastest: measured, because it depends on the model, the batch
and the machine.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from ..config import TrainOptions
from ..data.datasets import Notify
from ..engines.base import Engine
from ..errors import UsageError

ROUNDS = 3
SECONDS = 0.3
"""Of a turn, about. Each number of threads has one a round."""
WORTH = 1.03
"""A larger number of threads has to be this much faster: fewer leave room for others."""


def fastest_threads(
    make: Callable[[TrainOptions], Engine],
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
    engine = make(options.model_copy(update={"log_interval": 100, "iterations": 100}))
    rates: dict[int, list[float]] = {number: [] for number in candidates(before)}
    try:
        _rate(engine, SECONDS)
        for _ in range(ROUNDS):
            for number in rates:
                torch.set_num_threads(number)
                _rate(engine, 0.1 * SECONDS)  # the threads have to be made first
                rates[number].append(_rate(engine, SECONDS))
    finally:
        torch.set_num_threads(before)
    medians = {number: statistics.median(measured) for number, measured in rates.items()}
    best = choose(medians)
    measured = ", ".join(f"{number}: {rate:.4g} it/s" for number, rate in medians.items())
    notify(f"threads: {best} ({measured})")
    return best


def candidates(most: int) -> Sequence[int]:
    """Powers of two below ``most``, and ``most``: torch's own choice, which is the number of cores."""
    powers = [2**exponent for exponent in range(most.bit_length()) if 2**exponent < most]
    return [*powers, most]


def choose(rates: dict[int, float]) -> int:
    """The fewest threads that are as fast as any, but for ``WORTH``."""
    best = max(rates.values())
    return min(number for number, rate in rates.items() if rate * WORTH >= best)


def _rate(engine: Engine, seconds: float) -> float:
    """Iterations a second, over about so many seconds."""
    steps, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        engine.run(1)
        steps += 1
    return steps / passed
