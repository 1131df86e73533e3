"""Twelve broken plugins at once: every command works, and the doctor names each with its reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genkit.cli.main import main

GOOD = """
from genkit import ModelEntry, hookimpl
{extra}
@hookimpl
def genkit_models():
    return [{model}]
"""


def good(model: str = 'ModelEntry("extra", "one more", "json:dumps")', extra: str = "") -> str:
    return GOOD.format(model=model, extra=extra)


BROKEN = {  # distribution → source of its module, state, and reason that the doctor gives
    "raises": ("raise RuntimeError('no luck')", "broken", "RuntimeError: no luck"),
    "exits": ("raise SystemExit(3)", "broken", "SystemExit: 3"),
    "lacks": ("import not_there_at_all", "broken", "not_there_at_all"),
    "syntax": ("def broken(:", "broken", "SyntaxError"),
    "mistyped": (
        good().replace("def genkit_models", "def genkit_modles"),
        "broken",
        "genkit_modles, which is no hook; did you mean 'genkit_models'",
    ),
    "wrong-type": (good("'not an entry'"), "broken", "which is no genkit.ModelEntry"),
    "duplicate": (
        good('ModelEntry("simple-gan", "another", "json:dumps")'),
        "shadowed",
        "also of genkit-torch",
    ),
    "future": (good(extra="genkit_api_version = 99"), "incompatible", "written for plugin API 99"),
    "dangling": (
        good('ModelEntry("dangling", "no target", "json:not_there")'),
        "broken",
        "cannot load json:not_there",
    ),
    "slow": (
        "import time; time.sleep(5)" + good('ModelEntry("slow", "slow", "json:dumps")'),
        "ok",
        "",
    ),
    "leaves": ("import os; os._exit(0)", "broken", "ended the process with exit code 0"),
    "hangs": ("import time; time.sleep(3600)", "broken", "did not end within"),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of them installed at once."""
    folder = tmp_path / "site"
    for name, (source, _, _) in BROKEN.items():
        module = f"plugin_{name.replace('-', '_')}"
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: plugin-{name}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[genkit]\n{name} = {module}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "genkit", *arguments], capture_output=True, text=True, check=False
    )


def test_commands_work_beside_broken_plugins(site: Path) -> None:
    assert run("--help").returncode == 0
    plugins = json.loads(run("plugins", "--json").stdout)
    assert {plugin["distribution"] for plugin in plugins} >= {f"plugin-{name}" for name in BROKEN}
    done = run(
        "train",
        "simple-gan",
        "--dataset",
        "digits",
        "--iterations",
        "2",
        "--device",
        "cpu",
        "--threads",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr  # nobody else's plugin was imported


@pytest.mark.long
def test_doctor_names_all_of_them(site: Path) -> None:
    done = run("doctor", "--json", "--time-limit", "9")
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    for name, (_, state, reason) in BROKEN.items():
        assert rows[name]["state"] == state, rows[name]
        assert reason in rows[name]["reason"], rows[name]
    assert rows["builtin"]["state"] == "ok"
    assert rows["slow"]["seconds"] > 4
    assert "RuntimeError: no luck" in rows["raises"]["traceback"][-1]


@pytest.mark.long
def test_doctor_diagnoses_commands(site: Path) -> None:
    info = site / "plugin_raises-1.0.dist-info" / "entry_points.txt"
    info.write_text(
        "[genkit.commands]\nclass = click:Command\nbad = not_there:x\nnone = json:dumps\n"
    )
    found = json.loads(run("doctor", "--json", "--time-limit", "1").stdout)["plugins"]
    rows = {row["name"]: row for row in found if row["distribution"] == "plugin-raises"}
    assert rows["command bad"]["state"] == "broken"
    assert "not_there" in rows["command bad"]["reason"]
    assert "ModuleNotFoundError" in "".join(rows["command bad"]["traceback"])
    assert rows["command none"]["reason"] == "json:dumps is no click command"
    assert rows["command class"]["reason"] == "click:Command is no click command"


def test_doctor_lists_disabled_plugins_and_succeeds(
    capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("GENKIT_PLUGINS", "none")
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "builtin of genkit-torch" in out
    assert "model simple-gan" in out


def test_doctor_warns_of_another_genkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "genkit-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: genkit\nVersion: 9\n")
    (info / "top_level.txt").write_text("genkit\n")
    (info / "RECORD").write_text("genkit/__init__.py,,\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert "the distribution genkit provides a package genkit too" in run("doctor").stdout
