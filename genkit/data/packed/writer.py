"""Writes packed files: images and labels in one file, durably and in bounded memory."""

import contextlib
import errno
import hashlib
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast, final

import numpy as np

from ...errors import DataError, printable
from ...storage import atomic
from ...storage.capacity import format_bytes
from ..datasets import ImageData, Split
from ..track import Advance, track
from .header import (
    LABEL_BYTES,
    MAX_CLASSES,
    MAX_HEADER_BYTES,
    MAX_TEXT_BYTES,
    READ_BYTES,
    Header,
    Layout,
    Shape,
    align,
    as_text,
    encode,
    read_into,
    room_for_header,
)

PACK_BYTES = 2**24
"""Of images that are given to a writer at a time, where a dataset is packed."""
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = os.O_RDWR | _NOFOLLOW | getattr(os, "O_BINARY", 0)


@final
class PackedWriter:
    """Writes images and labels in the order they are given, the training images first.

    :func:`genkit.create_packed` makes one. Labels are kept in memory, and no image is.
    """

    def __init__(
        self,
        file: BinaryIO,
        folder: str,
        shape: Shape,
        class_names: Sequence[str] | None,
        labelled: bool,
        classes: int | None,
        expected: int | None,
        show_progress: bool,
    ) -> None:
        self.finished = False
        """Whether :meth:`finish` has returned."""
        self._file, self._folder = file, folder
        self._shape: Shape = shape
        self._names = None if class_names is None else tuple(map(as_text, class_names))
        self._labelled, self._classes = labelled, classes
        self._expected, self._show_progress = expected, show_progress
        self._first = self._position = room_for_header(self._names)
        self._counts = [0, 0]
        self._labels: list[np.ndarray] = []
        if self._names is not None and (not labelled or classes not in (None, len(self._names))):
            count = classes if labelled else 0
            raise DataError(f"{len(self._names)} names of classes were given to pack, for {count}")
        if self._first > MAX_HEADER_BYTES:
            raise DataError(f"the names of {len(self._names or ())} classes are too long to pack")
        file.seek(self._first)

    def add(self, images: np.ndarray, labels: np.ndarray | None, held_out: bool) -> None:
        """Append images of one split; all training images come before those held out.

        Args:
            images: uint8 ``(n, C, H, W)``.
            labels: int64 ``(n,)``, 0 to K - 1; None exactly where the file has none.
            held_out: whether they are held out.

        Raises:
            DataError: another shape, dtype or order, or the disk refused.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self._shape:
            given = f"{images.dtype} {images.shape}"
            raise DataError(f"images to pack must be uint8 (n, *{self._shape}), not {given}")
        if (labels is not None) != self._labelled:
            raise DataError("a packed file has labels for all of its images, or for none")
        if labels is not None:
            self._add_labels(labels, len(images))
        if held_out and not self._counts[1] and len(images):
            self._position = align(self._position)
        elif self._counts[1] and not held_out:
            raise DataError("training images were given after those that are held out")
        self._write(self._position, np.ascontiguousarray(images).reshape(-1).data)
        self._position += images.nbytes
        self._counts[held_out] += len(images)

    def _add_labels(self, labels: np.ndarray, count: int) -> None:
        if labels.dtype != np.int64 or labels.shape != (count,):
            given = f"{labels.dtype} {labels.shape}"
            raise DataError(f"labels to pack must be int64 ({count},), not {given}")
        self._labels.append(labels.astype("<i8"))

    def finish(self, source: str, summary: str | None) -> None:
        """Write labels and header, and make the content of the file durable.

        Args:
            source: where the images came from, for the reader.
            summary: one line on what was read and what was done to it.

        Raises:
            DataError: no training images, labels that are not 0 to K - 1, or the disk refused.
        """
        training, held_out = self._counts
        if not training:
            raise DataError("no training images to pack")
        labels = np.concatenate(self._labels) if self._labels else np.empty(0, "<i8")
        classes = self._count_classes(labels)
        image_bytes = math.prod(self._shape)
        layout = Layout.of(self._first, training, held_out, image_bytes, self._labelled)
        self._write(layout.labels, labels.view(np.uint8).data)
        with self._disk_errors(layout.end):
            self._file.truncate(layout.end)  # where there are no labels, padding ends the file
        fingerprints = self._hash(layout, labels)
        header = Header(
            training=training,
            held_out=held_out,
            shape=self._shape,
            classes=classes,
            class_names=self._names,
            source=_cut(source),
            summary=None if summary is None else _cut(summary),
            training_fingerprint=fingerprints[0],
            held_out_fingerprint=fingerprints[1],
            training_offset=layout.training,
            held_out_offset=layout.held_out,
            labels_offset=layout.labels,
        )
        beginning = encode(header)
        assert len(beginning) <= self._first
        self._write(0, memoryview(beginning))
        with self._disk_errors(layout.end):
            os.fsync(self._file.fileno())
        self.finished = True

    def _count_classes(self, labels: np.ndarray) -> int | None:
        if not self._labelled:
            return None
        highest = int(labels.max())
        classes = self._classes or (highest + 1 if self._names is None else len(self._names))
        if int(labels.min()) < 0 or not highest < classes <= MAX_CLASSES:
            raise DataError(
                f"labels to pack go from {int(labels.min())} to {highest}, not 0 to {classes - 1}"
            )
        return classes

    def _hash(self, layout: Layout, labels: np.ndarray) -> tuple[str, str]:
        """The fingerprints of both splits, of what is in the file: their sizes, which are hashed
        first, were not known before.
        """
        training, held_out = self._counts
        total = layout.held_out_end - layout.training
        with track("hashing (MiB)", total // READ_BYTES, self._show_progress) as advance:
            first = hash_split(
                self._file, layout.training, (training, *self._shape), labels[:training], advance
            )
            second = hash_split(
                self._file, layout.held_out, (held_out, *self._shape), labels[training:], advance
            )
        return first, second

    def _write(self, offset: int, data: memoryview) -> None:
        with self._disk_errors(offset + len(data)):
            self._file.seek(offset)
            while data:
                data = data[self._file.write(data) :]

    @contextmanager
    def _disk_errors(self, needed: int) -> Iterator[None]:
        """Errors of the disk name the folder; ``needed``: bytes of the file so far."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DataError(f"cannot write to {self._folder}: {error.strerror}") from error
            whole = 0
            if self._expected is not None:
                whole = _size_of_file(self._first, self._expected, self._shape, self._labelled)
            raise _no_room(
                self._folder, max(needed, whole), error.strerror or str(error)
            ) from error


def hash_split(
    file: BinaryIO,
    offset: int,
    shape: tuple[int, ...],
    labels: np.ndarray,
    advance: Advance,
    name: str = "the packed file",
    pixels: np.ndarray | None = None,
) -> str:
    """The fingerprint of a split in a file, which is read from front to back in small parts.

    Args:
        file: open for reading.
        offset: where the pixels begin.
        shape: ``(N, C, H, W)``.
        labels: little-endian int64 ``(N,)``; empty where there are none.
        advance: called with the number of MiB that were read.
        name: of the file, for messages.
        pixels: uint8 of this shape, which is filled with the pixels; None: they are not kept.
    """
    digest = hashlib.sha256(str(shape).encode())
    size = math.prod(shape)
    whole = None if pixels is None else pixels.reshape(-1).data
    buffer = memoryview(bytearray(min(READ_BYTES, size) if whole is None else 0))
    for start in range(0, size, READ_BYTES):
        count = min(READ_BYTES, size - start)
        part = buffer[:count] if whole is None else whole[start : start + count]
        read_into(file, offset + start, part, name)
        digest.update(part)
        advance(1)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


@contextmanager
def create_packed(
    path: Path,
    shape: Shape,
    class_names: Sequence[str] | None,
    labelled: bool,
    *,
    classes: int | None = None,
    expected: int | None = None,
    show_progress: bool = False,
) -> Iterator[PackedWriter]:
    """Write a packed file; its name appears only when all of it is durable, and never if the body
    of the ``with`` fails or the process is killed::

        with genkit.create_packed(path, (3, 64, 64), None, labelled=False) as writer:
            writer.add(images, None, held_out=False)
            writer.finish("my camera", None)

    What a killed process left is removed the next time that the same name is written.

    Args:
        path: of the file; missing folders are created, and a file of this name is replaced.
        shape: ``(C, H, W)`` of the images.
        class_names: names of the classes 0 to K - 1; None: they have none.
        labelled: whether the images have labels.
        classes: the number of classes K; None: that of the names, or else the highest label + 1.
        expected: the number of images, if it is known: whether they fit is then checked at once.
        show_progress: whether long work shows a bar on standard error.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    try:
        atomic.make_folder(path.parent)
        remove_leftovers(path.parent, _prefix(path))
        file, temporary = _open_temporary(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from error
    try:
        folder = str(path.parent)
        writer = PackedWriter(
            file, folder, shape, class_names, labelled, classes, expected, show_progress
        )
        if expected is not None:
            needed = _size_of_file(room_for_header(class_names), expected, shape, labelled)
            if needed > (free := shutil.disk_usage(path.parent).free):
                raise _no_room(folder, needed, f"{format_bytes(free)} are free")
        yield writer
        if not writer.finished:
            raise RuntimeError("call finish() on the writer of a packed file before it is closed")
        _rename(file, temporary, path)
    finally:
        file.close()
        with contextlib.suppress(OSError):  # there is none after the renaming
            temporary.unlink()


@contextmanager
def temporary_packed(
    shape: Shape,
    class_names: Sequence[str] | None,
    labelled: bool,
    *,
    classes: int | None = None,
    show_progress: bool = False,
) -> Iterator[tuple[PackedWriter, BinaryIO]]:
    """A packed file without a name, which the system removes after use, and its writer.

    After ``writer.finish(...)``, :func:`genkit.open_packed` takes the file; images that are mapped
    from it stay when it is closed. It is in ``$TMPDIR``, else in ``/var/tmp``, as ``/tmp`` may be
    in memory. The arguments are those of :func:`create_packed`.

    Raises:
        DataError: the file cannot be written.
    """
    folder = scratch_folder()
    try:
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0))  # noqa: SIM115
    except OSError as error:
        raise DataError(
            f"cannot write to {folder}: {error.strerror}; set TMPDIR to another folder"
        ) from error
    hint = f"{folder} (set TMPDIR to use another folder)"
    with file:
        yield (
            PackedWriter(file, hint, shape, class_names, labelled, classes, None, show_progress),
            file,
        )


def pack(data: ImageData, path: Path, *, show_progress: bool = False) -> None:
    """Write a dataset as a packed file, see :func:`create_packed`; mapped images are read in parts.

    Raises:
        DataError: the file cannot be written.
    """
    splits = (data.train, False), (data.test, True)
    expected = len(data.train) + len(data.test)
    labelled = data.classes is not None
    with create_packed(
        path,
        data.spec.shape,
        data.class_names,
        labelled,
        classes=data.classes,
        expected=expected,
        show_progress=show_progress,
    ) as writer:
        with track("packing", expected, show_progress) as advance:
            for split, held_out in splits:
                _add_split(writer, split, held_out, labelled, advance)
        writer.finish(data.source, data.summary)


def _add_split(
    writer: PackedWriter, split: Split, held_out: bool, labelled: bool, advance: Advance
) -> None:
    count = max(1, PACK_BYTES // max(1, math.prod(split.images.shape[1:])))
    for start in range(0, len(split), count):
        images = split.images[start : start + count].numpy()
        labels = None
        if labelled and split.labels is not None:
            labels = split.labels[start : start + count].numpy()
        writer.add(images, labels, held_out)
        if split.release is not None:
            split.release()
        advance(len(images))


def _no_room(folder: str, needed: int, reason: str) -> DataError:
    return DataError(
        f"no room in {folder}: the packed images need {format_bytes(needed)} or more ({reason})"
    )


def _size_of_file(first: int, count: int, shape: Shape, labelled: bool) -> int:
    return first + count * (math.prod(shape) + labelled * LABEL_BYTES)


def _cut(text: str) -> str:
    """``text`` without control characters, of at most ``MAX_TEXT_BYTES``."""
    return printable(text).encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def scratch_folder() -> str:
    on_disk = Path("/var/tmp")
    usable = "TMPDIR" not in os.environ and on_disk.is_dir() and os.access(on_disk, os.W_OK)
    return str(on_disk) if usable else tempfile.gettempdir()


_PACKING = ".packing-"


def _prefix(path: Path) -> str:
    """Of the names of temporary siblings of ``path``."""
    return f".{path.name}{_PACKING}"


def _open_temporary(path: Path) -> tuple[BinaryIO, Path]:
    """A new sibling of ``path``, locked for as long as it is open: so others see that it is in use,
    on whichever machine its writer is.
    """
    while True:
        temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.tmp")
        try:
            descriptor = os.open(temporary, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        file = cast(BinaryIO, open(descriptor, "r+b", buffering=0))  # noqa: SIM115, PTH123
        try_lock(file)
        # Between the two calls, another writer of the same name may have taken it for a leftover.
        if os.name == "nt" or os.fstat(descriptor).st_nlink:
            return file, temporary
        file.close()


def _rename(file: BinaryIO, temporary: Path, path: Path) -> None:
    try:
        if os.name == "nt":  # where an open file cannot be renamed
            file.close()
        os.replace(temporary, path)  # noqa: PTH105 (os itself, so that tests can replace it)
        atomic.sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def remove_leftovers(folder: Path, prefix: str = "") -> None:
    """Remove the temporary files of writers that were killed: those that nobody has locked.

    Args:
        folder: where they are.
        prefix: how their names begin; those of all packed files by default.
    """
    for name in os.listdir(folder):  # noqa: PTH208 (names alone)
        if name.startswith(prefix) and _PACKING in name and name.endswith(".tmp"):
            # One that cannot be opened or removed is not in the way.
            with contextlib.suppress(OSError):
                _remove_if_unused(folder / name)


def _remove_if_unused(leftover: Path) -> None:
    if not stat.S_ISREG(leftover.lstat().st_mode):
        return
    descriptor = os.open(leftover, _FLAGS)
    with open(descriptor, "r+b", buffering=0) as file:  # noqa: PTH123
        if os.name != "nt" and try_lock(cast(BinaryIO, file)):
            leftover.unlink()
    if os.name == "nt":  # which refuses to remove a file that is open
        leftover.unlink()


try_lock: Callable[[BinaryIO], bool]
"""Lock an open file if nobody has it locked; False: somebody has, or there are no locks here."""
try:
    import fcntl
except ImportError:  # on Windows, where an open file cannot be removed

    def try_lock(file: BinaryIO) -> bool:
        return False
else:

    def try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
