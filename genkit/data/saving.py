"""Writes any number of images, few of them in memory at a time: a grid, an array or a folder."""

import contextlib
import errno
import io
import math
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import Interrupted, UsageError
from ..storage import atomic, capacity
from .images import (
    arrange,
    check_grid,
    describe_images,
    encode_png,
    to_array,
    to_picture,
    write_picture,
)
from .track import Advance, track

NAME_DIGITS = 6
"""Of the PNGs in a folder; more where there are more than a million."""
MIN_SHOWN = 1000
"""Images whose progress is shown; fewer take no time."""
MIN_FILE_BYTES = 2**9
"""That a PNG takes of a disk, at least."""
_DISK_IS_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""No room, or none for a file of this size, or for this user."""


def save(images: Tensor, path: Path) -> None:
    """Write images ``(N, C, H, W)`` in [-1, 1] as :func:`save_chunks` does."""
    save_chunks([images], len(images), images.shape[1:], path)


def save_chunks(
    chunks: Iterable[Tensor],
    count: int,
    shape: Sequence[int],
    path: Path,
    *,
    show_progress: bool = False,
) -> None:
    """Write images to ``.png`` (a grid), ``.npy`` (a uint8 array) or, without a suffix, a folder of
    PNGs.

    A grid and an array appear when they are whole, and not at all if anything fails. A folder keeps
    what was written; every file in it is whole.

    Args:
        chunks: images ``(n, C, H, W)`` in [-1, 1]; none is made before it is known that all fit.
        count: how many there are in all.
        shape: ``(C, H, W)``.
        path: where to.
        show_progress: whether a bar is shown on standard error.

    Raises:
        UsageError: another suffix, a folder that is not empty, or images that do not fit.
        Interrupted: a KeyboardInterrupt came while a folder was written.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        write, other = _save_grid, "a name that ends in .npy, or has no suffix for a folder of PNGs"
        check_grid(count, shape, instead=f"ask for fewer, or give {other}")
    elif suffix == ".npy":
        write = _save_array
    elif suffix:
        raise UsageError(
            f"{path}: use .png for a grid, .npy for an array, or no suffix for a folder of PNGs"
        )
    else:
        write = _save_folder
    with track("images", count, show_progress and count >= MIN_SHOWN) as advance:
        write(chunks, count, shape, path, advance)


def _save_grid(
    chunks: Iterable[Tensor], count: int, shape: Sequence[int], path: Path, advance: Advance
) -> None:
    parts = []
    for chunk in chunks:
        parts.append(to_array(chunk))
        advance(len(chunk))
    write_picture(encode_png(arrange(np.concatenate(parts))), path)


def _save_array(
    chunks: Iterable[Tensor], count: int, shape: Sequence[int], path: Path, advance: Advance
) -> None:
    channels, *sides = shape
    whole = (count, *sides) if channels == 1 else (count, *sides, channels)
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": whole}
    np.lib.format.write_array_header_1_0(header, about)
    images, needed = describe_images(count, shape), header.tell() + math.prod(whole)
    capacity.require_disk(path.parent, needed, f"{path}: {images}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: choose another name")
    atomic.make_folder(path.parent)

    def parts() -> Iterator[bytes]:
        yield header.getvalue()
        for chunk in chunks:
            yield to_array(chunk).tobytes()
            advance(len(chunk))

    try:
        atomic.replace(path, parts())
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        raise UsageError(
            f"{path}: {images} need {capacity.format_bytes(needed)}, and there is no room "
            f"({error.strerror}): ask for fewer, or write elsewhere"
        ) from error


def _save_folder(
    chunks: Iterable[Tensor], count: int, shape: Sequence[int], path: Path, advance: Advance
) -> None:
    images = describe_images(count, shape)
    capacity.require_disk(path, count * MIN_FILE_BYTES, f"{path}: {images} as PNGs")
    created = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise UsageError(f"{path} is not empty: choose another folder")
    written, digits = 0, max(NAME_DIGITS, len(str(count - 1)))
    try:
        for chunk in chunks:
            for array in to_array(chunk):
                _write_whole(path / f"{written:0{digits}d}.png", encode_png(to_picture(array)))
                written += 1
            advance(len(chunk))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: {written:,} of {count:,} images are in {path}", signal.SIGINT
        ) from None
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        raise UsageError(
            f"{path}: {error.strerror} after {written:,} of {images}: "
            "ask for fewer, or write elsewhere"
        ) from error
    finally:
        if created and not written:
            with contextlib.suppress(OSError):  # an image was written after all
                path.rmdir()


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file, or remove what there is of it. Not through :mod:`genkit.storage.atomic`:
    thousands of fsyncs would take minutes.
    """
    try:
        path.write_bytes(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
