"""Runs at a glance: what each is, how far it is and how it ended. No torch here, so that a hundred
are listed at once.

The files may be a stranger's: what is not as genkit writes it makes the run ``damaged``, and is not
shown.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..config import TrainOptions
from ..errors import RunError
from ..storage import lock
from ..storage.folder import EVALUATION, FAILURE, METRICS, RUN, RunFolder

State = Literal["running", "finished", "interrupted", "failed", "damaged"]
PLACES = ("out", "data_root")
"""Options that say where, not what."""
MAX_RUNS, MAX_FIGURES = 10_000, 200
"""More than these are left out."""


@dataclass(frozen=True)
class Measured:
    """One figure of ``evaluation.json``, and what it rests on."""

    metric: str
    name: str
    value: float
    floor: float | None = None
    """What real images in the place of the samples give."""
    step: int | None = None
    images: int | None = None
    held_out: int | None = None
    seed: int | None = None
    extractor: str | None = None
    """Name, first 12 digits of its SHA-256, accuracy: the network whose features the figure is in.
    """

    @property
    def title(self) -> str:
        """Metric and figure, by which it is told apart."""
        return self.name if self.name == self.metric else f"{self.metric} {self.name}"

    @property
    def basis(self) -> tuple[int | str | None, ...]:
        """Figures can be compared where this is equal."""
        return (self.step, self.images, self.held_out, self.seed, self.extractor)


@dataclass(frozen=True)
class Summary:
    """A run in one row."""

    path: Path
    state: State
    reason: str = ""
    """Why it failed, or what is damaged."""
    model: str = ""
    dataset: str = ""
    step: int = 0
    """Of the last row of ``metrics.jsonl``."""
    iterations: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """genkit's and the model's, as in ``run.json``; without where things are on the machine."""
    losses: dict[str, float] = field(default_factory=dict)
    """The last means of what ends in ``loss``; of all metrics where nothing does."""
    measured: tuple[Measured, ...] = ()

    @property
    def headline(self) -> Measured | None:
        """The figure to show where there is room for one: the first of those that rest on the most
        images.
        """
        return max(self.measured, key=lambda figure: figure.images or 0, default=None)


def find(parent: Path) -> list[Summary]:
    """The runs in the folder ``parent``, by name; a folder without ``run.json`` is none.

    Raises:
        RunError: there is no such folder.
    """
    try:
        folders = sorted(path for path in parent.iterdir() if (path / RUN).exists())
    except OSError as error:
        raise RunError(f"{parent}: {error.strerror}") from None
    return [summarise(path) for path in folders[:MAX_RUNS]]


def summarise(path: Path) -> Summary:
    """The run in the folder ``path``; one that cannot be read is ``damaged``."""
    folder = RunFolder(path)
    try:
        info = folder.read_json(RUN)
        model, dataset = _text(info["model"]["name"]), shortened(_text(info["dataset"]["name"]))
        iterations = _count(info["options"]["iterations"])
        options = {**_defaults(), **_mapping(info["options"]), **_mapping(info.get("config"))}
        for name in PLACES:
            options.pop(name, None)
        row = folder.last_row(METRICS)
        step = int(row.pop("step", 0))
        state, reason = _state(folder, step, iterations)
        return Summary(
            path,
            state,
            reason,
            model,
            dataset,
            step,
            iterations,
            options,
            losses(row),
            measured(folder),
        )
    except (RunError, OSError) as error:
        return Summary(path, "damaged", str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Summary(
            path,
            "damaged",
            f"run.json is not as genkit writes it ({type(error).__name__}: {error})",
        )


def losses(row: Mapping[str, float]) -> dict[str, float]:
    """What of a row ends in ``loss``; all where nothing does."""
    return {name: value for name, value in row.items() if name.endswith("loss")} or dict(row)


def shortened(dataset: str) -> str:
    """``folder:mine`` for ``folder:/home/me/mine``: what is shared does not say where things are."""
    name, colon, argument = dataset.partition(":")
    return name + colon + argument.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _state(folder: RunFolder, step: int, iterations: int) -> tuple[State, str]:
    if lock.is_held(folder):
        return "running", ""
    try:
        failure = folder.read_json(FAILURE)
        return "failed", f"step {_count(failure['step'])}: {_text(failure['reason'])}"
    except FileNotFoundError:
        pass
    finished = step == iterations and folder.is_complete(step)
    return ("finished" if finished else "interrupted"), ""


def measured(folder: RunFolder) -> tuple[Measured, ...]:
    """The figures of ``evaluation.json``: those of ``genkit evaluate`` first, then what the model
    measured itself.

    Raises:
        RunError: the file is damaged.
    """
    try:
        content = folder.read_json(EVALUATION)
    except FileNotFoundError:
        return ()
    found: list[Measured] = []
    for metric, values in _mapping(_mapping(content).get("metrics")).items():
        found += _figures(str(metric), _mapping(values))
    test = _mapping(_mapping(content).get("test"))
    step, images = _whole(test.get("step")), _whole(test.get("images"))
    for name, value in test.items():
        if name not in ("step", "images") and (number := _number(value)) is not None:
            found.append(Measured("test", str(name), number, step=step, images=images))
    return tuple(found[:MAX_FIGURES])


def _figures(metric: str, values: Mapping[str, Any]) -> Iterator[Measured]:
    floor = _mapping(values.get("floor"))
    about = {key: _whole(values.get(key)) for key in ("step", "images", "held_out", "seed")}
    for name, value in _mapping(values.get("figures")).items():
        if (number := _number(value)) is not None:
            yield Measured(
                metric,
                str(name),
                number,
                floor=_number(floor.get(name)),
                extractor=_extractor(_mapping(values.get("extractor"))),
                **about,
            )


@cache
def _defaults() -> dict[str, Any]:
    """What an option is that an older run.json does not name."""
    return TrainOptions().model_dump(mode="json")


def _extractor(values: Mapping[str, Any]) -> str | None:
    if not values:
        return None
    accuracy = _number(values.get("accuracy"))
    parts = [str(values.get("name", "without a name"))[:100], str(values.get("sha256", ""))[:12]]
    return " ".join(parts) + (f" ({accuracy:.1%} accurate)" if accuracy is not None else "")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """A finite number, None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _whole(value: object) -> int | None:
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        else None
    )


def _count(value: object) -> int:
    if (number := _whole(value)) is None:
        raise ValueError("not a whole number")
    return number


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
