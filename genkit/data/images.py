"""Pixels in and out: the one place that scales them, the grid of images, the one reader of
untrusted picture files and the one writer of pictures.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import UsageError
from ..storage import atomic

GRID_TILE = 56
"""Smaller images are enlarged by a whole factor to about this many pixels, large enough to see."""


def from_uint8(images: Tensor) -> Tensor:
    """uint8 of any shape → float32 of the same shape in [-1, 1]."""
    return torch.sub(images, 127.5).div_(127.5)  # the subtraction converts too, which saves a pass


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] of any shape → uint8 of the same shape; other values are clamped."""
    return images.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_array(images: Tensor) -> np.ndarray:
    """[-1, 1] ``(N, C, H, W)`` → uint8 ``(N, H, W)`` for one channel, ``(N, H, W, C)`` for more."""
    array = to_uint8(images.detach().cpu()).permute(0, 2, 3, 1).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Arrange images ``(N, C, H, W)`` in [-1, 1], N ≥ 1, row by row in a grid.

    The grid is nearly square unless ``columns`` is given. One, three and four channels are grey,
    RGB and RGBA; of any other number the first channel is shown.
    """
    array = to_array(images)
    count, height, width = array.shape[:3]
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    gap = max(1, height // 14)
    sheet = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, *array.shape[3:]),
        255,
        np.uint8,
    )
    for number, tile in enumerate(array):
        top = gap + number // columns * (height + gap)
        left = gap + number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    factor = max(1, round(GRID_TILE / max(height, width)))
    return _picture(sheet.repeat(factor, axis=0).repeat(factor, axis=1))


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


def check_png_name(path: Path) -> None:
    """Refuse a name that a PNG cannot have, before anything is computed for it.

    Raises:
        UsageError: it does not end in ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are written as PNG; give a name that ends in .png")


def encode_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def write_picture(data: bytes, path: Path) -> None:
    """Write an encoded picture, creating the folder; at every moment ``path`` is whole."""
    atomic.make_folder(path.parent)
    atomic.replace(path, data)


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write :func:`grid` as PNG; missing folders are created.

    Raises:
        UsageError: the path does not end in ``.png``.
    """
    check_png_name(path)
    write_picture(encode_png(grid(images, columns)), path)


def save_pairs(above: Tensor, below: Tensor, path: Path) -> None:
    """Write a grid of two rows as PNG; each row is images ``(N, C, H, W)`` in [-1, 1]."""
    save_grid(torch.cat([above, below]), path, columns=len(above))


def save(images: Tensor, path: Path) -> None:
    """Write images ``(N, C, H, W)`` in [-1, 1] to ``.png`` (a grid), ``.npy`` (a uint8 array) or,
    without a suffix, a folder of PNGs.

    Raises:
        UsageError: another suffix, or a folder that is not empty.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        save_grid(images, path)
    elif suffix == ".npy":
        atomic.make_folder(path.parent)
        buffer = io.BytesIO()
        np.save(buffer, to_array(images), allow_pickle=False)
        atomic.replace(path, buffer.getvalue())
    elif suffix:
        raise UsageError(
            f"{path}: use .png for a grid, .npy for an array, or no suffix for a folder of PNGs"
        )
    else:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UsageError(f"{path} is not empty: choose another folder")
        for number, array in enumerate(to_array(images)):
            # Not through write_picture: thousands of fsyncs would take minutes.
            (path / f"{number:06d}.png").write_bytes(encode_png(_picture(array)))


def _picture(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] not in (3, 4):  # PNG has no other number of channels
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))
