"""Pictures inside a page: read with suspicion, drawn anew and made smaller until they fit."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..data.images import encode_png, from_uint8, grid as grid_of, open_image
from ..errors import GenkitError, RunError, UsageError, first_line
from ..run import Run
from ..storage import atomic
from ..storage.folder import RunFolder
from . import pictures

MAX_GRIDS = 20
"""Grids in a report; of more, as many are taken evenly, the first and the last among them."""
MAX_FILE_BYTES, MAX_PIXELS = 2**24, 2**24
"""Of a picture that is read."""
GRID_SIDE, GRID_BYTES = 512, 60_000
DRAWING_SIDE, DRAWING_BYTES = 1600, 350_000
"""Of a picture in the page: it is made smaller until it fits."""
RECONSTRUCTED = 10
"""Held-out images that are shown above their reconstructions."""


@dataclass(frozen=True)
class Embedded:
    """A picture inside a page."""

    type: str
    base64: str
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """Samples at one moment of the training."""

    name: str
    alt: str
    image: Embedded


@dataclass(frozen=True)
class Drawing:
    """A section of one picture, or of the reason why there is none."""

    name: str
    title: str
    alt: str
    image: Embedded | None = None
    reason: str = ""


def grids(folder: RunFolder) -> tuple[list[Grid], str, str]:
    """The sample grids of a run, why there are none, and what was left out."""
    paths = folder.all_samples()
    last = len(paths) - 1
    chosen = (
        sorted({round(number * last / (MAX_GRIDS - 1)) for number in range(MAX_GRIDS)})
        if paths
        else []
    )
    found, problems = [], []
    for path in (paths[number] for number in chosen):
        try:
            found.append(grid(folder, path))
        except RunError as error:
            problems.append(str(error))
    notes = (
        [f"{len(chosen)} of {len(paths)} grids, evenly chosen."] if len(chosen) < len(paths) else []
    )
    notes += [f"Left out: {problem}." for problem in problems]
    return found, problems[0] if problems else "the run has no sample grid yet", " ".join(notes)


def grid(folder: RunFolder, path: Path) -> Grid:
    """One sample grid of a run.

    Raises:
        RunError: the file cannot be read, or is no picture.
    """
    step = int(path.stem)
    name = f"{step:,} iterations"
    return Grid(
        name, f"Samples after {name}", embed(_read(folder, path), GRID_SIDE, GRID_BYTES, str(path))
    )


def _read(folder: RunFolder, path: Path) -> bytes:
    try:
        return atomic.read(folder.inside(str(path.relative_to(folder.path))), MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def embed(data: bytes, side: int, limit: int, what: str) -> Embedded:
    """A PNG as a picture no larger than ``side`` pixels and about ``limit`` bytes: drawn anew,
    nothing is copied.

    Raises:
        RunError: it is no PNG, or too large.
    """
    try:
        with open_image(data, ["PNG"], MAX_PIXELS) as opened:
            picture = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    except ValueError as error:
        raise RunError(f"{what}: {' '.join(str(error).split())}") from None
    while True:
        picture.thumbnail((side, side))
        for kind, settings in (("PNG", {"optimize": True}), ("JPEG", {"quality": 82})):
            buffer = io.BytesIO()
            picture.save(buffer, format=kind, **settings)
            if buffer.tell() <= limit or side < 64:
                encoded = base64.b64encode(buffer.getvalue()).decode()
                return Embedded(f"image/{kind.lower()}", encoded, *picture.size)
        side = side * 3 // 4


def drawings(run: Run, data_root: Path | None) -> list[Drawing]:
    """Reconstructions, interpolation and latent map of a run, or why there is none."""
    count = RECONSTRUCTED
    return [
        _drawing(
            "reconstructions",
            "Reconstructions",
            f"Held-out images above, their reconstructions below; up to {count}",
            lambda: _reconstructions(run, data_root),
        ),
        _drawing(
            "interpolation",
            "Interpolation",
            "Images on the way between pairs of latent codes, a row a pair",
            lambda: pictures.interpolation_png(run),
        ),
        _drawing(
            "latent-map",
            "Latent map",
            "Codes of held-out images in two dimensions, by label",
            lambda: pictures.latent_map_png(run, data_root=data_root),
        ),
    ]


def _drawing(name: str, title: str, alt: str, draw: Callable[[], bytes]) -> Drawing:
    try:
        return Drawing(name, title, alt, embed(draw(), DRAWING_SIDE, DRAWING_BYTES, title))
    except (GenkitError, OSError) as error:
        return Drawing(name, title, alt, reason=str(error))
    except Exception as error:  # noqa: BLE001 - a model's own code, of no plugin: the rest of the page is still of use
        return Drawing(name, title, alt, reason=first_line(error))


def _reconstructions(run: Run, data_root: Path | None) -> bytes:
    import torch

    from ..interfaces import Reconstructs

    if not isinstance(run.trainer, Reconstructs):
        raise UsageError(f"{run.info.model.name} cannot reconstruct images: it has no encoder")
    originals = from_uint8(run.data(data_root).test.images[:RECONSTRUCTED])
    if not len(originals):
        raise UsageError(f"{run.info.dataset.name} holds out no images")
    both = torch.cat([originals, run.reconstruct(originals)])
    return encode_png(grid_of(both, columns=len(originals)))
