"""Pictures of every kind are read as a person sees them, or refused with a reason."""

import importlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageOps, PngImagePlugin
from torchvision.transforms import v2

from genkit.data import images
from genkit.data.files import formats, png, reading
from genkit.data.files.reading import Header, Target, Unreadable, read_header, read_pixels

PHOTO = Image.fromarray(
    np.kron(
        np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8),
        np.ones((4, 4, 1), np.uint8),
    )
)
"""16 x 12 pixels in blocks of 4."""
ALPHA = Image.fromarray(np.tile(np.arange(16, dtype=np.uint8) * 17, (12, 1)))
WITH_ALPHA = PHOTO.copy()
WITH_ALPHA.putalpha(ALPHA)
WIDE = np.random.default_rng(1).integers(0, 65536, (12, 16)).astype(np.uint16)
INDEXED = PHOTO.convert("P")
FIRST = INDEXED.getpixel((0, 0))
SIZES = (12, 16)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 4 x 2 pixels; ``rows`` are two rows without their filter bytes."""
    length = len(rows) // 2
    data = zlib.compress(b"\0" + rows[:length] + b"\0" + rows[length:])
    header = struct.pack(">IIBBBBB", 4, 2, depth, colour_type, 0, 0, 0)
    return png.SIGNATURE + b"".join(
        _chunk(*chunk) for chunk in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b""))
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _target(
    channels: int, size: tuple[int, int] = SIZES, fit: Any = "crop", background: str = "white"
) -> Target:
    return Target(*size, channels, fit, background)


def _reference(image: Image.Image, target: Target) -> np.ndarray:
    """The picture by Pillow and torchvision alone; for square targets, and pads of black."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "LAB":
        image = image.convert("RGB")
    if target.channels == 4:
        image = image.convert("RGBA")
    elif image.has_transparency_data:
        behind = Image.new("RGBA", image.size, ImageColor.getrgb(target.background))
        behind.alpha_composite(image.convert("RGBA"))
        image = behind.convert("RGB")
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[target.channels])
    size = [target.height, target.width]
    steps = {
        "crop": [v2.Resize(target.height), v2.CenterCrop(size)],
        "pad": [v2.Resize(None, max_size=target.height), v2.CenterCrop(size)],
        "stretch": [v2.Resize(size)],
    }
    array = np.asarray(v2.Compose(steps[target.fit])(image))
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _read_by_pillow(data: bytes, target: Target) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return _reference(image, target)


KINDS = {
    "jpeg": (_encode(PHOTO, "JPEG"), "RGB", 3),
    "progressive jpeg": (_encode(PHOTO, "JPEG", progressive=True), "RGB", 3),
    "grey jpeg": (_encode(PHOTO.convert("L"), "JPEG"), "grey", 1),
    "CMYK jpeg": (_encode(PHOTO.convert("CMYK"), "JPEG"), "CMYK", 3),
    "png": (_encode(PHOTO, "PNG"), "RGB", 3),
    "RGBA png": (_encode(WITH_ALPHA, "PNG"), "RGBA", 4),
    "LA png": (_encode(WITH_ALPHA.convert("LA"), "PNG"), "grey with transparency", 4),
    "palette png": (_encode(PHOTO.convert("P"), "PNG"), "palette", 3),
    "palette png, one transparent": (
        _encode(INDEXED, "PNG", transparency=FIRST),
        "palette",
        4,
    ),
    "palette png, many": (_encode(WITH_ALPHA.quantize(16), "PNG"), "palette", 4),
    "grey png, one transparent": (
        _encode(PHOTO.convert("L"), "PNG", transparency=PHOTO.convert("L").getpixel((0, 0))),
        "grey with transparency",
        4,
    ),
    "RGB png, one transparent": (
        _encode(PHOTO, "PNG", transparency=PHOTO.getpixel((5, 5))),
        "RGBA",
        4,
    ),
    "1-bit png": (_encode(PHOTO.convert("1"), "PNG"), "1-bit", 1),
    "gif": (_encode(PHOTO, "GIF"), "palette", 3),
    "grey gif": (_encode(PHOTO.convert("L"), "GIF"), "palette", 3),
    "transparent gif": (_encode(INDEXED, "GIF", transparency=FIRST), "palette", 4),
    "bmp": (_encode(PHOTO, "BMP"), "RGB", 3),
    "32-bit bmp": (_encode(WITH_ALPHA, "BMP"), "RGB", 3),
    "1-bit bmp": (_encode(PHOTO.convert("1"), "BMP"), "1-bit", 1),
    "webp": (_encode(PHOTO, "WEBP"), "RGB", 3),
    "RGBA webp": (_encode(WITH_ALPHA, "WEBP", lossless=True), "RGBA", 4),
    "avif": (_encode(PHOTO, "AVIF"), "RGB", 3),
    "tiff": (_encode(PHOTO, "TIFF"), "RGB", 3),
    "lzw tiff": (_encode(PHOTO, "TIFF", compression="tiff_lzw"), "RGB", 3),
    "jpeg tiff": (_encode(PHOTO, "TIFF", compression="jpeg"), "RGB", 3),
    "fax tiff": (_encode(PHOTO.convert("1"), "TIFF", compression="group4"), "1-bit", 1),
    "YCbCr tiff": (_encode(PHOTO.convert("YCbCr"), "TIFF"), "YCbCr", 3),
    "Lab tiff": (_encode(PHOTO.convert("LAB"), "TIFF"), "Lab", 3),
    "CMYK tiff": (_encode(PHOTO.convert("CMYK"), "TIFF"), "CMYK", 3),
    "LA tiff": (_encode(WITH_ALPHA.convert("LA"), "TIFF"), "grey with transparency", 4),
    "PA tiff": (_encode(WITH_ALPHA.convert("PA"), "TIFF"), "palette", 4),
    "jpeg 2000": (_encode(PHOTO, "JPEG2000"), "RGB", 3),
    "tga": (_encode(WITH_ALPHA, "TGA"), "RGBA", 4),
    "qoi": (_encode(PHOTO, "QOI"), "RGB", 3),
    "dds": (_encode(PHOTO, "DDS"), "RGB", 3),
    "pcx": (_encode(PHOTO.convert("P"), "PCX"), "palette", 3),
    "ppm": (_encode(PHOTO, "PPM"), "RGB", 3),
    "pgm": (_encode(PHOTO.convert("L"), "PPM"), "grey", 1),
    "sgi": (_encode(PHOTO, "SGI"), "RGB", 3),
    "xbm": (_encode(PHOTO.convert("1"), "XBM"), "1-bit", 1),
    "blp": (_encode(PHOTO.convert("P"), "BLP"), "RGB", 3),
    "dib": (_encode(PHOTO, "DIB"), "RGB", 3),
}
"""Name → bytes of a picture of 16 x 12 pixels, its mode, and its channels."""


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_8_bits_are_read_as_pillow_shows_them(name: str) -> None:
    data, mode, channels = KINDS[name]
    header = read_header(data)
    kind = "JPEG2000" if name == "jpeg 2000" else header.format
    assert header == Header(kind, 12, 16, mode, channels, 1, 1, 8)
    for wanted in (1, 3, 4):
        target = _target(wanted, (8, 8), background="#c08040")
        pixels = read_pixels(data, target)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (wanted, 8, 8))
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        assert np.array_equal(pixels, _read_by_pillow(data, target))


def test_icons_have_transparency() -> None:
    for kind in ("ICO", "ICNS"):
        data = _encode(WITH_ALPHA.resize((32, 32)), kind)
        assert read_header(data).channels == 4
        assert np.array_equal(
            read_pixels(data, _target(4, (8, 8))), _read_by_pillow(data, _target(4, (8, 8)))
        )
    palette = _encode(PHOTO.resize((32, 32)).convert("P"), "ICNS")
    assert read_pixels(palette, _target(3, (8, 8))).std() > 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_gives_its_upper_8(kind: str) -> None:
    data = _encode(Image.fromarray(WIDE), kind, **({"irreversible": False} if "2" in kind else {}))
    header = read_header(data)
    assert (header.mode, header.channels, header.bits) == ("16-bit grey", 1, 16)
    assert np.array_equal(read_pixels(data, _target(1))[0], WIDE >> 8)
    assert np.array_equal(read_pixels(data, _target(3)), np.stack([WIDE >> 8] * 3))


def test_16_bits_in_other_layouts() -> None:
    rng = np.random.default_rng(2)
    for colour_type, mode, channels in (
        (2, "16-bit RGB", 3),
        (4, "16-bit grey with transparency", 4),
        (6, "16-bit RGBA", 4),
    ):
        bands = {2: 3, 4: 2, 6: 4}[colour_type]
        wide = rng.integers(0, 65536, (2, 4, bands)).astype(">u2")
        data = _png(16, colour_type, wide.tobytes())
        header = read_header(data)
        assert (header.mode, header.channels, header.bits) == (mode, channels, 16)
        expected = (wide >> 8)[..., [0, 0, 0, 1] if bands == 2 else list(range(bands))]
        pixels = read_pixels(data, _target(channels, (2, 4)))
        assert np.array_equal(pixels, np.moveaxis(expected, -1, 0))
    ppm = b"P6 2 1 65535 " + struct.pack(">6H", 0, 257, 514, 65535, 30000, 1000)
    assert read_header(ppm) == Header("PPM", 1, 2, "16-bit RGB", 3, 1, 1, 16)
    assert read_pixels(ppm, _target(3, (1, 2)))[:, 0].tolist() == [[0, 255], [1, 117], [2, 4]]


def _tiff(bits: int, white_is_zero: bool, pixels: bytes, form: int = 1) -> bytes:
    """A grey TIFF of 2 x 1 pixels."""
    tags = ((256, 2), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1))
    tags += ((273, 8), (277, 1), (278, 1), (279, len(pixels)), (339, form))
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    start = 8 + len(pixels)
    return (
        struct.pack("<2sHI", b"II", 42, start) + pixels + struct.pack("<H", 10) + entries + bytes(4)
    )


def test_tiffs_of_more_than_8_bits() -> None:
    wide = struct.pack("<HH", 0x1234, 0xFEDC)
    assert read_pixels(_tiff(16, False, wide), _target(1, (1, 2))).tolist() == [[[0x12, 0xFE]]]
    inverted = read_pixels(_tiff(16, True, wide), _target(1, (1, 2)))
    assert inverted.tolist() == [[[255 - 0x12, 255 - 0xFE]]]
    twelve = read_pixels(_tiff(12, False, bytes((0x12, 0x3F, 0xED))), _target(1, (1, 2)))
    assert twelve.tolist() == [[[0x12, 0xFE]]]


@pytest.mark.parametrize(
    "data",
    [
        _encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"),
        _encode(Image.fromarray(np.zeros((2, 2), np.int32)), "TIFF"),
        _tiff(16, False, bytes(4), form=2),
    ],
    ids=["float", "int", "signed"],
)
def test_numbers_of_no_fixed_range_are_refused(data: bytes) -> None:
    for read in (read_header, lambda data: read_pixels(data, _target(1))):
        with pytest.raises(Unreadable, match="save it with 8 or 16 bits") as caught:
            read(data)
        assert caught.value.kind == "32-bit"


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_of_a_png_of_any_depth(depth: int) -> None:
    levels = [0, 2**depth - 1, 1, 2**depth - 1, 2**depth - 1, 0, 1, 0]
    bits = "".join(f"{level:0{depth}b}" for level in levels[:4]).ljust(8, "0")
    more = "".join(f"{level:0{depth}b}" for level in levels[4:]).ljust(8, "0")
    rows = b"".join(int(row, 2).to_bytes(len(row) // 8) for row in (bits, more))
    clear = (b"tRNS", (2**depth - 1).to_bytes(2))
    data = _png(depth, 0, rows, clear)
    assert read_header(data).channels == 4
    alpha = read_pixels(data, _target(4, (2, 4)))[3]
    assert alpha.ravel().tolist() == [0 if level == 2**depth - 1 else 255 for level in levels]


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour_of_a_png(depth: int) -> None:
    colours = np.array([[10, 20, 30], [10, 20, 31]] * 4) * (1 if depth == 8 else 257)
    kind = ">u1" if depth == 8 else ">u2"
    clear = (b"tRNS", colours[0].astype(">u2").tobytes())
    data = _png(depth, 2, colours.astype(kind).tobytes(), clear)
    assert read_pixels(data, _target(4, (2, 4)))[3].ravel().tolist() == [0, 255] * 4
    white = read_pixels(data, _target(3, (2, 4)))[:, 0]
    assert white.tolist() == [[255, 10] * 2, [255, 20] * 2, [255, 31] * 2]


def _corners() -> Image.Image:
    image = Image.new("RGB", (48, 32), "white")
    for at, colour in zip(
        [(0, 0), (32, 0), (0, 16), (32, 16)], ["red", "lime", "blue", "black"], strict=True
    ):
        image.paste(colour, (*at, at[0] + 16, at[1] + 16))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_exif_orientation_is_upright(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    upright = _corners()
    turns = Image.Transpose
    stored_by = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM]
    stored_by += [turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    for orientation, turn in enumerate(stored_by, 1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright.copy() if turn is None else upright.transpose(turn)
        stored.info["exif"] = exif.tobytes()
        data = _encode(stored, kind, exif=stored.info["exif"], quality=95)
        header = read_header(data)
        assert (header.height, header.width) == (32, 48)
        if kind not in ("AVIF", "HEIF"):  # which have an orientation of their own
            assert header.orientation == orientation
        pixels = read_pixels(data, _target(3, (32, 48)))
        difference = pixels.astype(int) - np.moveaxis(np.asarray(upright), -1, 0)
        for top in (0, 16):  # the middles of the corners, off the borders that compression blurs
            for left in (0, 32):
                assert abs(difference[:, top + 4 : top + 12, left + 4 : left + 12]).max() < 30
        assert np.array_equal(pixels, _read_by_pillow(data, _target(3, (32, 48), "stretch")))


def test_orientation_after_the_pixels_and_in_xmp() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    late = bytearray(_encode(PHOTO, "PNG"))
    late[-12:-12] = _chunk(b"eXIf", exif.tobytes()[6:])
    xmp = b'<x tiff:Orientation="8"/>'
    early = bytearray(_encode(PHOTO, "PNG"))
    early[33:33] = _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    for data, orientation in ((bytes(late), 6), (bytes(early), 8)):
        header = read_header(data)
        assert (header.height, header.width, header.orientation) == (16, 12, orientation)
        pixels = read_pixels(data, _target(3, (16, 12)))
        assert np.array_equal(pixels, _read_by_pillow(data, _target(3, (16, 12), "stretch")))


def test_damaged_exif_hides_no_picture() -> None:
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8769] = {36867: "2020:01:01 00:00:00", 37500: b"note" * 8}
    whole = exif.tobytes()
    seen = set()
    for number in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(6, len(whole), 4):
            damaged[at] = rng.integers(256)
        block = bytes(damaged if number else b"Exif\0\0nothing of the kind")
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        data = _encode(PHOTO, kind, exif=block)
        seen.add(read_header(data).orientation)
        assert read_pixels(data, _target(3)).shape == (3, 12, 16)
    assert {1, 6} <= seen
    broken = bytearray(_encode(PHOTO, "PNG", exif=whole))
    broken[broken.index(b"eXIf") + 20] ^= 255  # its checksum is wrong now
    assert read_header(bytes(broken)).orientation == 1
    mpf = _encode(PHOTO, "JPEG")
    mpf = mpf[:2] + b"\xff\xe2\x00\x10MPF\0II*\0\x08\0\0\0\x63\x00" + mpf[2:]
    assert read_header(mpf).frames == 1
    assert np.array_equal(read_pixels(mpf, _target(3)), read_pixels(KINDS["jpeg"][0], _target(3)))
    tiff = _encode(PHOTO, "TIFF", tiffinfo={0x0112: 6, 34665: 0})  # a directory at the signature
    assert read_header(tiff).orientation == 6
    assert read_pixels(tiff, _target(3)).shape == (3, 12, 16)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_resizing_is_torchvisions(fit: str, mode: str) -> None:
    rng = np.random.default_rng(4)
    sizes = [(12, 16), (16, 12), (64, 64), (63, 65), (1, 7), (7, 1), (200, 133), (33, 190)]
    for height, width in sizes:
        bands = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
        image = Image.fromarray(rng.integers(0, 256, (height, width, *bands), dtype=np.uint8))
        for side in (1, 8, 31, 64):
            target = _target(bands[0] if bands else 1, (side, side), fit, "black")
            if fit == "pad" and side * min(height, width) < max(height, width):
                continue  # torchvision makes a side of 0 pixels
            assert np.array_equal(read_pixels(image, target), _reference(image, target))


def test_targets_that_are_not_square() -> None:
    rng = np.random.default_rng(5)
    for height, width in ((20, 60), (60, 20), (48, 64), (7, 5)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        tall = Target(48, 16, 3, "crop", "black")
        long = max(16, int(48 * width / height)), 48
        if 16 * height >= 48 * width:
            long = 16, int(16 * height / width)
        whole = np.asarray(image.resize(long, Image.Resampling.BILINEAR))
        top, left = round((long[1] - 48) / 2), round((long[0] - 16) / 2)
        cut = np.moveaxis(whole[top : top + 48, left : left + 16], -1, 0)
        assert np.array_equal(read_pixels(image, tall), cut)
        padded = read_pixels(image, Target(48, 16, 3, "pad", "red"))
        inside = padded[:, ~(padded == [[[255]], [[0]], [[0]]]).all((0, 2))]
        assert inside.shape[1] == min(48, max(1, int(16 * height / width)))
    same = Image.fromarray(rng.integers(0, 256, (48, 16, 3), dtype=np.uint8))
    for fit in ("crop", "pad", "stretch"):
        kept = read_pixels(same, _target(3, (48, 16), fit))
        assert np.array_equal(kept, np.moveaxis(np.asarray(same), -1, 0))


def test_padding_has_the_background() -> None:
    wide = Image.new("L", (8, 4), 7)
    grey = read_pixels(wide, _target(1, (8, 8), "pad", "#ff0000"))
    assert grey[0, :, 0].tolist() == [76, 76, 7, 7, 7, 7, 76, 76]  # the luminance of red
    clear = read_pixels(wide, _target(4, (8, 8), "pad", "#ff0000"))
    assert clear[:, 0, 0].tolist() == [255, 0, 0, 0]
    assert clear[:, 4, 4].tolist() == [7, 7, 7, 255]


def test_a_line_of_pixels_is_cropped_within_memory() -> None:
    line = Image.fromarray(np.arange(10_000_000, dtype=np.uint32).astype(np.uint8)[None])
    pixels = read_pixels(line, _target(1, (64, 64)))
    assert pixels.shape == (1, 64, 64)
    assert len(np.unique(pixels)) <= 3  # two neighbours, enlarged


def _frames() -> list[Image.Image]:
    return [PHOTO.rotate(angle) for angle in (0, 90, 180)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_frame_is_read(kind: str) -> None:
    first, *others = _frames()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 90} if kind == "AVIF" else {}
    data = _encode(first, kind, save_all=True, append_images=others, **options)
    assert read_header(data).frames == 3
    assert np.array_equal(read_pixels(data, _target(3)), _read_by_pillow(data, _target(3)))
    if kind == "PNG":
        separate = _encode(first, kind, save_all=True, append_images=others, default_image=True)
        assert read_header(separate).frames == 3
        assert np.array_equal(read_pixels(separate, _target(3)), read_pixels(first, _target(3)))


def test_a_first_frame_smaller_than_the_screen() -> None:
    data = bytearray(_encode(PHOTO, "GIF"))
    data[6:10] = struct.pack("<HH", 20, 14)
    header = read_header(bytes(data))
    assert (header.height, header.width) == (14, 20)
    target = _target(3, (14, 20), "stretch")
    assert np.array_equal(read_pixels(bytes(data), target), _read_by_pillow(bytes(data), target))


def test_layers_and_sizes_are_no_frames() -> None:
    assert read_header(_encode(PHOTO, "MPO", save_all=True, append_images=_frames())).frames == 1
    assert read_header(_encode(PHOTO.resize((48, 48)), "ICO")).frames == 1


def test_pictures_with_long_texts_are_read() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "{}" * 600_000, zip=True)
    info.add_text("prompt", "a cat " * 200_000)
    info.add_itxt("parameters", "é" * 1_000_000, zip=True)
    plain = read_pixels(PHOTO, _target(3))
    data = _encode(PHOTO, "PNG", pnginfo=info)
    assert read_header(data).mode == "RGB"
    assert np.array_equal(read_pixels(data, _target(3)), plain)
    profile = bytearray(_encode(PHOTO, "PNG"))
    profile[33:33] = _chunk(b"iCCP", b"name\0\7nothing") + _chunk(b"fcTL", b"short")
    profile[33:33] = _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(9_000_000)))
    profile[33:33] = _chunk(b"tEXt", b"key\0a value")[:-1] + b"?"  # a wrong checksum
    assert np.array_equal(read_pixels(bytes(profile), _target(3)), plain)
    assert read_header(bytes(profile)).frames == 1


TRUNCATED = ["jpeg", "progressive jpeg", "png", "palette png", "gif", "bmp", "webp", "RGBA webp"]
TRUNCATED += ["avif", "tiff", "lzw tiff", "jpeg tiff", "jpeg 2000", "tga", "qoi", "dds", "ppm"]
TRUNCATED += ["pgm", "sgi", "dib", "blp"]


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_pictures_are_refused_or_whole(name: str) -> None:
    data, _, _ = KINDS[name]
    whole = read_pixels(data, _target(3))
    kinds = set()
    for end in sorted(
        {*range(1, len(data), len(data) // 40 + 1), *range(len(data) - 9, len(data))}
    ):
        try:
            pixels = read_pixels(data[:end], _target(3))
        except Unreadable as error:
            if end > len(data) // 2:
                kinds.add(error.kind)
        else:
            assert np.array_equal(pixels, whole), end
    if name in {"lzw tiff", "jpeg tiff", "jpeg 2000"}:  # their libraries do not say why
        assert kinds <= {"truncated", "damaged", "not supported"}
    else:
        assert "truncated" in kinds
        assert kinds <= {"truncated", "damaged"}


def test_a_png_without_its_end_is_refused_by_its_header_too() -> None:
    data = _encode(PHOTO, "PNG")
    for end in (len(data) - 1, len(data) - 12, len(data) - 30, 40, 20, 9):
        for read in (read_header, lambda data: read_pixels(data, _target(3))):
            with pytest.raises(Unreadable, match="truncated PNG image") as caught:
                read(data[:end])
            assert caught.value.kind == "truncated"
    changed = bytearray(data)
    changed[data.index(b"IDAT") + 6] ^= 1
    with pytest.raises(Unreadable, match=r"damaged PNG image \(checksum of IDAT\)"):
        read_pixels(bytes(changed), _target(3))
    with pytest.raises(Unreadable, match="no header or no pixels"):
        read_header(png.SIGNATURE + _chunk(b"IEND", b""))


def test_no_header_makes_it_allocate_more_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = bytearray(_encode(PHOTO, "PNG"))
    huge[16:24] = struct.pack(">II", 2**16, 2**16)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    jpeg = bytearray(KINDS["jpeg"][0])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    bmp = bytearray(KINDS["bmp"][0])
    bmp[18:26] = struct.pack("<ii", 2**15, 2**15)
    for data in (huge, jpeg, bmp):
        for read in (read_header, lambda data: read_pixels(data, _target(3))):
            with pytest.raises(Unreadable, match=r"pixels \(height x width\), more than") as caught:
                read(bytes(data))
            assert caught.value.kind == "too large"
    path = tmp_path / "sparse.webp"
    with path.open("wb") as file:
        file.truncate(reading.MAX_FILE_BYTES + 1)
    with pytest.raises(Unreadable, match="bytes, more than"):
        read_header(path)
    monkeypatch.setattr(reading, "MAX_IMAGE_PIXELS", 16 * 12)
    assert read_header(KINDS["png"][0]).width == 16
    with pytest.raises(Unreadable, match="12x17 pixels"):
        read_header(Image.new("L", (17, 12)))


def test_larger_photographs_than_pillow_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow refuses twice as many
    for name in ("jpeg", "png", "bmp"):
        assert read_pixels(KINDS[name][0], _target(3)).shape == (3, 12, 16)
    with pytest.raises(Unreadable, match="more than 100"):
        read_header(KINDS["tiff"][0])


def test_files_are_read_by_content(tmp_path: Path) -> None:
    for suffix in (".png", ".JPG", ".dng", ".txt", ""):
        path = tmp_path / f"picture{suffix}"
        path.write_bytes(KINDS["jpeg"][0])
        assert read_header(path).format == "JPEG"
        assert np.array_equal(
            read_pixels(path, _target(3)), read_pixels(path.read_bytes(), _target(3))
        )
    for name, kind in (("lzw tiff", "TIFF"), ("tga", "TGA"), ("webp", "WEBP")):
        path = tmp_path / f"{kind}.jpeg"
        path.write_bytes(KINDS[name][0])
        assert read_header(path).format == kind
        assert np.array_equal(
            read_pixels(path, _target(3)), _read_by_pillow(path.read_bytes(), _target(3))
        )


def test_pictures_in_memory() -> None:
    assert read_header(WITH_ALPHA) == Header("PIL", 12, 16, "RGBA", 4, 1, 1, 8)
    assert read_header(Image.fromarray(WIDE)).mode == "16-bit grey"
    with Image.open(io.BytesIO(KINDS["gif"][0])) as opened:
        assert read_header(opened).format == "GIF"
        assert np.array_equal(
            read_pixels(opened, _target(3)), read_pixels(KINDS["gif"][0], _target(3))
        )
        opened.load()  # it is still the caller's
    for mode in ("La", "RGBa", "HSV", "RGBX", "LAB", "YCbCr", "1"):
        source = WITH_ALPHA.convert("LA") if mode == "La" else WITH_ALPHA
        source = source if mode in ("La", "RGBa") else source.convert("RGB")
        assert read_pixels(source.convert(mode), _target(3)).shape == (3, 12, 16)
    truncated = Image.open(io.BytesIO(KINDS["jpeg"][0][:-40]))
    with pytest.raises(Unreadable, match="truncated JPEG"):
        read_pixels(truncated, _target(3))


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", "empty", "the file is empty"),
        (b"hello\n" * 99, "not an image", "not an image that can be read$"),
        (bytes(3000), "not an image", "not an image"),
        (b"%PDF-1.7 x", "not an image", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image", "a PostScript drawing"),
        (b"\n<!DOCTYPE html><p>404", "not an image", "a web page"),
        (b'<?xml version="1.0"?><svg>', "not an image", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1", "not an image", "run git lfs pull"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp42", "not an image", "a video"),
        (b"\xff\x0a\xfa\x7f\x01", "JPEG XL", "convert it to PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "convert it to PNG"),
        (b"FUJIFILMCCD-RAW 0201", "RAW photograph", "convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "RAW photograph", "convert it"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "RAW photograph", "convert it"),
        (_png(8, 2, bytes(24))[:33] + b"\xff" * 99, "damaged", "a chunk has no name"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "damaged", "damaged JPEG image"),
        (b"\xff\xd8\xff\xc0\0\x0b\x0c\0\1\0\1\1\1\x11\0", "not supported", "cannot handle 12-bit"),
    ],
)
def test_what_is_refused_is_named(data: bytes, kind: str, reason: str) -> None:
    for read in (read_header, lambda data: read_pixels(data, _target(3))):
        with pytest.raises(Unreadable, match=reason) as caught:
            read(data)
        assert caught.value.kind == kind
        assert str(type(caught.value)(*caught.value.args)) == str(
            caught.value
        )  # as workers send it


def test_raw_photographs_are_not_read_as_their_thumbnails(tmp_path: Path) -> None:
    nef = tmp_path / "a.NEF"
    nef.write_bytes(KINDS["tiff"][0])
    dng = _encode(PHOTO, "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    small = _encode(PHOTO, "TIFF", tiffinfo={254: 1, 330: 8})
    for source in (nef, dng, small):
        with pytest.raises(Unreadable, match="RAW photograph; convert it to PNG or JPEG"):
            read_header(source)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to("gone.png")
    for path, kind, reason in (
        (tmp_path / "gone.png", "missing", "there is no such file"),
        (link, "missing", "a link to nothing"),
        (tmp_path, "not a file", "not a file"),
    ):
        with pytest.raises(Unreadable, match=reason) as caught:
            read_header(path)
        assert caught.value.kind == kind


def _without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    found = importlib.import_module

    def import_module(name: str) -> Any:
        if name == "pillow_heif":
            raise ModuleNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib, "import_module", import_module)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_heic_without_its_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_heif(monkeypatch)
    with pytest.raises(Unreadable, match=r"pip install 'genkit-torch\[images\]'") as caught:
        read_header(HEIC)
    assert caught.value.kind == "HEIC without pillow-heif"


def test_heic_with_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    plugin.from_pillow(_corners()).save(buffer, quality=90)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # it is registered when it is needed
    data = buffer.getvalue()
    assert read_header(data) == Header("HEIF", 32, 48, "RGB", 3, 1, 1, 8)
    pixels = read_pixels(data, _target(3, (32, 48)))
    assert np.abs(pixels[:, 8, 8] - np.array([255, 0, 0])).max() < 30
    for end in (len(data) - 1, len(data) // 2, 60):
        with pytest.raises(Unreadable):
            read_pixels(data[:end], _target(3))
    with pytest.raises(Unreadable, match="HEIF"):
        read_header(HEIC)


def test_avif_without_a_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.features, "check", lambda _: False)
    with pytest.raises(Unreadable, match="pip install --upgrade pillow") as caught:
        read_header(KINDS["avif"][0])
    assert caught.value.kind == "AVIF without a decoder"


def test_every_decoder_of_pillow_is_accounted_for() -> None:
    Image.init()
    tried = {"PNG", "JPEG", "AVIF", "HEIF", *formats.DECODERS}
    assert not tried & set(formats.LEFT_OUT)
    ours = {name for name, (factory, _) in Image.OPEN.items() if factory.__module__[:4] == "PIL."}
    assert ours <= tried | set(formats.LEFT_OUT)


def _corrupt(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    how = rng.integers(5)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(min(len(damaged), 100) if rng.random() < 0.5 else len(damaged)))
        if how == 0:
            damaged[at] = rng.integers(256)
        elif how == 1:
            damaged[at : at + 4] = rng.choice([0, 255, 65535, 2**31 - 1]).astype(">u4").tobytes()
        elif how == 2:
            del damaged[at : at + 9]
        elif how == 3:
            damaged[at:at] = rng.bytes(9)
        else:
            del damaged[max(at, 16) :]
    if damaged[:8] == png.SIGNATURE:  # with right checksums, the damage gets further
        damaged = _renew_checksums(damaged)
    return bytes(damaged)


def _renew_checksums(data: bytearray) -> bytearray:
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_damaged_gives_pixels_or_a_reason(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_IMAGE_PIXELS", 2**22)  # for speed
    rng = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = [data for data, _, _ in KINDS.values()]
    sources += [_encode(PHOTO, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    sources += [
        _encode(PHOTO, kind, save_all=True, append_images=_frames()) for kind in ("GIF", "PNG")
    ]
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(500):
            data = _corrupt(sources[number % len(sources)], rng)
            target = _target((1, 3, 4)[number % 3], (8, 6), ("crop", "pad", "stretch")[number % 2])
            for read in (read_header, lambda data, target=target: read_pixels(data, target)):
                try:
                    read(data)
                    outcomes.add("read")
                except Unreadable as error:
                    outcomes.add("two lines" if "\n" in str(error) else error.kind)
    assert {"read", "truncated", "damaged", "too large", "not an image"} <= outcomes
    assert "two lines" not in outcomes


@pytest.mark.parametrize(
    "suffix", ["PNG", "jfif", "JPE", "tif", "heic", "NEF", "jxl", "mpo", "avif"]
)
def test_a_suffix_of_pictures(suffix: str) -> None:
    assert formats.has_image_suffix(f"a.{suffix}")


@pytest.mark.parametrize(
    "name", ["a.pdf", "a.eps", "a.txt", "a.mp4", "a.npy", ".png", "png", "a.h5"]
)
def test_other_names(name: str) -> None:
    assert not formats.has_image_suffix(name)


def test_importing_the_reader_imports_no_torch() -> None:
    code = "import sys, genkit.data.files.reading; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hashes_of_near_duplicates_are_near() -> None:
    rng = np.random.default_rng(6)
    smooth = np.kron(rng.integers(0, 256, (3, 8, 9)), np.ones((1, 12, 12))).astype(np.uint8)
    hashed = reading.perceptual_hash(smooth)
    small = read_pixels(Image.fromarray(np.moveaxis(smooth, 0, -1)), _target(3, (40, 45)))
    lighter = (smooth * 0.9 + 20).astype(np.uint8)
    clear = np.concatenate([smooth, np.full((1, 96, 108), 255, np.uint8)])
    for near in (small, lighter, clear):
        assert (hashed ^ reading.perceptual_hash(near)).bit_count() <= 6
    other = reading.perceptual_hash(np.ascontiguousarray(smooth[:, ::-1]))
    assert (hashed ^ other).bit_count() > 16
    ramp = np.tile(np.arange(9, dtype=np.uint8), (1, 8, 1))
    assert reading.perceptual_hash(ramp) == 2**64 - 1
    assert reading.perceptual_hash(ramp[:, :, ::-1]) == 0
    step = np.zeros((2, 8, 9), np.uint8)
    step[0, 0, 1:] = 9  # the first pixel is darker than its neighbour, in the first row
    assert reading.perceptual_hash(step) == 2**63


def test_untrusted_pictures_are_opened_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.write_picture(images.encode_png(Image.new("L", (8, 4), 7)), path)
    for source in (path, path.read_bytes()):
        with reading.open_image(source, ["PNG"], max_pixels=32) as picture:
            assert np.asarray(picture).tolist() == [[7] * 8] * 4
        with (
            pytest.raises(ValueError, match="8x4 pixels, more than 31"),
            reading.open_image(source, ["PNG"], max_pixels=31),
        ):
            pass
    whole = path.read_bytes()
    for data in (b"", b"GIF89a", whole[:20], whole[:-30]):
        with (
            pytest.raises(ValueError, match="not a PNG image that can be read"),
            reading.open_image(data, ["PNG"], max_pixels=32) as picture,
        ):
            picture.load()
