"""Check 10: throughput beside what a person would write by hand, and beside what no loop beats."""

import argparse
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..__main__ import (
    BrokenContenderError,
    Contender,
    describe,
    launch,
    measure,
    prepare,
    show,
    wait_until_ready,
)
from ..peers import CUDA_CONTENDERS, contenders
from ..work import LOG_INTERVAL
from .finding import Context, Finding, NotApplicableError, Part, Parts
from .place import CLOCKS, query_gpu

MODEL, OURS, EAGER = "simple-gan", "genkit", "genkit, torch's kernels, steps run by Python"
FEW = (OURS, EAGER, "PyTorch, hand-written")
MANY = (
    *FEW,
    *CUDA_CONTENDERS[MODEL],
    "JAX, jit(lax.scan)",
    "matrix products alone",
    "as many empty kernels in a CUDA graph",
)
"""Contenders on a CPU, and on CUDA."""
RATIO = "genkit is times as fast"
ROUNDS = 3
SHORTEST, LONGEST = 0.2, 2.0
"""Seconds of a turn."""
GRACE = 30.0
"""Seconds beyond the budget after which contenders are ended, whatever they do."""


def measure_rates(context: Context) -> Finding:
    """How many iterations a second genkit makes beside hand-written loops, compiled ones, JAX, the
    matrix products alone and empty kernels, at two batch sizes.
    """
    parts = Parts(context)
    if parts.need_cuda(_quote(CUDA_CONTENDERS[MODEL])):
        torch.cuda.empty_cache()  # what earlier checks have left
        parts.details["GPU before"] = query_gpu(*CLOCKS)
    batches = context.pick((128, 1024), (128,)) if context.cuda else (128,)
    started = {batch: _launch(context, batch) for batch in batches}
    everyone = [contender for several in started.values() for contender in several]
    watch = threading.Timer(max(0.0, context.left()) + GRACE, _kill, [everyone])
    watch.start()
    try:
        absent = _warm_up(everyone, context.cuda)
        for position, (batch, several) in enumerate(started.items()):
            present = [contender for contender in several if contender.name not in absent]
            rows = parts.run(f"batch {batch}", _measure, batch, present, len(batches) - position)
            if rows:
                show(MODEL, batch, {"contenders": rows, "absent": absent})
    finally:
        watch.cancel()
        for contender in everyone:
            contender.end()
    parts.details["absent"] = absent
    if context.cuda:
        parts.details["GPU after"] = query_gpu(*CLOCKS)
    lines = [_summarise(batch, parts.details.get(f"batch {batch}", {})) for batch in batches]
    lines += [f"absent: {_quote(absent)}"] if absent else []
    return parts.finding("; ".join(lines))


def _launch(context: Context, batch: int) -> list[Contender]:
    """Start all at once: most of the time until they are ready they import and compile."""
    threads = torch.get_num_threads()
    arguments = argparse.Namespace(device=context.device, threads=threads, batch=batch)
    known, images = contenders(MODEL, context.device), Path(context.images_path)
    wanted = MANY if context.cuda else FEW
    return [launch(name, MODEL, known[name], images, arguments) for name in wanted]


def _warm_up(everyone: Sequence[Contender], cuda: bool) -> dict[str, str]:
    """Let all compile or capture, on CUDA at the same time; who cannot, and why."""

    def make_first_steps(contender: Contender) -> str:
        if why := wait_until_ready(contender):
            return why
        try:
            contender.ask(LOG_INTERVAL)
        except BrokenContenderError as error:
            return str(error)
        return ""

    # On a CPU they would only get in each other's way.
    with ThreadPoolExecutor(len(everyone) if cuda else 1) as pool:
        reasons = list(pool.map(make_first_steps, everyone))
    return {contender.name: why for contender, why in zip(everyone, reasons, strict=True) if why}


def _measure(
    part: Part, context: Context, batch: int, present: list[Contender], batches_left: int
) -> None:
    """Give each its turns, as long as the budget allows them to be.

    One more turn than there are rounds is made beforehand, and about as long is spent on finding
    how many steps it takes.
    """
    if not present:
        raise NotApplicableError("no contender is there")
    rounds = context.pick(ROUNDS, 2)
    turns = len(present) * (rounds + 1.5) * batches_left
    seconds = min(LONGEST, max(SHORTEST, 0.9 * context.left() / turns))
    seconds = context.pick(seconds, SHORTEST)
    for contender in present:
        prepare(contender, seconds)
    measure(present, rounds)
    ours = next((contender for contender in present if contender.name == OURS), None)
    for contender in present:
        row = describe(contender, ours, batch)
        del row["taken GPU MiB"]  # all started at once: it is of all of them
        part.details[contender.name] = row
    part.require(ours is not None, "genkit is absent")
    eager = part.details.get(EAGER, {}).get(RATIO, 1.0)
    if context.cuda:
        part.require(eager >= 1, f"captured steps are {eager} times as fast as Python's")


def _kill(everyone: Sequence[Contender]) -> None:
    """End contenders that have not answered in time: whoever waits for them goes on."""
    for contender in everyone:
        contender.process.kill()


def _summarise(batch: int, rows: dict[str, Any]) -> str:
    if OURS not in rows:
        return f"batch {batch}: not measured"
    ratios = (f'{row[RATIO]} over "{name}"' for name, row in rows.items() if name != OURS)
    return f"batch {batch}: genkit {rows[OURS]['it/s']} it/s, speed-up {', '.join(ratios)}"


def _quote(names: Iterable[str]) -> str:
    """Names that have commas in them, in a list."""
    return ", ".join(f'"{name}"' for name in names)
