"""Packed files: a whole dataset in one file that is mapped, not loaded, and verified before use.

The format is in docs/packed-format.md.
"""

import math
import mmap
import platform
import stat
import sys
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ...errors import DataError
from ..datasets import ImageData, Split
from ..track import Advance, track
from .header import (
    LABEL_BYTES,
    READ_BYTES,
    Shape,
    read_header,
    read_into,
)
from .writer import hash_split

MAX_MEMORY_BYTES = 2**30
"""Pixels of larger files stay in the file."""
_MACHINES = ("x86_64", "i686", "aarch64", "armv7l", "riscv64", "s390x")
MAP_NORESERVE: int = getattr(
    mmap,
    "MAP_NORESERVE",  # of Python 3.13 and later
    0x4000 if sys.platform == "linux" and platform.machine() in _MACHINES else 0,
)


def open_packed(
    source: Path | BinaryIO,
    *,
    max_memory_bytes: int = MAX_MEMORY_BYTES,
    show_progress: bool = False,
    limit: int | None = None,
    shape: Shape | None = None,
) -> ImageData:
    """The dataset in a packed file, which may be a stranger's: it is read from front to back and
    compared with its checksums before anything in it is used.

    Args:
        source: the file, or one that is open for reading in binary mode.
        max_memory_bytes: more pixels than this are mapped: they are read when they are used, and
            the memory is shared between processes. Such a file must not be changed in place.
        show_progress: whether long work shows a bar on standard error.
        limit: the number of images that are expected at most; None: any.
        shape: the ``(C, H, W)`` that is expected; None: any.

    Raises:
        DataError: there is no such file, it is damaged, or has other images than expected.
    """
    if not isinstance(source, (str, Path)):
        packed = _Packed(source, "the packed file", limit, shape)
        return packed.read(max_memory_bytes, show_progress)
    path = Path(source)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait
            raise DataError(f"{path} is no packed file: it is no regular file")
        file = path.open("rb", buffering=0)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    with file:
        return _Packed(file, str(path), limit, shape).read(max_memory_bytes, show_progress)


class _Packed:
    """An open packed file whose header has been checked."""

    def __init__(self, file: BinaryIO, name: str, limit: int | None, shape: Shape | None) -> None:
        self._file, self._name = file, name
        self._header, self._layout = read_header(file, name)
        count = self._header.training + self._header.held_out
        if limit is not None and count > limit:
            raise DataError(f"{name} has {count} images, more than the {limit} of the run")
        if shape is not None and self._header.shape != tuple(shape):
            raise DataError(
                f"{name} has images of {self._header.shape}, not the {tuple(shape)} of the run"
            )

    def read(self, max_memory_bytes: int, show_progress: bool) -> ImageData:
        """Verify and read, or map, the images and labels."""
        header, layout = self._header, self._layout
        pixel_bytes = (header.training + header.held_out) * math.prod(header.shape)
        mapped = None
        if pixel_bytes > max_memory_bytes:
            mapped = _map(self._file, layout.end, self._name)
        labels = self._read_labels()
        with track("verifying (MiB)", pixel_bytes // READ_BYTES, show_progress) as advance:
            train = self._read_split(False, labels, mapped, advance)
            test = self._read_split(True, labels, mapped, advance)
        return ImageData(
            train,
            test,
            source=self._name,
            classes=header.classes,
            class_names=header.class_names,
            summary=header.summary,
        )

    def _read_labels(self) -> np.ndarray:
        """Of all images, little-endian int64; empty where there are none."""
        layout = self._layout
        labels = np.empty((layout.end - layout.labels) // LABEL_BYTES, "<i8")
        read_into(self._file, layout.labels, labels.view(np.uint8).data, self._name)
        return labels

    def _read_split(
        self, held_out: bool, labels: np.ndarray, mapped: mmap.mmap | None, advance: Advance
    ) -> Split:
        header, layout = self._header, self._layout
        if held_out:
            count, offset, labels = header.held_out, layout.held_out, labels[header.training :]
            expected, what = header.held_out_fingerprint, "held-out"
        else:
            count, offset, labels = header.training, layout.training, labels[: header.training]
            expected, what = header.training_fingerprint, "training"
        shape = (count, *header.shape)
        if mapped is None or not count:
            pixels = np.empty(shape, np.uint8)
        else:
            flat = np.frombuffer(mapped, np.uint8, math.prod(shape), offset)
            pixels = flat.reshape(shape)
        kept = pixels if mapped is None else None
        if expected != hash_split(self._file, offset, shape, labels, advance, self._name, kept):
            raise DataError(
                f"{self._name} is damaged: its {what} images or labels have another SHA-256"
            )
        return Split(
            torch.from_numpy(pixels),
            None if header.classes is None else torch.from_numpy(labels.astype(np.int64)),
            None if mapped is None else partial(_release, mapped),
            expected,
        )


def _map(file: BinaryIO, size: int, name: str) -> mmap.mmap:
    """Map a file so that a page that somebody writes to is copied, and the file stays as it is.

    The system is asked to reserve no memory for such copies: it would refuse to map files that are
    larger than its memory.
    """
    try:
        if sys.platform == "win32":
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        flags = mmap.MAP_PRIVATE | MAP_NORESERVE
        return mmap.mmap(file.fileno(), size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name} cannot be mapped into memory: {reason}") from error


def _release(mapped: mmap.mmap) -> None:
    """Let go of the pages that were read; the system reads them again when they are used."""
    if hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)
