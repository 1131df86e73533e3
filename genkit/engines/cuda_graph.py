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
from ..training.interrupt import Interrupt

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
        # Of this thread alone: another one may be gathering the images of the next window in pinned
        # memory.
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
class GraphSteps:
    """Steps as two graphs: one of K steps, and one of a single step for what remains.

    Args:
        step: one update from the sample numbers ``(per_step,)``; its metrics, ``(M,)``.
        per_step: sample numbers that a step takes.
        metrics: M.
        capture: what captures.
        steps: K; None: as many as take about ``TARGET_SECONDS``.
        most: the most that K may be.
    """

    def __init__(
        self,
        step: Callable[[Tensor], Tensor],
        per_step: int,
        metrics: int,
        device: torch.device,
        capture: Capture,
        steps: int | None = None,
        most: int = MAX_STEPS,
    ) -> None:
        self._step = step
        self.replays = 0
        """Graphs launched; a fall-back to Python would leave it where it is."""
        self._one_index = torch.zeros(1, per_step, dtype=torch.int64, device=device)
        self._one_row = torch.zeros(1, metrics, device=device)
        capture.warm_up(lambda: self._work(self._one_index, self._one_row))
        self._one = capture.capture(lambda: self._work(self._one_index, self._one_row))
        self.steps = steps or min(
            MAX_STEPS, most, max(1, round(TARGET_SECONDS / capture.seconds(self._one)))
        )
        """K."""
        self._indices, self._rows, self._many = self._one_index, self._one_row, self._one
        if self.steps == 1:
            return
        self._indices = torch.zeros(self.steps, per_step, dtype=torch.int64, device=device)
        self._rows = torch.zeros(self.steps, metrics, device=device)
        self._many = capture.capture(lambda: self._work(self._indices, self._rows))

    def _work(self, indices: Tensor, rows: Tensor) -> None:
        for number in range(len(indices)):
            rows[number].copy_(self._step(indices[number]))

    def run(self, indices: Tensor, stop: Interrupt | None) -> Tensor:
        """Make a step for each row of ``indices`` (int64 ``(steps, per_step)``), or fewer if
        ``stop`` is asked for.

        Returns:
            The metrics, ``(steps made, M)``, on the device.
        """
        made, result = 0, self._one_row.new_empty(len(indices), self._one_row.shape[1])
        many, whole = len(indices) // self.steps, len(indices) - len(indices) % self.steps
        for shape, part, buffer, rows, replay in (
            ((many, self.steps, -1), slice(0, whole), self._indices, self._rows, self._many),
            (
                (len(indices) - whole, 1, -1),
                slice(whole, None),
                self._one_index,
                self._one_row,
                self._one,
            ),
        ):
            # All views are made at once: one by one, between replays, they cost a small network a
            # per cent.
            views = (
                zip(indices[part].view(shape), result[part].view(shape), strict=True)
                if shape[0]
                else ()
            )
            for given, wanted in views:
                if made and stop:
                    return result[:made]
                buffer.copy_(given)
                replay()
                self.replays += 1
                wanted.copy_(rows)
                made += len(buffer)
        return result
