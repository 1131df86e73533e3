"""Curves as pictures. Only this imports matplotlib, when a curve is drawn."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import durable
from .errors import RunError, UsageError, first_line, printable

MAX_PANELS, MAX_LINES = 12, 8
"""More than these are left out of a picture; ``metrics.jsonl`` has them all."""
_DASHES = ("solid", "dashed", "dotted", "dashdot")  # lines stay apart in grey print
_COLOURS = ("#1f5fa8", "#c4501b", "#2f7d4f", "#7a4fa3")


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Draw the rows of ``metrics.jsonl``: losses in one panel, accuracies in one, whatever else there is in its own.

    Raises:
        RunError: there are no rows, or none that can be drawn.
        UsageError: the path does not end in ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are written as PNG; give a name that ends in .png")
    if not rows:
        raise RunError("nothing to plot: metrics.jsonl has no rows yet")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    drawn = dict(list(panels(names).items())[:MAX_PANELS])
    if not drawn:
        raise RunError("nothing to plot: the rows of metrics.jsonl have no figures")
    figure = Figure(figsize=(8, 2.6 * len(drawn) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_label(title), x=0.02, ha="left", fontweight="bold")
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, members) in zip(axes, drawn.items(), strict=True):
        _draw_panel(axis, label, members[:MAX_LINES], rows)
    axes[-1].set_xlabel("iteration")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in a script that the font lacks: boxes
        try:
            figure.savefig(buffer, dpi=120, format="png")
        except (ValueError, OverflowError) as error:
            raise RunError(f"the curves cannot be drawn: {first_line(error)}") from error
    durable.make_folder(path.parent)
    durable.replace(path, buffer.getvalue())


def _draw_panel(axis: Any, label: str, names: Sequence[str], rows: Sequence[Mapping[str, float]]) -> None:
    scale = 100 if label == "accuracy (%)" else 1
    for number, name in enumerate(names):
        axis.plot(
            [row["step"] for row in rows],
            [scale * row.get(name, math.nan) for row in rows],
            label=_label(name.replace("_", " ")),
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_DASHES[number % len(_DASHES)],
            linewidth=1.3,
        )
    axis.set_ylabel(_label(label))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axis.legend(frameon=False)


def _label(text: str) -> str:
    """Text as a picture can show it: no formula, no control character, not endless."""
    return printable(text[:60]).replace("$", r"\$").lstrip("_")  # matplotlib hides labels that begin with _


def panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Axis label → metrics that share the panel, by what their names end in."""
    found: dict[str, list[str]] = {}
    for name in names:
        label = (
            "loss" if name.endswith("loss") else "accuracy (%)" if name.endswith("accuracy") else name.replace("_", " ")
        )
        found.setdefault(label, []).append(name)
    return found
