"""Functions called in a process of their own: what they break there breaks nothing here.

``python -m benchmarks.gpu.apart MODULE:FUNCTION`` reads the arguments as JSON from standard input
and writes the result as JSON to standard output.
"""

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from ..__main__ import ROOT
from .finding import Context

LEAST_SECONDS = 30.0
"""A process is given at least: importing torch can take as long."""


class ChildError(Exception):
    """A process that ended without a result; ``str()`` of it says why."""


def call(
    target: str, arguments: dict[str, Any], context: Context, threads: int | None = None
) -> dict[str, Any]:
    """Call ``MODULE:FUNCTION`` of this package in a new process.

    Args:
        target: what is called.
        arguments: it gets them, with ``device`` and ``images`` besides.
        context: of the check.
        threads: torch's there; None: as many as here, on which bits on a CPU depend.

    Raises:
        ChildError: it raised an error, crashed or took too long.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.apart", target]
    given = {"device": context.device, "images": context.images_path}
    environment = os.environ | {"OMP_NUM_THREADS": str(threads or torch.get_num_threads())}
    seconds = max(LEAST_SECONDS, context.left())
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=json.dumps(given | arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"took more than {seconds:.0f} s") from None
    if done.stderr.strip():
        context.log(f"{target} {arguments}, standard error:\n{done.stderr}")
    if done.returncode < 0:
        raise ChildError(f"ended by signal {-done.returncode}")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise ChildError(lines[-1])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def call_all(
    target: str, several: dict[str, dict[str, Any]], context: Context
) -> dict[str, "Future[dict[str, Any]]"]:
    """:func:`call` with each of several arguments at the same time, which share the threads; all
    are done on return.
    """
    assert context.images_path  # written once, before several want to read it
    threads = max(1, torch.get_num_threads() // max(1, len(several)))
    with ThreadPoolExecutor(max(1, len(several))) as pool:
        return {
            name: pool.submit(call, target, arguments, context, threads)
            for name, arguments in several.items()
        }


def main(target: str) -> None:
    """Call a function with what standard input says."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    module, _, function = target.partition(":")
    called = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)
    print(json.dumps(called(json.load(sys.stdin))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
