"""The format of packed files, see docs/packed-format.md: its header, and where everything is."""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, BinaryIO

from pydantic import StringConstraints, ValidationError

from ...config import Config, Field
from ...errors import DataError

MAGIC = b"\x89GKPACK\n"
VERSION = 1
PREFIX = struct.Struct("<8sII32s")
"""Magic, version, length of the header in bytes, and its SHA-256."""
ALIGNMENT = 4096
"""Pixels and labels begin at a multiple of so many bytes, a page of memory."""
MAX_HEADER_BYTES = 2**24
"""The pixels begin there at the latest."""
MAX_IMAGES = 2**28
MAX_OFFSET = 2**60
MAX_SIDE = 2**20
"""Channels, height or width."""
MAX_CLASSES = 2**20
MAX_TEXT_BYTES = 8192
"""Of the source and of the summary in a header; what is longer is cut."""
LABEL_BYTES = 8
READ_BYTES = 2**20
"""Read at a time, where a file is hashed."""

Shape = tuple[int, int, int]
"""``(C, H, W)``."""
_Length = Annotated[int, Field(ge=1, le=MAX_SIDE)]
_Offset = Annotated[int, Field(ge=1, le=MAX_OFFSET)]
_Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]


class Header(Config):
    """The JSON of a packed file; every field has to be there."""

    training: Annotated[int, Field(ge=1, le=MAX_IMAGES)]
    """Number of training images."""
    held_out: Annotated[int, Field(ge=0, le=MAX_IMAGES)]
    """Number of held-out images."""
    shape: tuple[_Length, _Length, _Length]
    """``(C, H, W)``."""
    classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)] | None
    """Number of classes; None: there are no labels."""
    class_names: tuple[str, ...] | None
    source: str
    summary: str | None
    training_fingerprint: _Fingerprint
    """What :meth:`genkit.data.datasets.Split.fingerprint` gives."""
    held_out_fingerprint: _Fingerprint
    training_offset: _Offset
    """Where the pixels of the training images begin, in bytes from the start of the file."""
    held_out_offset: _Offset
    labels_offset: _Offset


@dataclass(frozen=True)
class Layout:
    """Where everything is, in bytes from the start of the file."""

    training: int
    training_end: int
    held_out: int
    held_out_end: int
    labels: int
    end: int
    """Of the file."""

    @classmethod
    def of(
        cls, first: int, training: int, held_out: int, image_bytes: int, labelled: bool
    ) -> "Layout":
        """Of a file with so many images of so many bytes, which begin at ``first``."""
        training_end = first + training * image_bytes
        second = align(training_end)
        held_out_end = second + held_out * image_bytes
        labels = align(held_out_end)
        end = labels + labelled * LABEL_BYTES * (training + held_out)
        return cls(first, training_end, second, held_out_end, labels, end)


def align(offset: int) -> int:
    """The next multiple of ``ALIGNMENT``."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def encode(header: Header) -> bytes:
    """The beginning of a file: the prefix and the header."""
    text = json.dumps(header.model_dump(mode="json"), ensure_ascii=False).encode()
    return PREFIX.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest()) + text


def room_for_header(class_names: Sequence[str] | None) -> int:
    """Bytes that are kept free for the prefix and any header with these names."""
    names = json.dumps(class_names, ensure_ascii=False).encode()
    # Quotes and backslashes of a text are escaped, which doubles it at most.
    return align(PREFIX.size + len(names) + 4 * MAX_TEXT_BYTES + 2048)


def as_text(text: str) -> str:
    """``text`` as UTF-8 can have it, with what it cannot as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_header(file: BinaryIO, name: str) -> tuple[Header, Layout]:
    """Read the header of a file that may be hostile; nothing larger than the file is allocated.

    Args:
        file: open for reading.
        name: of the file, for messages.

    Raises:
        DataError: it is no packed file, is of another version, or does not agree with itself.
    """
    size = file.seek(0, 2)
    if size < PREFIX.size:
        raise DataError(f"{name} is no packed file: it has {size} bytes")
    magic, version, length, digest = PREFIX.unpack(read_at(file, 0, PREFIX.size, name))
    if magic != MAGIC:
        raise DataError(f"{name} is no packed file; `genkit data pack` writes one")
    if version != VERSION:
        raise DataError(f"{name} is of version {version} of the format, not {VERSION}")
    if length > min(MAX_HEADER_BYTES, size) - PREFIX.size:
        raise DataError(f"{name} is damaged: its header of {length} bytes does not fit")
    text = read_at(file, PREFIX.size, length, name)
    if hashlib.sha256(text).digest() != digest:
        raise DataError(f"{name} is damaged: its header has another SHA-256")
    header = _parse(text, name)
    layout = _check_layout(header, PREFIX.size + length, size, name)
    _check_padding(file, PREFIX.size + length, layout, name)
    return header, layout


def _parse(text: bytes, name: str) -> Header:
    try:
        header = Header.model_validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])[:100]
        reason = f"{where}: {problem['msg']}" if where else problem["msg"]
        raise DataError(f"{name} has a header that cannot be used ({reason})") from None
    names = header.class_names
    if names is not None and len(names) != header.classes:
        raise DataError(f"{name} names {len(names)} classes, and has {header.classes or 0}")
    return header


def _check_layout(header: Header, header_end: int, size: int, name: str) -> Layout:
    channels, height, width = header.shape
    first = align(min(max(header_end, header.training_offset), MAX_HEADER_BYTES))
    layout = Layout.of(
        first,
        header.training,
        header.held_out,
        channels * height * width,
        header.classes is not None,
    )
    given = header.training_offset, header.held_out_offset, header.labels_offset
    expected = layout.training, layout.held_out, layout.labels
    if given != expected:
        raise DataError(f"{name} is damaged: its offsets are {given}, not {expected}")
    if size != layout.end:
        raise DataError(
            f"{name} is damaged: it has {size} bytes, and its header promises {layout.end}"
        )
    return layout


def _check_padding(file: BinaryIO, header_end: int, layout: Layout, name: str) -> None:
    """Bytes that belong to nothing are zero, so that no byte of a file changes unseen."""
    gaps = (
        (header_end, layout.training),
        (layout.training_end, layout.held_out),
        (layout.held_out_end, layout.labels),
    )
    for start, end in gaps:
        if any(read_at(file, start, end - start, name)):
            raise DataError(f"{name} is damaged: bytes {start} to {end} are not zero")


def read_at(file: BinaryIO, offset: int, size: int, name: str) -> bytes:
    """``size`` bytes from ``offset`` on; there are as many.

    Raises:
        DataError: the file has become shorter, or cannot be read.
    """
    data = bytearray(size)
    read_into(file, offset, memoryview(data), name)
    return bytes(data)


def read_into(file: BinaryIO, offset: int, buffer: memoryview, name: str) -> None:
    """Fill a buffer of bytes with those from ``offset`` on.

    Raises:
        DataError: the file has become shorter, or cannot be read.
    """
    try:
        file.seek(offset)
        while buffer:
            count = file.readinto(buffer)  # type: ignore[attr-defined] # BinaryIO lacks it
            if not count:
                raise DataError(f"{name} has become shorter while it was read")
            buffer = buffer[count:]
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}") from None
