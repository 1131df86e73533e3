"""Check 8: how many steps a CUDA graph should hold."""

import time
from collections.abc import Callable
from typing import Any

import torch

from genkit.engines.base import Work
from genkit.engines.cuda_graph import TARGET_SECONDS, CudaGraphSteps

from .finding import Context, Finding, Part, Parts
from .subjects import prepare

MODELS = ("simple-gan", "ae", "vae")
LENGTHS = (1, 5, 10, 20, 25, 50, 100)
"""Steps per replay; K."""
STEPS = 500
"""Timed at once: a multiple of each K."""
NEAR = 1.02
"""A shorter graph is as good as the best if its steps take at most as many times as long."""


def check_lengths(context: Context) -> Finding:
    """What a step costs in graphs of 1 to 100 steps, and what capturing them costs: how long a
    replay should take.
    """
    parts = Parts(context)
    if parts.need_cuda("a plan on a CPU holds one step"):
        for model in MODELS:
            parts.run(model, measure_lengths, model)
    good = {name: each["shortest good K"] for name, each in parts.details.items()}
    milliseconds = {name: each["its replay (ms)"] for name, each in parts.details.items()}
    lines = (f"{name}: K {k}, a replay {milliseconds[name]} ms" for name, k in good.items())
    chosen = f"genkit aims at {1000 * TARGET_SECONDS:.1f} ms"
    return parts.finding("; ".join([*lines, chosen]) if good else "")


def measure_lengths(part: Part, context: Context, model: str) -> None:
    """Measure a model with each K, as long as there is time."""
    rows: dict[int, dict[str, float]] = {}
    for steps in LENGTHS:
        if rows and context.left() < 0:
            break
        rows[steps] = _measure(context, model, steps)
        context.log(f"{model}, K = {steps}: {rows[steps]}")
    best = min(row["us a step"] for row in rows.values())
    good = next(k for k, row in rows.items() if row["us a step"] <= NEAR * best)
    part.details |= {
        "by K": rows,
        "shortest good K": good,
        "its replay (ms)": round(good * rows[good]["us a step"] / 1000, 2),
        "a single beside the best": round(rows[1]["us a step"] / best, 2),
        "chosen by genkit": _chosen(context, model),
    }


def _measure(context: Context, model: str, steps: int) -> dict[str, float]:
    captured: dict[str, float] = {}

    def make_captured(work: Work, names: tuple[str, ...]) -> CudaGraphSteps:
        context.synchronize()
        free, begin = free_memory(context), time.perf_counter()
        made = CudaGraphSteps(work, names, steps=steps)
        context.synchronize()
        captured["capture (s)"] = round(time.perf_counter() - begin, 3)
        captured["memory (MiB)"] = round((free - free_memory(context)) / 2**20, 1)
        return made

    training = prepare(context, model, how={"make_captured": make_captured})
    training.run(STEPS)
    if training.stepper.kind != "graph":
        raise RuntimeError(training.stepper.fallback_reason)
    seconds = device_seconds(context, lambda: training.run(STEPS))
    return {"us a step": round(1e6 * seconds / STEPS, 2), **captured}


def _chosen(context: Context, model: str) -> Any:
    """K that genkit takes with the options of ``genkit train``."""
    training = prepare(context, model, log_interval=100)
    training.run(100)
    return getattr(training.stepper, "steps_per_replay", None)


def device_seconds(context: Context, work: Callable[[], object]) -> float:
    """Seconds of the device for work, by CUDA events; on a CPU by the clock."""
    context.synchronize()
    if not context.cuda:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    with torch.cuda.device(context.device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1000


def free_memory(context: Context) -> int:
    """Bytes that are free on the GPU; 0 on a CPU."""
    return torch.cuda.mem_get_info(context.device)[0] if context.cuda else 0
