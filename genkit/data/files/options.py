"""The options of datasets whose images are files of any size and kind: how they become arrays of
one shape. Torch-free.
"""

import re
from typing import Annotated, Any, Literal

from PIL import ImageColor
from pydantic import AfterValidator, BeforeValidator

from ...config import Config, Field

MAX_SIDE = 16_384
"""Pixels of an image's height or width, at most."""


def _parse_size(value: Any) -> Any:
    """``64``, ``"64"``, ``"48x64"`` or ``[48, 64]`` → (height, width); anything else as it is."""
    if type(value) is int:
        return value, value
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:[xX\u00d7]\s*([0-9]{1,6})\s*)?", value)
        if not found:
            raise ValueError("one number, or HEIGHTxWIDTH such as 48x64")
        height, width = found.groups()
        return int(height), int(width or height)
    return tuple(value) if isinstance(value, list) else value  # JSON and TOML have no tuples


def _known_colour(value: str) -> str:
    try:
        ImageColor.getrgb(value)
    except ValueError:
        raise ValueError("a colour by name, such as white, or as #rrggbb") from None
    return value


Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_parse_size)]
"""(height, width); ``64`` and ``"48x64"`` are taken, too."""


class ImageOptions(Config):
    """How pictures of any size and kind become images of one shape.

    A dataset plugin whose images are files names this class, or one that extends it, as the
    ``config`` of its entry, and gives the files to :func:`genkit.collect_images`.
    """

    image_size: Size | None = Field(
        None,
        description="size of the images: 64, or 48x64 for height x width;"
        " else as they are, if all are of one size",
        json_schema_extra={"metavar": "SIZE", "separator": "x"},
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop",
        description="how an image of another shape fits: cut to the centre, padded, or stretched",
    )
    background: Annotated[str, AfterValidator(_known_colour)] = Field(
        "white",
        description="colour behind transparent pixels and around padded images",
        json_schema_extra={"metavar": "COLOUR"},
    )
    channels: Annotated[Literal["auto", "1", "3", "4"], BeforeValidator(str)] = Field(
        "auto",
        description="1 grey, 3 RGB, 4 RGBA; auto: the most that more than half of the files have",
    )
    cache: bool = Field(
        True, description="keep the decoded images in the user's cache, for the next start"
    )
