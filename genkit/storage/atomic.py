"""Files that survive a crash: when a call here returns, the new content is on disk; before, the old
one is.

Every write, fsync and rename of a run goes through here, so that tests can let each of them fail.
Nothing follows a symbolic link.
"""

import contextlib
import errno
import os
import shutil
import sys
from pathlib import Path

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_FULL_FSYNC = 51 if sys.platform == "darwin" else None
"""F_FULLFSYNC: on macOS, fsync alone leaves the data in the drive's cache."""


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents."""
    missing = []
    while not path.is_dir() and path != path.parent:
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process may be as fast
            os.mkdir(folder)  # noqa: PTH102 (os itself, so that tests can replace it)
        sync_folder(folder.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist, and fsync it; its name is safe after :func:`sync_folder`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY, 0o666)
    try:
        _write(descriptor, data)
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def new_folder(path: Path) -> None:
    """Make a folder that must not exist, not as a link either."""
    os.mkdir(path)  # noqa: PTH102
    sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Give ``path`` new content: at every moment it has all of the old or all of the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that died and had this number
        write_new(temporary, data)
        os.replace(temporary, path)  # noqa: PTH105
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(
            OSError
        ):  # there is one only where something else went wrong before
            temporary.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Add to a file; safe on disk after :func:`sync_file`."""
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
    """Return when the content of a file is on disk."""
    descriptor = os.open(path, os.O_RDWR | _NOFOLLOW | _BINARY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on disk."""
    if os.name == "nt":  # where a folder cannot be opened, and names need no fsync
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some network file systems have no fsync of folders
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to), or a folder and what is in it; nothing where
    there is nothing.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(path: Path, limit: int) -> bytes:
    """The content of a plain file, read only if it is no larger than ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is a link, a pipe or a folder, or cannot be read.
        ValueError: it is larger.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "no plain file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{size} bytes, and at most {limit} were to be expected")
        return file.read(limit + 1)


def read_end(path: Path, limit: int) -> bytes:
    """The last ``limit`` bytes of a plain file, or all of it.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is a link, a pipe or a folder, or cannot be read.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "no plain file")
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
        return file.read(limit)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)
    if _FULL_FSYNC is not None:
        import fcntl

        fcntl.fcntl(descriptor, _FULL_FSYNC)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
