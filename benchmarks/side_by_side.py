"""Two trainings side by side on the same cores, and one alone: iterations a second.

    python -m benchmarks.side_by_side [--model simple-gan] [--seconds 12] [--rounds 3]
    [--python PYTHON] [--data-root DATA] [OPTION ...]

Real ``genkit train`` commands with their defaults and any further OPTION, ended by a signal after
some seconds. Rates are those of ``timing.jsonl`` once all are training. PYTHON is that of another
environment with a genkit, to compare with.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_SECONDS = 2.0
"""After all are training, in which steps are captured and caches filled."""


def train_together(count: int, python: str, seconds: float, options: list[str]) -> list[float]:
    """Rates of ``count`` trainings at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(number) for number in range(count)]
        command = [python, "-m", "genkit", "train", *options, "--iterations", "1000000"]
        started = [
            subprocess.Popen(
                [*command, "--out", str(run)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for run in runs
        ]
        while not all((run / "timing.jsonl").exists() for run in runs):
            if any(process.poll() is not None for process in started):
                sys.exit(started[0].communicate()[1])
            time.sleep(0.1)
        time.sleep(START_SECONDS)
        before = [read_timing(run) for run in runs]
        time.sleep(seconds)
        for process in started:
            process.send_signal(signal.SIGINT)
        for process in started:
            process.communicate()
        return [rate(rows, read_timing(run)) for rows, run in zip(before, runs, strict=True)]


def read_timing(run: Path) -> list[dict[str, float]]:
    """The whole rows of ``timing.jsonl``."""
    lines = (run / "timing.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def rate(before: list[dict[str, float]], after: list[dict[str, float]]) -> float:
    """Iterations a second between two readings of the rows."""
    kept = after[len(before) :]
    return (after[-1]["step"] - before[-1]["step"]) / sum(row["seconds"] for row in kept)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="simple-gan", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=12, help="of each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="of another environment")
    parser.add_argument("--data-root", help="where MNIST is; default: the embedded digits")
    arguments, further = parser.parse_known_args()
    data = ["--dataset", "digits"]
    if arguments.data_root:
        data = ["--dataset", "mnist", "--data-root", arguments.data_root]
    options = [arguments.model, "--device", "cpu", *data, *further]
    print("| alone, before and after | side by side | together, of one alone |\n|---|---|---|")
    ratios = []

    def train(count: int) -> list[float]:
        return train_together(count, arguments.python, arguments.seconds, options)

    [before] = train(1)
    for _ in range(arguments.rounds):  # between two alone, since machines drift
        both, [after] = train(2), train(1)
        ratios.append(2 * sum(both) / (before + after))
        pair = " + ".join(f"{one:.0f}" for one in both)
        print(f"| {before:.0f}, {after:.0f} | {pair} | {ratios[-1]:.3f} |", flush=True)
        before = after
    print(f"\nmedian {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
