"""Decoded pictures in the user's cache: one packed file for each set of files and options.

An entry is found by a key of everything that it depends on: names, sizes and times of all files,
the options, and the versions of the reader. It is verified before it is used.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL

from ...errors import DataError, GenkitWarning
from ...storage import atomic
from ...storage.capacity import format_bytes
from ..datasets import DataRequest, ImageData, cache_folder
from ..packed.reader import open_packed
from ..packed.writer import remove_leftovers
from .options import ImageOptions

if TYPE_CHECKING:
    from .collection import ImageSource

VERSION = 1
"""To be raised whenever the reader gives other pixels, or the summary another text."""
SPARE_BYTES = 2**24
"""What an entry leaves free, and its header takes."""
MAX_CACHE_BYTES = 20 * 2**30
"""The entries that were not used for the longest time are removed to stay below this."""


def key(
    sources: Sequence["ImageSource"],
    options: ImageOptions,
    request: DataRequest,
    origin: str,
    files: Sequence[Path] | None,
    of_summary: Sequence[object],
) -> str | None:
    """The key of what these sources give; None: it cannot be kept.

    Args:
        sources: the pictures.
        options: how they are read.
        request: whether unusable pictures are refused.
        origin: the folder, or what else the sources are of.
        files: see :func:`genkit.collect_images`.
        of_summary: whatever else the summary and the names of the classes depend on.
    """
    if not (_exists() if request.offline else _can_write()):
        return None
    digest = hashlib.sha256()
    about = [VERSION, PIL.__version__, options.model_dump(mode="json", exclude={"cache"}), origin]
    digest.update(json.dumps([*about, request.on_bad_image, *of_summary]).encode())
    try:
        for file in files or ():
            digest.update(_line(str(file), file))
        for source in sources:
            if not isinstance(source.content, Path) and files is None:
                return None
            path = source.content if isinstance(source.content, Path) else None
            digest.update(_line([source.name, source.label, source.held_out], path))
    except OSError:  # a file that is gone is found when it is read, and reported then
        return None
    return digest.hexdigest()


def _line(about: Any, path: Path | None) -> bytes:
    """A source, and the identity, size and times of its file. The time of the last change cannot be
    set by programs that unpack archives, so that another file of the same size is noticed.
    """
    state = path.stat() if path else None
    identity = state and [state.st_dev, state.st_ino]
    stamp = state and [identity, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    return json.dumps([about, stamp]).encode() + b"\n"


def _folder() -> Path:
    return cache_folder() / "images"


def _path(key: str) -> Path:
    return _folder() / f"{key}.packed"


def _exists() -> bool:
    try:
        return _folder().is_dir()
    except DataError:  # a user without a home directory has no cache
        return False


def _can_write() -> bool:
    """Whether the cache can be written; a notice says why not."""
    try:
        folder = _folder()
        atomic.make_folder(folder)
    except (OSError, DataError) as error:
        reason = getattr(error, "strerror", None) or error
        warnings.warn(f"decoded images are not kept in a cache: {reason}", GenkitWarning, 2)
        return False
    if os.access(folder, os.W_OK):
        return True
    warnings.warn(f"decoded images are not kept: cannot write to {folder}", GenkitWarning, 2)
    return False


def find(key: str, show_progress: bool) -> ImageData | None:
    """The entry, if there is one; a damaged one is removed."""
    path = _path(key)
    if not path.exists():
        return None
    try:
        data = open_packed(path, show_progress=show_progress)
        os.utime(path)
    except (DataError, OSError) as error:
        warnings.warn(f"{error}; decoding the images again", GenkitWarning, stacklevel=2)
        forget(key)
        return None
    return data


def forget(key: str) -> None:
    """Remove the entry, if there is one."""
    with suppress(OSError):  # another user's, in a shared folder: it is replaced or stays
        _path(key).unlink()


def make_room(key: str, size: int) -> Path | None:
    """Where to write an entry of about ``size`` bytes; older ones are removed to make room. None:
    there is none, which a notice says.
    """
    if size > MAX_CACHE_BYTES:
        warnings.warn(
            f"decoded images are not kept: {format_bytes(size)} are more than the cache takes",
            GenkitWarning,
            stacklevel=2,
        )
        return None
    entries = []
    for path in _folder().glob("*.packed"):
        with suppress(OSError):  # another process has removed it
            state = path.stat()
            entries.append((state.st_mtime, state.st_size, path))
    total = size + sum(entry_size for _, entry_size, _ in entries)
    for _, entry_size, path in sorted(entries):
        if total <= MAX_CACHE_BYTES:
            break
        forget(path.stem)
        total -= entry_size
    remove_leftovers(_folder())
    if (free := shutil.disk_usage(_folder()).free) < size + SPARE_BYTES:
        needed = f"{format_bytes(size)} are needed and {format_bytes(free)} are free"
        warnings.warn(
            f"decoded images are not kept: in {_folder()} {needed}", GenkitWarning, stacklevel=2
        )
        return None
    return _path(key)
