"""PNG files reduced to what makes their first picture, so that nothing else in them can fill the
memory or make a sound picture unreadable. Torch-free.

The format: PNG Specification, third edition, https://www.w3.org/TR/png-3/.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from .formats import Unreadable

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_METADATA_BYTES = 2**20
"""A longer EXIF or XMP block is passed over."""

_ESSENTIAL = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"IEND"}
_METADATA = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
"""These may hold the orientation."""

Chunk = tuple[bytes, bytes | None, bytes]
"""Name, data (None: passed over) and checksum."""


class _Picture(PngImageFile):
    def getexif(self) -> Image.Exif:
        """Without decoding the pixels, behind which no metadata is left."""
        return Image.Image.getexif(self)


def open_png(file: BinaryIO, pixels: bool) -> Image.Image:
    """Open the first picture of a PNG, whose pixels Pillow decodes when they are used.

    Passed over unread are texts, which programs that generate pictures write in lengths that
    Pillow refuses, colour profiles, which Pillow would not apply, and later frames. Checksums of
    the rest are verified.

    Args:
        file: seekable.
        pixels: whether the pixels are wanted; without, they are passed over, too.

    Raises:
        Unreadable: it is truncated or damaged.
    """
    data, frames = _read_essentials(file, pixels)
    picture = _Picture(io.BytesIO(data))
    picture.n_frames = frames
    return picture


def _read_essentials(file: BinaryIO, pixels: bool) -> tuple[bytes, int]:
    """The parts that make the first picture, as a PNG, and the number of frames."""
    facts: dict[bytes, tuple[bytes, bytes]] = {}
    rows: list[bytes] = []
    frames, separate = 0, True
    for name, data, checksum in _read_chunks(
        file, _ESSENTIAL if pixels else _ESSENTIAL - {b"IDAT"}
    ):
        if name == b"IDAT":
            rows.append(_encode(name, data or b"", checksum))
        elif name == b"fcTL" and not rows:
            separate = False  # the picture is the first frame of the animation
        elif data is None or (name in _METADATA and not _may_orient(name, data)):
            continue
        elif name == b"acTL":
            frames = int.from_bytes(data[:4])
        else:
            facts.setdefault(name, (data, checksum))
    header, _ = facts.get(b"IHDR", (b"", b""))
    if len(header) != 13 or not rows:
        raise Unreadable("damaged", "damaged PNG image (it has no header or no pixels)")
    end = facts.pop(b"IEND")
    if b"tRNS" in facts:
        facts[b"tRNS"] = _scale_transparency(header, facts[b"tRNS"][0])
    parts = [_encode(name, *fact) for name, fact in facts.items()]
    picture = b"".join((SIGNATURE, *parts, *rows, _encode(b"IEND", *end)))
    return picture, frames + separate if frames else 1


def _read_chunks(file: BinaryIO, wanted: set[bytes]) -> Iterator[Chunk]:
    """Yield the chunks up to the last, with the data of those ``wanted`` and of short metadata."""
    file.seek(len(SIGNATURE))
    name = b""
    while name != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise _truncated()
        length, name = struct.unpack(">I4s", head)
        if not name.isalpha():
            raise Unreadable("damaged", "damaged PNG image (a chunk has no name)")
        if name not in wanted and (name not in _METADATA or length > MAX_METADATA_BYTES):
            file.seek(length + 4, io.SEEK_CUR)
            yield name, None, b""
            continue
        data, checksum = file.read(length), file.read(4)
        if len(checksum) < 4:
            raise _truncated()
        if zlib.crc32(data, zlib.crc32(name)) == int.from_bytes(checksum):
            yield name, data, checksum
        elif name not in _METADATA:
            raise Unreadable("damaged", f"damaged PNG image (checksum of {name.decode()})")


def _truncated() -> Unreadable:
    return Unreadable("truncated", "truncated PNG image (its end is missing)")


def _encode(name: bytes, data: bytes, checksum: bytes) -> bytes:
    return struct.pack(">I4s", len(data), name) + data + (checksum or _checksum(name, data))


def _checksum(name: bytes, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(name)).to_bytes(4)


def _may_orient(name: bytes, data: bytes) -> bool:
    """Whether metadata can hold the orientation where Pillow looks for it, and stays short."""
    if name == b"eXIf":
        return True
    if name == b"iTXt":
        return data.startswith(b"XML:com.adobe.xmp\0\0")  # \0: not compressed
    keyword, _, text = data.partition(b"\0")
    if keyword != b"Raw profile type exif":
        return False
    if name == b"zTXt":
        inflater = zlib.decompressobj()
        try:
            inflater.decompress(text[1:], MAX_METADATA_BYTES)
        except zlib.error:
            return False  # damaged metadata of a picture that may be sound
        return not inflater.unconsumed_tail
    return True


def _scale_transparency(header: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The transparent colour as Pillow compares it: with pixels of 2 and 4 bits scaled to 8, and
    with the high byte of 16-bit RGB. A palette's stays as it is.
    """
    depth, colour_type = header[8], header[9]
    if colour_type == 0 and depth in (2, 4):
        data = (int.from_bytes(data[:2]) * (255 // (2**depth - 1)) & 255).to_bytes(2)
    elif colour_type == 2 and depth == 16:
        data = b"".join(bytes((0, data[at])) for at in (0, 2, 4))
    return data, b""
