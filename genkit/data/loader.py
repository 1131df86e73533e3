"""Batches: which samples a step sees, and how they reach the device."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from ..interfaces import Batch
from ..rng import derive_seed
from .datasets import Split
from .images import from_uint8

cuda: Any = torch.cuda  # whose annotations change from release to release
CHUNK_BYTES = 2**26
"""Images that a stream copies to the device at a time; as many wait on the host."""
CHUNK_STEPS = 256
"""The most steps that they are for."""


class Order:
    """Which samples step t sees: a function of (seed, t) alone, drawn with replacement.

    Indices are drawn on the host in blocks of steps, which shares the cost of a draw and leaves no
    state to save.
    """

    BLOCK = 256
    """Steps."""

    def __init__(self, samples: int, per_step: int, seed: int) -> None:
        self.samples = samples
        self.per_step = per_step
        self._key = derive_seed(seed, "order")
        self._cached: tuple[int, np.ndarray] = (-1, np.empty(0))

    def indices(self, first: int, steps: int) -> Tensor:
        """Sample numbers of ``steps`` steps from ``first`` on, int64 ``(steps, per_step)``."""
        rows = [self._block(t // self.BLOCK)[t % self.BLOCK] for t in range(first, first + steps)]
        return torch.from_numpy(np.stack(rows))

    def _block(self, number: int) -> np.ndarray:
        if self._cached[0] != number:
            generator = np.random.Generator(np.random.Philox(key=[self._key, number]))
            self._cached = (
                number,
                generator.integers(self.samples, size=(self.BLOCK, self.per_step)),
            )
        return self._cached[1]


class Loader(Protocol):
    """Brings training images to the device, a window of steps at a time."""

    chunk: int
    """The most steps in a window."""

    def windows(self, first: int, steps: int) -> Iterator[Tensor]:
        """Bring the images of ``steps`` steps from ``first`` on to the device, window by window.

        Yields int64 ``(at most chunk, B)``: a row per step, which :meth:`batch` takes. The images
        of a window stay on the device until the next one is requested.
        """

    def batch(
        self, index: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Batch:
        """Gather and scale the batch of one row ``(B,)`` of a window, on the device."""

    def close(self) -> None:
        """Release what windows need; no other is requested."""


def make_loader(split: Split, order: Order, device: torch.device) -> Loader:
    """A loader of resident images if they take at most half of the device's free memory.

    Otherwise they are streamed.
    """
    if device.type == "cuda" and split.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return Streamed(split, order, device)
    return Resident(split, order, device)


class _OnDevice:
    """Gathers batches from uint8 images on the device."""

    images: Tensor
    labels: Tensor | None

    def batch(
        self, index: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Batch:
        images = from_uint8(self.images.index_select(0, index)).contiguous(
            memory_format=memory_format
        )
        return Batch(images, None if self.labels is None else self.labels.index_select(0, index))


@final
class Resident(_OnDevice):
    """Keeps a whole split on the device, as uint8."""

    chunk = 2**31

    def __init__(self, split: Split, order: Order, device: torch.device | str) -> None:
        self._order = order
        self._device = torch.device(device)
        self.images = split.images.to(device)
        self.labels = None if split.labels is None else split.labels.to(device)

    def windows(self, first: int, steps: int) -> Iterator[Tensor]:
        indices = self._order.indices(first, steps)
        if self._device.type == "cuda":  # from pinned memory, nothing waits for the copy
            with cuda.device(self._device):
                indices = indices.pin_memory()
        yield indices.to(self._device, non_blocking=True)

    def close(self) -> None:
        """There is nothing to release."""


@final
class Streamed(_OnDevice):
    """Streams a split that is too large for the device.

    While steps are made, a thread gathers the next images in pinned memory. The images of every
    window lie at the same address on the device, where a captured graph finds them, so a window is
    copied when the steps before are done.

    Args:
        split: the images, on the host.
        order: which of them a step sees.
        device: where batches are made.
        chunk: steps in a window; None: as many as have ``CHUNK_BYTES`` of images.
    """

    def __init__(
        self, split: Split, order: Order, device: torch.device, chunk: int | None = None
    ) -> None:
        step_bytes = order.per_step * split.images[0].nbytes
        self.chunk = chunk or min(CHUNK_STEPS, max(1, CHUNK_BYTES // step_bytes))
        self._order = order
        self._split = split
        self._device = device
        room = self.chunk * order.per_step
        self.images = torch.empty((room, *split.images.shape[1:]), dtype=torch.uint8, device=device)
        self.labels = (
            None if split.labels is None else torch.empty(room, dtype=torch.int64, device=device)
        )
        self._local = torch.arange(room, device=device).view(self.chunk, order.per_step)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="genkit-stream")
        self._buffers = [_HostBuffer(split, room, device) for _ in range(2)]
        self._next: tuple[int, int, Future[_HostBuffer]] | None = None

    def windows(self, first: int, steps: int) -> Iterator[Tensor]:
        end = first + steps
        while first < end:
            count = min(self.chunk, end - first)
            buffer, rows = self._gathered(first, count), count * self._order.per_step
            buffer.copy_to(self.images, self.labels, rows)
            self._buffers.reverse()  # the next images go to the other one, while this is copied
            first += count
            # Beyond the last requested step, the next window is gathered: it is likely requested.
            ahead = min(self.chunk, end - first) or count
            self._next = (
                first,
                ahead,
                self._thread.submit(self._buffers[0].gather, self._order.indices(first, ahead)),
            )
            yield self._local[:count]

    def _gathered(self, first: int, count: int) -> "_HostBuffer":
        if self._next is not None:
            start, ahead, future = self._next
            buffer = future.result()  # also where it is of no use: one thread writes at a time
            if start == first and ahead >= count:
                return buffer
        return self._buffers[0].gather(self._order.indices(first, count))

    def close(self) -> None:
        self._next = None
        self._thread.shutdown(cancel_futures=True)


@final
class _HostBuffer:
    """Images and labels of a window on the host, in memory that a CUDA device copies from."""

    def __init__(self, split: Split, room: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._split = split
        shape = (room, *split.images.shape[1:])
        with cuda.device(device) if pinned else nullcontext():
            self._images = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            self._labels = torch.empty(room, dtype=torch.int64, pin_memory=pinned)
        self._copied: Any = cuda.Event() if pinned else None
        """Recorded behind the last copy to the device."""

    def gather(self, indices: Tensor) -> "_HostBuffer":
        """Take the samples of steps, int64 ``(steps, B)``."""
        if self._copied is not None:
            self._copied.synchronize()
        index = indices.flatten().numpy()
        # numpy's take, because it releases the interpreter lock.
        images = self._images[: len(index)].numpy()
        np.take(self._split.images.numpy(), index, axis=0, out=images, mode="clip")
        if self._split.labels is not None:
            labels = self._labels[: len(index)].numpy()
            np.take(self._split.labels.numpy(), index, out=labels, mode="clip")
        return self

    def copy_to(self, images: Tensor, labels: Tensor | None, rows: int) -> None:
        """Copy the first ``rows`` samples to the device, behind the steps that are under way."""
        images[:rows].copy_(self._images[:rows], non_blocking=True)
        if labels is not None:
            labels[:rows].copy_(self._labels[:rows], non_blocking=True)
        if self._copied is not None:
            self._copied.record(cuda.current_stream(images.device))


def iterate_batches(split: Split, size: int, device: torch.device | str) -> Iterator[Batch]:
    """Yield the whole split once, in batches of ``size`` on the device; the last may be smaller."""
    for start in range(0, len(split), size):
        labels = None if split.labels is None else split.labels[start : start + size].to(device)
        yield Batch(from_uint8(split.images[start : start + size].to(device)), labels)
