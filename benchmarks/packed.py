"""A million packed images: size, time to open, peak memory; and the rate of training from them::

    python -m benchmarks.packed [--images 1000000] [--size 64] [--channels 3] [--folder DIR]
    [--model simple-gan] [--compared 100000] [--seconds 60] [--rounds 5] [--json FILE]

The images are random numbers, made on the spot in ``--folder`` and removed afterwards. Another
process opens them and takes windows. Then two trainings, one from memory and one from a file that
is mapped, take turns; the median of the ratio of each round counts.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genkit
from genkit.config import TrainOptions
from genkit.data.datasets import ImageData
from genkit.data.loader import Order, make_loader
from genkit.hookspecs import ModelEntry
from genkit.models import build
from genkit.plugins.registry import discover
from genkit.training.session import Training

from .growth import LOG_INTERVAL, milliseconds

BATCH, WINDOWS = 128, 200
CHUNK = 2048
"""Images that are made at a time."""


def make(path: Path, images: int, shape: tuple[int, int, int]) -> None:
    """Write random images, every tenth held out, with labels of ten classes."""
    generator = np.random.default_rng(0)
    held_out = images // 10
    with genkit.create_packed(path, shape, None, True, classes=10, expected=images) as writer:
        for count, is_held_out in ((images - held_out, False), (held_out, True)):
            for start in range(0, count, CHUNK):
                size = min(CHUNK, count - start)
                made = generator.integers(0, 256, (size, *shape), dtype=np.uint8)
                writer.add(made, generator.integers(10, size=size), is_held_out)
        writer.finish("random numbers", None)


def open_and_take(path: Path, windows: int) -> dict[str, float]:
    """What it takes this process to open a file and to bring so many windows to the CPU."""
    before = peak_mib()
    begin = time.perf_counter()
    data = genkit.open_packed(path)
    opened = time.perf_counter() - begin
    after_opening = peak_mib()
    order = Order(len(data.train), BATCH, seed=0)
    loader = make_loader(data.train, order, torch.device("cpu"))
    begin, images = time.perf_counter(), 0
    for number in range(windows):
        for window in loader.windows(number * loader.chunk, loader.chunk):
            images += window.numel()
    passed = time.perf_counter() - begin
    loader.close()
    window_bytes = loader.chunk * BATCH * data.train.images[0].nbytes
    return {
        "seconds to open": round(opened, 2),
        "MiB of a process that opens nothing": round(before),
        "peak MiB of opening": round(after_opening),
        "peak MiB": round(peak_mib()),
        "MiB of a window": round(window_bytes / 2**20),
        "windows": windows,
        "images/s of windows alone": round(images / passed),
    }


def peak_mib() -> float:
    """The most memory that this process has had, pages of mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def prepare(data: ImageData, model: str) -> Training:
    """A training on the CPU."""
    trainer = discover().find(ModelEntry, model).target()
    options = TrainOptions(batch_size=BATCH, log_interval=LOG_INTERVAL, device="cpu")
    return Training.prepare(partial(build, trainer, trainer.Config(), data.spec, 0), data, options)


def compare_rates(path: Path, model: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Rates of training from memory and from the mapped file, in turns."""
    memory = prepare(genkit.open_packed(path, max_memory_bytes=2**40), model)
    mapped = prepare(genkit.open_packed(path, max_memory_bytes=0), model)
    for training in (memory, mapped):
        milliseconds(training, 1.0)
    ratios, rates = [], []
    for number in range(rounds):
        order = (memory, mapped) if number % 2 else (mapped, memory)
        taken = {id(each): milliseconds(each, seconds / rounds) for each in order}
        ratios.append(taken[id(memory)] / taken[id(mapped)])
        rates.append(1000 / taken[id(memory)])
        print(f"  round {number + 1}: {ratios[-1]:.3f}", file=sys.stderr, flush=True)
    engines = memory.stepper.kind, mapped.stepper.kind
    for training in (memory, mapped):
        training.close()
    return {
        "model": model,
        "batch": BATCH,
        "engines": engines,
        "steps/s from memory": round(statistics.median(rates), 1),
        "rate from a mapped file over rate from memory": round(statistics.median(ratios), 3),
        "of rounds": [round(ratio, 3) for ratio in sorted(ratios)],
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it."""
    shape = (arguments.channels, arguments.size, arguments.size)
    path = folder / "million.packed"
    begin = time.perf_counter()
    make(path, arguments.images, shape)
    seconds = time.perf_counter() - begin
    command = [sys.executable, "-m", "benchmarks.packed", "--open", str(path)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    result = {
        "images": arguments.images,
        "shape": shape,
        "GiB of the file": round(path.stat().st_size / 2**30, 2),
        "seconds to make": round(seconds, 1),
        **json.loads(done.stdout),
    }
    path.unlink()
    path = folder / "compared.packed"
    make(path, arguments.compared, shape)
    rates = compare_rates(path, arguments.model, arguments.seconds, arguments.rounds)
    return {**result, "images compared": arguments.compared, **rates}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/var/tmp")))
    parser.add_argument("--model", default="simple-gan")
    parser.add_argument("--compared", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60, help="of each training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(open_and_take(arguments.open, WINDOWS)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = measure(arguments, Path(folder))
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
