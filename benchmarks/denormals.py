"""Whether denormal numbers slow a training down, and whether flushing them to zero helps::

    python -m benchmarks.denormals [--models simple-gan,ae,vae] [--iterations 20000] [--data-root
    DATA] [--json FILE]

Two processes train the same model in turn, one with ``torch.set_flush_denormal(True)`` before
anything else, a thousand iterations each; every time the denormals among weights and optimizer
state are counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genkit.storage import state

from .__main__ import ROOT, load_images
from .peers import genkit_engine
from .work import Work, versions

TURN = 1000


def child(model: str, flush: str, images: str) -> None:
    """Train a turn for each line on standard input; seconds and denormals on standard output."""
    if (
        flush == "flushed"
    ):  # before there are threads, which take it over from the one that makes them
        torch.set_flush_denormal(True)
    loop, _ = genkit_engine.make(
        Work(model, np.load(Path(images), allow_pickle=False), "cpu", os.cpu_count() or 1)
    )
    smallest = torch.finfo(torch.float32).tiny
    for _ in sys.stdin:
        begin = time.perf_counter()
        loop.run(TURN)
        seconds = time.perf_counter() - begin
        tensors = state.everything(loop.training.trainer).values()
        tiny = sum(
            int(((t != 0) & (t.abs() < smallest)).sum()) for t in tensors if t.is_floating_point()
        )
        print(json.dumps([seconds, tiny]), flush=True)


def compare(model: str, images: Path, turns: int) -> dict[str, Any]:
    """Ratios of the two, turn by turn."""
    command = [sys.executable, "-m", "benchmarks.denormals", "--child", model]
    processes = {
        how: subprocess.Popen(
            [*command, how, str(images)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for how in ("plain", "flushed")
    }
    answers: dict[str, list[list[float]]] = {how: [] for how in processes}
    for turn in range(turns):
        for how in sorted(processes, reverse=bool(turn % 2)):
            process = processes[how]
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            answers[how].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.communicate()
    ratios = [
        plain[0] / flushed[0]
        for plain, flushed in zip(answers["plain"], answers["flushed"], strict=True)
    ]
    return {
        "seconds, plain over flushed": round(statistics.median(ratios), 3),
        "of the last quarter": round(statistics.median(ratios[-max(1, turns // 4) :]), 3),
        "seconds a turn, plain": [round(seconds, 3) for seconds, _ in answers["plain"]],
        "denormals, plain": [int(count) for _, count in answers["plain"]],
        "denormals, flushed": [int(count) for _, count in answers["flushed"]],
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.denormals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="simple-gan,ae,vae", help="which (%(default)s)")
    parser.add_argument(
        "--iterations", type=int, default=20_000, help="of each model and process (%(default)s)"
    )
    parser.add_argument(
        "--data-root", type=Path, help="where MNIST is; else random images, which have other zeros"
    )
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    images, source = load_images(arguments.data_root)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images, allow_pickle=False)
        result = {
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["python -m benchmarks.denormals", *sys.argv[1:]]),
            "versions": versions("genkit-torch", "torch"),
            "images": source,
            "models": {
                model: compare(model, path, max(1, arguments.iterations // TURN))
                for model in arguments.models.split(",")
            },
        }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
