"""Plugins as a stranger gets them: built as a wheel, installed into a fresh environment."""

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


@pytest.mark.long
def test_the_wheel_of_a_plugin_trains_resumes_samples_and_passes_the_checks(
    fresh_python: Path, tmp_path: Path
) -> None:
    install(fresh_python, ROOT / "plugins" / "genkit-dcgan", tmp_path / "wheels")
    genkit = (fresh_python, "-m", "genkit")
    assert "dcgan" in call(*genkit, "models")
    options = ["--dataset", "digits", "--batch-size", "8", "--device", "cpu"]
    call(*genkit, "train", "dcgan", "--iterations", "2", "--out", "run", *options)
    call(*genkit, "resume", "run", "--iterations", "4")
    assert call(*genkit, "sample", "run", "--out", "a.png") == "a.png\n"
    assert " 0 failed" in call(*genkit, "check", "dcgan")


@pytest.mark.long
def test_the_wheel_of_a_new_plugin_is_listed_and_its_tests_run(
    fresh_python: Path, tmp_path: Path
) -> None:
    """Some of its tests: tests/test_docs.py runs all checks on a new plugin."""
    source = tmp_path / "package"
    main(["new-plugin", "my-gan", str(source)])
    install(fresh_python, source, tmp_path / "wheels")
    assert "my-gan" in call(fresh_python, "-m", "genkit", "models")
    some = ("-k", "options or samples or metrics", "-p", "no:cacheprovider")
    assert " passed" in call(fresh_python, "-m", "pytest", "-q", *some, source / "tests")


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
