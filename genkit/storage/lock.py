"""Which process may train in a run folder: claim a new one, hold its lock, ask who holds it."""

import errno
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from ..errors import RunError
from . import atomic
from .folder import FILES, FOLDERS, LOCK, RUN, RunFolder

TIMEOUT_SECONDS = 0.5
"""How long a training waits for the lock, which :func:`is_held` takes for a moment too."""
_NUMBER = re.compile(r"(\d+)-")


@contextmanager
def claim(out: Path | None, title: str) -> Iterator[RunFolder]:
    """Create a run folder and hold its lock.

    Args:
        out: the folder; None for ``runs/NNNN-title`` with the next free number.
        title: printed in that name.

    Raises:
        RunError: the folder is not empty, another process holds it, or it cannot be written.
    """
    try:
        if out:
            atomic.make_folder(out)
        folder = RunFolder(out or _make_numbered(Path("runs"), title))
    except OSError as error:
        raise RunError(f"cannot write the run folder {out or 'runs'}: {error.strerror}") from error
    with hold(folder):
        if (folder.path / RUN).exists():
            resume = f"genkit resume {shlex.quote(str(folder.path))}"
            raise RunError(
                f"{folder.path} already holds a run: go on with `{resume}`, or choose another --out"
            )
        if any(path.name != LOCK and not _is_temporary(path) for path in folder.path.iterdir()):
            raise RunError(f"{folder.path} is not empty: choose another --out")
        yield folder


def discard(folder: RunFolder, *, with_folder: bool) -> None:
    """Remove all that genkit wrote into a run folder; what others put there stays.

    Call it while the lock is held: who waits for it finds a new folder then.

    Args:
        folder: of a run that came to nothing.
        with_folder: whether the folder goes, too, if it is empty then.

    Raises:
        OSError: something could not be removed.
    """
    for name in (*FILES, *FOLDERS, LOCK):
        if not (name == LOCK and sys.platform == "win32"):  # an open file cannot be removed there
            atomic.remove(folder.path / name)
    if with_folder and not any(folder.path.iterdir()):
        folder.path.rmdir()


@contextmanager
def hold(folder: RunFolder) -> Iterator[None]:
    """Keep other processes from training in the folder.

    The system releases the lock of a process that dies.

    Raises:
        RunError: another process holds the lock, or the file system has none.
    """
    path = folder.inside(LOCK)
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a regular file: remove it")
    lock = FileLock(path, timeout=TIMEOUT_SECONDS)
    try:
        lock.acquire(poll_interval=TIMEOUT_SECONDS / 10)
    except NotImplementedError:
        message = f"{folder.path}: this file system has no locks; choose another --out"
        raise RunError(message) from None
    except Timeout:
        raise RunError(f"{folder.path}: another process is training in this folder") from None
    except OSError as error:
        raise RunError(f"cannot write the run folder {folder.path}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a file system without locks, where :func:`hold` lets nobody train."""


def is_held(folder: RunFolder) -> bool:
    """Whether a process trains in the folder; needs only permission to read it.

    Raises:
        RunError: the lock cannot be read.
    """
    path = folder.inside(LOCK)
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return not _is_free(file)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise RunError(f"{path}: {error.strerror}") from None


def _is_free(file: BinaryIO) -> bool:
    """Take the lock of :func:`hold` for a moment; False if it is held."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
    except BlockingIOError:
        return False
    return True


def _is_temporary(path: Path) -> bool:
    """Whether a file was left by a write that did not finish."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _make_numbered(parent: Path, title: str) -> Path:
    """Create ``parent/0007-title`` with the next free number, also beside other processes."""
    atomic.make_folder(parent)
    while True:
        matches = (_NUMBER.match(path.name) for path in parent.iterdir())
        number = max((int(match[1]) for match in matches if match), default=0) + 1
        path = parent / f"{number:04d}-{title}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        atomic.sync_folder(parent)
        return path
