"""Pictures with axes: curves, sheets of images, maps, animations. Only this imports matplotlib,
when one is drawn.

All share one style. Lines, marks and digits stay apart in grey print.
"""

import io
import math
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError, UsageError, first_line, printable
from ..run import Run
from ..storage import atomic
from ..storage.folder import CURVES
from .summary import shortened

MAX_PANELS, MAX_LINES = 12, 8
"""More than these are left out of a picture; ``metrics.jsonl`` has them all."""
CURVE = 2
"""Rows that make a curve."""
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_COLOURS = (  # dark enough for a white page, and far apart for those who do not see all colours
    *("#1f5fa8", "#c4501b", "#2f7d4f", "#7a4fa3"),
    *("#8c2f39", "#1b8a8f", "#946c00", "#c23b85", "#5c5c5c", "#3d348b"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
_INK, _FAINT = "#1a1a1a", "#5a5a5a"
_DPI = 100
_SHEET_DPI = 100

STYLE: dict[str, Any] = {
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.0,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],  # it comes with matplotlib, so a picture is the same everywhere
    "font.size": 9.0,
    "grid.alpha": 0.25,
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "xtick.labelsize": 8.0,
    "ytick.color": _FAINT,
    "ytick.labelsize": 8.0,
}
"""What all pictures have in common, over matplotlib's own defaults; a user's matplotlibrc changes
none of it.
"""


@dataclass(frozen=True)
class Heading:
    """What stands above a picture: the run's name, and in smaller letters what is shown."""

    title: str
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis of a sheet of images counts: its name with the unit, and a word for each column
    or row.
    """

    label: str
    ticks: Sequence[str] = ()


@contextmanager
def _style() -> Iterator[None]:
    """Whatever is made or written inside has genkit's style; matplotlib's settings are as they were
    after.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from"
        )  # a name in a script that the font lacks: boxes
        kept = ("animation.", "backend")  # where a user's ffmpeg is, and their windows
        settings: dict[Any, Any] = {
            k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(kept)
        }
        matplotlib.rcParams.update(settings | STYLE)
        yield


def _figure(width: float, height: float, **options: Any) -> Any:
    """A figure of so many inches that no window shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any, what: str, dpi: int) -> bytes:
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, dpi=dpi, format="png", pil_kwargs={"optimize": True})
    except (ValueError, OverflowError) as error:
        raise RunError(f"{what} cannot be drawn: {first_line(error)}") from error
    return buffer.getvalue()


def save_png(data: bytes, path: Path) -> None:
    """Write a picture, creating the folder.

    Raises:
        UsageError: the path does not end in ``.png``.
    """
    check_png(path)
    atomic.make_folder(path.parent)
    atomic.replace(path, data)


def check_png(path: Path) -> None:
    """Refuse a name that a PNG cannot have, before anything is computed for it.

    Raises:
        UsageError: it does not end in ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are written as PNG; give a name that ends in .png")


def draw_curves(run: Run, path: Path | None = None) -> Path:
    """Draw the curves of a run's metrics to ``path`` (None: ``plots/curves.png`` in the run); where they are.

    Raises:
        RunError: there are fewer than two rows.
    """
    path = path or run.folder.inside(CURVES)
    title = f"{run.info.model.name} on {shortened(run.info.dataset.name)}"
    plot_curves(run.metrics(), path, title=title)
    return path


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Draw the rows of ``metrics.jsonl``: losses in one panel, accuracies in one, whatever else
    there is in its own.

    Raises:
        RunError: there are fewer than two rows, or nothing in them that can be drawn.
        UsageError: the path does not end in ``.png``.
    """
    check_png(path)
    if len(rows) < CURVE:
        have = "one row" if rows else "no rows"
        raise RunError(f"nothing to plot: metrics.jsonl has {have} yet, and a curve needs {CURVE}")
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    drawn = dict(list(panels(names).items())[:MAX_PANELS])
    if not drawn:
        raise RunError("nothing to plot: the rows of metrics.jsonl have no figures")
    with _style():
        figure = _figure(8, 2.6 * len(drawn) + 0.6, layout="constrained")
        figure.suptitle(_label(title), x=0.02, ha="left", fontweight="bold")
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (label, members) in zip(axes, drawn.items(), strict=True):
            _draw_panel(axis, label, members[:MAX_LINES], rows)
        axes[-1].set_xlabel("iteration")
        save_png(_png(figure, "the curves", 120), path)


def _draw_panel(
    axis: Any, label: str, names: Sequence[str], rows: Sequence[Mapping[str, float]]
) -> None:
    scale = 100 if label == "accuracy (%)" else 1
    for number, name in enumerate(names):
        axis.plot(
            [row["step"] for row in rows],
            [scale * row.get(name, math.nan) for row in rows],
            label=_label(name.replace("_", " ")),
            color=_COLOURS[number % len(_DASHES)],
            linestyle=_DASHES[number % len(_DASHES)],
        )
    axis.set_ylabel(_label(label))
    axis.grid()
    if len(names) > 1:
        axis.legend()


def panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Axis label → metrics that share the panel, by what their names end in."""
    found: dict[str, list[str]] = {}
    for name in names:
        label = (
            "loss"
            if name.endswith("loss")
            else "accuracy (%)"
            if name.endswith("accuracy")
            else name.replace("_", " ")
        )
        found.setdefault(label, []).append(name)
    return found


def sheet_png(sheet: np.ndarray, heading: Heading, x: Axis, y: Axis) -> bytes:
    """A grid of images, uint8 ``(H, W)`` or ``(H, W, 3 or 4)``, with axes, as PNG; each pixel stays
    what it is.
    """
    with _style():
        return _png(_sheet(sheet, heading, x, y)[0], "the images", _SHEET_DPI)


def _sheet(sheet: np.ndarray, heading: Heading, x: Axis, y: Axis) -> tuple[Any, Any, Any]:
    """Figure, picture and note; the axes are as large as the sheet has pixels, so that none is
    resampled.
    """
    height, width = sheet.shape[:2]
    left, bottom, top, right = (
        (78 if y.label else 12),
        (46 if x.label else 12),
        (50 if heading.note else 32),
        14,
    )
    across = max(
        240, left + width + right, 20 + 8 * len(_label(heading.title)), 20 + 6 * len(heading.note)
    )
    down = top + height + bottom
    across, down = across + across % 2, down + down % 2  # MP4 has even sides
    figure = _figure(across / _SHEET_DPI, down / _SHEET_DPI, dpi=_SHEET_DPI)
    axis = figure.add_axes((left / across, bottom / down, width / across, height / down))
    shown = axis.imshow(_rgb(sheet), aspect="auto")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    for one, words, side in ((axis.xaxis, x, width), (axis.yaxis, y, height)):
        step = math.ceil(len(words.ticks) / 24) or 1  # more would run into each other
        chosen = range(0, len(words.ticks), step)
        one.set_ticks(
            [(n + 0.5) * side / len(words.ticks) - 0.5 for n in chosen],
            [words.ticks[n] for n in chosen],
        )
        one.set_label_text(words.label)
    figure.text(
        12 / across, 1 - 10 / down, _label(heading.title), va="top", fontsize=10, fontweight="bold"
    )
    note = figure.text(12 / across, 1 - 29 / down, heading.note, va="top", fontsize=8, color=_FAINT)
    return figure, shown, note


def _rgb(sheet: np.ndarray) -> np.ndarray:
    """Grey as colours, because a colour map of 256 greys is off by one here and there."""
    return sheet if sheet.ndim == 3 else np.repeat(sheet[..., None], 3, axis=2)


def map_png(
    points: np.ndarray, labels: np.ndarray | None, heading: Heading, x: str, y: str
) -> bytes:
    """Points ``(N, 2)``, coloured and marked by their labels ``(N,)`` from 0 up, as PNG.

    Each label also stands at the median of its points.
    """
    with _style():
        figure = _figure(7.6 if labels is not None else 6.8, 6.4, layout="constrained")
        figure.suptitle(_label(heading.title), x=0.02, ha="left", fontweight="bold", fontsize=10)
        axis = figure.subplots()
        axis.set_title(heading.note, loc="left", fontsize=8, color=_FAINT)
        if labels is None:
            axis.scatter(*points.T, s=10, color=_COLOURS[0], alpha=0.6, linewidths=0)
        else:
            _scatter(axis, points, labels)
        axis.set(xlabel=x, ylabel=y)
        axis.grid()
        axis.set_axisbelow(True)
        return _png(figure, "the map", _DPI)


def _scatter(axis: Any, points: np.ndarray, labels: np.ndarray) -> None:
    from matplotlib.patheffects import withStroke

    present = np.unique(labels)
    for label in present:
        axis.scatter(
            *points[labels == label].T,
            s=13,
            color=_COLOURS[label % len(_COLOURS)],
            marker=_MARKERS[label % len(_MARKERS)],
            alpha=0.65,
            linewidths=0,
            label=str(label) if len(present) <= 2 * len(_MARKERS) else None,
        )
    for label in present:
        x, y = np.median(points[labels == label], axis=0)
        effect = [withStroke(linewidth=3, foreground="white")]
        middle = {"ha": "center", "va": "center", "fontsize": 15, "fontweight": "bold"}
        axis.text(x, y, str(label), path_effects=effect, **middle)
    if len(present) <= 2 * len(_MARKERS):
        axis.legend(title="label", loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.8)


Frames = Iterable[tuple[str, np.ndarray]]
"""Note and sheet of each frame; all sheets of one shape."""


def _drawn(frames: Frames, title: str) -> Iterator[Any]:
    """One figure, drawn anew for each frame."""
    figure = None
    for note, sheet in frames:
        if figure is None:
            figure, shown, line = _sheet(sheet, Heading(title, _label(note)), Axis(""), Axis(""))
        shown.set_data(_rgb(sheet))
        line.set_text(_label(note))
        figure.canvas.draw()
        yield figure


def animation_gif(frames: Frames, title: str, fps: int, hold: float) -> bytes:
    """An endless GIF of ``fps`` frames a second, the last held for ``hold`` seconds more."""
    from PIL import Image

    with _style():
        pictures = []
        for figure in _drawn(frames, title):
            picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
            grey = picture.convert("L")
            plain = not np.ptp(
                np.asarray(picture), axis=2
            ).max()  # then a palette of greys is exact, and smaller
            pictures.append(grey if plain else picture.quantize(128, dither=Image.Dither.NONE))
    each = round(100 / fps) * 10  # the format counts hundredths of a second
    buffer = io.BytesIO()
    durations = [*[each] * (len(pictures) - 1), each + round(100 * hold) * 10]
    options: dict[str, Any] = {"duration": durations, "loop": 0, "optimize": True}
    pictures[0].save(buffer, format="GIF", save_all=True, append_images=pictures[1:], **options)
    return buffer.getvalue()


def animation_mp4(frames: Frames, title: str, fps: int, hold: float) -> bytes:
    """The same as MP4, through ffmpeg.

    Raises:
        UsageError: there is no ffmpeg.
        RunError: it fails.
    """
    from matplotlib.animation import FFMpegWriter

    if not FFMpegWriter.isAvailable():
        raise UsageError(
            "an MP4 is made by ffmpeg, which is not installed: install it, or give a name that ends in .gif"
        )
    writer = FFMpegWriter(fps=fps)
    with tempfile.TemporaryDirectory() as folder, _style():
        path = Path(folder) / "animation.mp4"
        try:
            drawn = _drawn(frames, title)
            with writer.saving(next(drawn), path, _SHEET_DPI):
                writer.grab_frame()
                for _ in drawn:
                    writer.grab_frame()
                for _ in range(round(hold * fps)):
                    writer.grab_frame()
        except (OSError, subprocess.SubprocessError) as error:
            raise RunError(f"ffmpeg cannot make the MP4: {first_line(error)}") from error
        return path.read_bytes()


def _label(text: str) -> str:
    """Text as a picture can show it: no formula, no control character, not endless."""
    return (
        printable(text[:60]).replace("$", r"\$").lstrip("_")
    )  # matplotlib hides labels that begin with _
