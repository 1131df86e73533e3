"""What has to be looked at first on a GPU: twelve checks in less than nine minutes, no network::

    python -m benchmarks.gpu [--device cuda] [--data-root DATA] [--out FOLDER]
    [--seconds-limit 540] [--only 1,3] [--quick]

Each check prints a line when it is done; a table comes last. FOLDER has all numbers in ``gpu.json``
and tracebacks in ``gpu.log``. The exit status is 1 if a check failed or ended in an error.

With ``--device cpu`` steps are captured as plans in place of CUDA graphs, and the checks say what
only a GPU can answer. With ``--device meta`` nothing is run.
"""

import argparse
import faulthandler
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from genkit.engines.base import choose_device
from genkit.errors import DeviceError

from ..__main__ import ROOT, load_images
from . import (
    cost,
    exactness,
    layout,
    observation,
    optimizers,
    place,
    randomness,
    rates,
    refusals,
    replay_length,
    signals,
    streaming,
)
from .finding import Check, Context, Finding
from .record import Record, tabulate
from .runner import is_usable, run_checks

CHECKS = (
    Check(1, "where this runs", 5, place.describe_place),
    Check(2, "layout of gradients", 20, layout.check_layouts),
    Check(3, "bits of captured steps", 60, exactness.check_bits),
    Check(4, "steps that cannot be captured", 20, refusals.check_refusals),
    Check(5, "random numbers and resuming", 15, randomness.check_randomness),
    Check(6, "scheduled rates and optimizers", 10, optimizers.check_optimizers),
    Check(7, "alarm, grid and checkpoint", 20, observation.check_observation),
    Check(8, "steps per graph", 60, replay_length.check_lengths),
    Check(9, "where the time goes", 60, cost.measure_cost),
    Check(10, "rates", 120, rates.measure_rates),
    Check(11, "streamed images", 30, streaming.check_streaming),
    Check(12, "interrupts, memory and tests", 20, signals.check_interrupts),
)
QUICK = 0.4
"""Of a budget, with ``--quick``."""
STUCK = 60.0
"""Seconds beyond a check's budget after which the log says where it is."""


def main() -> int:
    """Run the checks; 1 if one failed or ended in an error."""
    parser = make_parser()
    arguments = parser.parse_args()
    checks = choose_checks(arguments, parser)
    begin = time.perf_counter()
    images, source = load_images(arguments.data_root)
    header = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "device": arguments.device,
        "images": source,
    }
    record = Record(arguments.out, header)
    end = begin + arguments.seconds_limit
    with tempfile.TemporaryDirectory() as scratch, (record.folder / "gpu.log").open("a") as log:

        def make_context(check: Check) -> Context:
            watch(check, log)
            return Context(
                check=check,
                device=arguments.device,
                images=images,
                quick=arguments.quick,
                scratch=Path(scratch),
                log=record.log,
                end=time.perf_counter() + check.seconds,
            )

        left = run_checks(checks, make_context, record, end, lambda: is_usable(arguments.device))
        faulthandler.cancel_dump_traceback_later()
        if left:
            continue_in_new_process(left, arguments, record, end)
    print(f"\n{tabulate(record.rows)}\n\n{record.folder}")
    return 0 if record.good else 1


def watch(check: Check, log: TextIO) -> None:
    """Let the log say where a check is that takes far too long."""
    faulthandler.dump_traceback_later(check.seconds + STUCK, file=log)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, cpu or meta (%(default)s)")
    parser.add_argument(
        "--data-root", type=Path, help="where MNIST is; else random images, which cost as much"
    )
    default = ROOT / "benchmarks" / "results" / f"gpu-{time.strftime('%Y-%m-%d')}"
    parser.add_argument(
        "--out", type=Path, default=default, help="folder of the results (by default %(default)s)"
    )
    parser.add_argument(
        "--seconds-limit", type=float, default=540.0, help="of all checks (%(default)s)"
    )
    parser.add_argument("--only", default="", help="numbers of checks, with commas; default: all")
    parser.add_argument("--quick", action="store_true", help="few steps, small batches")
    return parser


def choose_checks(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Check]:
    """The checks that are asked for, as the device and the options have them."""
    known = {str(check.number): check for check in CHECKS}
    numbers = arguments.only.split(",") if arguments.only else list(known)
    if unknown := [number for number in numbers if number not in known]:
        parser.error(f"no check {', '.join(unknown)}; there are 1 to {len(CHECKS)}")
    chosen = [known[number] for number in numbers]
    if arguments.device == "meta":
        return [replace(check, run=skip_on_meta) for check in chosen]
    try:
        choose_device(arguments.device)
    except (DeviceError, RuntimeError) as error:
        parser.error(str(error))
    if arguments.quick:
        chosen = [replace(check, seconds=QUICK * check.seconds) for check in chosen]
    return chosen


def skip_on_meta(context: Context) -> Finding:
    """What every check finds on a device without numbers."""
    check = context.check
    return Finding(check.number, check.title, "not applicable", "nothing runs on the device meta")


def continue_in_new_process(
    left: Sequence[Check], arguments: argparse.Namespace, record: Record, end: float
) -> None:
    """Run the remaining checks where the device works again; their findings are taken over."""
    record.log("the device computes nothing any more: going on in a new process")
    folder = record.folder.absolute() / "continued"
    options = {
        "--device": arguments.device,
        "--out": str(folder),
        "--only": ",".join(str(check.number) for check in left),
        "--seconds-limit": str(end - time.perf_counter()),
        **({"--data-root": str(arguments.data_root.absolute())} if arguments.data_root else {}),
    }
    flat = [part for pair in options.items() for part in pair]
    quick = ["--quick"] if arguments.quick else []
    command = [sys.executable, "-m", "benchmarks.gpu", *flat, *quick]
    subprocess.run(command, cwd=ROOT, check=False)
    record.merge(folder / "gpu.json")


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
