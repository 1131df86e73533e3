"""Which files are pictures: found by content, opened by the decoders that are trusted, and named
where nothing can read them. Torch-free.
"""

import importlib
import io
import logging
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import PurePath
from typing import BinaryIO

from PIL import Image, features
from PIL.JpegImagePlugin import JpegImageFile

# Pillow logs what it refuses; without a handler, Python would print that over a progress bar.
logging.getLogger("PIL").addHandler(logging.NullHandler())

DECODERS = (
    *("GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "JPEG2000", "QOI", "PSD", "DDS", "ICNS"),
    *("PCX", "SGI", "SUN", "XBM", "XPM", "FITS", "FLI", "BLP", "CUR", "DCX", "DIB", "FTEX", "GBR"),
    *("MCIDAS", "MSP", "PIXAR", "XVTHUMB"),
    *("PCD", "IM", "TGA"),  # last, as these have no signature at the start
)
"""Pillow's decoders that are tried, in this order, after PNG, JPEG, AVIF and HEIF."""

LEFT_OUT = {
    "EPS": "starts Ghostscript, another program",
    "WMF": "is drawn by Windows",
    "IPTC": "opens the file inside it by any decoder",
    "BUFR": "is identified, but not decoded",
    "GRIB": "is identified, but not decoded",
    "HDF5": "is identified, but not decoded",
    "MPEG": "is identified, but not decoded",
    "IMT": "has no signature: text files pass for it",
    "SPIDER": "has no signature, and holds 32-bit numbers only",
    "FPX": "needs olefile, and is unfinished in Pillow",
    "MIC": "needs olefile, and opens the file inside it",
}
"""Pillow's other decoders, and why each is not tried."""

DECODER_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's decoders raise for damaged files, as fuzzing them shows."""

RAW_SUFFIXES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}

Decoder = Callable[[BinaryIO, str], Image.Image]
"""Called with a file and its name."""

_HEIF_BRANDS = {
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"),
}
_AVIF_BRANDS = {b"avif", b"avis"}
_RAW_SIGNATURES = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
_JXL_SIGNATURES = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_FOREIGN = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript drawing"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\0\x05\x16\x07", "macOS's notes about another file"),
    (b"\x1a\x45\xdf\xa3", "a video"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
)
"""What a file starts with, and what it is then."""

MORE_SUFFIXES = RAW_SUFFIXES | {".heic", ".heif", ".hif", ".avif", ".avifs", ".jxl"}
"""Of pictures, besides those that Pillow registers."""


def has_image_suffix(name: str) -> bool:
    """Whether a file's name ends as those of pictures do, in any case."""
    suffix = PurePath(name).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    return suffix in MORE_SUFFIXES or kind in DECODERS or kind in ("PNG", "JPEG", "MPO")


class Unreadable(ValueError):  # noqa: N818 (it says what the picture is)
    """A picture cannot be used; the message says why, in a phrase without the file's name.

    Attributes:
        kind: a few words, the same for all files of one trouble, to count them by.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)  # both, so that it comes whole out of a worker process
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def open_decoder(file: BinaryIO, start: bytes, suffix: str) -> Image.Image:
    """Open a picture of any format but PNG; Pillow decodes its pixels when they are used.

    Args:
        file: seekable.
        start: its first 1024 bytes.
        suffix: of the file's name, in lower case; it only tells TIFFs from raw photographs.

    Raises:
        Unreadable: no decoder takes it.
    """
    _refuse_raw(start, suffix)
    file.seek(0)
    brands = _brands(start)
    if start.startswith(b"\xff\xd8\xff"):
        # Image.open fails where only the index of further pictures (MPO) is damaged.
        return _open_by("JPEG", JpegImageFile, file)
    if brands & _AVIF_BRANDS:
        return _open_by("AVIF", _load_avif_decoder(), file)
    if brands & _HEIF_BRANDS:
        return _open_by("HEIF", _load_heif_decoder(), file)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        length = int.from_bytes(start[4:8], "little") + 8
        if file.seek(0, io.SEEK_END) < length:  # of which the decoder says no more than "could not"
            raise Unreadable("truncated", "truncated WEBP image (its end is missing)")
    opened = _try_decoders(file, start)
    if opened is None:
        raise _foreign(start, brands)
    _refuse_thumbnail(opened)
    return opened


def refusal(error: BaseException, kind_of_file: str | None) -> Unreadable:
    """The :class:`Unreadable` of what a decoder raised."""
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, MemoryError):
        return Unreadable("too large", "there is not enough memory for its pixels")
    text = " ".join(str(error).split())[:120]
    if isinstance(error, Image.DecompressionBombError):
        return Unreadable("too large", text)
    if isinstance(error, OSError) and error.errno:
        return Unreadable("cannot be read", f"cannot be read ({error.strerror})")
    detail = f" ({text})" if re.search("[a-z]{3}", text) and "unpack" not in text else ""
    name = f"{kind_of_file} image" if kind_of_file else "image"
    causes = error, error.__cause__
    if any(isinstance(cause, NotImplementedError | KeyError) for cause in causes) or re.search(
        r"unknown|support|cannot handle|samples per pixel|unrecognized", text, re.IGNORECASE
    ):
        return Unreadable(
            "not supported", f"{name} of a kind that Pillow cannot read{detail}; save it as PNG"
        )
    if any(
        isinstance(cause, EOFError | struct.error | IndexError) for cause in causes
    ) or re.search(
        r"truncat|unexpected end|not enough|incomplete|EOF|only got|too small", text, re.IGNORECASE
    ):
        return Unreadable("truncated", f"truncated {name}{detail}")
    return Unreadable("damaged", f"damaged {name}{detail}")


def _try_decoders(file: BinaryIO, start: bytes) -> Image.Image | None:
    """The picture by the first decoder that can open it.

    Raises:
        Unreadable: a decoder knows its signature, and none can open it.
    """
    Image.init()
    refused = None
    for name in DECODERS:
        if name not in Image.OPEN:
            continue  # in another version of Pillow
        factory, accepts = Image.OPEN[name]
        if accepts and accepts(start[:16]) is not True:
            continue
        file.seek(0)
        try:
            return _open_by(name, factory, file)
        except Unreadable as error:
            if accepts:
                refused = refused or error
    if refused:
        raise refused
    return None


def _open_by(name: str, decoder: Decoder, file: BinaryIO) -> Image.Image:
    try:
        return decoder(file, "")
    except DECODER_ERRORS as error:
        raise refusal(error, name) from None


def _load_avif_decoder() -> Decoder:
    if not features.check("avif"):
        raise Unreadable(
            "AVIF without a decoder",
            "AVIF image, which this Pillow cannot read: pip install --upgrade pillow",
        )
    Image.init()
    return Image.OPEN["AVIF"][0]


def _load_heif_decoder() -> Decoder:
    if "HEIF" not in Image.OPEN:
        try:
            plugin = importlib.import_module("pillow_heif")
        except ImportError:
            raise Unreadable(
                "HEIC without pillow-heif",
                "HEIC image; install pillow-heif: pip install 'genkit-torch[images]'",
            ) from None
        plugin.register_heif_opener()
    return Image.OPEN["HEIF"][0]


def _brands(start: bytes) -> set[bytes]:
    """The brands of an ISO base media file (HEIC, AVIF, video); none for other files."""
    if start[4:8] != b"ftyp":
        return set()
    body = start[8 : int.from_bytes(start[:4])]
    return {body[at : at + 4] for at in range(0, len(body), 4) if at != 4}  # 4: minor version


def _refuse_raw(start: bytes, suffix: str) -> None:
    """Refuse photographs as the sensor saw them, most of which Pillow takes for TIFF and would
    show as their thumbnail.
    """
    tiff = start[:4] in (b"II*\0", b"MM\0*")
    if (
        start.startswith(_RAW_SIGNATURES)
        or start[4:12] == b"ftypcrx "
        or (tiff and (start[8:10] == b"CR" or suffix in RAW_SUFFIXES))
    ):
        raise _raw()


def _refuse_thumbnail(picture: Image.Image) -> None:
    """Refuse a TIFF that is a raw photograph (it has DNGVersion) or whose first picture is a small
    copy (NewSubfileType) of others inside it (SubIFDs).
    """
    tags = getattr(picture, "tag_v2", {})
    small = tags.get(254)
    if 50706 in tags or (isinstance(small, int) and small & 1 and 330 in tags):
        raise _raw()


def _raw() -> Unreadable:
    return Unreadable("RAW photograph", "RAW photograph; convert it to PNG or JPEG")


def _foreign(start: bytes, brands: set[bytes]) -> Unreadable:
    """The refusal of a file that no decoder knows."""
    if start.startswith(_JXL_SIGNATURES):
        # pillow-jxl-plugin decodes before the size is known, so that nothing bounds its memory.
        return Unreadable("JPEG XL", "JPEG XL image; convert it to PNG: djxl IMAGE.jxl IMAGE.png")
    names = [name for signature, name in _FOREIGN if start.startswith(signature)]
    text = start.lower()
    if b"<svg" in text:
        names.append("an SVG drawing")
    elif b"<html" in text or b"<!doctype html" in text:
        names.append("a web page")
    elif brands:
        names.append("a video")
    described = f" ({names[0]})" if names else ""
    return Unreadable("not an image", f"not an image that can be read{described}")
