"""One contender in a process of its own: numbers of steps on standard input, seconds and losses on
standard output.

``python -m benchmarks`` starts it, so that contenders with different libraries can be run in turn.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from .work import Work


def main(model: str, target: str, images: str, device: str, threads: str) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    module, _, backend = target.partition(":")
    work = Work(model, np.load(Path(images), allow_pickle=False), device, int(threads))
    start = time.perf_counter()
    make = importlib.import_module(module).make
    loop, made_of = make(work, backend) if backend else make(work)
    ready = {"set up (s)": time.perf_counter() - start, "versions": made_of}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        losses = loop.run(int(line))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {
            "seconds": seconds,
            "losses": losses,
            "peak MiB": peak,
            "peak GPU MiB": peak_on_gpu(device),
        }
        print(json.dumps(answer), file=answers, flush=True)


def peak_on_gpu(device: str) -> float | None:
    """The most that torch held there at a time, MiB; None where nothing can say."""
    torch = sys.modules.get("torch")
    return None if device == "cpu" or torch is None else torch.cuda.max_memory_allocated() / 2**20


if __name__ == "__main__":
    main(*sys.argv[1:])
