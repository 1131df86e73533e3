"""A CUDA graph of as many kernels as an iteration of genkit launches, each of which does nothing
worth a name.

What remains is the launching itself: no graph of that many kernels can be replayed faster.
"""

import torch
from torch.profiler import ProfilerActivity, profile

from ..work import Made, Work, versions
from . import genkit_engine

STEPS = 32
"""Iterations in a graph."""


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
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(STEPS * self.count):
                one.add_(1)

    def run(self, steps: int) -> dict[str, float]:
        for _ in range(-(-steps // STEPS)):
            self.graph.replay()
        torch.cuda.synchronize()
        return {"kernels": float(self.count)}


def make(work: Work) -> Made:
    if not work.device.startswith("cuda"):
        raise RuntimeError("a CUDA graph needs a CUDA device")
    return Loop(work), versions("torch")
