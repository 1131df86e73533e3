"""``python -m tests.stress [NAME ...]`` runs trials at full size and prints a table of results."""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch

import genkit

from .disk import faults, power_cuts
from .kills import kills
from .malformed import malformed
from .names import names
from .signals import signals

FULL: dict[str, Callable[[Path], Mapping[str, float]]] = {
    "kills": lambda folder: kills(300, folder),
    "faults": faults,
    "power cuts": lambda folder: power_cuts(5000, folder),
    "malformed": lambda folder: malformed(20_000, folder),
    "signals": lambda folder: signals(100, folder),
    "names": lambda folder: names(1000, folder),
}
"""The trials at full size, by name."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(FULL)}; default: all"
    )
    chosen = parser.parse_args().names or list(FULL)
    if unknown := sorted(set(chosen) - FULL.keys()):
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(FULL)}")
    torch.set_num_threads(1)
    versions = f"genkit {genkit.__version__}, torch {torch.__version__}"
    print(f"{date.today()}, {versions}, Python {platform.python_version()}")
    print("| what | result | seconds |\n|---|---|---|")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            result = FULL[name](Path(folder))
        values = ", ".join(
            f"{key}: {value:.3g}" if isinstance(value, float) else f"{key}: {value}"
            for key, value in result.items()
        )
        print(f"| {name} | {values} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
