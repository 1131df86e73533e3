"""Durable file operations: a crash leaves either the old content or the new, never a mixture.

Every write, fsync and rename of a run goes through here, so that tests can make each of them fail.
No symbolic link is followed.
"""

import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_FULL_FSYNC = 51 if sys.platform == "darwin" else None
"""F_FULLFSYNC: on macOS, fsync alone leaves data in the drive's cache."""


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents."""
    missing = []
    while not path.is_dir() and path != path.parent:
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process created it
            os.mkdir(folder)  # noqa: PTH102 (os itself, so that tests can replace it)
        sync_folder(folder.parent)


def write_new(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Create a file that must not exist yet, and fsync it. ``data`` may come in parts.

    Its name is durable after :func:`sync_folder`.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY, 0o666)
    try:
        for part in (data,) if isinstance(data, bytes) else data:
            _write(descriptor, part)
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def make_new_folder(path: Path) -> None:
    """Create a folder that must not exist yet, not even as a link."""
    os.mkdir(path)  # noqa: PTH102
    sync_folder(path.parent)


def replace(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace the content of a file; a crash leaves all of the old content or all of the new.

    ``data`` may come in parts, which are written one by one.

    Raises:
        OSError: the disk refused; it names ``path``.
    """
    writer = f"{os.getpid()}-{threading.get_native_id()}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # left by a dead process with these ids
        write_new(temporary, data)
        os.replace(temporary, path)  # noqa: PTH105
        sync_folder(path.parent)
    except OSError as error:
        if error.filename is not None:
            error.filename, error.filename2 = str(path), None  # not the temporary name
        raise
    finally:
        with contextlib.suppress(OSError):  # it exists only after another error, which is raised
            temporary.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Append to a file; the data are durable after :func:`sync_file`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW | _BINARY, 0o666)
    try:
        _write(descriptor, data)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Rename within one folder."""
    os.rename(old, new)  # noqa: PTH104
    sync_folder(new.parent)


def sync_file(path: Path) -> None:
    """Flush the content of a file to disk."""
    descriptor = os.open(path, os.O_RDWR | _NOFOLLOW | _BINARY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk."""
    if os.name == "nt":  # a folder cannot be opened there, and names need no fsync
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot fsync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link (not its target) or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it is a link, a pipe or a folder, or cannot be read.
        ValueError: it is larger.
    """
    with open_regular(path) as file:
        return read_open(file, limit)


def read_open(file: BinaryIO, limit: int) -> bytes:
    """Read an open file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger.
    """
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise ValueError(f"{size} bytes, more than the limit of {limit}")
    return file.read(limit + 1)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read it. It can be read also when it is replaced or removed meanwhile.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it is a link, a pipe or a folder, or cannot be read.
    """
    _require_regular(path)
    return path.open("rb")


def read_end(path: Path, limit: int) -> bytes:
    """Read the last ``limit`` bytes of a regular file, or all of a shorter one.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it is a link, a pipe or a folder, or cannot be read.
    """
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
        return file.read(limit)


def _require_regular(path: Path) -> None:
    # Checked before opening: opening a pipe would block.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "not a regular file")


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)
    if _FULL_FSYNC is not None:
        import fcntl

        fcntl.fcntl(descriptor, _FULL_FSYNC)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
