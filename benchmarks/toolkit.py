"""What the toolkit costs beside its engine: start-up, logging and checkpoints, sampling::

    python -m benchmarks.toolkit [--data-root DATA] [--iterations 20000] [--rounds 10] [--json FILE]

Start-up is that of a command in a new process, beside a Python that imports torch, loads the same
images and makes one Adam step. What logging, progress, grids and checkpoints take is measured
within one training: the seconds outside the engine over those inside.

All of it is for the CPU, where a step is done when the call returns. Check 9 of ``python -m
benchmarks.gpu`` measures the same on a GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import genkit
from genkit.data.datasets import data_root
from genkit.engines.base import never_stop
from genkit.storage import checkpoint, state
from genkit.training.session import Training

BARE = """
import sys
import numpy as np
import torch
raw = sys.argv[1]
files = {
    "train-images-idx3": 16,
    "train-labels-idx1": 8,
    "t10k-images-idx3": 16,
    "t10k-labels-idx1": 8,
}
images, labels, *held_out = (
    torch.from_numpy(np.fromfile(f"{raw}/{file}-ubyte", dtype=np.uint8)[at:])
    for file, at in files.items()
)
network = torch.nn.Sequential(
    torch.nn.Linear(784, 128), torch.nn.LeakyReLU(0.01), torch.nn.Linear(128, 1)
)
adam = torch.optim.Adam(network.parameters(), fused=True)
batch = images.view(-1, 784)[torch.randint(60000, (128,))].float() / 127.5 - 1
torch.nn.functional.binary_cross_entropy_with_logits(network(batch), torch.ones(128, 1)).backward()
adam.step()
"""


def start_up(root: Path, rounds: int) -> dict[str, Any]:
    """Seconds of commands in new processes, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        genkit_command = [sys.executable, "-m", "genkit"]
        train = [
            "train",
            "simple-gan",
            "--iterations",
            "1",
            "--data-root",
            str(root),
            "--device",
            "cpu",
        ]
        commands: dict[str, Callable[[int], list[str]]] = {
            "genkit --help": lambda _: [*genkit_command, "--help"],
            "genkit models": lambda _: [*genkit_command, "models"],
            "import torch": lambda _: [sys.executable, "-c", "import torch"],
            "torch, the images, one Adam step": lambda _: [
                sys.executable,
                "-c",
                BARE,
                str(root / "MNIST" / "raw"),
            ],
            "genkit train simple-gan --iterations 1": lambda n: [
                *genkit_command,
                *train,
                "--out",
                f"{folder}/{n}",
            ],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                begin = time.perf_counter()
                subprocess.run(command(number), check=True, capture_output=True, cwd=folder)
                if number:  # the first round fills the disk's cache
                    seconds[name].append(time.perf_counter() - begin)
    bare, ours = list(commands)[-2:]
    ratios = [mine / theirs for mine, theirs in zip(seconds[ours], seconds[bare], strict=True)]
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    return {"seconds": medians, "train over bare": round(statistics.median(ratios), 3)}


def training(root: Path, iterations: int, folder: Path) -> tuple[dict[str, Any], genkit.Run]:
    """One training as a user starts it: seconds in the engine and outside it, and the rate of its
    parts.
    """
    inside: list[tuple[int, float]] = []
    untimed = Training.run

    def timed(self: Training, steps: int, should_stop: Any = never_stop) -> None:
        begin = time.perf_counter()
        untimed(self, steps, should_stop)
        inside.append((steps, time.perf_counter() - begin))

    Training.run = timed  # type: ignore[method-assign]
    ends: list[float] = []

    class Ends(genkit.Callback):
        def on_start(self, *_: Any) -> None:
            ends.append(time.perf_counter())

        def on_stop(self, step: int) -> None:
            ends.append(time.perf_counter())

    try:
        options = {"dataset": "mnist", "data_root": root, "iterations": iterations, "device": "cpu"}
        run = genkit.train("simple-gan", **options, out=folder / "run", callbacks=[Ends()])
    finally:
        Training.run = untimed  # type: ignore[method-assign]
    whole, engine = ends[1] - ends[0], sum(seconds for _, seconds in inside)
    thousand = max(1, 1000 * len(inside) // iterations)

    def rate(part: list[tuple[int, float]]) -> float:
        return round(sum(steps for steps, _ in part) / sum(seconds for _, seconds in part), 1)

    return {
        "iterations": iterations,
        "seconds in the engine": round(engine, 2),
        "seconds outside": round(whole - engine, 2),
        "outside over inside (%)": round(100 * (whole - engine) / engine, 2),
        "it/s by thousands": [
            rate(inside[at : at + thousand]) for at in range(0, len(inside), thousand)
        ],
    }, run


def timed(action: Callable[[], object], rounds: int) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return round(statistics.median(seconds), 4)


def around(run: genkit.Run, root: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Median seconds of what is done with a run."""
    data = run.data(root)
    begun = Training.prepare(run.build, data, run.info.options)
    begun.run(1)
    networks, rest = state.networks(begun.trainer), begun.state()
    steps = iter(range(1, 1 + 2 * rounds))

    def load_and_sample() -> None:
        genkit.load(run.path).sample(1)

    return {
        "checkpoint, written durably": timed(
            lambda: checkpoint.write(folder / "checkpoints", next(steps), networks, rest), rounds
        ),
        "checkpoint, verified and read": timed(run.newest_checkpoint, rounds),
        "load a run and draw one image": timed(load_and_sample, rounds),
        "sample 10,000 images": timed(lambda: run.sample(10_000), rounds),
        "read MNIST and its fingerprint": timed(lambda: run.data(root), rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.toolkit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-root", type=Path, help="where MNIST is")
    parser.add_argument(
        "--iterations", type=int, default=20_000, help="of the training (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="of what is done several times (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    root = data_root(arguments.data_root).absolute()
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks.toolkit", *sys.argv[1:]]),
        "versions": {"genkit": genkit.__version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "start-up": start_up(root, arguments.rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        result["training"], run = training(root, arguments.iterations, Path(folder))
        result["around"] = around(run, root, Path(folder), arguments.rounds)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
