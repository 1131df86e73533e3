"""Hostile names in every place that takes or shows one: nothing is executed or written outside,
and there is no traceback.
"""

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from genkit.cli.main import main
from genkit.errors import GenkitError, printable
from genkit.hookspecs import CallbackEntry, DatasetEntry, MetricEntry, ModelEntry
from genkit.plugins import plugin as plugins
from genkit.plugins.plugin import Plugin, PluginWarning
from genkit.plugins.registry import PluginCommand, Registry
from genkit.storage import atomic
from tests.pages import check_page

SENTINEL = "pwned"
"""The file that commands in the names would create."""

LONG = (
    "a" * 255,
    "a" * 256,
    "a" * 5000,
    "\u00e9" * 200,
    "/".join("a" * 50),
    "../" * 500,
    "-" * 300,
    " " * 300,
    "a b" * 99,
)
GROUPS: dict[str, list[str]] = json.loads((Path(__file__).parent / "names.json").read_text())
"""Names of each kind: shell, code, paths, HTML, control characters, Unicode, almost empty."""
NAMES = list(dict.fromkeys((*(name for group in GROUPS.values() for name in group), *LONG)))

Place = Callable[[str], None]


def names(count: int, folder: Path) -> dict[str, int]:
    """Try ``count`` names (there are at least 200) in every place; the first harm is an error."""
    cage = folder / "cage" / "inner"
    cage.mkdir(parents=True)
    step = max(1, len(NAMES) // count)
    chosen = NAMES[::step][:count]
    with (
        contextlib.chdir(cage),
        mock.patch.dict(os.environ, {"HOME": str(cage), "GENKIT_DATA": str(cage / "data")}),
    ):
        call("train", "simple-gan", *SMALL, "--dataset", "digits", "--out", "run")
        for name in chosen:
            for place, go in PLACES.items():
                try:
                    go(name)
                except GenkitError as error:
                    assert_harmless(printable(str(error)), place, name)
                outside = {*folder.iterdir(), *cage.parent.iterdir()} - {cage, cage.parent}
                assert not outside, f"{place} of {name!r} made {outside}"
                made = [path for path in cage.iterdir() if path.name != "run"]
                executed = [
                    path
                    for top in made
                    for path in (top, *top.rglob(SENTINEL))
                    if path.name == SENTINEL
                ]
                assert not executed, f"{place} of {name!r} was executed"
                for path in made:
                    atomic.remove(path)
    return {"names": len(chosen), "places": len(PLACES), "tried": len(chosen) * len(PLACES)}


SMALL = (
    "--iterations",
    "1",
    "--batch-size",
    "2",
    "--hidden-dim",
    "2",
    "--latent-dim",
    "2",
    "--device",
    "cpu",
)


def call(*arguments: str) -> str:
    """Run a command in this process; its output must have no control character."""
    out = io.StringIO()
    ends: list[object] = []
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        try:
            main(list(arguments))
        except SystemExit as end:
            ends.append(end.code)
    assert set(ends) <= {None, 0, 1, 2}, f"{arguments}: exit code {ends}"
    assert_harmless(out.getvalue(), " ".join(arguments[:2]), arguments)
    return out.getvalue()


def assert_harmless(text: str, place: str, name: object) -> None:
    """Check that a text has no traceback, and no control character but line ends."""
    for line in text.split("\n"):
        assert printable(line) == line, f"{place} of {name!r} prints {line!r}"
    assert "Traceback" not in text, f"{place} of {name!r}: {text}"


def _on_the_command_line(*arguments: str) -> Place:
    """An argument of a command, marked ``@``."""
    return lambda name: void(call(*(argument.replace("@", name) for argument in arguments)))


def void(_: object) -> None:
    """Discard a value."""


def _as_out(name: str) -> None:
    """A run folder of that name is created where the user wants it, or refused."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return  # the user may name any folder
    call("train", "simple-gan", *SMALL, "--dataset", "digits", "--out", name)
    if name in {path.name for path in Path().iterdir() if (path / "run.json").is_file()} - {"run"}:
        call("resume", name)
        call("sample", name, "--count", "1")


def _in_run_json(*keys: str, listed: bool = False) -> Place:
    """A value in an untrusted ``run.json``; every command that reads a run is tried."""

    def go(name: str) -> None:
        shutil.rmtree("untrusted", ignore_errors=True)
        shutil.copytree("run", "untrusted")
        content = json.loads(Path("untrusted/run.json").read_text())
        holder = content
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = [name] if listed else name
        Path("untrusted/run.json").write_text(json.dumps(content))
        for command in (
            ("sample", "untrusted", "--count", "1"),
            ("plot", "untrusted"),
            ("report", "untrusted"),
            ("compare", "run", "untrusted", "--html", "untrusted/compare.html"),
            ("runs", "."),
            ("resume", "untrusted"),
            ("evaluate", "untrusted", "--count", "100"),
        ):
            call(*command)
        assert_pages_harmless(name)

    return go


def assert_pages_harmless(name: str) -> None:
    """Check that the pages of the run have only the elements and attributes of the templates."""
    for page in (Path("untrusted/report.html"), Path("untrusted/compare.html")):
        if page.exists():
            check_page(page.read_text(encoding="utf-8"), name)


def _as_metric(name: str) -> None:
    """The name of a metric, an extractor and a failure in an untrusted run."""
    rows = [{"step": 1, name: 0.5}, {"step": 2, name: 0.25}]
    shutil.rmtree("untrusted", ignore_errors=True)
    shutil.copytree("run", "untrusted")
    Path("untrusted/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("untrusted/evaluation.json").write_text(
        json.dumps(
            {
                "metrics": {
                    name: {
                        "step": 1,
                        "figures": {name: 1.0},
                        "extractor": {"name": name, "sha256": name},
                    }
                }
            }
        )
    )
    Path("untrusted/failure.json").write_text(json.dumps({"step": 1, "reason": name}))
    call("plot", "untrusted")
    call("report", "untrusted")
    call("compare", "run", "untrusted", "--html", "untrusted/compare.html")
    call("runs", ".")
    assert_pages_harmless(name)


def _in_titles(name: str) -> None:
    """The dataset's name, which is in the title of every figure."""
    shutil.rmtree("untrusted", ignore_errors=True)
    shutil.copytree("run", "untrusted")
    content = json.loads(Path("untrusted/run.json").read_text())
    content["dataset"]["name"] = name
    Path("untrusted/run.json").write_text(json.dumps(content))
    call("interpolate", "untrusted", "--pairs", "1", "--steps", "2")
    call("animate", "untrusted")


def _in_an_entry(field: str) -> Place:
    """A plugin whose entries have the name; it is listed, or left out with a warning."""

    def go(name: str) -> None:
        for kind in (ModelEntry, DatasetEntry, MetricEntry, CallbackEntry):
            entry = kind(**{"name": "x", "summary": "x", "target": "json:loads", field: name})
            plugin = Plugin("hostile", "hostile", "hostile", "1", "here")

            def call_hooks(_: Plugin, kind: type = kind, entry: object = entry) -> object:
                plugins._check_entry(entry)  # type: ignore[arg-type]
                return {kind: [entry]}

            with mock.patch.object(plugins, "_call_hooks", call_hooks), _installed([plugin]):
                call(f"{kind.noun}s")
                call("train", "hostile/x", "--help")

    return go


def _in_metadata(field: str) -> Place:
    """A distribution whose metadata has the name."""

    def go(name: str) -> None:
        metadata = {
            "name": "x",
            "module": "not_there",
            "distribution": "x",
            "version": "1",
            "origin": "here",
            field: name,
        }
        command = PluginCommand(
            metadata["name"], metadata["distribution"], metadata["version"], metadata["module"]
        )
        with _installed(
            [Plugin(**metadata)], [command] if plugins.NAME.fullmatch(command.name) else []
        ):
            for arguments in (("plugins",), ("models",), ("--help",), (name,), (f"{name}/x",)):
                call(*arguments)

    return go


@contextlib.contextmanager
def _installed(
    plugins: list[Plugin], commands: list[PluginCommand] | None = None
) -> Iterator[None]:
    with (
        mock.patch("genkit.cli.find.discover", return_value=Registry(plugins)),
        mock.patch("genkit.cli.train.discover", return_value=Registry(plugins)),
        mock.patch("genkit.cli.main.discover_commands", return_value=commands or []),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always", PluginWarning)
        yield


PLACES: dict[str, Place] = {
    "command": _on_the_command_line("@"),
    "model": _on_the_command_line("train", "@"),
    "model to check": _on_the_command_line("check", "@"),
    "option of a model": _on_the_command_line("train", "simple-gan", "--@"),
    "value of an option": _on_the_command_line("train", "simple-gan", "--latent-dim", "@"),
    "choice": _on_the_command_line("train", "simple-gan", "--d-updates", "@"),
    "device": _on_the_command_line("train", "simple-gan", "--device", "@"),
    "dataset": _on_the_command_line("train", "simple-gan", *SMALL, "--dataset", "x@"),
    "folder of images": _on_the_command_line(
        "train", "simple-gan", *SMALL, "--dataset", "folder:no-such/@"
    ),
    "data root": _on_the_command_line(
        "train", "simple-gan", *SMALL, "--dataset", "folder:none", "--data-root", "@"
    ),
    "callback": _on_the_command_line("train", "simple-gan", *SMALL, "--callbacks", "x@"),
    "config file": _on_the_command_line("train", "simple-gan", "--config", "no-such/@"),
    "run": _on_the_command_line("sample", "no-such/@"),
    "metric": _on_the_command_line("evaluate", "run", "--metrics", "x@"),
    "picture": _on_the_command_line("sample", "run", "--count", "1", "--out", "pictures/x@.gif"),
    "animation": _on_the_command_line("animate", "run", "--out", "pictures/x@.webm"),
    "titles of pictures": _in_titles,
    "report": _on_the_command_line("report", "run", "--out", "pages/x@.htm"),
    "runs to compare": _on_the_command_line("compare", "run", "no-such/@"),
    "folder of runs": _on_the_command_line("runs", "no-such/@"),
    "new plugin": _on_the_command_line("new-plugin", "@", "no-such"),
    "out": _as_out,
    "model in run.json": _in_run_json("model", "name"),
    "distribution in run.json": _in_run_json("model", "distribution"),
    "dataset in run.json": _in_run_json("dataset", "name"),
    "source in run.json": _in_run_json("dataset", "source"),
    "device in run.json": _in_run_json("options", "device"),
    "callback in run.json": _in_run_json("options", "callbacks", listed=True),
    "data root in run.json": _in_run_json("options", "data_root"),
    "environment in run.json": _in_run_json("environment", "torch"),
    "option in run.json": _in_run_json("config", "d_updates"),
    "metric in metrics.jsonl": _as_metric,
    "name of an entry": _in_an_entry("name"),
    "summary of an entry": _in_an_entry("summary"),
    "target of an entry": _in_an_entry("target"),
    "name of a plugin": _in_metadata("name"),
    "module of a plugin": _in_metadata("module"),
    "distribution of a plugin": _in_metadata("distribution"),
    "version of a plugin": _in_metadata("version"),
}
