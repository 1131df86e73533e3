"""The animation of a training: its sample grids, which are all drawn from the same latent codes."""

import io
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.files.reading import open_image
from ...data.images import write_picture
from ...errors import RunError, UsageError, first_line
from ...run import Run
from ...storage import atomic
from ...storage.folder import ANIMATION
from ..plotting import SHEET_DPI, Axis, Heading, escape, make_sheet, run_title, style, to_rgb

MAX_GRID_BYTES, MAX_GRID_PIXELS = 2**26, 2**25
"""Of a file in ``samples/``, which may come from a stranger."""
MAX_FRAMES, FRAME_SIDE = 300, 640
"""Of more grids, so many are taken evenly; larger ones are shrunk to so many pixels a side."""
LAST_FRAME_SECONDS = 2.0
"""How much longer the last frame is shown than the others."""

Frames = Iterable[tuple[str, np.ndarray]]
"""Note and sheet of each frame; all sheets have one shape, ``(H, W)`` or ``(H, W, 3 or 4)``."""


def render_gif(run: Run, fps: int = 4) -> bytes:
    """The grids of ``samples/`` as an endless GIF of ``fps`` frames a second.

    Raises:
        UsageError: ``fps`` is not from 1 to 50.
        RunError: there are no grids, or a file among them is not one.
    """
    _check_fps(fps)
    return _encode_gif(_read_frames(run), run_title(run), fps)


def draw_animation(run: Run, path: Path | None = None, *, fps: int = 4) -> Path:
    """Write the animation to ``path``, ``.gif`` or ``.mp4`` (None: to ``plots/`` in the run).

    Raises:
        UsageError: another suffix, ``fps`` is not from 1 to 50, or an MP4 without ffmpeg.
        RunError: there are no grids, a file among them is not one, or ffmpeg fails.
    """
    path = path or run.folder.default_output(ANIMATION)
    suffix = path.suffix.lower()
    if suffix == ".gif":
        data = render_gif(run, fps)
    elif suffix == ".mp4":
        _check_fps(fps)
        data = _encode_mp4(_read_frames(run), run_title(run), fps)
    else:
        raise UsageError(
            f"{path}: animations are written as GIF or MP4; give a name that ends in .gif or .mp4"
        )
    write_picture(data, path)
    return path


def _check_fps(fps: int) -> None:
    if not 1 <= fps <= 50:
        raise UsageError(f"fps is {fps}: a GIF has from 1 to 50 frames a second")


def _read_frames(run: Run) -> Iterator[tuple[str, np.ndarray]]:
    """Note and sheet of each grid, in the order of their steps."""
    paths = run.folder.all_samples()
    if not paths:
        raise RunError(f"{run.path} has no grids in samples/ yet")
    places = np.linspace(0, len(paths) - 1, min(len(paths), MAX_FRAMES))
    kept = [paths[number] for number in sorted({round(place) for place in places})]
    first: np.ndarray | None = None
    for listed in kept:
        path = run.folder.inside(f"samples/{listed.name}")
        sheet = _read_grid(path)
        first = sheet if first is None else first
        if sheet.shape != first.shape:
            sizes = f"{_describe_size(sheet)}, and {kept[0].name} is {_describe_size(first)}"
            raise RunError(
                f"{path} is {sizes}: grids of one run are of one size; remove the odd ones"
            )
        yield f"step {int(path.stem):,}, same latents", sheet


def _describe_size(sheet: np.ndarray) -> str:
    height, width, *channels = sheet.shape
    return f"{width} x {height} pixels of {channels[0] if channels else 1} channels"


def _read_grid(path: Path) -> np.ndarray:
    """A grid, uint8 ``(H, W)`` or ``(H, W, 3 or 4)``, no larger than a frame.

    Raises:
        RunError: it is a link, too large or damaged.
    """
    try:
        data = atomic.read(path, MAX_GRID_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        with open_image(data, ["PNG"], MAX_GRID_PIXELS) as picture:
            grey = picture.mode in ("1", "L")
            picture.thumbnail((FRAME_SIDE, FRAME_SIDE))
            mode = "L" if grey else "RGBA" if picture.mode == "RGBA" else "RGB"
            return np.array(picture.convert(mode))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} is no sample grid that can be read: {reason}") from None


def _draw_frames(frames: Frames, title: str) -> Iterator[Any]:
    """One matplotlib figure, drawn with each frame in turn."""
    figure = None
    for note, sheet in frames:
        if figure is None:
            figure, shown, line = make_sheet(
                sheet, Heading(title, escape(note)), Axis(""), Axis("")
            )
        shown.set_data(to_rgb(sheet))
        line.set_text(escape(note))
        figure.canvas.draw()
        yield figure


def _encode_gif(frames: Frames, title: str, fps: int) -> bytes:
    pictures = []
    with style():
        for figure in _draw_frames(frames, title):
            picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
            if np.ptp(np.asarray(picture), axis=2).max():
                pictures.append(picture.quantize(128, dither=Image.Dither.NONE))
            else:  # a palette of greys is exact, and smaller
                pictures.append(picture.convert("L"))
    each = round(100 / fps) * 10  # milliseconds; the format counts hundredths of a second
    durations = [*[each] * (len(pictures) - 1), each + round(100 * LAST_FRAME_SECONDS) * 10]
    options: dict[str, Any] = {"duration": durations, "loop": 0, "optimize": True}
    buffer = io.BytesIO()
    pictures[0].save(buffer, format="GIF", save_all=True, append_images=pictures[1:], **options)
    return buffer.getvalue()


def _encode_mp4(frames: Frames, title: str, fps: int) -> bytes:
    from matplotlib.animation import FFMpegWriter

    if not FFMpegWriter.isAvailable():
        raise UsageError(
            "an MP4 needs ffmpeg, which is not installed: "
            "install it, or give a name that ends in .gif"
        )
    writer = FFMpegWriter(fps=fps)
    with tempfile.TemporaryDirectory() as folder, style():
        path = Path(folder) / "animation.mp4"
        try:
            drawn = _draw_frames(frames, title)
            with writer.saving(next(drawn), path, SHEET_DPI):
                writer.grab_frame()
                for _ in drawn:
                    writer.grab_frame()
                for _ in range(round(LAST_FRAME_SECONDS * fps)):
                    writer.grab_frame()
        except (OSError, subprocess.SubprocessError) as error:
            raise RunError(f"ffmpeg cannot make the MP4: {first_line(error)}") from error
        return path.read_bytes()
