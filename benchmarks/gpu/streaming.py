"""Check 11: images that are streamed to the device, against images that lie on it."""

import time
from typing import Any

import torch

from genkit.data.datasets import Split
from genkit.data.loader import CHUNK_BYTES, Loader, Order, Resident, Streamed
from genkit.training.session import MakeLoader, Training

from .comparison import first_difference
from .finding import Context, Finding, Part, Parts
from .subjects import describe_engine, prepare, run_windows

MODEL = "simple-gan"


def check_streaming(context: Context) -> Finding:
    """Whether streamed images give the bits of resident ones, at which rate, and whether steps can
    be captured while a thread fills pinned memory.
    """
    parts = Parts(context)
    for name, chunk in (("chunk 5", 5), ("default chunk", None)):
        parts.run(name, _compare, chunk)
    if parts.need_cuda("capture while a thread fills 64 MiB of pinned memory"):
        parts.run("captured while pinning", _capture_while_pinning)
    lines = (
        f"{name}: {each['streamed (it/s)']} it/s streamed, {each['resident (it/s)']} resident"
        for name, each in parts.details.items()
        if "streamed (it/s)" in each
    )
    return parts.finding("; ".join(lines))


def _compare(part: Part, context: Context, chunk: int | None) -> None:
    windows = context.pick((1, 7, 92), (1, 7, 12))
    streamed = _prepare(context, _stream(chunk))
    resident = _prepare(context, Resident)
    for training in (streamed, resident):
        run_windows(training, *windows)
    difference = first_difference(streamed, resident)
    part.details |= {
        "engine": describe_engine(streamed),
        "steps per replay": getattr(streamed.stepper, "steps_per_replay", None),
        "difference": str(difference or "none"),
        "streamed (it/s)": _rate(context, streamed),
        "resident (it/s)": _rate(context, resident),
    }
    part.require(difference is None, str(difference))
    part.require(streamed.stepper.kind == "graph", f"the engine is {describe_engine(streamed)}")
    for training in (streamed, resident):
        training.close()


def _capture_while_pinning(part: Part, context: Context) -> None:
    """The first steps of two windows of 64 MiB: the second is gathered while steps are captured."""
    step_bytes = context.batch * context.data.train.images[0].nbytes
    chunk = CHUNK_BYTES // step_bytes
    options = {"log_interval": 2 * chunk}
    streamed = _prepare(context, _stream(chunk), **options)
    resident = _prepare(context, Resident, **options)
    for training in (streamed, resident):
        training.run(2 * chunk)
    difference = first_difference(streamed, resident)
    part.details |= {
        "chunk": chunk,
        "engine": describe_engine(streamed),
        "difference": str(difference or "none"),
    }
    part.require(difference is None, str(difference))
    part.require(streamed.stepper.kind == "graph", f"the engine is {describe_engine(streamed)}")
    streamed.close()


def _prepare(context: Context, make_loader: MakeLoader, **options: Any) -> Training:
    return prepare(context, MODEL, how={"loader_factory": make_loader}, **options)


def _stream(chunk: int | None) -> MakeLoader:
    def make(split: Split, order: Order, device: torch.device) -> Loader:
        return Streamed(split, order, device, chunk)

    return make


def _rate(context: Context, training: Training) -> float:
    """Iterations a second over a few hundred steps."""
    steps = context.pick(300, 20)
    context.synchronize()
    begin = time.perf_counter()
    training.run(steps)
    context.synchronize()
    return round(steps / (time.perf_counter() - begin), 1)
