"""Runs as pages: one HTML file each, readable without script, that loads nothing. Only this imports
Jinja2.

Whatever a page shows may come from a stranger's run. Templates escape it; the page's policy allows
no image but those inside it, and no style or script but the two whose hashes it names.
"""

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from .. import __version__
from ..config import TrainOptions
from ..errors import GenkitError, RunError, UsageError, printable
from ..run import Run
from ..storage import atomic
from ..storage.folder import ALARM, TIMING, RunFolder
from ..training.collapse import short_status
from . import embedding
from .charts import Chart, charts
from .comparison import NONE, Comparison, Row, basis, last_grid, value
from .embedding import Drawing, Grid
from .summary import PLACES, Measured, Summary, shortened, summarise

FIGURES = 8
"""Of one metric."""
MAX_TEXT = 500
"""Characters of one text; the rest is left out."""
NOT_MEASURED = (
    "the run has not been measured: genkit evaluate RUN does, and genkit report RUN then shows it"
)


@dataclass(frozen=True)
class Report:
    """What a run's page says, in its order."""

    title: str
    model: str
    dataset: str
    lead: str
    state: str
    key: list[tuple[str, str]]
    grids: list[Grid]
    grids_left_out: str
    charts: list[Chart]
    charts_note: str
    drawings: list[Drawing]
    figures: list[Row]
    figures_head: list[str]
    missing: list[tuple[str, str]]
    """What cannot be shown, and why."""
    changed: list[Row]
    defaults: list[Row]
    options_note: str
    data: list[Row]
    environment: list[Row]
    command: str
    command_note: str


@dataclass(frozen=True)
class Column:
    """A run in the page of a comparison."""

    name: str
    title: str
    grid: Grid | None
    no_grid: str


def write_report(run: Run, out: Path | None = None, data_root: Path | None = None) -> Path:
    """Write the report of a run to ``out`` (None: ``report.html`` in the run), and say where.

    Args:
        run: the run.
        out: an ``.html`` file.
        data_root: where the dataset is now, if it moved; reconstructions and the latent map need
        it.

    Raises:
        UsageError: another suffix.
        RunError: the run's files are damaged.
    """
    path = out or run.folder.inside("report.html")
    _check_name(path)
    report = make_report(run, data_root)
    _write(
        path,
        _page(
            "report.html.j2",
            report=report,
            script=_asset("slider.js") if len(report.grids) > 1 else None,
        ),
    )
    return path


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write runs side by side to an ``.html`` file, and say where.

    Raises:
        UsageError: another suffix.
    """
    _check_name(path)
    columns = [
        _column(run, name) for run, name in zip(comparison.runs, comparison.names, strict=True)
    ]
    shown = {"runs": columns, "names": comparison.names, "tables": comparison.tables}
    _write(path, _page("compare.html.j2", comparison=shown, script=None))
    return path


def make_report(run: Run, data_root: Path | None = None) -> Report:
    """Gather what the report of a run says; what cannot be had becomes a reason in its place.

    Raises:
        RunError: the run's files are damaged.
    """
    info, summary = run.info, summarise(run.path)
    if summary.state == "damaged":
        raise RunError(summary.reason)
    grids, no_grids, left_out = embedding.grids(run.folder)
    rows, drawn, no_charts = run.metrics(), [], ""
    try:
        drawn = charts(rows)
    except RunError as error:
        no_charts = str(error)
    drawings = embedding.drawings(run, data_root)
    missing = [("Samples", no_grids)] if not grids else []
    missing += [("Curves", no_charts)] if not drawn else []
    missing += [(drawing.title, drawing.reason) for drawing in drawings if not drawing.image]
    missing += [("Evaluation", NOT_MEASURED)] if not summary.measured else []
    changed, same, options_note = _options(run)
    command, command_note = _command(run)
    environment = [Row([name, str(text)]) for name, text in info.environment.recorded().items()]
    return Report(
        title=f"{info.model.name} on {shortened(info.dataset.name)}",
        model=info.model.name,
        dataset=shortened(info.dataset.name),
        lead=_lead(run, summary),
        state=_state(summary),
        key=_key(run, summary),
        grids=grids,
        grids_left_out=left_out,
        charts=drawn,
        charts_note=f"Means over {info.options.log_interval:,} iterations a point, as in metrics.jsonl; the number is "
        "the last one.",
        drawings=[drawing for drawing in drawings if drawing.image],
        figures=_figures(summary.measured),
        figures_head=["figure", "value", "floor", "measured on", "extractor"],
        missing=missing,
        changed=changed,
        defaults=same,
        options_note=options_note,
        data=_data(run),
        environment=environment,
        command=command,
        command_note=command_note,
    )


def _lead(run: Run, summary: Summary) -> str:
    seconds = _wall_time(run)
    parts = [f"{summary.step:,} iterations", f"batches of {run.info.options.batch_size:,}"]
    parts += (
        [f"{_duration(seconds)} on {run.info.environment.device or 'a device not named'}"]
        if seconds
        else []
    )
    return ", ".join(parts) + "."


def _state(summary: Summary) -> str:
    if summary.state == "finished":
        return ""
    return f"{summary.state.capitalize()} at {summary.step:,} of {summary.iterations:,} iterations. {summary.reason}"


def _key(run: Run, summary: Summary) -> list[tuple[str, str]]:
    seconds = _wall_time(run)
    environment = run.info.environment
    key = [("iterations", f"{summary.step:,}"), ("images seen", _images_seen(run, summary.step))]
    key += [
        (f"final {name.replace('_', ' ')}", f"{loss:.4g}")
        for name, loss in list(summary.losses.items())[:4]
    ]
    key += [("wall time of training", _duration(seconds))] if seconds else []
    key += [("device", environment.device or "not named")]
    if rows := run.folder.readable_rows(ALARM):
        key += [("alarm, at the last look", short_status(rows))]
    if best := summary.headline:
        key += [(best.title.replace("_", " "), f"{best.value:.4g}")]
    return key


def _images_seen(run: Run, step: int) -> str:
    try:
        batches = run.trainer_class.batches_per_step
    except GenkitError:
        batches = 1
    return f"{step * run.info.options.batch_size * batches:,}"


def _wall_time(run: Run) -> float:
    try:
        return sum(row.get("seconds", 0.0) for row in run.folder.read_rows(TIMING))
    except RunError:
        return 0.0


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if seconds >= 3600:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60:.0f} s"


def _figures(measured: Sequence[Measured]) -> list[Row]:
    """A row each; of a metric with very many, the first ones."""
    rows: list[Row] = []
    for metric, group in groupby(measured, key=lambda figure: figure.metric):
        figures = list(group)
        rows += [_figure(figure) for figure in figures[:FIGURES]]
        if len(figures) > FIGURES:
            more = f"{metric}: {len(figures) - FIGURES} more in evaluation.json"
            rows.append(Row([more, NONE, NONE, NONE, NONE]))
    return rows


def _figure(figure: Measured) -> Row:
    floor = f"{figure.floor:.6g}" if figure.floor is not None else NONE
    about = basis(figure).removesuffix(figure.extractor or "").rstrip(", ")
    return Row(
        [
            figure.title.replace("_", " "),
            f"{figure.value:.6g}",
            floor,
            about,
            figure.extractor or NONE,
        ]
    )


def _options(run: Run) -> tuple[list[Row], list[Row], str]:
    """Options that differ from their defaults, or have none that is known; those that do not; what
    is to be said.
    """
    changed, same = [], []
    for given, default in _with_defaults(run):
        for name, own in given.items():
            if name == "dataset":  # it has a section of its own
                continue
            if name in default and own == default[name]:
                same.append(Row([name, value(own)]))
            else:
                changed.append(
                    Row(
                        [name, value(own), value(default[name]) if name in default else "not known"]
                    )
                )
    try:
        _ = run.trainer_class
    except GenkitError as error:
        return changed, same, f"The defaults of the model's own options are not known: {error}"
    return changed, same, "" if changed else "All options are at their defaults."


def _with_defaults(run: Run) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The core's options and the model's, as in ``run.json``, each with the defaults."""
    core = run.info.options.model_dump(mode="json", exclude=set(PLACES))
    try:
        own = _defaults(run.trainer_class.Config)
    except GenkitError:
        own = {}
    return [(core, _defaults(TrainOptions)), (run.info.config, own)]


def _defaults(config: type[BaseModel]) -> dict[str, Any]:
    """The defaults that there are, as ``run.json`` writes them."""
    fields = {name: field for name, field in config.model_fields.items() if not field.is_required()}
    made = config.model_construct(
        **{name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    )
    return {
        name: text
        for name, text in made.model_dump(mode="json", warnings=False).items()
        if name in fields
    }


def _data(run: Run) -> list[Row]:
    dataset, spec = run.info.dataset, run.info.dataset.spec
    return [
        Row(["name", shortened(dataset.name)]),
        Row(["images", f"{dataset.images:,} to train on, {dataset.held_out:,} held out"]),
        Row(["shape", f"{spec.channels} x {spec.height} x {spec.width} (channels, height, width)"]),
        Row(["SHA-256", dataset.fingerprint]),
    ]


def _command(run: Run) -> tuple[str, str]:
    """The command that trains the run anew, and what is to be known of it."""
    info = run.info
    if info.model.distribution is None or info.dataset.distribution is None:
        what = "model" if info.model.distribution is None else "images"
        return (
            "",
            f"Trained from Python, with {what} of no plugin: the program that has them says genkit.train(…).",
        )
    model = _qualified(info.model.name, info.model.distribution)
    words = [
        "genkit",
        "train",
        model,
        "--dataset",
        _qualified(shortened(info.dataset.name), info.dataset.distribution),
    ]
    given = _with_defaults(run)
    kept = {"seed": info.options.seed, "iterations": info.options.iterations}
    changed = {
        n: v
        for options, default in given
        for n, v in options.items()
        if n not in default or v != default[n]
    }
    changed.pop("dataset", None)
    if info.options.threads is None and (threads := info.environment.threads):
        kept["threads"] = threads
    for name, text in {**kept, **changed}.items():
        words += _flag(name, text)
    versions = f"genkit {info.environment.genkit or '?'}, {info.environment.model or '?'}"
    note = (
        f"With {versions} and the environment above the result is the same, bit for bit. "
        "Where the dataset is on the machine is left out: --data-root says it."
    )
    return " ".join(map(shlex.quote, map(printable, words))), note


def _qualified(name: str, distribution: str) -> str:
    """The name by which an entry is found whatever else is installed; genkit's own have their bare
    names.
    """
    return name if distribution == "genkit-torch" else f"{distribution}/{name}"


def _flag(name: str, text: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(text, bool):
        return [flag if text else f"--no-{flag[2:]}"]
    if text is None:
        return []
    return [flag, ",".join(str(part) for part in text) if isinstance(text, list) else str(text)]


def _column(run: Summary, name: str) -> Column:
    title, path = f"{run.model} on {run.dataset}, {run.state}", None
    try:
        path = last_grid(run.path)
        grid = embedding.grid(RunFolder(run.path), path) if path else None
        return Column(name, title, grid, "the run has no sample grid yet")
    except RunError as error:
        return Column(name, title, None, str(error))


@cache
def _engine() -> Environment:
    return Environment(
        loader=PackageLoader("genkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )


def _shown(text: object) -> object:
    """Text as a page can show it: no control character, nothing that reorders a line, not endless."""
    if isinstance(text, Markup) or not isinstance(text, str):
        return text
    return printable(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…")


@cache
def _asset(name: str) -> Markup:
    """A style sheet or script of genkit's own, which is not escaped."""
    return Markup(files("genkit.report").joinpath("templates", name).read_text(encoding="utf-8"))


def policy(style: str, script: str | None) -> str:
    """The content security policy of a page: nothing but its own pictures, this style sheet and
    this script.
    """
    allowed = ["default-src 'none'", "img-src data:", f"style-src '{_digest(style)}'"]
    allowed += [f"script-src '{_digest(script)}'"] if script else []
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _page(template: str, script: Markup | None, **content: object) -> str:
    style = _asset("style.css")
    about: Mapping[str, object] = {"style": style, "script": script, "version": __version__}
    return (
        _engine()
        .get_template(template)
        .render(policy=Markup(policy(style, script)), **about, **content)
    )


def _check_name(path: Path) -> None:
    if path.suffix.lower() != ".html":
        raise UsageError(f"{path}: pages are written as HTML; give a name that ends in .html")


def _write(path: Path, page: str) -> None:
    try:
        atomic.make_folder(path.parent)
        atomic.replace(path, page.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
