"""Pictures inside a page: opened as untrusted files, encoded again, and shrunk until they fit."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.files.reading import open_image
from ..data.images import encode_png, from_uint8, grid
from ..errors import GenkitError, RunError, UsageError, first_line
from ..interfaces import Reconstructs
from ..run import Run
from ..storage import atomic
from ..storage.folder import RunFolder
from . import pictures

MAX_GRIDS = 20
"""Grids in a report. Of more, so many are taken evenly, with the first and the last."""
MAX_FILE_BYTES, MAX_PIXELS = 2**24, 2**24
"""Of a picture that is read."""
GRID_SIDE, GRID_BYTES = 512, 60_000
DRAWING_SIDE, DRAWING_BYTES = 1600, 350_000
"""Of a picture in the page, in pixels and about as many bytes."""
MIN_SIDE = 64
"""Pixels; a picture is not shrunk further, whatever it takes."""
RECONSTRUCTED = 10
"""Held-out images that are shown above their reconstructions."""


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture inside a page."""

    type: str
    base64: str
    width: int
    height: int


@dataclass(frozen=True)
class SampleGrid:
    """Samples at one step of the training."""

    name: str
    alt: str
    image: EmbeddedPicture


@dataclass(frozen=True)
class Drawing:
    """A section with one picture, or the reason why there is none."""

    name: str
    title: str
    alt: str
    image: EmbeddedPicture | None = None
    reason: str = ""


def embed_grids(folder: RunFolder) -> tuple[list[SampleGrid], str, str]:
    """The sample grids of a run, the reason if there are none, and a note on those left out."""
    paths = folder.all_samples()
    last = len(paths) - 1
    chosen = sorted({round(n * last / (MAX_GRIDS - 1)) for n in range(MAX_GRIDS)}) if paths else []
    found, problems = [], []
    for path in (paths[number] for number in chosen):
        try:
            found.append(embed_grid(folder, path))
        except RunError as error:
            problems.append(str(error))
    thinned = len(chosen) < len(paths)
    notes = [f"{len(chosen)} of {len(paths)} grids, evenly chosen."] if thinned else []
    notes += [f"Left out: {problem}." for problem in problems]
    return found, problems[0] if problems else "the run has no sample grid yet", " ".join(notes)


def embed_grid(folder: RunFolder, path: Path) -> SampleGrid:
    """One sample grid of a run.

    Raises:
        RunError: the file cannot be read, or is not a picture.
    """
    name = f"{int(path.stem):,} iterations"
    try:
        data = atomic.read(folder.inside(str(path.relative_to(folder.path))), MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return SampleGrid(name, f"Samples after {name}", embed(data, GRID_SIDE, GRID_BYTES, str(path)))


def embed(data: bytes, side: int, limit: int, what: str) -> EmbeddedPicture:
    """Encode a PNG again, no larger than ``side`` pixels and about ``limit`` bytes. Nothing but its
    pixels is kept.

    Raises:
        RunError: it is not a PNG, damaged or too large; ``what`` names it.
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
            if buffer.tell() <= limit or side < MIN_SIDE:
                encoded = base64.b64encode(buffer.getvalue()).decode()
                return EmbeddedPicture(f"image/{kind.lower()}", encoded, *picture.size)
        side = side * 3 // 4


def make_drawings(run: Run, data_root: Path | None, dataset: Any = None) -> list[Drawing]:
    """Reconstructions, interpolation and latent map of a run, or why there is none."""
    return [
        _make_drawing(
            "reconstructions",
            "Reconstructions",
            f"Held-out images above, their reconstructions below; up to {RECONSTRUCTED}",
            lambda: _render_reconstructions(run, data_root, dataset),
        ),
        _make_drawing(
            "interpolation",
            "Interpolation",
            "Images on the way between pairs of latent codes, a row a pair",
            lambda: pictures.render_interpolation(run),
        ),
        _make_drawing(
            "latent-map",
            "Latent map",
            "Codes of held-out images in two dimensions, by label",
            lambda: pictures.render_latent_map(run, data_root=data_root, dataset=dataset),
        ),
    ]


def _make_drawing(name: str, title: str, alt: str, render: Callable[[], bytes]) -> Drawing:
    try:
        return Drawing(name, title, alt, embed(render(), DRAWING_SIDE, DRAWING_BYTES, title))
    except (GenkitError, OSError) as error:
        return Drawing(name, title, alt, reason=str(error))
    except Exception as error:  # noqa: BLE001 - a user's model failed: the rest is still of use
        return Drawing(name, title, alt, reason=first_line(error))


def _render_reconstructions(run: Run, data_root: Path | None, dataset: Any) -> bytes:
    if not isinstance(run.trainer, Reconstructs):
        raise UsageError(f"{run.info.model.name} cannot reconstruct images: it has no encoder")
    originals = from_uint8(run.data(data_root, dataset=dataset).test.images[:RECONSTRUCTED])
    if not len(originals):
        raise UsageError(f"{run.info.dataset.name} holds out no images")
    both = torch.cat([originals, run.reconstruct(originals)])
    return encode_png(grid(both, columns=len(originals)))
