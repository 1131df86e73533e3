"""Check 12: how soon an interrupt stops a training; the memory that was used; tests for CUDA."""

import importlib.util
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import torch

from genkit.training.interrupt import Interrupt
from genkit.training.session import Training

from ..__main__ import ROOT
from .finding import Context, Finding, NotApplicableError, Part, Parts
from .subjects import Heavy, describe_engine, prepare

FAST, SLOW = "simple-gan", 0.02
"""A model whose steps are short, and the seconds of a long step."""
LOG_INTERVALS = (100, 10_000)
DELAY = 0.3
"""Seconds until the signal."""
LIMIT = 0.5
"""Seconds until the device is idle, and two long steps besides."""
PATIENCE = 20.0
"""Seconds after which a training that no signal reaches ends."""


def check_interrupts(context: Context) -> Finding:
    """How long a training goes on after SIGINT, with short and long steps and log intervals, until
    ``run`` returns and until the device is idle.
    """
    parts = Parts(context)
    products = 0
    for name in ("short steps", "long steps"):
        for interval in LOG_INTERVALS:
            if name == "long steps" and not products:
                products = _products_for(context, SLOW)
            wanted = products if name == "long steps" else 0
            parts.run(f"{name}, log interval {interval}", _interrupt, wanted, interval)
    lines = [
        f"{name}: {each['until run returns (ms)']} ms (idle after "
        f"{each['until the device is idle (ms)']})"
        for name, each in parts.details.items()
    ]
    memory = parts.run("peak memory", _read_memory, takes_time=False)
    lines += [f"{name} {value}" for name, value in memory.items()]
    if parts.need_cuda("pytest -k cuda"):
        tested = parts.run("pytest -k cuda", _run_tests)
        lines += [f"pytest: {tested['last line']}"] if tested else []
    return parts.finding("; ".join(lines))


def _interrupt(part: Part, context: Context, products: int, log_interval: int) -> None:
    options = {"log_interval": log_interval, "iterations": 1_000_000}
    if products:
        config = {"products": products, "width": _width(context)}
        training = prepare(context, Heavy, config, **options)
    else:
        training = prepare(context, FAST, **options)
    milliseconds = 1000 * _seconds_a_step(context, training)
    sent, returned, idle = _train_until_signal(context, training)
    part.details |= {
        "engine": describe_engine(training),
        "a step (ms)": round(milliseconds, 3),
        "until run returns (ms)": round(1000 * (returned - sent), 1),
        "until the device is idle (ms)": round(1000 * (idle - sent), 1),
    }
    part.require(returned >= sent > 0, "no signal came")
    limit = LIMIT + 2 * milliseconds / 1000
    part.require(idle - sent < limit, f"{idle - sent:.2f} s until the device is idle")


def _seconds_a_step(context: Context, training: Training) -> float:
    """Over a few steps; they are captured before."""
    training.run(20)
    context.synchronize()
    begin = time.perf_counter()
    training.run(10)
    context.synchronize()
    return (time.perf_counter() - begin) / 10


def _train_until_signal(context: Context, training: Training) -> tuple[float, float, float]:
    """Train by log intervals, as the loop does; when the signal was sent, when ``run`` returned,
    and when the device was idle.
    """
    sent: list[float] = []
    # A process in the background is started with SIGINT ignored, and genkit leaves it so.
    ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    chosen = signal.SIGTERM if ignored else signal.SIGINT

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), chosen)

    timer, interval = threading.Timer(DELAY, send), training.options.log_interval
    with Interrupt() as interrupt:
        begin = time.perf_counter()
        timer.start()
        while not interrupt.requested() and time.perf_counter() - begin < PATIENCE:
            training.run(interval - training.step % interval, interrupt.requested)
            if not interrupt.requested():
                training.means()
        returned = time.perf_counter()
        context.synchronize()
        idle = time.perf_counter()
        timer.join()  # the signal has to come in here
    return sent[0], returned, idle


def _width(context: Context) -> int:
    return 2048 if context.cuda else 256


def _products_for(context: Context, seconds: float) -> int:
    """Products of matrices that take about so long."""
    matrix = torch.eye(_width(context), device=context.device)
    for _ in range(3):
        product = matrix @ matrix
    context.synchronize()
    begin = time.perf_counter()
    for _ in range(20):
        product = matrix @ matrix
    context.synchronize()
    del product
    return max(1, round(seconds / ((time.perf_counter() - begin) / 20)))


def _read_memory(part: Part, context: Context) -> None:
    """Of this process, in all checks so far."""
    part.details["host peak (MiB)"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    if context.cuda:
        part.details |= {
            "GPU peak (MiB)": round(torch.cuda.max_memory_allocated(context.device) / 2**20),
            "GPU reserved (MiB)": round(torch.cuda.max_memory_reserved(context.device) / 2**20),
        }


def _run_tests(part: Part, context: Context) -> None:
    if importlib.util.find_spec("pytest") is None or not (ROOT / "tests").is_dir():
        raise NotApplicableError("pytest or the tests are absent")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-W", "error", "-k", "cuda"]
    seconds = max(30.0, context.left())
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds
    )
    context.log(f"pytest -k cuda:\n{done.stdout}\n{done.stderr}")
    lines = done.stdout.strip().splitlines() or [f"ended with {done.returncode}"]
    part.details["last line"] = lines[-1]
    part.require(done.returncode == 0, lines[-1])
