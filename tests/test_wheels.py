"""Plugins as a stranger gets them: built as a wheel, installed into a fresh environment."""

import json
import sys
from pathlib import Path

import pytest

from genkit.cli.main import main
from tests.conftest import call

ROOT = Path(__file__).resolve().parent.parent


def install(python: Path, source: Path, wheels: Path) -> None:
    pip = ("-m", "pip", "--disable-pip-version-check")
    call(sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source)
    call(python, *pip, "install", "--no-deps", "--no-index", *wheels.glob("*.whl"))


COMMANDS = """
import contextlib, io, json, sys
from genkit.cli.main import main

printed = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(arguments)
        except SystemExit as ended:
            assert not ended.code, f"genkit {arguments} failed: {out.getvalue()}"
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def commands(python: Path, *arguments: list[str]) -> list[str]:
    """What each command of ``genkit`` prints, all of them in one process: torch is loaded once."""
    printed: list[str] = json.loads(call(python, "-c", COMMANDS, json.dumps(arguments)))
    return printed


@pytest.mark.long
@pytest.mark.parametrize("model", ["my-gan", "dcgan"])
def test_a_wheel_trains_samples_resumes_and_passes_the_checks(
    model: str, fresh_python: Path, tmp_path: Path
) -> None:
    source = ROOT / "plugins" / "genkit-dcgan"
    if model == "my-gan":
        source = tmp_path / "package"
        main(["new-plugin", model, str(source)])
    install(fresh_python, source, tmp_path / "wheels")
    options = ["--dataset", "digits", "--batch-size", "8", "--device", "cpu"]
    listed, _, _, sampled, checked = commands(
        fresh_python,
        ["models"],
        ["train", model, "--iterations", "2", "--out", "run", *options],
        ["resume", "run", "--iterations", "4"],
        ["sample", "run", "--out", "a.png"],
        ["check", model],
    )
    assert model in listed
    assert sampled == "a.png\n"
    assert " 0 failed" in checked
    if model == "my-gan":  # the scaffold's three lines of test; tests/test_docs.py runs them all
        some = ("-q", "-k", "options or samples or metrics", "-p", "no:cacheprovider")
        assert " passed" in call(fresh_python, "-m", "pytest", *some, source / "tests")


def test_new_plugin_refuses_what_is_no_name_and_a_folder_in_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("used").mkdir()
    Path("used/file").touch()
    refused = {
        ("My GAN",): "lower-case words",
        ("vae",): "the name of a built-in model",
        ("torch",): "a Python package torch exists already",
        ("class",): "exists already",
        ("my-gan", "used"): "is not empty",
    }
    for arguments, message in refused.items():
        with pytest.raises(SystemExit) as caught:
            main(["new-plugin", *arguments])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
