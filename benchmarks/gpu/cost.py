"""Check 9: where the time of a training goes."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import genkit
from genkit.data.loader import Order

from .finding import Context, Finding, Part, Parts
from .subjects import prepare

MODEL = "simple-gan"
WINDOW, WINDOWS = 100, 3
"""Steps of a log interval, and how many intervals are profiled."""
ROUNDS = 20
"""Of what is timed by itself; medians count."""
Interval = tuple[float, float]
"""Begin and end, us."""


def measure_cost(context: Context) -> Finding:
    """How busy the device is, what the end of a log interval takes part by part, and the share of
    grids, the alarm and checkpoints in a whole ``genkit train``.
    """
    parts = Parts(context)
    device: Mapping[str, Any] = {}
    if parts.need_cuda("kernels a step and how busy the GPU is"):
        device = parts.run("device", _profile_device)
    ends = parts.run("end of a log interval", _time_interval_end)
    whole = parts.run("genkit train", _time_training)
    lines = []
    if device:
        lines.append(
            f"{device['kernels a step']} kernels a step, {device['busy (%)']} % busy, "
            f"gaps of {device['largest gaps (us)']} us"
        )
    if ends:
        lines.append(", ".join(f"{name} {value} us" for name, value in ends["us"].items()))
    if whole:
        shares = ", ".join(f"{name} {value} %" for name, value in whole["shares (%)"].items())
        lines.append(f"{whole['iterations']} iterations in {whole['seconds']} s: {shares}")
    return parts.finding("; ".join(lines))


def _profile_device(part: Part, context: Context) -> None:
    training = prepare(context, MODEL, log_interval=WINDOW)
    _run_intervals(training, WINDOWS)  # captures
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        _run_intervals(training, WINDOWS)
        context.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    events = [
        event
        for event in recorded.events()
        if event.device_type == on_device and not getattr(event, "is_user_annotation", False)
    ]
    kernels = [event for event in events if not event.name.startswith(("Memcpy", "Memset"))]
    times = [(event.time_range.start, event.time_range.end) for event in events]
    steps = WINDOW * WINDOWS
    part.details |= {
        "kernels a step": round(len(kernels) / steps, 1),
        "copies a step": round((len(events) - len(kernels)) / steps, 1),
        "steps per replay": getattr(training.stepper, "steps_per_replay", None),
        **describe_intervals(times, WINDOWS - 1),
    }


def describe_intervals(intervals: Sequence[Interval], count: int) -> dict[str, Any]:
    """How much of the time something ran, and the ``count`` longest pauses."""
    merged = merge_intervals(intervals)
    span = merged[-1][1] - merged[0][0]
    busy = sum(end - begin for begin, end in merged)
    gaps = sorted((after[0] - before[1] for before, after in pairwise(merged)), reverse=True)
    return {
        "busy (%)": round(100 * busy / span, 1),
        "span (us)": round(span, 1),
        "largest gaps (us)": [round(gap, 1) for gap in gaps[:count]],
    }


def merge_intervals(intervals: Sequence[Interval]) -> list[Interval]:
    """The union of intervals, in order."""
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def _run_intervals(training: Any, count: int) -> None:
    """Train as the loop does, with what it reads at the end of each log interval."""
    for _ in range(count):
        training.run(WINDOW)
        training.means()
        training.not_finite()


def _time_interval_end(part: Part, context: Context) -> None:
    training = prepare(context, MODEL, log_interval=WINDOW)
    order = Order(len(training.data.train), context.batch, 1)
    interval = context.pick(WINDOW, WINDOW // 4)
    indices = order.indices(0, interval)
    seconds: dict[str, list[float]] = {}
    for number in range(context.pick(ROUNDS, 3)):
        begin = time.perf_counter()
        training.run(interval)
        context.synchronize()
        timed = {
            "steps": time.perf_counter() - begin,
            "means": _time(context, training.means),
            "not_finite": _time(context, training.not_finite),
            "indices": _time(context, lambda at=number: order.indices(at * WINDOW, interval)),
            "to(device)": _time(context, lambda: indices.to(context.device)),
        }
        for name, value in timed.items():
            seconds.setdefault(name, []).append(1e6 * value)
    medians = {name: round(statistics.median(values), 1) for name, values in seconds.items()}
    part.details |= {"steps": interval, "us": medians}


def _time(context: Context, work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    context.synchronize()
    return time.perf_counter() - begin


class Clock(genkit.Callback):
    """Seconds between the events of a training, which come in the order in which it acts."""

    def __init__(self) -> None:
        self.seconds = {"grids": 0.0, "alarm": 0.0, "checkpoints": 0.0}
        self.begin = self.end = self._last = 0.0

    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        self.begin = self._last = time.perf_counter()

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._last = time.perf_counter()

    def on_sample(self, step: int, path: Path, metrics: Mapping[str, float]) -> None:
        self._add("grids")

    def on_alarm(self, step: int, figures: Mapping[str, float], wrong: Mapping[str, str]) -> None:
        self._add("alarm")

    def on_checkpoint(self, step: int, path: Path) -> None:
        self._add("checkpoints")

    def on_stop(self, step: int) -> None:
        self.end = time.perf_counter()

    def _add(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what] += now - self._last
        self._last = now


def _time_training(part: Part, context: Context) -> None:
    clock, iterations = Clock(), context.pick(5000, 200)
    interval = iterations // 5
    # A grid follows a row of the log, so that the clock sees where it begins.
    intervals = {"sample_interval": interval, "checkpoint_interval": interval}
    intervals["log_interval"] = min(WINDOW, interval)
    genkit.train(
        MODEL,
        dataset=torch.from_numpy(context.images),
        device=context.device,
        batch_size=context.batch,
        iterations=iterations,
        out=context.scratch / "train",
        progress=False,
        callbacks=[clock],
        **intervals,
    )
    whole = clock.end - clock.begin
    part.details |= {
        "iterations": iterations,
        "interval": interval,
        "seconds": round(whole, 2),
        "it/s": round(iterations / whole, 1),
        "shares (%)": {
            name: round(100 * seconds / whole, 1) for name, seconds in clock.seconds.items()
        },
    }
