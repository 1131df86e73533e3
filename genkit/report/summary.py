"""The summary of a run: what it is, how far it is and how it ended. No torch here, so that a
hundred are listed at once.

The files may come from a stranger. A file that is not as genkit writes it makes the run
``damaged``, and is not shown.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..config import TrainOptions
from ..errors import RunError
from ..storage import lock
from ..storage.folder import EVALUATION, FAILURE, METRICS, RUN, RunFolder

T = TypeVar("T")
State = Literal["running", "finished", "interrupted", "failed", "damaged"]
PLACES = ("out", "data_root")
"""Options that say where, not what."""
MAX_RUNS, MAX_VALUES = 10_000, 200
"""More than these are left out."""
MAX_SHOWN = 8
"""Values of one metric that a table shows."""


@dataclass(frozen=True)
class MeasuredValue:
    """One value of a metric in ``evaluation.json``, and what it was measured with."""

    metric: str
    name: str
    value: float
    floor: float | None = None
    """The value that real images get in the place of samples."""
    step: int | None = None
    images: int | None = None
    held_out: int | None = None
    seed: int | None = None
    extractor: str | None = None
    """The network whose features the metric uses, as :func:`describe_extractor` writes it."""

    @property
    def title(self) -> str:
        """Metric and name of the value, which together identify it."""
        return self.name if self.name == self.metric else f"{self.metric} {self.name}"

    @property
    def basis(self) -> tuple[int | str | None, ...]:
        """Two values can be compared where this is equal."""
        return (self.step, self.images, self.held_out, self.seed, self.extractor)


@dataclass(frozen=True)
class TrainedOn:
    """Which images a run was trained on, and which were held out."""

    training: str
    """Fingerprint of the training images and labels."""
    all: str | None
    """That of the held-out ones, too; None: an older genkit did not record it."""
    counts: str
    """How many to train on and how many held out, in words."""
    options: dict[str, Any]
    """The options of the dataset."""


@dataclass(frozen=True)
class Summary:
    """What a list of runs shows of one."""

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
    """genkit's and the model's, as in ``run.json``, without paths of the machine."""
    images: "TrainedOn | None" = None
    losses: dict[str, float] = field(default_factory=dict)
    """Last means of the metrics that end in ``loss``; of all metrics where none does."""
    measured: tuple[MeasuredValue, ...] = ()

    @property
    def headline(self) -> MeasuredValue | None:
        """The value to show where there is room for one: the first that was measured on the most
        images.
        """
        return max(self.measured, key=lambda value: value.images or 0, default=None)


def find_runs(parent: Path) -> list[Summary]:
    """Summaries of the runs in the folder ``parent``, by name. A folder without ``run.json`` is no
    run.

    Raises:
        RunError: there is no such folder.
    """
    try:
        folders = sorted(path for path in parent.iterdir() if (path / RUN).exists())
    except OSError as error:
        raise RunError(f"{parent}: {error.strerror}") from None
    return [summarise(path) for path in folders[:MAX_RUNS]]


def summarise(path: Path) -> Summary:
    """Summarise the run in the folder ``path``; one that cannot be read is ``damaged``."""
    folder = RunFolder(path)
    try:
        info = folder.read_json(RUN)
        model, dataset = (
            _text(info["model"]["name"]),
            shorten_dataset(_text(info["dataset"]["name"])),
        )
        iterations = _count(info["options"]["iterations"])
        options = {**_defaults(), **_mapping(info["options"]), **_mapping(info.get("config"))}
        images = _parse_images(_mapping(info["dataset"]))
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
            images,
            select_losses(row),
            read_measured(folder),
        )
    except (RunError, OSError) as error:
        return Summary(path, "damaged", str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Summary(
            path,
            "damaged",
            f"run.json is not as genkit writes it ({type(error).__name__}: {error})",
        )


def _parse_images(dataset: Mapping[str, Any]) -> TrainedOn:
    known, training = _text(dataset["fingerprint"]), dataset.get("training_fingerprint")
    return TrainedOn(
        training=known if training is None else _text(training),
        all=None if training is None else known,
        counts=f"{_count(dataset['images']):,} + {_count(dataset['held_out']):,} held out",
        options=dict(_mapping(dataset.get("options"))),
    )


def select_losses(row: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a row that end in ``loss``; all where none does."""
    return {name: value for name, value in row.items() if name.endswith("loss")} or dict(row)


def shorten_dataset(dataset: str) -> str:
    """``folder:mine`` for ``folder:/home/me/mine``: what is shared names no path of the machine."""
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


def describe_extractor(name: str, sha256: str, accuracy: float | None) -> str:
    """Name, first 12 digits of the SHA-256 and, if it is known, the accuracy (0 to 1)."""
    share = f" ({accuracy:.2%} accurate)" if accuracy is not None else ""
    return f"{name} {sha256[:12]}{share}"


def shorten_values(values: Sequence[T]) -> tuple[Sequence[T], str]:
    """The first :data:`MAX_SHOWN` values of one metric; if there are more, how many, in words."""
    more = len(values) - MAX_SHOWN
    return values[:MAX_SHOWN], f"{more} more in evaluation.json" if more > 0 else ""


def read_measured(folder: RunFolder) -> tuple[MeasuredValue, ...]:
    """The values in ``evaluation.json``: those of ``genkit evaluate`` first, then those that the
    model measured itself.

    Raises:
        RunError: the file is damaged.
    """
    try:
        content = folder.read_json(EVALUATION)
    except FileNotFoundError:
        return ()
    found: list[MeasuredValue] = []
    for metric, values in _mapping(_mapping(content).get("metrics")).items():
        found += _parse_metric(str(metric), _mapping(values))
    test = _mapping(_mapping(content).get("test"))
    step, images = _whole(test.get("step")), _whole(test.get("images"))
    for name, value in test.items():
        if name not in ("step", "images") and (number := _number(value)) is not None:
            found.append(MeasuredValue("test", str(name), number, step=step, images=images))
    return tuple(found[:MAX_VALUES])


def _parse_metric(metric: str, values: Mapping[str, Any]) -> Iterator[MeasuredValue]:
    floor = _mapping(values.get("floor"))
    about = {key: _whole(values.get(key)) for key in ("step", "images", "held_out", "seed")}
    for name, value in _mapping(values.get("figures")).items():
        if (number := _number(value)) is not None:
            yield MeasuredValue(
                metric,
                str(name),
                number,
                floor=_number(floor.get(name)),
                extractor=_extractor(_mapping(values.get("extractor"))),
                **about,
            )


@cache
def _defaults() -> dict[str, Any]:
    """For options that an older run.json does not hold."""
    return TrainOptions().model_dump(mode="json")


def _extractor(values: Mapping[str, Any]) -> str | None:
    if not values:
        return None
    name = str(values.get("name", "without a name"))[:100]
    sha256 = str(values.get("sha256", ""))
    return describe_extractor(name, sha256, _number(values.get("accuracy")))


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
