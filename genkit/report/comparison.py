"""Runs side by side: what differs in their options, where their losses and figures are. No torch
here.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunError, UsageError
from ..storage.folder import RUN, RunFolder
from .summary import Measured, Summary, summarise

MAX_RUNS = 12
"""More are not to be looked at side by side."""
NONE = "-"


@dataclass(frozen=True)
class Row:
    """A name and a cell for each run."""

    cells: list[str]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """Rows about all runs."""

    name: str
    title: str
    caption: str
    what: str
    """Of what kind the rows are."""
    rows: list[Row]
    reason: str
    """Why there are no rows, where there are none."""
    notes: list[str]
    """What cannot be compared, and why."""


@dataclass(frozen=True)
class Comparison:
    """Some runs, and what is to be said of all of them."""

    runs: list[Summary]
    names: list[str]
    """Of the folders; the path where two have one name."""
    tables: list[Table]


def compare(paths: Sequence[Path]) -> Comparison:
    """The runs in the folders ``paths``, two or more.

    Raises:
        UsageError: there are too few or too many.
        RunError: one is no run, or damaged.
    """
    if not 2 <= len(paths) <= MAX_RUNS:
        raise UsageError(f"{len(paths)} runs: give from 2 to {MAX_RUNS} to compare")
    runs = [summarise(path) for path in paths]
    for run in runs:
        if run.state == "damaged":
            raise RunError(
                run.reason if (run.path / RUN).exists() else f"{run.path} is no run folder"
            )
    plain = [run.path.resolve().name for run in runs]
    names = [
        name if plain.count(name) == 1 else str(run.path)
        for name, run in zip(plain, runs, strict=True)
    ]
    return Comparison(runs, names, [_options(runs), _losses(runs), _figures(runs, names)])


def _options(runs: Sequence[Summary]) -> Table:
    about: list[tuple[str, Callable[[Summary], str]]] = [
        ("model", lambda run: run.model),
        ("dataset", lambda run: run.dataset),
        ("state", lambda run: run.state),
        ("step", lambda run: f"{run.step:,}"),
    ]
    rows = [Row([name, *map(get, runs)]) for name, get in about]
    names = dict.fromkeys(name for run in runs for name in run.options)
    options = [
        Row([str(name), *(value(run.options.get(name)) for run in runs)])
        for name in names
        if name != "dataset"
    ]
    differing = [row for row in rows + options if len(set(row.cells[1:])) > 1]
    note = "All else is equal."
    return Table(
        "options", "Differences", note, "option", differing, "The runs have the same options.", []
    )


def _losses(runs: Sequence[Summary]) -> Table:
    names = dict.fromkeys(name for run in runs for name in run.losses)
    rows = [
        Row([name, *(f"{run.losses[name]:.4g}" if name in run.losses else NONE for run in runs)])
        for name in names
    ]
    caption = (
        "Means over the last log interval. Losses of different models are on different scales."
    )
    return Table(
        "losses", "Last losses", caption, "loss", rows, "No run has a row in metrics.jsonl.", []
    )


def _figures(runs: Sequence[Summary], names: Sequence[str]) -> Table:
    found = [{figure.title: figure for figure in run.measured} for run in runs]
    rows, notes = [], []
    for title in dict.fromkeys(title for figures in found for title in figures):
        cells = [figures.get(title) for figures in found]
        differs = [name for name, get in BASIS if len({get(cell) for cell in cells if cell}) > 1]
        rows.append(
            Row(
                [title + (" *" if differs else ""), *(figure(cell) for cell in cells)],
                marked=bool(differs),
            )
        )
        if differs:
            notes.append(
                f"{title} rests on a different {', '.join(differs)} ({_bases(cells, names)})"
            )
    reason = "No run has been measured; genkit evaluate RUN does."
    caption = "Figure, then the floor: real images in the place of the samples. N images; * marks what is not comparable."
    return Table("figures", "Evaluation", caption, "figure", rows, reason, notes)


BASIS: list[tuple[str, Callable[[Measured], object]]] = [
    ("step", lambda cell: cell.step),
    ("number of images", lambda cell: cell.images),
    ("number of held-out images", lambda cell: cell.held_out),
    ("seed", lambda cell: cell.seed),
    ("extractor", lambda cell: cell.extractor),
]
"""What has to be equal for two figures to be compared."""


def _bases(cells: Iterable[Measured | None], names: Sequence[str]) -> str:
    return "; ".join(
        f"{name}: {basis(cell)}" for name, cell in zip(names, cells, strict=True) if cell
    )


def basis(cell: Measured) -> str:
    """What a figure rests on, in words."""
    parts = [
        f"step {cell.step:,}" if cell.step is not None else "",
        f"N = {cell.images:,}" if cell.images is not None else "",
        f"{cell.held_out:,} held out" if cell.held_out is not None else "",
        f"seed {cell.seed}" if cell.seed is not None else "",
        cell.extractor or "",
    ]
    return ", ".join(part for part in parts if part) or "not said"


def figure(cell: Measured | None) -> str:
    """A figure with its floor and N, in one cell."""
    if cell is None:
        return NONE
    floor = f", floor {cell.floor:.4g}" if cell.floor is not None else ""
    images = f", N = {cell.images:,}" if cell.images is not None else ""
    return f"{cell.value:.4g}{floor}{images}"


def value(option: object) -> str:
    """An option's value as a person reads it."""
    if option is None or option == []:
        return NONE
    return option if isinstance(option, str) else json.dumps(option, ensure_ascii=False)


def last_grid(path: Path) -> Path | None:
    """The newest sample grid of a run."""
    grids = RunFolder(path).all_samples()
    return grids[-1] if grids else None
