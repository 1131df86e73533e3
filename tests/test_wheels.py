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
@pytest.mark.parametrize("model", ["my-gan", "dcgan"])
def test_a_wheel_trains_samples_resumes_and_passes_the_checks(
    model: str, fresh_python: Path, tmp_path: Path
) -> None:
    source = ROOT / "plugins" / "genkit-dcgan"
    if model == "my-gan":
        source = tmp_path / "package"
        main(["new-plugin", model, str(source)])
    install(fresh_python, source, tmp_path / "wheels")
    genkit = (fresh_python, "-m", "genkit")
    assert model in call(*genkit, "models")
    options = ["--dataset", "digits", "--batch-size", "8", "--device", "cpu"]
    call(*genkit, "train", model, "--iterations", "2", "--out", "run", *options)
    call(*genkit, "resume", "run", "--iterations", "4")
    assert call(*genkit, "sample", "run", "--out", "a.png") == "a.png\n"
    assert " 0 failed" in call(*genkit, "check", model)
    if model == "my-gan":  # the three lines of test that the scaffold brings along
        pytest_of = (fresh_python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        assert " passed" in call(*pytest_of, source / "tests")


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
