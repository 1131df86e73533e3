"""Pictures with axes: curves, sheets of images and maps, all in one style.

matplotlib is imported when a picture is drawn. Lines, marks and digits stay apart in grey print.
"""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import check_png_name, write_picture
from ..errors import RunError, first_line, printable
from ..run import Run
from ..storage.folder import CURVES, METRICS
from .summary import shorten_dataset

MAX_PANELS, MAX_LINES = 12, 8
"""More than these are left out of a picture; ``metrics.jsonl`` has them all."""
MIN_ROWS = 2
"""Rows of ``metrics.jsonl`` that a curve needs."""
MAX_NAME = 16
"""Letters of the name of a class in a picture."""
MAX_TICKS = 24
"""More texts beside a sheet would overlap."""
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_COLOURS = (  # dark enough for a white page, and far apart for those who do not see all colours
    *("#1f5fa8", "#c4501b", "#2f7d4f", "#7a4fa3"),
    *("#8c2f39", "#1b8a8f", "#946c00", "#c23b85", "#5c5c5c", "#3d348b"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
_INK, _FAINT = "#1a1a1a", "#5a5a5a"
MAP_DPI = SHEET_DPI = 100
CURVES_DPI = 120

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
"""Of all pictures, over matplotlib's defaults. A user's matplotlibrc changes nothing."""


@dataclass(frozen=True)
class Heading:
    """The text above a picture: the run's title, and in smaller letters what is shown."""

    title: str
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis of a sheet of images: its name with the unit, and a text for each column or row."""

    label: str
    ticks: Sequence[str] = ()


@contextmanager
def style() -> Iterator[None]:
    """Figures made or written inside have genkit's style; matplotlib's settings are restored."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        kept = ("animation.", "backend")  # where a user's ffmpeg is, and their windows
        settings: dict[Any, Any] = {
            k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(kept)
        }
        matplotlib.rcParams.update(settings | STYLE)
        yield


def _make_figure(width: float, height: float, **options: Any) -> Any:
    """A figure of ``width`` x ``height`` inches, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def _render(figure: Any, what: str, dpi: int) -> bytes:
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, dpi=dpi, format="png", pil_kwargs={"optimize": True})
    except (ValueError, OverflowError) as error:
        raise RunError(f"{what} cannot be drawn: {first_line(error)}") from error
    return buffer.getvalue()


def run_title(run: Run) -> str:
    """Model and dataset of a run, without the folders that a dataset's name may hold."""
    return f"{run.info.model.name} on {shorten_dataset(run.info.dataset.name)}"


def draw_curves(run: Run, path: Path | None = None) -> Path:
    """Draw the curves of ``metrics.jsonl`` to ``path`` (None: ``plots/curves.png`` in the run);
    return where.

    Raises:
        RunError: there are fewer than two rows, or the file is damaged.
        UsageError: the path does not end in ``.png``.
    """
    path = path or run.folder.default_output(CURVES)
    plot_curves(run.folder.thinned_rows(METRICS), path, run_title(run))
    return path


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Draw the rows of ``metrics.jsonl``: losses in one panel, accuracies in one, each other metric
    in a panel of its own.

    Raises:
        RunError: there are fewer than two rows, or nothing in them that can be drawn.
        UsageError: the path does not end in ``.png``.
    """
    check_png_name(path)
    if len(rows) < MIN_ROWS:
        have = "one row" if rows else "no rows"
        raise RunError(
            f"nothing to plot: metrics.jsonl has {have} yet, and a curve needs {MIN_ROWS}"
        )
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    drawn = dict(list(group_into_panels(names).items())[:MAX_PANELS])
    if not drawn:
        raise RunError("nothing to plot: the rows of metrics.jsonl have no metrics")
    with style():
        figure = _make_figure(8, 2.6 * len(drawn) + 0.6, layout="constrained")
        figure.suptitle(escape(title), x=0.02, ha="left", fontweight="bold")
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (label, members) in zip(axes, drawn.items(), strict=True):
            _draw_panel(axis, label, members[:MAX_LINES], rows)
        axes[-1].set_xlabel("iteration")
        write_picture(_render(figure, "the curves", CURVES_DPI), path)


def _draw_panel(
    axis: Any, label: str, names: Sequence[str], rows: Sequence[Mapping[str, float]]
) -> None:
    scale = 100 if label == "accuracy (%)" else 1
    for number, name in enumerate(names):
        axis.plot(
            [row["step"] for row in rows],
            [scale * row.get(name, math.nan) for row in rows],
            label=escape(name.replace("_", " ")),
            color=_COLOURS[number % len(_DASHES)],
            linestyle=_DASHES[number % len(_DASHES)],
        )
    axis.set_ylabel(escape(label))
    axis.grid()
    if len(names) > 1:
        axis.legend()


def group_into_panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Axis label → the metrics that share its panel, by the end of their names."""
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


def render_sheet(sheet: np.ndarray, heading: Heading, x: Axis, y: Axis) -> bytes:
    """A grid of images, uint8 ``(H, W)`` or ``(H, W, 3 or 4)``, with axes, as PNG. No pixel of the
    grid is changed.
    """
    with style():
        return _render(make_sheet(sheet, heading, x, y)[0], "the images", SHEET_DPI)


def make_sheet(sheet: np.ndarray, heading: Heading, x: Axis, y: Axis) -> tuple[Any, Any, Any]:
    """matplotlib's figure, image and note. The axes have the sheet's size in pixels, so that none
    is resampled.
    """
    height, width = sheet.shape[:2]
    left, bottom, top, right = (
        (78 if y.label else 12),
        (46 if x.label else 12),
        (50 if heading.note else 32),
        14,
    )
    across = max(
        240, left + width + right, 20 + 8 * len(escape(heading.title)), 20 + 6 * len(heading.note)
    )
    down = top + height + bottom
    across, down = across + across % 2, down + down % 2  # MP4 has even sides
    figure = _make_figure(across / SHEET_DPI, down / SHEET_DPI, dpi=SHEET_DPI)
    axis = figure.add_axes((left / across, bottom / down, width / across, height / down))
    shown = axis.imshow(to_rgb(sheet), aspect="auto")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    for ruler, texts, side in ((axis.xaxis, x, width), (axis.yaxis, y, height)):
        step = math.ceil(len(texts.ticks) / MAX_TICKS) or 1
        chosen = range(0, len(texts.ticks), step)
        ruler.set_ticks(
            [(n + 0.5) * side / len(texts.ticks) - 0.5 for n in chosen],
            [texts.ticks[n] for n in chosen],
        )
        ruler.set_label_text(texts.label)
    figure.text(
        12 / across, 1 - 10 / down, escape(heading.title), va="top", fontsize=10, fontweight="bold"
    )
    note = figure.text(12 / across, 1 - 29 / down, heading.note, va="top", fontsize=8, color=_FAINT)
    return figure, shown, note


def to_rgb(sheet: np.ndarray) -> np.ndarray:
    """Repeat grey as colours, because a colour map of 256 greys is off by one in places."""
    return sheet if sheet.ndim == 3 else np.repeat(sheet[..., None], 3, axis=2)


def render_map(
    points: np.ndarray,
    labels: np.ndarray | None,
    heading: Heading,
    x: str,
    y: str,
    class_names: Sequence[str] | None = None,
) -> bytes:
    """Points ``(N, 2)``, coloured and marked by their labels ``(N,)`` from 0 up, as PNG.

    Each label, or the name of its class, also stands at the median of its points.
    """
    with style():
        figure = _make_figure(7.6 if labels is not None else 6.8, 6.4, layout="constrained")
        figure.suptitle(escape(heading.title), x=0.02, ha="left", fontweight="bold", fontsize=10)
        axis = figure.subplots()
        axis.set_title(heading.note, loc="left", fontsize=8, color=_FAINT)
        if labels is None:
            axis.scatter(*points.T, s=10, color=_COLOURS[0], alpha=0.6, linewidths=0)
        else:
            _scatter(axis, points, labels, class_names)
        axis.set(xlabel=x, ylabel=y)
        axis.grid()
        axis.set_axisbelow(True)
        return _render(figure, "the map", MAP_DPI)


def _scatter(
    axis: Any, points: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None
) -> None:
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
            label=class_text(label, class_names) if len(present) <= 2 * len(_MARKERS) else None,
        )
    for label in present:
        x, y = np.median(points[labels == label], axis=0)
        effect = [withStroke(linewidth=3, foreground="white")]
        middle = {
            "ha": "center",
            "va": "center",
            "fontsize": 15 if class_names is None else 11,
            "fontweight": "bold",
        }
        axis.text(x, y, class_text(label, class_names), path_effects=effect, **middle)
    if len(present) <= 2 * len(_MARKERS):
        axis.legend(
            title="label" if class_names is None else "class",
            loc="upper left",
            bbox_to_anchor=(1, 1),
            markerscale=1.8,
        )


def class_text(number: int, class_names: Sequence[str] | None) -> str:
    """A class as a picture can show it: its name; its number where it has none, or the font lacks a
    letter of it.
    """
    name = "" if class_names is None else class_names[number].strip()
    if not name or not set(map(ord, name)) <= _letters():
        return str(number)
    return escape(name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…") or str(number)


@cache
def _letters() -> frozenset[int]:
    """Code points that the font of pictures has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    with style():
        font = get_font(findfont(FontProperties(family=STYLE["font.family"])))
    return frozenset(font.get_charmap())


def escape(text: str) -> str:
    """Text as a picture can show it: at most 60 characters, no formula, no control character, and
    no leading ``_``, which makes matplotlib hide a label.
    """
    return printable(text[:60]).replace("$", r"\$").lstrip("_")
