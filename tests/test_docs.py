"""What the pages say is what the program does."""

import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import genkit
from tests.cli_reference import PAGE, reference
from tests.conftest import call

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_cli_reference_is_current() -> None:
    assert PAGE.read_text() == reference(), "run `just docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_contract_page_shows_a_model_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first code block is a whole model; run it as a notebook would."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "contract.md").read_text(), re.S)
    assert block
    (tmp_path / "my_model.py").write_text(block[1])
    monkeypatch.syspath_prepend(tmp_path)
    run = genkit.train(
        importlib.import_module("my_model").MyGAN,
        dataset=torch.randint(0, 256, (30, 8, 8), dtype=torch.uint8),
        iterations=4,
        batch_size=4,
        width=9,
        progress=False,
        device="cpu",
    )
    assert run.sample(2).shape == (2, 1, 8, 8)


BLOCK = re.compile(
    r"(?:^`(?P<file>[^`]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)


def follow(page: Path, folder: Path) -> Iterator[str]:
    """Write the files of ``page`` into ``folder`` and run its shell commands there, in the order of
    the page; what each command prints.
    """
    for block in BLOCK.finditer(page.read_text()):
        if block["file"]:
            (folder / block["file"]).write_text(block["text"])
        elif block["language"] == "sh":
            for line in block["text"].splitlines():
                # All packages are installed: no test needs a network.
                offline = r"pip \1 --no-index --no-deps --no-build-isolation"
                yield call("bash", "-c", re.sub(r"^pip (install|wheel)", offline, line))


@pytest.mark.long
def test_writing_a_plugin_can_be_followed_to_the_letter(
    fresh_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{fresh_python.parent}{os.pathsep}{os.environ['PATH']}")
    printed = "".join(follow(ROOT / "docs" / "writing-a-plugin.md", tmp_path))
    for line in (
        "checkpoints/step-000000300 is safe",
        "ink     samples   0.",
        "bars: 6 passed",
        "model my-gan",
    ):
        assert line in printed, printed
    assert (tmp_path / "dist" / "my_gan-0.1.0-py3-none-any.whl").is_file()
