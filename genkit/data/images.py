"""Scaling of pixels, grids of images, and image files."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UsageError
from ..storage import atomic

GRID_TILE = 56
"""Pixels. Smaller images are enlarged in a grid by a whole factor to about this size."""


def from_uint8(images: Tensor) -> Tensor:
    """uint8 of any shape → float32 of the same shape in [-1, 1]."""
    return torch.sub(images, 127.5).div_(127.5)  # the subtraction converts too, which saves a pass


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] of any shape → uint8 of the same shape; other values are clamped."""
    return images.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_array(images: Tensor) -> np.ndarray:
    """[-1, 1] ``(N, C, H, W)`` → uint8 ``(N, H, W)`` for C = 1, else ``(N, H, W, C)``."""
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


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write :func:`grid` as PNG; missing folders are created.

    Raises:
        UsageError: the path does not end in ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: images are written as PNG; use a name that ends in .png")
    _save(grid(images, columns), path)


def save_pairs(above: Tensor, below: Tensor, path: Path) -> None:
    """Write a grid of two rows as PNG; each row is images ``(N, C, H, W)`` in [-1, 1]."""
    save_grid(torch.cat([above, below]), path, columns=len(above))


def save(images: Tensor, path: Path) -> None:
    """Write images ``(N, C, H, W)`` in [-1, 1].

    Args:
        images: N ≥ 1 images.
        path: ``.png`` for a grid, ``.npy`` for a uint8 array, no suffix for a folder of PNGs.

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
            raise UsageError(
                f"{path} is not empty: the images would mix with others; choose another folder"
            )
        for number, array in enumerate(to_array(images)):
            _picture(array).save(path / f"{number:06d}.png", format="PNG")


def _save(picture: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    atomic.make_folder(path.parent)
    atomic.replace(path, buffer.getvalue())


def _picture(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] not in (3, 4):  # PNG has no other number of channels
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))
