"""How the cost of an iteration grows with batch size, width and size of the dataset::

    python -m benchmarks.growth [--model simple-gan] [--seconds 1.5] [--device cpu] [--json FILE]
    [--plot FILE.png]

genkit's engine on random images of MNIST's size. The values are taken in turn, several rounds;
medians count.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import genkit
from genkit.config import TrainOptions
from genkit.data.datasets import ImageData, Split
from genkit.hookspecs import ModelEntry
from genkit.models import build
from genkit.plugins.registry import discover
from genkit.training.session import Training

BATCHES = (16, 32, 64, 128, 256, 512, 1024, 2048)
WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
IMAGES = (1_000, 10_000, 60_000, 250_000, 1_000_000)
BATCH, COUNT = 128, 60_000
LOG_INTERVAL = 100
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Milliseconds; those near what was measured are drawn."""


def prepare(model: str, device: str, images: int, batch: int, **config: Any) -> Training:
    """A training on as many random images."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(0, 256, (images, 1, 28, 28), dtype=torch.uint8, generator=generator)
    data = ImageData(Split(made), Split(made[:0]), source="random numbers")
    trainer = discover().find(ModelEntry, model).target()
    options = TrainOptions(batch_size=batch, log_interval=LOG_INTERVAL, device=device)
    make_trainer = partial(build, trainer, trainer.Config(**config), data.spec, 0)
    return Training.prepare(make_trainer, data, options)


def milliseconds(measured: Training, seconds: float) -> float:
    """Of one iteration, over whole log intervals of about so many seconds in all."""
    steps, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        before = measured.step
        measured.run(LOG_INTERVAL)
        measured.means()  # waits for the device, as every log interval does
        steps += measured.step - before
    return 1000 * passed / steps


def grow(
    make: Callable[[int], Training], values: tuple[int, ...], seconds: float, rounds: int
) -> dict[int, float]:
    """Median milliseconds of an iteration for each value."""
    trainings = {}
    for value in values:
        print(f"  {value}", file=sys.stderr, flush=True)
        trainings[value] = make(value)
        milliseconds(trainings[value], 0.1 * seconds)
    measured = {
        value: [milliseconds(trainings[value], seconds / rounds) for _ in range(rounds)]
        for value in values
    }
    return {value: round(statistics.median(times), 4) for value, times in measured.items()}


def plot(result: dict[str, Any], path: Path) -> None:
    """Three panels, logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    plain = FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}")
    panels = {
        "batch size": "images a batch",
        "width": "units of the hidden layers",
        "dataset": "images in the dataset",
    }
    measured = [value for key in panels for value in result[key].values()]
    ticks = [tick for tick in TICKS if min(measured) / 2 <= tick <= max(measured) * 2]
    for axis, (key, label) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        values = {int(x): y for x, y in result[key].items()}
        axis.plot(list(values), list(values.values()), marker="o", color="#1f5fa8", linewidth=1.3)
        axis.set(xscale="log", yscale="log", xlabel=label)
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_formatter(plain)
        axis.set_yticks(ticks)
        axis.minorticks_off()
        axis.grid(alpha=0.25, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("milliseconds an iteration")
    where = f"{result['model']} on {result['device']}, {result['threads']} threads"
    what = f"{where}; else batch 128, 60,000 images"
    figure.suptitle(what, x=0.02, ha="left", fontsize=11)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", default="simple-gan", help="a model with the option hidden_dim (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="for each value, about (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="of a value; medians count (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--plot", type=Path, help="draw it there, as PNG")
    arguments = parser.parse_args()
    model, device = arguments.model, arguments.device
    series: dict[str, tuple[tuple[int, ...], Callable[[int], Training]]] = {
        "batch size": (BATCHES, lambda value: prepare(model, device, COUNT, value)),
        "width": (WIDTHS, lambda value: prepare(model, device, COUNT, BATCH, hidden_dim=value)),
        "dataset": (IMAGES, lambda value: prepare(model, device, value, BATCH)),
    }
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks.growth", *sys.argv[1:]]),
        "versions": {"genkit": genkit.__version__, "torch": torch.__version__},
        "model": model,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
    }
    for name, (values, make) in series.items():
        print(name, file=sys.stderr, flush=True)
        result[name] = grow(make, values, arguments.seconds, arguments.rounds)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot:
        plot(result, arguments.plot)


if __name__ == "__main__":
    main()
