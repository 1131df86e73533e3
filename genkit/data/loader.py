"""Batches: which samples a step sees, and how they reach the device."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from ..interfaces import Batch
from ..rng import derive_seed
from .datasets import Split
from .images import from_uint8

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
        yield self._order.indices(first, steps).to(self._device)

    def close(self) -> None:
        """There is nothing to release."""


@final
class Streamed(_OnDevice):
    """Streams a split that is too large for the device.

    While steps are made, a thread gathers the next images in pinned memory. The images of every
    window lie at the same address on the device, where a captured graph finds them.

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
        self._next: tuple[int, int, Future[tuple[Tensor, Tensor | None]]] | None = None

    def windows(self, first: int, steps: int) -> Iterator[Tensor]:
        end = first + steps
        while first < end:
            count = min(self.chunk, end - first)
            images, labels = self._gathered(first, count)
            self.images[: len(images)].copy_(images, non_blocking=True)
            if self.labels is not None and labels is not None:
                self.labels[: len(labels)].copy_(labels, non_blocking=True)
            first += count
            # Beyond the last requested step, the next window is gathered: it is likely requested.
            ahead = min(self.chunk, end - first) or count
            self._next = (
                first,
                ahead,
                self._thread.submit(self._gather, self._order.indices(first, ahead)),
            )
            yield self._local[:count]

    def _gathered(self, first: int, count: int) -> tuple[Tensor, Tensor | None]:
        if self._next is not None and self._next[0] == first and self._next[1] >= count:
            images, labels = self._next[2].result()
            rows = count * self._order.per_step
            return images[:rows], None if labels is None else labels[:rows]
        return self._gather(self._order.indices(first, count))

    def _gather(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images ``(steps * B, C, H, W)`` and labels of steps, in memory that the device copies
        from.
        """
        index = indices.flatten().numpy()
        # numpy's take, because it releases the interpreter lock.
        images = torch.from_numpy(np.take(self._split.images.numpy(), index, axis=0))
        labels = None if self._split.labels is None else self._split.labels[indices.flatten()]
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                return images.pin_memory(), None if labels is None else labels.pin_memory()
        return images, labels

    def close(self) -> None:
        self._next = None
        self._thread.shutdown(cancel_futures=True)


def iterate_batches(split: Split, size: int, device: torch.device | str) -> Iterator[Batch]:
    """Yield the whole split once, in batches of ``size`` on the device; the last may be smaller."""
    for start in range(0, len(split), size):
        labels = None if split.labels is None else split.labels[start : start + size].to(device)
        yield Batch(from_uint8(split.images[start : start + size].to(device)), labels)
