"""Batches: which samples a step sees, and how they reach the device."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
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
RELEASE_BYTES = 2**26
"""Of a mapped file that are in memory at a time, while the images of a window are gathered."""
REGION_BYTES = 2**21
"""What Linux maps at most around a byte of a file that is read."""


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
    when the steps before are done. On a CPU nothing is copied: windows lie in the two halves of the
    images in turn.

    Args:
        split: the images, on the host.
        order: which of them a step sees.
        device: where batches are made.
        chunk: steps in a window; None: as many as have ``CHUNK_BYTES`` of images.
        in_place: whether batches are made from what the thread gathers, without a copy; None: on a
            CPU.
    """

    def __init__(
        self,
        split: Split,
        order: Order,
        device: torch.device,
        chunk: int | None = None,
        in_place: bool | None = None,
    ) -> None:
        step_bytes = order.per_step * split.images[0].nbytes
        self.chunk = chunk or min(CHUNK_STEPS, max(1, CHUNK_BYTES // step_bytes))
        self._order = order
        self._in_place = device.type == "cpu" if in_place is None else in_place
        room = self.chunk * order.per_step
        if self._in_place:
            self._samples = _Samples.empty(split, 2 * room, device)
            parts = [self._samples.part(0, room), self._samples.part(room, 2 * room)]
        else:
            self._samples = _Samples.empty(split, room, device)
            parts = [_Samples.empty(split, room, pinned_for=device) for _ in range(2)]
        self.images, self.labels = self._samples.images, self._samples.labels
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="genkit-stream")
        self._buffers = [_HostBuffer(split, part, device) for part in parts]
        self._next: tuple[int, int, Future[_HostBuffer]] | None = None

    def windows(self, first: int, steps: int) -> Iterator[Tensor]:
        end = first + steps
        while first < end:
            count = min(self.chunk, end - first)
            buffer = self._gathered(first, count)
            if not self._in_place:
                buffer.copy_to(self._samples)
            self._buffers.reverse()  # the next images go to the other one, while this is used
            first += count
            # Beyond the last requested step, the next window is gathered: it is likely requested.
            ahead = min(self.chunk, end - first) or count
            self._next = (
                first,
                ahead,
                self._thread.submit(self._buffers[0].gather, self._order.indices(first, ahead)),
            )
            index = (buffer.samples if self._in_place else self._samples).index
            yield index[: count * self._order.per_step].view(count, -1)

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


@dataclass(frozen=True)
class _Samples:
    """Memory for the samples of a window."""

    images: Tensor
    """uint8 ``(room, C, H, W)``."""
    labels: Tensor | None
    """int64 ``(room,)``."""
    index: Tensor
    """int64 ``(room,)``: where the samples of the steps, one after the other, are."""

    @classmethod
    def empty(
        cls,
        split: Split,
        room: int,
        device: torch.device | None = None,
        *,
        pinned_for: torch.device | None = None,
    ) -> "_Samples":
        """On a device; or on the host, where a CUDA device is to copy from it."""
        pin = pinned_for is not None and pinned_for.type == "cuda"
        how: Any = {"device": device, "pin_memory": pin}
        with cuda.device(pinned_for) if pin else nullcontext():
            images = torch.empty((room, *split.images.shape[1:]), dtype=torch.uint8, **how)
            labels = None if split.labels is None else torch.empty(room, dtype=torch.int64, **how)
            return cls(images, labels, torch.arange(room, **how))

    def part(self, first: int, end: int) -> "_Samples":
        """Some of the same memory."""
        labels = None if self.labels is None else self.labels[first:end]
        return _Samples(self.images[first:end], labels, self.index[first:end])


@final
class _HostBuffer:
    """The samples of a window on the host, and how they get there."""

    def __init__(self, split: Split, samples: _Samples, device: torch.device) -> None:
        self.samples = samples
        self._split = split
        self._first = int(samples.index[0])
        self._count = 0
        self._copied: Any = cuda.Event() if device.type == "cuda" else None
        """Recorded behind the last copy to the device."""

    def gather(self, indices: Tensor) -> "_HostBuffer":
        """Take the samples of steps, int64 ``(steps, B)``."""
        if self._copied is not None:
            self._copied.synchronize()
        index = indices.flatten().numpy()
        self._count = len(index)
        if self._split.release is None:
            # numpy's take, because it releases the interpreter lock.
            np.take(self._split.images.numpy(), index, axis=0, **self._to(0, len(index)))
        else:
            index = self._sort(index)
            self._gather_mapped(index, self._split.release)
        if self._split.labels is not None and self.samples.labels is not None:
            labels = self.samples.labels[: len(index)].numpy()
            np.take(self._split.labels.numpy(), index, out=labels, mode="clip")
        return self

    def _to(self, first: int, end: int) -> dict[str, Any]:
        """Arguments of numpy's take."""
        return {"out": self.samples.images[first:end].numpy(), "mode": "clip"}

    def _sort(self, index: np.ndarray) -> np.ndarray:
        """The numbers in ascending order, in which a file is read with the fewest accesses."""
        order = np.argsort(index)
        places = np.arange(self._first, self._first + len(index))
        self.samples.index[: len(index)].numpy()[order] = places
        return index[order]

    def _gather_mapped(self, index: np.ndarray, release: Callable[[], None]) -> None:
        """Copy images of a mapped file, few of whose pages are in memory at a time."""
        source = self._split.images.numpy()
        region = index * source[0].nbytes // REGION_BYTES
        earlier = np.cumsum(np.diff(region, prepend=region[:1]) > 0)  # regions before an image's
        part = earlier // (RELEASE_BYTES // REGION_BYTES)
        ends = [*(np.flatnonzero(np.diff(part)) + 1).tolist(), len(index)]
        for first, end in zip([0, *ends], ends, strict=False):
            np.take(source, index[first:end], axis=0, **self._to(first, end))
            release()

    def copy_to(self, samples: _Samples) -> None:
        """Copy to the device, behind the steps that are under way."""
        ours, rows = self.samples, slice(self._count)
        samples.images[rows].copy_(ours.images[rows], non_blocking=True)
        samples.index[rows].copy_(ours.index[rows], non_blocking=True)
        if samples.labels is not None and ours.labels is not None:
            samples.labels[rows].copy_(ours.labels[rows], non_blocking=True)
        if self._copied is not None:
            self._copied.record(cuda.current_stream(samples.images.device))


def iterate_batches(split: Split, size: int, device: torch.device | str) -> Iterator[Batch]:
    """Yield the whole split once, in batches of ``size`` on the device; the last may be smaller."""
    for start in range(0, len(split), size):
        labels = None if split.labels is None else split.labels[start : start + size].to(device)
        images = from_uint8(split.images[start : start + size].to(device))
        if split.release is not None:
            split.release()
        yield Batch(images, labels)
