"""Do two versions of genkit compute the same bits? SHA-256 of what short trainings leave behind.

    python -m benchmarks.bits BEFORE AFTER [--models simple-gan,ae] [--data-root DATA] [--threads 2]

BEFORE and AFTER are the Pythons of two environments that each have a genkit. Every model is trained
with both sets of kernels and both engines, seed 0, in both environments; then a run that BEFORE
trained half-way is resumed by AFTER. Compared are the weights, the optimizer state, the rows of
metrics and the sample grids.
"""

import argparse
import hashlib
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = "simple-gan,ae,vae,dcgan"
COMPARED = ("metrics.jsonl", "samples/*.png", "checkpoints/step-*/*.safetensors")


def train(python: str, model: str, out: Path, steps: int, half: int, options: list[str]) -> None:
    """Train ``model`` into the folder ``out``; a checkpoint and a grid every ``half`` steps."""
    every = str(half)
    intervals = ["--log-interval", "50", "--sample-interval", every, "--checkpoint-interval", every]
    command = [python, "-m", "genkit", "train", model, "--iterations", str(steps), "--seed", "0"]
    call([*command, "--out", str(out), "--device", "cpu", *intervals, *options])


def call(command: list[str]) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")


def digest(run: Path) -> str:
    """One SHA-256 of the names and contents of all that is compared."""
    found = hashlib.sha256()
    files = sorted(path for pattern in COMPARED for path in run.glob(pattern))
    assert len(files) >= 4, f"{run} lacks what is compared: {files}"
    for path in files:
        found.update(str(path.relative_to(run)).encode() + path.read_bytes())
    return found.hexdigest()


def compare(before: str, after: str, model: str, options: list[str], steps: int) -> tuple[str, ...]:
    """Digests of a run by ``before``, of one by ``after``, and of one that ``after`` resumed."""
    half = steps // 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        train(before, model, root / "before", steps, half, options)
        train(after, model, root / "after", steps, half, options)
        train(before, model, root / "resumed", half, half, options)
        call([after, "-m", "genkit", "resume", str(root / "resumed"), "--iterations", str(steps)])
        return tuple(digest(root / name) for name in ("before", "after", "resumed"))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", help="Python of the environment to compare with")
    parser.add_argument("after", help="Python of the environment that is compared")
    parser.add_argument("--models", default=MODELS, help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--threads", default="2", help="default: %(default)s")
    parser.add_argument("--data-root", help="where MNIST is; default: the embedded digits")
    arguments = parser.parse_args()
    data = ["--dataset", "digits"]
    if arguments.data_root:
        data = ["--dataset", "mnist", "--data-root", arguments.data_root]
    print(
        "| model | kernels | engine | before | after | resumed after |\n|---|---|---|---|---|---|"
    )
    wrong = 0
    combinations = itertools.product(
        arguments.models.split(","), ("torch", "onednn"), ("eager", "graph")
    )
    for model, kernels, engine in combinations:
        how = ["--kernels", kernels, "--engine", engine, "--threads", arguments.threads, *data]
        found = compare(arguments.before, arguments.after, model, how, arguments.iterations)
        wrong += len(set(found)) > 1
        shown = " | ".join(each[:16] for each in found)
        print(f"| {model} | {kernels} | {engine} | {shown} |", flush=True)
    if wrong:
        sys.exit(f"{wrong} of them differ")


if __name__ == "__main__":
    main()
