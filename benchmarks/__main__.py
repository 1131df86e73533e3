"""Training throughput of genkit and of what a user would pick instead, in turn, in one session::

    python -m benchmarks [--models simple-gan,vae] [--peers genkit,JAX] [--device cpu] [--rounds 8]
    [--json FILE]

Each contender has a process of its own, with the same number of threads; only one works at a time.
A round gives each about the same time. Medians and spreads are over rounds; what counts is the
ratio of a round, since machines drift. A contender whose library is not installed is named as
absent: ``pip install '.[bench]'`` brings them all.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from genkit.engines import kernels

from .peers import CONTENDERS, contenders as contenders_of
from .work import GRAPH_STEPS, LOG_INTERVAL

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Contender:
    """A process that trains on request."""

    name: str
    process: subprocess.Popen[str]
    errors: IO[str]
    """What it wrote on standard error."""
    ready: dict[str, Any] = field(default_factory=dict)
    first: float = 0.0
    """Seconds of the first few steps, in which things are compiled or captured."""
    steps: int = 0
    """Steps of a round."""
    rates: list[float] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0
    gpu: dict[str, float | None] = field(default_factory=dict)
    """MiB on the GPU, see :func:`benchmarks.contender.gpu_memory`."""
    taken: float | None = None
    """``taken GPU MiB`` before others worked."""
    utilisation: list[float] = field(default_factory=list)
    """Of the GPU, per cent, read during the turns."""

    def ask(self, steps: int) -> float:
        """Make steps; seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise BrokenContenderError(self.why())
        answer = json.loads(line)
        self.losses, self.peak, self.gpu = answer["losses"], answer["peak MiB"], answer["GPU"]
        return float(answer["seconds"])

    def why(self) -> str:
        """The last error that it wrote on standard error, once it has ended."""
        self.process.wait()
        self.errors.seek(0)
        lines = [
            line for line in self.errors.read().splitlines() if "Error" in line.partition(":")[0]
        ]
        return lines[-1][:200] if lines else "it ended without a word"

    def end(self) -> None:
        """Let it go."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.errors.close()


class BrokenContenderError(Exception):
    """A contender that ended in the middle; ``str()`` of it says why."""


def start(
    name: str, model: str, target: str, images: Path, arguments: argparse.Namespace
) -> Contender | str:
    """A contender that is ready, or why there is none."""
    contender = launch(name, model, target, images, arguments)
    return wait_until_ready(contender) or contender


def launch(
    name: str, model: str, target: str, images: Path, arguments: argparse.Namespace
) -> Contender:
    """A contender whose process has begun to import and to build."""
    device, threads = arguments.device, arguments.threads
    environment = os.environ | {
        "BENCH_BATCH": str(arguments.batch),
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": os.environ.get(
            "CUDA_VISIBLE_DEVICES", "" if device == "cpu" else "0"
        ),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={threads}",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the others live beside it
        "JAX_PLATFORMS": "cpu" if device == "cpu" else "cuda",
        "PYTHONWARNINGS": "ignore",
    }
    command = [
        sys.executable,
        "-m",
        "benchmarks.contender",
        model,
        target,
        str(images),
        device,
        str(threads),
    ]
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    return Contender(name, process, errors)


def wait_until_ready(contender: Contender) -> str:
    """Wait until it can be asked; empty, or why it has ended."""
    assert contender.process.stdout is not None
    line = contender.process.stdout.readline()
    if not line:
        return contender.why()
    contender.ready = json.loads(line)
    return ""


def prepare(contender: Contender, seconds: float) -> None:
    """Let it compile or capture what it will, and find how many steps take about ``seconds``.

    Turns are of whole graphs, and of whole log intervals where they are long enough.
    """
    contender.first = contender.ask(2)
    contender.ask(LOG_INTERVAL - 2 - 2 * GRAPH_STEPS)
    contender.ask(GRAPH_STEPS)
    rate = GRAPH_STEPS / contender.ask(GRAPH_STEPS)
    whole = math.lcm(GRAPH_STEPS, LOG_INTERVAL)
    unit = whole if seconds * rate >= whole else GRAPH_STEPS
    contender.steps = max(1, int(seconds * rate) // unit) * unit
    contender.ask(contender.steps)  # another number of steps may be compiled separately
    contender.taken = contender.gpu.get("taken GPU MiB")


def measure(contenders: list[Contender], rounds: int) -> None:
    """Give each contender ``rounds`` turns, in an order that turns."""
    for number in range(rounds):
        for contender in (
            contenders[number % len(contenders) :] + contenders[: number % len(contenders)]
        ):
            with utilisation() as busy:
                contender.rates.append(contender.steps / contender.ask(contender.steps))
            contender.utilisation += busy


@contextlib.contextmanager
def utilisation() -> Iterator[list[float]]:
    """Per cent of the time in which a kernel ran on the first visible GPU, read while the body
    runs, where it can be.
    """
    read: list[float] = []
    if shutil.which("nvidia-smi") is None:
        yield read
        return
    query = [
        "nvidia-smi",
        "-i",
        os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
        "-lms",
        "200",
    ]
    with subprocess.Popen(
        query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as watcher:
        yield read
        watcher.terminate()
        out, _ = watcher.communicate()
    read += [float(line) for line in out.splitlines() if line.strip().isdigit()]


def compare(model: str, arguments: argparse.Namespace, images: Path) -> dict[str, Any]:
    """All contenders of one model."""
    contenders, absent = [], {}
    for name, target in contenders_of(model, arguments.device).items():
        if arguments.peers and not any(
            part.lower() in name.lower() for part in arguments.peers.split(",")
        ):
            continue
        print(f"{model}: starting {name}", file=sys.stderr, flush=True)
        made = start(name, model, target, images, arguments)
        if isinstance(made, str):
            absent[name] = made
            continue
        try:
            prepare(made, arguments.seconds)
        except BrokenContenderError as error:
            absent[name] = str(error)
            made.end()
        else:
            contenders.append(made)
    try:
        measure(contenders, arguments.rounds)
    finally:
        for contender in contenders:
            contender.end()
    ours = next((c for c in contenders if c.name == "genkit"), None)
    rows = {c.name: describe(c, ours, arguments.batch) for c in contenders}
    return {"contenders": rows, "absent": absent}


def describe(c: Contender, ours: Contender | None, batch: int) -> dict[str, Any]:
    """What was measured of a contender, and how many times as fast ``ours`` is."""
    row = {
        "it/s": round(statistics.median(c.rates), 1),
        "lowest": round(min(c.rates), 1),
        "highest": round(max(c.rates), 1),
        "images/s": round(batch * statistics.median(c.rates)),
        "set up (s)": round(c.ready["set up (s)"], 2),
        "first two steps (s)": round(c.first, 2),
        "peak MiB": round(c.peak),
        **{
            name: None if value is None else round(value)
            for name, value in (c.gpu | {"taken GPU MiB": c.taken}).items()
        },
        "GPU utilisation (%)": statistics.median(c.utilisation) if c.utilisation else None,
        "losses": {name: round(value, 3) for name, value in c.losses.items()},
        "versions": c.ready["versions"],
        "rates": [round(rate, 2) for rate in c.rates],
    }
    if ours:
        ratios = [mine / theirs for mine, theirs in zip(ours.rates, c.rates, strict=True)]
        row["genkit is times as fast"] = round(statistics.median(ratios), 3)
    return row


def show(model: str, batch: int, result: dict[str, Any]) -> None:
    """A table in Markdown."""
    columns = (
        "contender",
        "it/s",
        "min, max",
        "images/s",
        "first two steps (s)",
        "speed-up",
    )
    print(f"\n{model}, batch {batch}\n\n| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    for name, row in sorted(result["contenders"].items(), key=lambda item: -item[1]["it/s"]):
        ratio = row.get("genkit is times as fast", "")
        spread = f"{row['lowest']}, {row['highest']}"
        print(
            f"| {name} | {row['it/s']} | {spread} | {row['images/s']} "
            f"| {row['first two steps (s)']} | {ratio} |"
        )
    for name, why in result["absent"].items():
        print(f"| {name} | absent: {why} | | | | |")


def load_images(root: Path | None) -> tuple[np.ndarray, str]:
    """MNIST where it is on disk, else as many random images, which cost as much."""
    from genkit.data.datasets import DataRequest, data_root, load_dataset
    from genkit.errors import DataError
    from genkit.plugins.registry import discover

    try:
        data = load_dataset(discover(), "mnist", DataRequest(data_root(root)))
        return data.train.images[:, 0].numpy(), "MNIST"
    except DataError:
        return np.random.default_rng(0).integers(
            0, 256, (60_000, 28, 28), dtype=np.uint8
        ), "random numbers"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join(CONTENDERS), help="which, of %(default)s")
    parser.add_argument(
        "--peers", default="", help="only those whose name holds one of these parts; default: all"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=128, help="images a batch (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of each contender (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=8, help="turns of each contender (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, about (%(default)s)")
    parser.add_argument(
        "--data-root", type=Path, help="where MNIST is; else random images, which cost as much"
    )
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    if unknown := set(arguments.models.split(",")) - CONTENDERS.keys():
        parser.error(
            f"no contenders for {', '.join(sorted(unknown))}; "
            f"there are some for {', '.join(CONTENDERS)}"
        )

    images, source = load_images(arguments.data_root)
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "images": source,
        "device": arguments.device,
        "threads": arguments.threads,
        "machine": {
            "processor": _processor(),
            "vendor and family": kernels.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "models": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images, allow_pickle=False)
        for model in arguments.models.split(","):
            result["models"][model] = compare(model, arguments, path)
            show(model, arguments.batch, result["models"][model])
            if arguments.json:
                arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor()


if __name__ == "__main__":
    main()
