"""Curves as numbers that a page can draw: paths, ticks and labels of a small chart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import RunError
from .plotting import CURVE, MAX_LINES, MAX_PANELS, panels

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 240, 52, 448, 12, 30
MAX_POINTS = 400
"""Longer curves are drawn as means of neighbouring rows."""
MAX_NUMBER = 1e100
Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Tick:
    """A place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """One curve: an SVG path and its last value."""

    name: str
    path: str
    last: str


@dataclass(frozen=True)
class Chart:
    """One panel; lengths are in the units of its view box."""

    label: str
    description: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT


def charts(rows: Rows) -> list[Chart]:
    """The panels of ``metrics.jsonl``, as :func:`genkit.report.plotting.panels` divides them.

    Raises:
        RunError: there is nothing to draw.
    """
    if len(rows) < CURVE:
        raise RunError(f"a curve needs {CURVE} rows of metrics.jsonl, and there are fewer")
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    found = [
        _chart(label, members[:MAX_LINES], rows)
        for label, members in list(panels(list(names)).items())
    ]
    if not found:
        raise RunError("metrics.jsonl has no figures yet")
    return found[:MAX_PANELS]


def thinned(rows: Rows, name: str) -> list[tuple[float, float]]:
    """Step and value of one metric: at most :data:`MAX_POINTS`, each the mean of as many
    neighbours.
    """
    points = [(row["step"], row[name]) for row in rows if name in row]
    size = math.ceil(len(points) / MAX_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value / len(group) for _, value in group)) for group in groups]


def _chart(label: str, names: Sequence[str], rows: Rows) -> Chart:
    scale = 100.0 if label.endswith("(%)") else 1.0
    curves = {name: [(x, _drawable(y * scale)) for x, y in thinned(rows, name)] for name in names}
    values = [y for curve in curves.values() for _, y in curve]
    steps = [x for curve in curves.values() for x, _ in curve]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    first, last = min(steps), max(steps)

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * (x - first) / ((last - first) or 1)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - low) / (high - low)

    lines = []
    for name, curve in curves.items():
        points = [f"{across(x):.1f} {up(y):.1f}" for x, y in curve]
        lines.append(Line(name.replace("_", " "), "M" + "L".join(points), f"{curve[-1][1]:.4g}"))
    described = "; ".join(f"{line.name} ends at {line.last}" for line in lines)
    middle = (first + last) / 2
    return Chart(
        label=label,
        description=f"{label} by iteration, from {first:,.0f} to {last:,.0f}: {described}",
        lines=lines,
        x_ticks=[
            Tick(round(across(x), 1), f"{x:,.0f}") for x in dict.fromkeys((first, middle, last))
        ],
        y_ticks=[Tick(round(up(y), 1), f"{y:.4g}") for y in ticks],
    )


def _drawable(number: float) -> float:
    """What lies beyond any axis lies on its edge."""
    return min(max(number, -MAX_NUMBER), MAX_NUMBER)


def _ticks(low: float, high: float) -> list[float]:
    """From three to seven round numbers that enclose both ends."""
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size or size < 1e-100:  # flat
        room = size * 0.01 if size > 1e-100 else 0.5
        low, high = low - room, high + room
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough), rough)
    begin, end = math.floor(low / step), math.ceil(high / step)
    ticks = [number * step for number in range(begin, end + 1)]
    return (
        ticks if len(set(ticks)) > 1 and len(ticks) < 10 else [low, high if high > low else low + 1]
    )
