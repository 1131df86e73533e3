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
from typing import Any

import numpy as np

from .work import Work


def main(model: str, target: str, images: str, device: str, threads: str) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    module, _, backend = target.partition(":")
    work = Work(model, np.load(Path(images), allow_pickle=False), device, int(threads))
    start = time.perf_counter()
    make = importlib.import_module(module).make
    free_before = free_on_gpu(device)
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
            "GPU": gpu_memory(device, free_before),
        }
        print(json.dumps(answer), file=answers, flush=True)


def torch_of(device: str) -> Any:
    """torch, where the contender uses it and the device is a GPU; else None."""
    return None if device == "cpu" else sys.modules.get("torch")


def free_on_gpu(device: str) -> float | None:
    """Free memory of the GPU, MiB, once torch has its context there; None without torch."""
    if (torch := torch_of(device)) is None:
        return None
    torch.cuda.set_device(device if ":" in device else 0)
    return torch.cuda.mem_get_info()[0] / 2**20


def gpu_memory(device: str, free_before: float | None) -> dict[str, float | None]:
    """MiB: the most that tensors took at a time, what torch's allocator holds, and by how much the
    free memory fell. The last counts graphs and kernels, but also what others took meanwhile.
    """
    if (torch := torch_of(device)) is None or free_before is None:
        return {"peak GPU MiB": None, "reserved GPU MiB": None, "taken GPU MiB": None}
    return {
        "peak GPU MiB": torch.cuda.max_memory_allocated() / 2**20,
        "reserved GPU MiB": torch.cuda.memory_reserved() / 2**20,
        "taken GPU MiB": free_before - torch.cuda.mem_get_info()[0] / 2**20,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
