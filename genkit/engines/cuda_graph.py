"""Whole training steps captured once and replayed without Python: CUDA graphs.

Small networks on a GPU are bound by the launches of their kernels. A graph launches all the kernels
of K steps at once. It computes the very bits that the same steps compute when Python runs them.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

import torch
from torch import Tensor

from ..errors import ContractError, first_line
from ._torch_internals import register_generator
from .base import Kind, ShouldStop, Work
from .recording import Recording, record

cuda: Any = torch.cuda  # whose annotations change from release to release
TARGET_SECONDS = 2e-3
"""How long a replay of K steps should take: long beside a launch, short beside a log interval."""
MAX_STEPS = 128
MAX_OPERATIONS = 20_000
"""Of a graph: to instantiate one takes some microseconds for each."""
WARM_UP = 3
"""Steps before capture, as CUDA graphs ask for; they are undone."""
REPLAYS_AHEAD = 2
"""Replays that may be under way: with more, an interrupt would take longer to be heard."""


class Capture(Protocol):
    """Something that can repeat work without Python."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work as often as it takes before it can be captured."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What repeats the work; whether it was also done once meanwhile is left open.

        Raises:
            ContractError: it cannot be captured; random streams are usable as before.
        """

    def seconds(self, replay: Callable[[], None]) -> float:
        """How long a replay takes, measured."""

    def keep_pace(self) -> None:
        """Called after each replay: wait until few enough are under way."""


@final
class CudaCapture:
    """Work on a CUDA device as a CUDA graph; the graphs of one instance share their memory.

    No tensor that is made while capturing may be kept: the graphs of one pool overwrite each
    other's.

    Args:
        generators: what the work draws from, besides the global generators.
        device: where it runs.
    """

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self._generators = generators
        self._device = device
        self._pool = cuda.graph_pool_handle()
        # One for warming up and capturing, so that what libraries keep for a stream is there.
        self._stream = cuda.Stream(device)
        self._under_way: deque[Any] = deque()

    def warm_up(self, work: Callable[[], None]) -> None:
        current = cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with cuda.device(self._device), cuda.stream(self._stream):
            for _ in range(WARM_UP):
                work()
        current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph, current = cuda.CUDAGraph(), cuda.current_stream(self._device)
        for generator in self._generators:
            register_generator(graph, generator)
        cause: Exception | None = None
        try:
            # Of this thread alone: another one may be pinning the images of the next window.
            with (
                cuda.device(self._device),
                cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ),
            ):
                try:
                    work()
                except Exception as error:
                    cause = error
                    raise
        except Exception as error:
            cuda.set_stream(current)  # torch leaves its own where the capture itself fails
            self._heal_generators()
            # That of the step, not that of the capture which it broke off.
            raise ContractError(first_line(cause or error)) from error
        replay: Callable[[], None] = graph.replay
        return replay

    def _heal_generators(self) -> None:
        """Make random streams usable after a failed capture.

        Before torch 2.14 they go on believing that they are captured, and the next draw fails. A
        copied state does not.
        """
        index = self._device.index or 0
        for generator in (*self._generators, cuda.default_generators[index]):
            generator.graphsafe_set_state(generator.clone_state())

    def seconds(self, replay: Callable[[], None], count: int = 20) -> float:
        replay()  # the first one uploads the graph
        cuda.synchronize(self._device)
        start = time.perf_counter()
        for _ in range(count):
            replay()
        cuda.synchronize(self._device)
        return (time.perf_counter() - start) / count

    def keep_pace(self) -> None:
        with cuda.device(self._device):
            event = cuda.Event()
            event.record()
        self._under_way.append(event)
        if len(self._under_way) > REPLAYS_AHEAD:
            self._under_way.popleft().synchronize()


@final
class CudaGraphSteps:
    """Steps as two graphs: one of K steps, and one of a single step for what remains.

    Args:
        work: what a step is made of; one was made already, so that optimizers have their state.
        names: those of its metrics.
        capture: what captures; None: CUDA graphs. Tests hand in a stand-in.
        steps: K; None: as many as take about ``TARGET_SECONDS`` and divide a window.

    Raises:
        ContractError: the step reads on the host, or cannot be captured.
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
        generators = [rng.generator for rng in work.streams.values()]
        self._capture = capture or CudaCapture(generators, work.device)
        self.names = names
        self.kernels = work.kernels.captured
        self.replays = 0
        """Graphs launched; a fall-back to Python would leave it where it is."""
        self._step = work.stacked_step
        self._one = self._buffers(1, work)
        operations = self._check_reads()
        self._capture.warm_up(lambda: self._make(self._one))
        self._replay_one = self._capture.capture(lambda: self._make(self._one))
        if steps is None:
            fitting = round(TARGET_SECONDS / self._capture.seconds(self._replay_one))
            steps = steps_per_replay(min(fitting, MAX_OPERATIONS // operations), work.window)
        self.steps_per_replay = steps
        """K."""
        self._many, self._replay_many = self._one, self._replay_one
        if steps > 1:
            self._many = self._buffers(steps, work)
            self._replay_many = self._capture.capture(lambda: self._make(self._many))

    def _buffers(self, steps: int, work: Work) -> tuple[Tensor, Tensor]:
        """What a graph reads and writes: sample numbers ``(steps, per_step)`` and metrics ``(steps,
        M)``.
        """
        indices = torch.zeros(steps, work.per_step, dtype=torch.int64, device=work.device)
        return indices, torch.zeros(steps, len(self.names), device=work.device)

    def _check_reads(self) -> int:
        """Make a step and look for what would break its capture off; how many operations it has.

        A capture that fails leaves CUDA in a state that is hard to heal, so none is begun for a
        step that is known to fail.
        """
        recording: Recording = record(lambda: self._make(self._one), keep=False)[1]
        recording.check_no_reads()
        return max(1, recording.count)

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
                self._capture.keep_pace()
                made += size
        return result


def steps_per_replay(most: int, window: int, most_of_all: int = MAX_STEPS) -> int:
    """The largest number of steps, at most ``most``, that divides a window: no step remains."""
    most = max(1, min(most, most_of_all))
    return max(number for number in range(1, most + 1) if window % number == 0)


def common_window(intervals: tuple[int, ...], chunk: int) -> int:
    """Steps of a window: what comes between one event and the next, or a part of it.

    Args:
        intervals: steps from one log row, grid or checkpoint to the next.
        chunk: the most steps that the loader brings at a time. Where the interval is longer, the
            window is the largest of equal parts, unless it would be less than half of ``chunk``.
    """
    between = math.gcd(*intervals)
    if between <= chunk:
        return between
    part = steps_per_replay(chunk, between, most_of_all=chunk)
    return part if 2 * part >= chunk else chunk
