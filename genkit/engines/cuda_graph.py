"""Whole training steps captured once and replayed without Python: CUDA graphs.

Small networks on a GPU are bound by the launches of their kernels. A graph launches all the kernels
of K steps at once. It computes the very bits that the same steps compute when Python runs them.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, final

import torch
from torch import Tensor

from ..rng import Rng
from .base import Kind, ShouldStop, Work

cuda: Any = torch.cuda  # whose annotations change from release to release
TARGET_SECONDS = 5e-3
"""How long a replay of K steps should take: long beside a launch, short beside a log interval."""
MAX_STEPS = 128
WARM_UP = 3
"""Steps before capture, as CUDA graphs ask for; they are undone."""


class Capture(Protocol):
    """Something that can repeat work without Python."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work as often as it takes before it can be captured."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What repeats the work; whether it was also done once meanwhile is left open."""

    def seconds(self, replay: Callable[[], None]) -> float:
        """How long a replay takes, measured."""


@final
class CudaCapture:
    """Work on a CUDA device as a CUDA graph; the graphs of one instance share their memory."""

    def __init__(self, rng: Rng) -> None:
        self._generator = rng.generator
        self._device = rng.device
        self._pool = cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], None]) -> None:
        stream = cuda.Stream(self._device)
        stream.wait_stream(cuda.current_stream(self._device))
        with cuda.stream(stream):
            for _ in range(WARM_UP):
                work()
        cuda.current_stream(self._device).wait_stream(stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        # Of this thread alone: another one may be pinning the images of the next window.
        with cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def seconds(self, replay: Callable[[], None], count: int = 20) -> float:
        cuda.synchronize(self._device)
        start = time.perf_counter()
        for _ in range(count):
            replay()
        cuda.synchronize(self._device)
        return (time.perf_counter() - start) / count


@final
class CudaGraphSteps:
    """Steps as two graphs: one of K steps, and one of a single step for what remains.

    Args:
        work: what a step is made of; one was made already, so that optimizers have their state.
        names: those of its metrics.
        capture: what captures; None: CUDA graphs. Tests hand in a stand-in.
        steps: K; None: as many as take about ``TARGET_SECONDS``, at most what the loader brings.
    """

    kind: Kind = "graph"
    fallback_reason = ""

    def __init__(
        self,
        work: Work,
        names: tuple[str, ...],
        capture: Capture | None = None,
        steps: int | None = None,
    ) -> None:
        capture = capture or CudaCapture(work.rng)
        self.names = names
        self.replays = 0
        """Graphs launched; a fall-back to Python would leave it where it is."""
        self._step = work.stacked_step
        self._one = self._buffers(1, work)
        capture.warm_up(lambda: self._make(self._one))
        self._replay_one = capture.capture(lambda: self._make(self._one))
        fitting = round(TARGET_SECONDS / capture.seconds(self._replay_one))
        self.steps_per_replay = steps or min(MAX_STEPS, work.loader.chunk, max(1, fitting))
        """K."""
        self._many, self._replay_many = self._one, self._replay_one
        if self.steps_per_replay > 1:
            self._many = self._buffers(self.steps_per_replay, work)
            self._replay_many = capture.capture(lambda: self._make(self._many))

    def _buffers(self, steps: int, work: Work) -> tuple[Tensor, Tensor]:
        """What a graph reads and writes: sample numbers ``(steps, per_step)`` and metrics ``(steps,
        M)``.
        """
        indices = torch.zeros(steps, work.per_step, dtype=torch.int64, device=work.device)
        return indices, torch.zeros(steps, len(self.names), device=work.device)

    def _make(self, buffers: tuple[Tensor, Tensor]) -> None:
        """The work that is captured: a step for each row."""
        indices, metrics = buffers
        for number in range(len(indices)):
            metrics[number].copy_(self._step(indices[number]))

    def steps(self, indices: Tensor, should_stop: ShouldStop) -> Tensor:
        """See :meth:`genkit.engines.base.Stepper.steps`."""
        k, total = self.steps_per_replay, len(indices)
        made, result = 0, self._one[1].new_empty(total, len(self.names))
        whole = total - total % k
        for part, size, buffers, replay in (
            (slice(0, whole), k, self._many, self._replay_many),
            (slice(whole, None), 1, self._one, self._replay_one),
        ):
            # All views are made at once: made between replays, they cost a small network 1 %.
            shape = (len(indices[part]) // size, size, -1)
            views = (indices[part].view(shape), result[part].view(shape)) if shape[0] else ((), ())
            for given, wanted in zip(*views, strict=True):
                if made and should_stop():
                    return result[:made]
                buffers[0].copy_(given)
                replay()
                self.replays += 1
                wanted.copy_(buffers[1])
                made += size
        return result
