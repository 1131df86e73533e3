"""The comparison of several runs: options that differ, last losses and metrics. No torch here."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunError, UsageError
from ..storage.folder import RUN, RunFolder
from .summary import MeasuredValue, Summary, summarise

MAX_RUNS = 12
"""More do not fit side by side."""
NONE = "-"


@dataclass(frozen=True)
class TableRow:
    """The name of the row and its other cells."""

    cells: list[str]
    marked: bool = False
    """Whether the cells cannot be compared."""


@dataclass(frozen=True)
class Table:
    """A table with a column for each run."""

    name: str
    title: str
    caption: str
    what: str
    """What each row is about: the name of the first column."""
    rows: list[TableRow]
    reason: str
    """Why there are no rows, if there are none."""
    notes: list[str]
    """Which rows cannot be compared, and why."""


@dataclass(frozen=True)
class Comparison:
    """Several runs, and the tables that compare them."""

    runs: list[Summary]
    names: list[str]
    """Of the folders; the path where two have the same name."""
    tables: list[Table]


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Compare the runs in the folders ``paths``, from 2 to :data:`MAX_RUNS`.

    Raises:
        UsageError: there are too few or too many.
        RunError: one is not a run, or damaged.
    """
    if not 2 <= len(paths) <= MAX_RUNS:
        raise UsageError(f"{len(paths)} runs: give from 2 to {MAX_RUNS} to compare")
    runs = [summarise(path) for path in paths]
    for run in runs:
        if run.state == "damaged":
            raise RunError(
                run.reason if (run.path / RUN).exists() else f"{run.path} is not a run folder"
            )
    folders = [run.path.resolve().name for run in runs]
    names = [
        name if folders.count(name) == 1 else str(run.path)
        for name, run in zip(folders, runs, strict=True)
    ]
    tables = [
        _compare_options(runs),
        _compare_images(runs),
        _compare_losses(runs, names),
        _compare_metrics(runs, names),
    ]
    return Comparison(runs, names, tables)


def _compare_options(runs: Sequence[Summary]) -> Table:
    about: list[tuple[str, Callable[[Summary], str]]] = [
        ("model", lambda run: run.model),
        ("state", lambda run: run.state),
        ("step", lambda run: f"{run.step:,}"),
    ]
    rows = [TableRow([name, *map(get, runs)]) for name, get in about]
    names = dict.fromkeys(name for run in runs for name in run.options)
    options = [
        TableRow([str(name), *(format_option(run.options.get(name)) for run in runs)])
        for name in names
        if name != "dataset"
    ]
    differing = [row for row in rows + options if len(set(row.cells[1:])) > 1]
    note = "All else is equal."
    return Table(
        "options", "Differences", note, "option", differing, "The runs have the same options.", []
    )


def _compare_images(runs: Sequence[Summary]) -> Table:
    """Which images the runs were trained on: always shown, as all else rests on it."""
    about: list[tuple[str, Callable[[Summary], str]]] = [
        ("dataset", lambda run: run.dataset),
        ("images", lambda run: run.images.counts if run.images else NONE),
        ("SHA-256, training", lambda run: _shorten_hash(_training_images(run))),
        ("SHA-256, all", lambda run: _shorten_hash(_all_images(run))),
    ]
    rows = [TableRow([name, *map(get, runs)]) for name, get in about]
    options = [run.images.options if run.images else {} for run in runs]
    for name in dict.fromkeys(name for each in options for name in each):
        cells = [format_option(each.get(name)) for each in options]
        if len(set(cells)) > 1:
            rows.append(TableRow([str(name), *cells]))
    caption = "SHA-256 of shape, pixels and labels; images of one SHA-256 are the same."
    return Table("images", "Images", caption, "images", rows, "", [])


def _shorten_hash(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else NONE


def _training_images(run: Summary) -> str | None:
    return run.images.training if run.images else None


def _all_images(run: Summary) -> str | None:
    """What tells held-out images apart, where the training images are the same."""
    return run.images.all if run.images else None


def _differing_images(runs: Sequence[Summary]) -> list[str]:
    """Of training and held-out images those that the runs do not share."""
    if len({_training_images(run) for run in runs}) > 1:
        return ["training images"]
    if len({known for run in runs if (known := _all_images(run))}) > 1:
        return ["held-out images"]
    return []


def _explain_images(differing: str, runs: Sequence[Summary], names: Sequence[str]) -> str:
    get = _training_images if differing == "training images" else _all_images
    which = (f"{name}: {_shorten_hash(get(run))}" for name, run in zip(names, runs, strict=True))
    return f"the runs have different {differing} ({', '.join(which)})"


def _compare_losses(runs: Sequence[Summary], names: Sequence[str]) -> Table:
    losses = dict.fromkeys(name for run in runs for name in run.losses)
    rows: list[TableRow] = []
    explained: set[str] = set()
    for name in losses:
        having = [run for run in runs if name in run.losses]
        differing = [what for what in _differing_images(having) if what == "training images"]
        cells = [f"{run.losses[name]:.4g}" if name in run.losses else NONE for run in runs]
        rows.append(TableRow([name + (" *" if differing else ""), *cells], bool(differing)))
        explained |= set(differing)
    notes = [_explain_images(differing, runs, names) for differing in explained]
    caption = (
        "Means over the last log interval. Losses of different models are on different scales. "
        "* marks what is not comparable."
    )
    reason = "No run has a row in metrics.jsonl."
    return Table("losses", "Last losses", caption, "loss", rows, reason, notes)


def _compare_metrics(runs: Sequence[Summary], names: Sequence[str]) -> Table:
    by_title = [{value.title: value for value in run.measured} for run in runs]
    rows: list[TableRow] = []
    notes: list[str] = []
    other_images: set[str] = set()
    for title in dict.fromkeys(title for values in by_title for title in values):
        values = [found.get(title) for found in by_title]
        differing = [name for name, get in BASIS if len({get(v) for v in values if v}) > 1]
        measured = [run for run, value in zip(runs, values, strict=True) if value]
        images = _differing_images(measured)
        other_images |= set(images)
        marked = bool(differing or images)
        cells = [title + (" *" if marked else ""), *map(_format_value, values)]
        rows.append(TableRow(cells, marked=marked))
        if differing:
            bases = "; ".join(
                f"{name}: {describe_basis(value)}"
                for name, value in zip(names, values, strict=True)
                if value
            )
            notes.append(f"{title} rests on a different {', '.join(differing)} ({bases})")
    notes = [*(_explain_images(images, runs, names) for images in sorted(other_images)), *notes]
    reason = "No run has been measured; genkit evaluate RUN does."
    caption = (
        "Figure, then the floor: real images in the place of the samples. N images; "
        "* marks what is not comparable."
    )
    return Table("figures", "Evaluation", caption, "figure", rows, reason, notes)


BASIS: list[tuple[str, Callable[[MeasuredValue], object]]] = [
    ("step", lambda value: value.step),
    ("number of images", lambda value: value.images),
    ("number of held-out images", lambda value: value.held_out),
    ("seed", lambda value: value.seed),
    ("extractor", lambda value: value.extractor),
]
"""What has to be equal for two values to be compared."""


def describe_basis(value: MeasuredValue) -> str:
    """What a value was measured with, in words."""
    parts = [
        f"step {value.step:,}" if value.step is not None else "",
        f"N = {value.images:,}" if value.images is not None else "",
        f"{value.held_out:,} held out" if value.held_out is not None else "",
        f"seed {value.seed}" if value.seed is not None else "",
        value.extractor or "",
    ]
    return ", ".join(part for part in parts if part) or "not recorded"


def _format_value(value: MeasuredValue | None) -> str:
    """A value with its floor and N, in one cell."""
    if value is None:
        return NONE
    floor = f", floor {value.floor:.4g}" if value.floor is not None else ""
    images = f", N = {value.images:,}" if value.images is not None else ""
    return f"{value.value:.4g}{floor}{images}"


def format_option(option: object) -> str:
    """An option's value as a person reads it."""
    if option is None or option == []:
        return NONE
    return option if isinstance(option, str) else json.dumps(option, ensure_ascii=False)


def last_grid(path: Path) -> Path | None:
    """The newest sample grid of a run."""
    grids = RunFolder(path).all_samples()
    return grids[-1] if grids else None
