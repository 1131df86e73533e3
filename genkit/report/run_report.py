"""The report of a run: everything that its page shows, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import GenkitError, RunError
from ..run import Run
from ..storage.folder import ALARM, METRICS, TIMING
from ..training.collapse import short_status
from .charts import Chart, make_charts
from .comparison import NONE, TableRow, describe_basis, format_option
from .embedding import Drawing, SampleGrid, embed_grids, make_drawings
from .plotting import run_title
from .reproduction import compare_with_defaults, reproduce
from .summary import MeasuredValue, Summary, shorten_dataset, shorten_values, summarise

NOT_MEASURED = (
    "the run has not been measured: genkit evaluate RUN does, and genkit report RUN then shows it"
)
MEASUREMENT_HEAD = ["figure", "value", "floor", "measured on", "extractor"]


@dataclass(frozen=True)
class Report:
    """What a run's page shows, in its order."""

    title: str
    model: str
    dataset: str
    lead: str
    state: str
    key: list[tuple[str, str]]
    """The run at a glance: name and value."""
    grids: list[SampleGrid]
    grids_left_out: str
    charts: list[Chart]
    charts_note: str
    drawings: list[Drawing]
    measurements: list[TableRow]
    measurement_head: list[str]
    missing: list[tuple[str, str]]
    """What cannot be shown, and why."""
    changed: list[TableRow]
    defaults: list[TableRow]
    options_note: str
    data: list[TableRow]
    environment: list[TableRow]
    command: str
    command_note: str


def make_report(run: Run, data_root: Path | None = None, dataset: Any = None) -> Report:
    """Gather what the report of a run shows. What cannot be shown is listed with the reason.

    Raises:
        RunError: the run's files are damaged.
    """
    info, summary = run.info, summarise(run.path)
    if summary.state == "damaged":
        raise RunError(summary.reason)
    grids, no_grids, left_out = embed_grids(run.folder)
    logged, charts, no_charts = run.folder.thinned_rows(METRICS), [], ""
    try:
        charts = make_charts(logged)
    except RunError as error:
        no_charts = str(error)
    drawings = make_drawings(run, data_root, dataset)
    missing = [("Samples", no_grids)] if not grids else []
    missing += [("Curves", no_charts)] if not charts else []
    missing += [(drawing.title, drawing.reason) for drawing in drawings if not drawing.image]
    missing += [("Evaluation", NOT_MEASURED)] if not summary.measured else []
    changed, same, options_note = compare_with_defaults(run)
    command, command_note = reproduce(run)
    return Report(
        title=run_title(run),
        model=info.model.name,
        dataset=shorten_dataset(info.dataset.name),
        lead=_describe_training(run, summary),
        state=_describe_state(summary),
        key=_list_key_values(run, summary),
        grids=grids,
        grids_left_out=left_out,
        charts=charts,
        charts_note=f"Means over {info.options.log_interval:,} iterations a point, as in "
        "metrics.jsonl; the number is the last one.",
        drawings=[drawing for drawing in drawings if drawing.image],
        measurements=_list_measurements(summary.measured),
        measurement_head=MEASUREMENT_HEAD,
        missing=missing,
        changed=changed,
        defaults=same,
        options_note=options_note,
        data=_describe_data(run),
        environment=[
            TableRow([name, str(text)]) for name, text in info.environment.recorded().items()
        ],
        command=command,
        command_note=command_note,
    )


def _describe_training(run: Run, summary: Summary) -> str:
    parts = [f"{summary.step:,} iterations", f"batches of {run.info.options.batch_size:,}"]
    if seconds := _training_seconds(run):
        device = run.info.environment.device or "a device not named"
        parts.append(f"{_format_duration(seconds)} on {device}")
    return ", ".join(parts) + "."


def _describe_state(summary: Summary) -> str:
    if summary.state == "finished":
        return ""
    progress = f"{summary.step:,} of {summary.iterations:,} iterations"
    return f"{summary.state.capitalize()} at {progress}. {summary.reason}"


def _list_key_values(run: Run, summary: Summary) -> list[tuple[str, str]]:
    key = [("iterations", f"{summary.step:,}"), ("images seen", _images_seen(run, summary.step))]
    for name, loss in list(summary.losses.items())[:4]:
        key.append((f"final {name.replace('_', ' ')}", f"{loss:.4g}"))
    if seconds := _training_seconds(run):
        key.append(("wall time of training", _format_duration(seconds)))
    key.append(("device", run.info.environment.device or "not named"))
    if readings := run.folder.readable_rows(ALARM):
        key.append(("alarm, at the last reading", short_status(readings)))
    if best := summary.headline:
        key.append((best.title.replace("_", " "), f"{best.value:.4g}"))
    return key


def _images_seen(run: Run, step: int) -> str:
    try:
        batches = run.trainer_class.batches_per_step
    except GenkitError:
        batches = 1
    return f"{step * run.info.options.batch_size * batches:,}"


def _training_seconds(run: Run) -> float:
    try:
        return sum(row.get("seconds", 0.0) for row in run.folder.read_rows(TIMING))
    except RunError:
        return 0.0


def _format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if seconds >= 3600:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60:.0f} s"


def _list_measurements(measured: Sequence[MeasuredValue]) -> list[TableRow]:
    rows: list[TableRow] = []
    for metric, group in groupby(measured, key=lambda value: value.metric):
        shown, more = shorten_values(list(group))
        rows += map(_measurement_row, shown)
        if more:
            rows.append(TableRow([f"{metric}: {more}", NONE, NONE, NONE, NONE]))
    return rows


def _measurement_row(measured: MeasuredValue) -> TableRow:
    name = measured.title.replace("_", " ")
    floor = f"{measured.floor:.6g}" if measured.floor is not None else NONE
    extractor = measured.extractor or ""
    basis = describe_basis(measured).removesuffix(extractor).rstrip(", ")
    return TableRow([name, f"{measured.value:.6g}", floor, basis, extractor or NONE])


def _describe_data(run: Run) -> list[TableRow]:
    dataset, spec = run.info.dataset, run.info.dataset.spec
    counts = f"{dataset.images:,} to train on, {dataset.held_out:,} held out"
    shape = f"{spec.channels} x {spec.height} x {spec.width} (channels, height, width)"
    rows = [("name", shorten_dataset(dataset.name)), ("images", counts), ("shape", shape)]
    if dataset.summary:
        rows.append(("summary", dataset.summary))
    if run.class_names:
        numbered = (f"{number}: {name}" for number, name in enumerate(run.class_names))
        rows.append(("classes", ", ".join(numbered)))
    rows += [(name, format_option(option)) for name, option in (dataset.options or {}).items()]
    if dataset.training_fingerprint is None:
        rows.append(("SHA-256 of the training images", dataset.fingerprint))
    else:
        rows.append(("SHA-256", dataset.fingerprint))
    return [TableRow(list(row)) for row in rows]
