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
RELEASE_BYTES = 2**24
"""Of a mapped file that are in memory at a time while a window is gathered."""
NEIGHBOUR_BYTES = 2**16
"""Linux's ``fault_around_bytes``: what it maps around a page that is read."""


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

    Otherwise they are streamed, and always if they are mapped from a file.
    """
    if split.release is not None:
        return Streamed(split, order, device)
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
    """Streams a split that is too large for the device, or mapped from a file.

    While steps are made, a thread gathers the next images on the host. The images of every window
    lie at the same address on the device, where a captured graph finds them, so a window is copied
    when the steps before are done. On a CPU there is nothing to copy: windows lie in the two halves
    of the images in turn.

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
        in_place = device.type == "cpu"
        size = 2 * room if in_place else room
        self.images = torch.empty((size, *split.images.shape[1:]), dtype=torch.uint8, device=device)
        self.labels = (
            None if split.labels is None else torch.empty(size, dtype=torch.int64, device=device)
        )
        local = torch.arange(size, device=device).view(-1, self.chunk, order.per_step)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="genkit-stream")
        self._buffers = [
            _HostBuffer(
                split,
                room,
                device,
                local[half if in_place else 0],
                self._half(half, room) if in_place else None,
            )
            for half in range(2)
        ]
        self._next: tuple[int, int, Future[_HostBuffer]] | None = None

    def _half(self, number: int, room: int) -> tuple[Tensor, Tensor | None]:
        half = slice(number * room, (number + 1) * room)
        return self.images[half], None if self.labels is None else self.labels[half]

    def windows(self, first: int, steps: int) -> Iterator[Tensor]:
        end = first + steps
        while first < end:
            count = min(self.chunk, end - first)
            buffer, rows = self._gathered(first, count), count * self._order.per_step
            buffer.copy_to(self.images, self.labels, rows)
            self._buffers.reverse()  # the next images go to the other one, while this is used
            first += count
            # Beyond the last requested step, the next window is gathered: it is likely requested.
            ahead = min(self.chunk, end - first) or count
            self._next = (
                first,
                ahead,
                self._thread.submit(self._buffers[0].gather, self._order.indices(first, ahead)),
            )
            yield buffer.local[:count]

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
    """Images and labels of a window on the host.

    Args:
        split: what they are taken from.
        room: images of a window.
        device: what they are for; a CUDA device copies them from pinned memory.
        local: int64 ``(chunk, B)``: where they are on the device.
        memory: images and labels on a CPU, which are the buffer; None: it has memory of its own.
    """

    def __init__(
        self,
        split: Split,
        room: int,
        device: torch.device,
        local: Tensor,
        memory: tuple[Tensor, Tensor | None] | None,
    ) -> None:
        pinned = device.type == "cuda"
        self.local = local
        self._split = split
        self._in_place = memory is not None
        shape = (room, *split.images.shape[1:])
        with cuda.device(device) if pinned else nullcontext():
            self._images, self._labels = memory or (
                torch.empty(shape, dtype=torch.uint8, pin_memory=pinned),
                torch.empty(room, dtype=torch.int64, pin_memory=pinned),
            )
        self._copied: Any = cuda.Event() if pinned else None
        """Recorded behind the last copy to the device."""

    def gather(self, indices: Tensor) -> "_HostBuffer":
        """Take the samples of steps, int64 ``(steps, B)``."""
        if self._copied is not None:
            self._copied.synchronize()
        index = indices.flatten().numpy()
        self._gather_images(index)
        if self._split.labels is not None and self._labels is not None:
            labels = self._labels[: len(index)].numpy()
            np.take(self._split.labels.numpy(), index, out=labels, mode="clip")
        return self

    def _gather_images(self, index: np.ndarray) -> None:
        source, images = self._split.images.numpy(), self._images.numpy()
        release = self._split.release
        # With the pages of an image, the system maps their neighbours.
        touched = source[0].nbytes + NEIGHBOUR_BYTES
        part = len(index) if release is None else max(1, RELEASE_BYTES // touched)
        for start in range(0, len(index), part):
            some = index[start : start + part]
            # numpy's take, because it releases the interpreter lock.
            np.take(source, some, axis=0, out=images[start : start + len(some)], mode="clip")
            if release is not None:
                release()

    def copy_to(self, images: Tensor, labels: Tensor | None, rows: int) -> None:
        """Copy the first ``rows`` samples to the device, behind the steps that are under way."""
        if self._in_place:
            return
        images[:rows].copy_(self._images[:rows], non_blocking=True)
        if labels is not None and self._labels is not None:
            labels[:rows].copy_(self._labels[:rows], non_blocking=True)
        if self._copied is not None:
            self._copied.record(cuda.current_stream(images.device))


def iterate_batches(split: Split, size: int, device: torch.device | str) -> Iterator[Batch]:
    """Yield the whole split once, in batches of ``size`` on the device; the last may be smaller."""
    for start in range(0, len(split), size):
        labels = None if split.labels is None else split.labels[start : start + size].to(device)
        images = from_uint8(split.images[start : start + size].to(device))
        if split.release is not None:
            split.release()
        yield Batch(images, labels)
