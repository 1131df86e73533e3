"""Pictures of any kind → pixels, as a person sees them: the one reader of image files. Every file
is untrusted. Torch-free, so that worker processes start fast.
"""

import io
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from . import png
from .formats import DECODER_ERRORS, Unreadable as Unreadable, open_decoder, refusal

MAX_IMAGE_PIXELS = 2**28
"""Larger pictures are refused before their pixels are allocated. Phones make photographs of 200
megapixels. At this bound a picture takes 1 GiB, two while it is turned or converted, and three
while transparency is laid over the background.
"""
MAX_FILE_BYTES = 2**32
"""Some decoders read the whole file. This is twice what ``MAX_IMAGE_PIXELS`` take uncompressed."""
MAX_COUNTED_PAGES = 1000
"""Pages of a TIFF are counted up to this number, as each further one takes longer."""

Pictures = Path | bytes | Image.Image
"""A file, the bytes of one, or a picture in memory."""

RGB = tuple[int, int, int]

_ORIENTATION_TAG = 0x0112
_EXIF_DIRECTORIES = 34665, 34853, 40965
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what shows the picture upright."""

_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_ANIMATED = {"GIF", "WEBP", "AVIF", "FLI", "DCX", "PNG", "TIFF"}
"""Formats whose frames are shown one after the other, or are pages. Those of others are layers,
sizes or depth maps of one picture.
"""
_MODE_NAMES = {
    "1": "1-bit",
    "L": "grey",
    "LA": "grey with transparency",
    "La": "grey with transparency",
    "P": "palette",
    "PA": "palette",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "LAB": "Lab",
}
_WITH_TRANSPARENCY = {"grey": "grey with transparency", "RGB": "RGBA"}


@dataclass(frozen=True)
class Header:
    """What a picture is, before its pixels are read.

    Attributes:
        format: Pillow's name of it, such as ``"JPEG"``; ``"PIL"`` for a picture in memory.
        height: in pixels as seen, upright.
        width: as ``height``.
        mode: as a person says it: ``"1-bit"``, ``"grey"``, ``"palette"``, ``"RGB"``, ``"RGBA"``,
            ``"CMYK"``, ``"grey with transparency"``, ``"16-bit RGB"`` …
        channels: that keep what the picture shows: 1 grey, 3 RGB, 4 RGBA.
        frames: of an animation, or pages; the first is read.
        orientation: EXIF's, 1 to 8.
        bits: of a channel, 8 or 16 (for anything between, too).
    """

    format: str
    height: int
    width: int
    mode: str
    channels: int
    frames: int
    orientation: int
    bits: int


@dataclass(frozen=True)
class Target:
    """The pixels that are wanted.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: 1 grey, 3 RGB, 4 RGBA.
        fit: how a picture of another shape becomes this one: ``"crop"`` scales it to cover and
            cuts what is over equally from both sides, ``"pad"`` scales it to fit inside and
            centres it on the background, ``"stretch"`` scales both sides apart.
        background: a colour as Pillow reads it, behind transparency and around padded pictures.
            With four channels, padding is transparent.
    """

    height: int
    width: int
    channels: int
    fit: Literal["crop", "pad", "stretch"]
    background: str


def read_header(source: Pictures) -> Header:
    """What a picture is; its pixels are not decoded, so they may turn out damaged later.

    Raises:
        Unreadable: it cannot be used.
    """
    with _opened(source, pixels=False) as image:
        header = _describe(image)
        return header if image is source else replace(header, frames=_count_frames(image))


def read_pixels(source: Pictures, target: Target) -> np.ndarray:
    """The pixels of a picture; see :func:`read_picture`."""
    return read_picture(source, target)[1]


def read_picture(source: Pictures, target: Target) -> tuple[Header, np.ndarray]:
    """What a picture is, and its pixels as a person sees it: upright, in the colours of its
    palette, with its 16 bits cut to the upper 8, and of an animation the first frame.

    Colours are converted as Pillow does it: grey is its luminance, and CMYK becomes RGB by the
    plain formula, without colour profiles. Transparency is laid over the background before the
    picture is resized. Resizing is bilinear with antialiasing: what torchvision's
    ``transforms.v2.Resize`` and ``CenterCrop`` do to PIL images, bit for bit. A picture of the
    target's size is not resampled.

    Returns:
        The header, and the pixels as uint8 ``(C, H, W)``, contiguous.

    Raises:
        Unreadable: it cannot be used.
    """
    red, green, blue, *_ = ImageColor.getrgb(target.background)
    background = red, green, blue
    with _opened(source, pixels=True) as opened:
        header = _describe(opened)
        array = _fit(_decode(opened, target.channels, background), target, background)
        if opened is not source:  # last, as counting may move to another frame
            header = replace(header, frames=_count_frames(opened))
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)  # (C, H, W)
    return header, np.array(array, order="C")


def _describe(image: Image.Image) -> Header:
    """The header of a picture that is not decoded yet, but for the number of frames."""
    orientation = _orientation(image)
    height, width = _upright_size(image, orientation)
    bits = _bits(image)
    return Header(
        format=image.format or "PIL",
        height=height,
        width=width,
        mode=_mode_name(image, bits),
        channels=_natural_channels(image),
        frames=1,
        orientation=orientation,
        bits=bits,
    )


def perceptual_hash(pixels: np.ndarray) -> int:
    """A hash of 64 bits that stays nearly the same where a picture is resized, compressed or made
    a little lighter: near duplicates differ in few bits (about ten at most).

    The difference hash of N. Krawetz, "Kind of Like That", The Hacker Factor Blog, 2013: whether
    each pixel of the 9 x 8 grey picture is darker than its right neighbour. Every picture of one
    colour has hash 0.

    Args:
        pixels: uint8 ``(C, H, W)``. One, three and four channels are grey, RGB and RGBA (laid over
            white); of any other number, the first counts.
    """
    if len(pixels) in (3, 4):
        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
        image = _convert(image, 1, (255, 255, 255))
    else:
        image = Image.fromarray(np.ascontiguousarray(pixels[0]))
    small = np.asarray(image.resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes())


@contextmanager
def open_image(source: Path | bytes, formats: list[str], max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture that may be damaged or hostile; Pillow decodes its pixels when they are used.

    Only the decoders of ``formats`` are tried, and nothing is allocated for a header that promises
    more than ``max_pixels``. What the body of the ``with`` finds damaged is reported the same way.

    Args:
        source: a file, or the bytes of one.
        formats: Pillow's names of the formats that are accepted, such as ``["PNG"]``.
        max_pixels: the largest width times height that is accepted.

    Raises:
        ValueError: the picture cannot be used; the message says why.
    """
    try:
        with warnings.catch_warnings():
            # max_pixels is the stricter limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = source if isinstance(source, Path) else io.BytesIO(source)
            with Image.open(file, formats=formats) as image:
                if image.width * image.height > max_pixels:
                    raise ValueError(f"{image.width}x{image.height} pixels, more than {max_pixels}")
                yield image
    except (
        OSError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        # For bytes, Pillow's message would name an object in memory.
        unnamed = isinstance(error, UnidentifiedImageError) and not isinstance(source, Path)
        reason = "unknown header" if unnamed else str(error)
        raise ValueError(
            f"not a {' or '.join(formats)} image that can be read ({reason})"
        ) from None


_WARNINGS = threading.RLock()


@contextmanager
def _opened(source: Pictures, pixels: bool) -> Iterator[Image.Image]:
    """The picture, not decoded yet, of a size and depth that can be used. What decoders raise in
    the body of the ``with`` becomes :class:`Unreadable`; their warnings are for programmers.
    """
    found = None
    with _WARNINGS, warnings.catch_warnings():  # which belong to the whole program
        warnings.simplefilter("ignore")
        try:
            if isinstance(source, Image.Image):
                found = source.format
                yield _checked(source)
                return
            with _open_file(source) as file:
                suffix = source.suffix.lower() if isinstance(source, Path) else ""
                image = _identify(file, suffix, pixels)
                found = image.format
                yield _checked(image)
        except DECODER_ERRORS as error:
            raise refusal(error, found) from None


@contextmanager
def _open_file(source: Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        status = source.stat()
    except FileNotFoundError:
        what = "a link to nothing" if source.is_symlink() else "there is no such file"
        raise Unreadable("missing", what) from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise Unreadable("not a file", "not a file")
    if status.st_size > MAX_FILE_BYTES:
        raise Unreadable("too large", f"{status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
    with source.open("rb") as file:
        yield file


def _identify(file: BinaryIO, suffix: str, pixels: bool) -> Image.Image:
    start = file.read(1024)
    if not start:
        raise Unreadable("empty", "the file is empty")
    if start.startswith(png.SIGNATURE):
        return png.open_png(file, pixels)
    return open_decoder(file, start, suffix)


def _checked(image: Image.Image) -> Image.Image:
    limit = MAX_IMAGE_PIXELS
    if image.format == "TIFF" and Image.MAX_IMAGE_PIXELS:  # Pillow refuses more on decoding
        limit = min(limit, 2 * Image.MAX_IMAGE_PIXELS)
    if image.width * image.height > limit:
        size = f"{image.height}x{image.width} pixels (height x width)"
        raise Unreadable("too large", f"{size}, more than {limit:,}")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        reason = "its pixels are 32-bit numbers of no fixed range; save it with 8 or 16 bits"
        raise Unreadable("32-bit", reason)
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except DECODER_ERRORS:
        return 1  # a picture with damaged EXIF is as good as one without
    return value if isinstance(value, int) and value in range(1, 9) else 1


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """(height, width) as seen."""
    width, height = image.size
    turned = orientation >= 5
    if tags := getattr(image, "tag_v2", None):  # Pillow 11 turns the size of a TIFF on opening
        turned = turned and image.size == (tags.get(256), tags.get(257))
    return (width, height) if turned else (height, width)


def _bits(image: Image.Image) -> int:
    """16 for a picture of more than 8 bits, which Pillow may have cut to 8, else 8."""
    deep = image.mode.startswith("I")
    if tags := getattr(image, "tag_v2", None):
        deep = deep or max(tags.get(258, (8,))) > 8  # BitsPerSample
    for decoder, _, _, arguments in getattr(image, "tile", ()):
        if image.format == "PNG":
            deep = deep or ";16" in arguments  # Pillow's name of the layout, such as RGB;16B
        elif decoder == "ppm":
            deep = deep or arguments[1] > 255  # the largest value
    return 16 if deep else 8


def _mode_name(image: Image.Image, bits: int) -> str:
    name = "grey" if image.mode.startswith("I") else _MODE_NAMES.get(image.mode, image.mode)
    if "transparency" in image.info:
        name = _WITH_TRANSPARENCY.get(name, name)
    elif image.format == "PNG" and any("LA" in tile[3] for tile in getattr(image, "tile", ())):
        name = "grey with transparency"  # which Pillow opens as RGBA where it has 16 bits
    return f"16-bit {name}" if bits == 16 else name


def _natural_channels(image: Image.Image) -> int:
    if image.has_transparency_data:
        return 4
    return 1 if image.mode in ("1", "L") or image.mode.startswith("I") else 3


def _count_frames(image: Image.Image) -> int:
    if image.format not in _ANIMATED:
        return 1
    if image.format != "TIFF":
        try:
            return int(getattr(image, "n_frames", 1))
        except DECODER_ERRORS:
            return 1  # a later frame is damaged; the first is what counts
    for page in range(1, MAX_COUNTED_PAGES):
        try:
            image.seek(page)
        except DECODER_ERRORS:  # EOFError after the last
            return page
    return MAX_COUNTED_PAGES


def _decode(image: Image.Image, channels: int, background: RGB) -> Image.Image:
    """The opened picture in its size, upright, of mode ``L``, ``RGB`` or ``RGBA``."""
    if image.format == "TIFF":  # Pillow would read these after the pixels; they may be damaged
        exif = image.getexif()
        for tag in _EXIF_DIRECTORIES:
            if tag in exif:
                del exif[tag]
    image.load()
    orientation = _orientation(image)
    upright = _to_8_bits(image)
    if orientation > 1:
        upright = upright.transpose(_TRANSPOSITIONS[orientation])
    return _convert(upright, channels, background)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A picture in a mode that Pillow converts to grey, RGB and RGBA as it should."""
    if image.mode in _PREMULTIPLIED:
        return image.convert(_PREMULTIPLIED[image.mode])
    if image.mode == "LAB":
        return image.convert("RGB")
    if image.mode == "P" and image.palette is None:  # in an ICNS; only the conversion knows it
        return image.convert("RGBA")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int32)  # (H, W)
    tags = getattr(image, "tag_v2", {})
    depth = 12 if tags.get(258) == (12,) else 16  # BitsPerSample
    grey = (values >> depth - 8).clip(0, 255).astype(np.uint8)
    if tags.get(262) == 0:  # WhiteIsZero, which Pillow heeds for 8 bits only
        grey = 255 - grey
    converted = Image.fromarray(grey)
    if "transparency" in image.info:
        opaque = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        converted.putalpha(Image.fromarray(opaque))
    return converted


def _convert(image: Image.Image, channels: int, background: RGB) -> Image.Image:
    """``L`` for one channel, ``RGB`` for three, ``RGBA`` for four."""
    if channels != 4 and image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return image if image.mode == mode else image.convert(mode)  # convert always copies


def _fit(image: Image.Image, target: Target, background: RGB) -> np.ndarray:
    """The picture in the target's size, ``(H, W)`` for grey, else ``(H, W, C)``."""
    if target.fit == "crop":
        return _crop(image, target)
    if target.fit == "pad":
        return _pad(image, target, background)
    return np.asarray(_resize(image, target.height, target.width))


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, target: Target) -> np.ndarray:
    if target.width * image.height >= target.height * image.width:
        width, height = target.width, int(target.width * image.height / image.width)
    else:
        width, height = int(target.height * image.width / image.height), target.height
    if width * height > MAX_IMAGE_PIXELS:  # a line of pixels: cut first, to the same but rounding
        scale = max(target.width / image.width, target.height / image.height)
        left = max(0.0, (image.width - target.width / scale) / 2)
        top = max(0.0, (image.height - target.height / scale) / 2)
        box = left, top, image.width - left, image.height - top
        size = target.width, target.height
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))
    array = np.asarray(_resize(image, height, width))
    top, left = round((height - target.height) / 2.0), round((width - target.width) / 2.0)
    return array[top : top + target.height, left : left + target.width]


def _pad(image: Image.Image, target: Target, background: RGB) -> np.ndarray:
    if target.width * image.height <= target.height * image.width:
        width, height = target.width, max(1, int(target.width * image.height / image.width))
    else:
        width, height = max(1, int(target.height * image.width / image.height)), target.height
    inside = _resize(image, height, width)
    colour = (*background, 0) if image.mode == "RGBA" else background
    filled = Image.new("RGBA" if image.mode == "RGBA" else "RGB", (1, 1), colour)
    shape = (target.height, target.width, *np.asarray(inside).shape[2:])
    array = np.empty(shape, np.uint8)
    array[:] = np.asarray(filled.convert(image.mode))[0, 0]
    top, left = (target.height - height) // 2, (target.width - width) // 2
    array[top : top + height, left : left + width] = np.asarray(inside)
    return array
