"""A sheet of generated images: its size limits, its heading, and what the generator must give."""

from typing import Any

from torch import Tensor

from ...data.images import GRID_TILE
from ...errors import ContractError, UsageError
from ...run import Run
from ..plotting import Heading, run_title

MAX_PIXELS, MAX_SIDE = 2**26, 2**15
"""Of a whole sheet."""


def check_size(run: Run, rows: int, columns: int) -> None:
    """Refuse a sheet that is too large to look at, before an image of it is made.

    Raises:
        UsageError: it has no image, or more pixels than the limits.
    """
    _, height, width = run.spec.shape
    # the grid enlarges small images to at most twice GRID_TILE
    tall = rows * max(height, 2 * GRID_TILE)
    wide = columns * max(width, 2 * GRID_TILE)
    if rows < 1 or columns < 1 or max(tall, wide) > MAX_SIDE or tall * wide > MAX_PIXELS:
        raise UsageError(
            f"{rows} x {columns} images of {height} x {width} do not fit in one picture: "
            "ask for fewer"
        )


def decode(run: Run, codes: Any, count: int) -> Tensor:
    """Pass ``count`` codes through the run's generator: images ``(count, C, H, W)``.

    Raises:
        ContractError: the generator gives something else.
    """
    images = run.trainer.generator(codes)
    expected = (count, *run.spec.shape)
    if isinstance(images, Tensor) and images.shape == expected:
        return images
    given = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
    raise ContractError(f"{run.info.model.name}'s generator gave {given}, not images {expected}")


def make_heading(run: Run, note: str) -> Heading:
    """The run's title, and below it its step and ``note``."""
    return Heading(run_title(run), f"step {run.step:,}, {note}")
