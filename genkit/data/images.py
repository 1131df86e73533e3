"""Pixels in and out: the one place that scales them, the grid of images, and the one writer of
pictures.
"""

import bisect
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UsageError
from ..storage import atomic

GRID_TILE = 56
"""Smaller images are enlarged by a whole factor to about this many pixels, large enough to see."""
MAX_GRID_PIXELS = 2**26
"""Of a grid whose number of images a user chooses; Pillow warns of larger pictures."""


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


def describe_images(count: int, shape: Sequence[int]) -> str:
    """``1,000 images of 3x64x64``, for messages; the shape is ``(C, H, W)``."""
    return f"{count:,} images of {'x'.join(map(str, shape))}"


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Arrange images ``(N, C, H, W)`` in [-1, 1], N ≥ 1, row by row in a grid.

    The grid is nearly square unless ``columns`` is given. One, three and four channels are grey,
    RGB and RGBA; of any other number the first channel is shown.
    """
    return arrange(to_array(images), columns)


def arrange(array: np.ndarray, columns: int | None = None) -> Image.Image:
    """:func:`grid` of images uint8 ``(N, H, W)`` or ``(N, H, W, C)``."""
    count, height, width = array.shape[:3]
    columns, rows, gap, factor = _layout(count, height, width, columns)
    sheet = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, *array.shape[3:]),
        255,
        np.uint8,
    )
    for number, tile in enumerate(array):
        top = gap + number // columns * (height + gap)
        left = gap + number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return to_picture(sheet.repeat(factor, axis=0).repeat(factor, axis=1))


def _layout(
    count: int, height: int, width: int, columns: int | None = None
) -> tuple[int, int, int, int]:
    """Columns and rows of a grid, the gap between its images, and the factor of enlargement."""
    columns = columns or math.isqrt(count - 1) + 1
    gap, factor = max(1, height // 14), max(1, round(GRID_TILE / max(height, width)))
    return columns, -(-count // columns), gap, factor


def check_grid(
    count: int, shape: Sequence[int], rows: int | None = None, instead: str = "ask for fewer"
) -> None:
    """Refuse a grid that is too large a picture, before its images are computed.

    Args:
        count: number of images.
        shape: ``(C, H, W)`` of each.
        rows: rows of the grid; None: it is nearly square.
        instead: what to do instead.

    Raises:
        UsageError: it has more than ``MAX_GRID_PIXELS``, and more than one image.
    """
    _, height, width = shape

    def pixels(images: int) -> int:
        columns = None if rows is None else -(-images // rows)
        across, down, gap, factor = _layout(images, height, width, columns)
        return factor**2 * (across * (width + gap) + gap) * (down * (height + gap) + gap)

    most = bisect.bisect_right(range(1, MAX_GRID_PIXELS), MAX_GRID_PIXELS, key=pixels)
    if count > max(1, most):
        raise UsageError(
            f"{describe_images(count, shape)} do not fit in a picture of "
            f"{MAX_GRID_PIXELS:,} pixels, {most:,} do: {instead}"
        )


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


def to_picture(array: np.ndarray) -> Image.Image:
    """Pixels uint8 ``(H, W)`` or ``(H, W, C)`` as a picture; see :func:`grid` on channels."""
    if array.ndim == 3 and array.shape[-1] not in (3, 4):  # PNG has no other number of channels
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))
