"""A CUDA graph of as many kernels as an iteration of genkit launches, each of which does nothing
worth a name.

What remains is the launching itself: no graph of that many kernels can be replayed faster.
"""

import time

import torch
from torch.profiler import ProfilerActivity, profile

from ..work import GRAPH_STEPS, Made, Work, versions
from . import genkit_engine


def kernels(work: Work) -> int:
    """Kernels that one of genkit's iterations launches, counted by torch's profiler; Python runs
    it.
    """
    loop, _ = genkit_engine.make(work, "eager")
    loop.run(20)
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        loop.run(10)
    on_device = torch.autograd.DeviceType.CUDA
    launched = sum(
        event.count for event in recorded.key_averages() if event.device_type == on_device
    )
    return max(1, round(launched / 10))


class Loop:
    def __init__(self, work: Work) -> None:
        one = torch.zeros(1, device=work.device)
        self.count = kernels(work)
        one.add_(1)  # loads the kernel, which is not for a capture to do
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(GRAPH_STEPS * self.count):
                one.add_(1)

    def run(self, steps: int) -> dict[str, float]:
        replays = -(-steps // GRAPH_STEPS)
        begin = time.perf_counter()
        for _ in range(replays):
            self.graph.replay()
        torch.cuda.synchronize()
        nodes = replays * GRAPH_STEPS * self.count
        nanoseconds = 1e9 * (time.perf_counter() - begin) / nodes
        return {"kernels": float(self.count), "ns a kernel": nanoseconds}


def make(work: Work) -> Made:
    if not work.device.startswith("cuda"):
        raise RuntimeError("a CUDA graph needs a CUDA device")
    return Loop(work), versions("torch")
