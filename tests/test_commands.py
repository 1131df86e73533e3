"""Commands that plugins add, metrics and callbacks: what acts only when the user names it."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import genkit
from genkit import callback
from genkit.cli.main import main
from genkit.errors import PluginError

PLUGIN = """
from genkit import CallbackEntry, MetricEntry, hookimpl

@hookimpl
def genkit_metrics():
    return [
        MetricEntry("brightness", "mean pixel", "extras_parts:brightness"),
        MetricEntry("wrong", "none", "extras_parts:wrong"),
    ]

@hookimpl
def genkit_callbacks():
    return [
        CallbackEntry("diary", "writes down each step that is logged", "extras_parts:Diary"),
        CallbackEntry("fragile", "fails", "extras_parts:Fragile"),
        CallbackEntry("unmade", "cannot be made", "extras_parts:Unmade"),
        CallbackEntry("other", "is no callback", "extras_parts:dict"),
    ]
"""
PARTS = """
import genkit

dict = dict

def brightness(images, reference):
    return {"mean": images.mean()}

def wrong(images, reference):
    return 3

class Diary(genkit.Callback):
    def on_log(self, step, metrics):
        with open("diary.txt", "a") as file:
            file.write(f"{step}\\n")

class Fragile(genkit.Callback):
    def on_checkpoint(self, step, path):
        raise RuntimeError(f"at {step}")

class Unmade(genkit.Callback):
    def __init__(self):
        raise RuntimeError("no")
"""
COMMANDS = """
import click

@click.command()
@click.option("--loud", is_flag=True)
def hello(loud):
    "Say hello."
    click.echo("HELLO" if loud else "hello")
"""
OPTIONS = {"iterations": 8, "batch_size": 4, "log_interval": 4, "device": "cpu", "progress": False}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    points = {
        "extras": "[genkit]\nextras = extras\n[genkit.commands]\nhello = extras_commands:hello\n"
        "train = extras_commands:hello\nsame = extras_commands:hello\n",
        "others": "[genkit.commands]\nsame = extras_commands:hello\n"
        "broken = not_there:hello\nnone = json:dumps\n",
    }
    for name, text in points.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(text)
    for name, source in (
        ("extras", PLUGIN),
        ("extras_parts", PARTS),
        ("extras_commands", COMMANDS),
    ):
        (folder / f"{name}.py").write_text(source)
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as error:
        code = int(error.code or 0)
    return code, *capsys.readouterr()


def test_help_lists_commands_of_plugins_and_imports_none(site: Path) -> None:
    code = (
        "import sys; from genkit.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: sys.exit(bool({'extras', 'extras_commands', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands of plugins" in done.stdout
    for line in ("hello ", "extras/same", "others/same", "extras/train", "of extras 1.0"):
        assert line in done.stdout


def test_a_command_of_a_plugin_is_called(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "hello", "--loud") == (0, "HELLO\n", "")
    assert call(capsys, "extras/hello")[:2] == (0, "hello\n")
    assert call(capsys, "others/same")[:2] == (0, "hello\n")
    assert "Train a model" in call(capsys, "train", "--help")[1]  # genkit's own keeps its name


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("same", 2, "type extras/same or others/same"),
        ("broken", 1, "command broken of others 1.0 cannot be loaded: ModuleNotFoundError"),
        ("none", 1, "json:dumps is no click command"),
        ("trian", 2, "no command 'trian'; did you mean 'train'"),
    ],
)
def test_a_command_that_cannot_be_called_is_one_line(
    site: Path, capsys, name: str, code: int, says: str
) -> None:
    found, out, err = call(capsys, name)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert says in err


def test_the_allow_list_counts_for_commands(
    site: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENKIT_PLUGINS", "none")
    assert call(capsys, "hello")[0] == 2


def test_a_callback_acts_when_it_is_named_and_again_on_resume(site: Path, tiny, images) -> None:
    genkit.train(tiny, dataset=images, **OPTIONS)
    assert not Path("diary.txt").exists()
    run = genkit.train(tiny, dataset=images, callbacks=["diary"], **OPTIONS)
    assert run.info.options.callbacks == ("diary",)
    genkit.resume(run.path, 12, trainer=tiny, dataset=images, progress=False)
    assert Path("diary.txt").read_text().split() == ["4", "8", "12"]


def test_a_named_callback_that_fails_is_dropped(site: Path, tiny, images, monkeypatch) -> None:
    class Notices(callback.Callback):
        heard: list[str] = []  # noqa: RUF012

        def on_notice(self, message: str) -> None:
            self.heard.append(message)

    run = genkit.train(tiny, dataset=images, callbacks=["fragile", Notices()], **OPTIONS)
    assert run.step == 8
    assert Notices.heard == [
        "callback fragile failed in on_checkpoint: RuntimeError: at 0; it is not called any more"
    ]
    monkeypatch.setenv("GENKIT_STRICT", "1")
    with pytest.raises(PluginError, match="fragile failed in on_checkpoint"):
        genkit.train(tiny, dataset=images, callbacks="fragile", **OPTIONS)


def test_a_callback_of_the_users_own_raises(tiny, images) -> None:
    class Mine(callback.Callback):
        def on_log(self, step, metrics) -> None:
            raise KeyError("a bug of mine")

    with pytest.raises(KeyError, match="a bug of mine"):
        genkit.train(tiny, dataset=images, callbacks=[Mine()], **OPTIONS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("diray", "did you mean 'diary'"),
        ("unmade", "failed to be made: RuntimeError: no"),
        ("other", "not a genkit.Callback"),
    ],
)
def test_a_callback_that_is_not_to_be_had_is_said_before_training(
    site: Path, tiny, images, name: str, says: str
) -> None:
    with pytest.raises(genkit.GenkitError, match=says):
        genkit.train(tiny, dataset=images, callbacks=[name], **OPTIONS)
    assert not Path("runs").exists()


@pytest.mark.usefixtures("digits_extractor")
@pytest.mark.parametrize("model", ["vae", "simple-gan"])
def test_evaluate_measures_and_keeps_the_figures(
    site: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    genkit.train(model, dataset="digits", out="run", **OPTIONS)
    code, out, err = call(capsys, "evaluate", "run", "--count", "20", "--json")
    assert code == 0, err
    measured = json.loads(out)
    assert measured.keys() >= {"diversity", *(["reconstruction-error"] if model == "vae" else [])}
    assert (
        "fid-lenet is left out: fid-lenet needs more images than the 64 features, and there are 20"
        in err
    )
    assert 0 < measured["diversity"]["figures"]["ratio"] < 1
    head, line = call(capsys, "evaluate", "run", "--metrics", "brightness", "--count", "20")[
        1
    ].splitlines()
    assert head.split() == ["metric", "figure", "value", "floor", "N", "extractor"]
    assert line.startswith("brightness  mean  ")
    kept = json.loads(Path("run/evaluation.json").read_text())
    assert kept["metrics"].keys() == {*measured, "brightness"}
    about = {"step": 8, "images": 20, "held_out": 20, "floor_images": 20, "seed": 0}
    found = {
        name: value
        for name, value in kept["metrics"]["diversity"].items()
        if name not in ("figures", "floor")
    }
    assert found == about
    assert ("test" in kept) == (model == "vae")  # what training measured is still there


@pytest.mark.usefixtures("digits_extractor")
def test_what_cannot_be_measured_is_one_line(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genkit.train("simple-gan", dataset="digits", out="run", **OPTIONS)
    refused = {
        "reconstruction-error": "it has no encoder",
        "wrong": "metric extras/wrong gave int, not 0-d tensors by name",
        "diversty": "did you mean 'diversity'",
    }
    for name, says in refused.items():
        code, out, err = call(capsys, "evaluate", "run", "--metrics", name, "--count", "9")
        (err,) = (line for line in err.splitlines() if not line.startswith("note: drawing "))
        assert (code != 0, out) == (True, ""), err
        assert says in err
    assert "two images or more" in call(capsys, "evaluate", "run", "--count", "1")[2]


def test_listings(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "brightness  " in call(capsys, "metrics")[1]
    assert "diary  " in call(capsys, "callbacks")[1]


def test_a_callback_with_a_mistyped_name_is_refused(tiny, images) -> None:
    class Mistyped(callback.Callback):
        def on_chekpoint(self, step: int, path: Path) -> None:
            pass

    with pytest.raises(
        genkit.ContractError, match="on_chekpoint is never called; did you mean 'on_checkpoint'"
    ):
        genkit.train(tiny, dataset=images, callbacks=[Mistyped()], **OPTIONS)


def test_callbacks_that_are_none_are_refused(site: Path, tiny, images) -> None:
    for wrong in ([callback.Callback], [3]):
        with pytest.raises(
            genkit.UsageError, match=r"neither a genkit\.Callback object nor a name"
        ):
            genkit.train(tiny, dataset=images, callbacks=wrong, **OPTIONS)
    run = genkit.train(tiny, dataset=images, **OPTIONS)
    with pytest.raises(genkit.UsageError, match="those by name are the ones it was started with"):
        genkit.resume(run.path, 16, trainer=tiny, dataset=images, callbacks=["diary"])


def test_a_signal_goes_through_a_guarded_callback(tiny, images) -> None:
    class Trains(callback.Callback):
        def on_log(self, step, metrics) -> None:
            raise genkit.Interrupted("stopped", 15)

    callbacks = callback.CallbackList([], {"trains": Trains()})
    with pytest.raises(genkit.Interrupted):
        callbacks.on_log(1, {})


def test_every_event_reaches_every_callback() -> None:
    calls: list[tuple[str, str, int]] = []

    def recorder(name: str) -> callback.Callback:
        made = callback.Callback()
        for event in callback.EVENTS:
            vars(made)[event] = lambda *arguments, e=event: calls.append((name, e, len(arguments)))
        return made

    callbacks = callback.CallbackList([recorder("mine")], {"theirs": recorder("theirs")})
    assert set(callback.EVENTS) >= {"on_start", "on_log", "on_checkpoint", "on_end"}
    for event in callback.EVENTS:
        count = len(inspect.signature(getattr(callback.Callback, event)).parameters) - 1
        getattr(callbacks, event)(*range(count))
        assert calls == [("mine", event, count), ("theirs", event, count)]
        calls.clear()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "simple-gan", "--dataset", "digits", "--latent-dim", "1000000000000"),
        ("train", "simple-gan", "--dataset", "digits", "--threads", "99999999999"),
        ("train", "simple-gan", "--dataset", "digits", "--batch-size", "100000000000000"),
        ("sample", "run", "--count", "100000000000"),
        ("sample", "run", "--labels", "1,2"),
        ("sample", "run", "--labels", "x"),
    ],
    ids=" ".join,
)
def test_what_is_too_much_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    genkit.train("simple-gan", dataset="digits", out="run", **OPTIONS)
    code, out, err = call(capsys, *arguments)
    lines = [line for line in err.splitlines() if not line.startswith("training to ")]
    assert (code > 0, out, len(lines)) == (True, "", 1), err
    assert lines[0].startswith("error: ")
