"""Pages: one HTML file each, readable without script, that loads nothing. Only this imports Jinja2.

What a page shows may come from a stranger's run. Templates escape it, and the page's content
security policy allows no image but those inside it, and no style or script but the two whose hashes
it names.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..errors import RunError, UsageError, printable
from ..run import Run
from ..storage import atomic
from ..storage.folder import REPORT, RunFolder
from .comparison import Comparison, last_grid
from .embedding import SampleGrid, embed_grid
from .run_report import make_report
from .summary import Summary

MAX_TEXT = 500
"""Characters of one text; the rest is left out."""


@dataclass(frozen=True)
class Column:
    """A run in the page of a comparison."""

    name: str
    title: str
    grid: SampleGrid | None
    no_grid: str


def write_report(
    run: Run,
    out: Path | None = None,
    data_root: Path | None = None,
    dataset: Any = None,
) -> Path:
    """Write the report of a run to ``out`` (None: ``report.html`` in the run); return where.

    Args:
        run: the run.
        out: an ``.html`` file.
        data_root: folder of the downloads, if they moved; reconstructions and the latent map read
            the images.
        dataset: where the images are now, if they moved, such as ``folder:NEW``; or the images,
            where they were in memory.

    Raises:
        UsageError: another suffix.
        RunError: the run's files are damaged.
    """
    path = out or run.folder.default_output(REPORT)
    _check_html_name(path)
    report = make_report(run, data_root, dataset)
    script = _read_asset("slider.js") if len(report.grids) > 1 else None
    _write(path, _render("report.html.j2", script, report=report))
    return path


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write a comparison to an ``.html`` file; return where.

    Raises:
        UsageError: another suffix.
    """
    _check_html_name(path)
    columns = [
        _make_column(run, name) for run, name in zip(comparison.runs, comparison.names, strict=True)
    ]
    shown = {"runs": columns, "names": comparison.names, "tables": comparison.tables}
    _write(path, _render("compare.html.j2", None, comparison=shown))
    return path


def _make_column(run: Summary, name: str) -> Column:
    title = f"{run.model} on {run.dataset}, {run.state}"
    try:
        path = last_grid(run.path)
        grid = embed_grid(RunFolder(run.path), path) if path else None
        return Column(name, title, grid, "the run has no sample grid yet")
    except RunError as error:
        return Column(name, title, None, str(error))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("genkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_sanitise,
    )


def _sanitise(text: object) -> object:
    """Text as a page can show it: no control character, nothing that reorders a line, and at most
    :data:`MAX_TEXT` characters.
    """
    if isinstance(text, Markup) or not isinstance(text, str):
        return text
    return printable(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…")


@cache
def _read_asset(name: str) -> Markup:
    """A style sheet or script that ships with genkit, and so is not escaped."""
    return Markup(files("genkit.report").joinpath("templates", name).read_text(encoding="utf-8"))


def make_policy(style: str, script: str | None) -> str:
    """The content security policy of a page: only the pictures inside it, this style sheet and this
    script.
    """
    allowed = ["default-src 'none'", "img-src data:", f"style-src '{_digest(style)}'"]
    allowed += [f"script-src '{_digest(script)}'"] if script else []
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _render(template: str, script: Markup | None, **content: object) -> str:
    style = _read_asset("style.css")
    policy = Markup(make_policy(style, script))
    about: Mapping[str, object] = {"style": style, "script": script, "version": __version__}
    return _environment().get_template(template).render(policy=policy, **about, **content)


def _check_html_name(path: Path) -> None:
    if path.suffix.lower() != ".html":
        raise UsageError(f"{path}: pages are written as HTML; give a name that ends in .html")


def _write(path: Path, page: str) -> None:
    try:
        atomic.make_folder(path.parent)
        atomic.replace(path, page.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
