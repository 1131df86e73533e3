"""Charts of curves as a page draws them: SVG paths, ticks and labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import RunError
from .plotting import MAX_LINES, MAX_PANELS, MIN_ROWS, group_into_panels

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 240, 52, 448, 12, 30
MAX_POINTS = 400
"""Longer curves are drawn as means of neighbouring steps."""
MAX_NUMBER = 1e100
LoggedMetrics = Sequence[Mapping[str, float]]
"""Of ``metrics.jsonl``: ``step`` and the mean of each metric."""


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


def make_charts(logged: LoggedMetrics) -> list[Chart]:
    """One chart for each panel of :func:`genkit.report.plotting.group_into_panels`.

    Raises:
        RunError: there is nothing to draw.
    """
    if len(logged) < MIN_ROWS:
        raise RunError(f"a curve needs {MIN_ROWS} rows of metrics.jsonl, and there are fewer")
    names = dict.fromkeys(name for row in logged for name in row if name != "step")
    panels = list(group_into_panels(list(names)).items())[:MAX_PANELS]
    if not panels:
        raise RunError("metrics.jsonl has no metrics yet")
    return [_make_chart(label, members[:MAX_LINES], logged) for label, members in panels]


def thin(logged: LoggedMetrics, name: str) -> list[tuple[float, float]]:
    """Steps and values of one metric, at most :data:`MAX_POINTS`: each value is the mean of equally
    many neighbours.
    """
    points = [(row["step"], row[name]) for row in logged if name in row]
    size = math.ceil(len(points) / MAX_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value / len(group) for _, value in group)) for group in groups]


def _make_chart(label: str, names: Sequence[str], logged: LoggedMetrics) -> Chart:
    scale = 100.0 if label.endswith("(%)") else 1.0
    curves = {name: [(x, _clamp(y * scale)) for x, y in thin(logged, name)] for name in names}
    values = [y for curve in curves.values() for _, y in curve]
    steps = [x for curve in curves.values() for x, _ in curve]
    ticks = _choose_ticks(min(values), max(values))
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


def _clamp(number: float) -> float:
    """Within ±:data:`MAX_NUMBER`, so that differences stay finite."""
    return min(max(number, -MAX_NUMBER), MAX_NUMBER)


def _choose_ticks(low: float, high: float) -> list[float]:
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
