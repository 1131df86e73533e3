"""Images that a program has: a tensor or an array, whose layout is checked and not guessed; for
everything else see :mod:`genkit.data.items`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .datasets import ImageData, Split
from .items import Items, fixing_call, read_items

HELD_OUT = 10
"""One image in so many is held out; runs of every genkit so far rely on which."""
USUAL_CHANNELS = (1, 3, 4)
STACKED = {
    (False, False): "torch.from_numpy(images)",
    (False, True): "torch.from_numpy(np.stack(images))",
    (True, False): "images",
    (True, True): "torch.stack(images)",
}
"""Whether images are tensors, whether they are a list → the expression that makes them one tensor.
"""


def from_images(images: Any) -> ImageData:
    """A dataset of uint8 images in memory; every tenth image is held out.

    A layout is taken only if no other is possible. The first of those below goes where images have
    other than 1, 3 or 4 channels, if these are fewer than the pixels of each side.

    Args:
        images: a tensor ``(N, C, H, W)``, ``(N, H, W, C)`` or ``(N, H, W)``; an array ``(N, H, W,
            C)``, ``(N, C, H, W)`` or ``(N, H, W)``; a list of such images or of PIL images of any
            mode, which are converted as files are; or a map-style dataset of torch that gives
            these, alone or with an integer label, see :func:`genkit.data.items.read_items`.

    Raises:
        DataError: another type, dtype or shape, or one that can be read in two ways; the message
            shows the call that fixes it.
    """
    if hasattr(images, "__array__") and not isinstance(images, Tensor):
        images = np.asarray(images)  # of jax, for example
    if not isinstance(images, Tensor | np.ndarray) or _holds_objects(images):
        return _from_items(read_items(images))
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(_describe_wrong_shape(images))
    if (found := fixing_call(images)) is not None:
        given, call = found
        raise DataError(f"images are {given}, but must be uint8 from 0 to 255: {call}")
    if images.ndim == 3:
        _check_grey(images)
        images = images[:, None]  # (N, 1, H, W)
    elif _channels_are_last(images.shape[1:], STACKED[isinstance(images, Tensor), False]):
        images = _swap_axes(images)
    return ImageData(*_hold_out(images), source="images in memory")


def _from_items(items: Items) -> ImageData:
    pixels = items.pixels  # (N, H, W), (N, C, H, W) or (N, H, W, C)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif items.kind != "PIL image" and _channels_are_last(
        pixels.shape[1:], STACKED[items.kind == "tensor", True]
    ):
        pixels = _swap_axes(pixels)
    splits = _hold_out(pixels, items.labels)
    return ImageData(
        *splits, source=items.source, classes=items.classes, class_names=items.class_names
    )


def _hold_out(images: Any, labels: np.ndarray | None = None) -> tuple[Split, Split]:
    """Copies of the images ``(N, C, H, W)`` for training, and of those that are held out."""
    held_out = np.arange(len(images)) % HELD_OUT == HELD_OUT - 1
    return _split(images, labels, ~held_out), _split(images, labels, held_out)


def _split(images: Any, labels: np.ndarray | None, chosen: np.ndarray) -> Split:
    if isinstance(images, Tensor):
        mask = torch.from_numpy(chosen).to(images.device)
        tensor = images.detach()[mask].cpu().contiguous()
    else:
        tensor = torch.from_numpy(np.ascontiguousarray(images[chosen]))
    return Split(tensor, None if labels is None else torch.from_numpy(labels[chosen]))


def _holds_objects(images: Any) -> bool:
    return isinstance(images, np.ndarray) and images.dtype == object


def _swap_axes(images: Any) -> Any:
    """``(N, H, W, C)`` → ``(N, C, H, W)``, without a copy."""
    return images.permute(0, 3, 1, 2) if isinstance(images, Tensor) else np.moveaxis(images, -1, 1)


def _describe_wrong_shape(images: Any) -> str:
    shape = tuple(images.shape)
    if not len(images.shape) or 0 in shape:
        return f"there are no images: the shape is {shape}"
    message = f"images have the shape {shape}, not (N, C, H, W), (N, H, W, C) or (N, H, W)"
    if len(shape) != 2:
        return message
    side = int(shape[1] ** 0.5)
    if side > 1 and side * side == shape[1]:
        return f"{message}; if a row is an image, give images.reshape(-1, {side}, {side})"
    return f"{message}; for one grey image give images[None]"


def _check_grey(images: Any) -> None:
    """Refuse ``(N, H, W)`` that may be one colour image.

    Grey images that are square stay grey, also those of 3 or 4 pixels.
    """
    count, height, width = images.shape
    channels_first = count in (3, 4) and height > 1 and width > 1
    if channels_first or (width in USUAL_CHANNELS and height != width):
        raise DataError(
            f"images of shape {tuple(images.shape)} are one image with its channels, or {count} "
            f"grey ones of {height}x{width}: give images[None] for the one, images[:, None] for "
            f"the {count}"
        )


def _channels_are_last(shape: Sequence[int], stacked: str) -> bool:
    """Whether images of this shape are ``(H, W, C)``, and not ``(C, H, W)``.

    Args:
        shape: of one image.
        stacked: the expression, of :data:`STACKED`, that makes all of them one tensor.

    Raises:
        DataError: both are possible, or neither.
    """
    first = _is_image(shape[0], shape[1:])
    last = _is_image(shape[2], shape[:2])
    if first != last:
        return last
    usually_last = "numpy" in stacked
    channels, *sides = shape[::-1] if usually_last else shape
    if not first and channels < min(sides):
        return usually_last
    problem = (
        "may have their channels first or last"
        if first
        else "have neither 1, 3 or 4 channels nor fewer than the pixels of a side"
    )
    raise DataError(
        f"images of shape (N, {', '.join(map(str, shape))}) {problem}: with x = {stacked}, or x = "
        f"{stacked}.permute(0, 3, 1, 2) if the channels are last, give "
        "genkit.ImageData(genkit.Split(x[10:]), genkit.Split(x[:10]), 'mine')"
    )


def _is_image(channels: int, sides: Sequence[int]) -> bool:
    """Whether these may be the channels and sides of an image. One of one pixel's height or width
    is none.
    """
    return channels in USUAL_CHANNELS and min(sides) > 1
