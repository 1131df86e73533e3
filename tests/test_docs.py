"""What the pages say is what the program does."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli_reference import PAGE, reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_cli_reference_is_current() -> None:
    assert PAGE.read_text() == reference(), "run `just docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_contract_page_shows_a_model_that_works() -> None:
    """Its first code block is a whole model; run it as a notebook would."""
    import torch

    import genkit

    block = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "contract.md").read_text(), re.S)
    assert block
    path = Path("my_model.py")
    path.write_text(block[1])
    import importlib.util

    spec = importlib.util.spec_from_file_location("my_model", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images = torch.randint(0, 256, (30, 8, 8), dtype=torch.uint8)
    run = genkit.train(
        module.MyGAN,
        dataset=images,
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


def test_writing_a_plugin_can_be_followed_to_the_letter(fresh: Path, tmp_path: Path) -> None:
    """Its files are written where it says, its commands are run in a fresh environment, in its
    order.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "GENKIT_DATA")
    }
    environment["PATH"] = f"{fresh.parent}{os.pathsep}{environment['PATH']}"
    printed = ""
    for block in BLOCK.finditer((ROOT / "docs" / "writing-a-plugin.md").read_text()):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"])
        elif block["language"] == "sh":
            for line in block["text"].splitlines():
                # The packages are here already, and no test needs a network.
                command = re.sub(
                    r"^pip (install|wheel)",
                    r"pip \1 --no-index --no-deps --no-build-isolation",
                    line,
                )
                done = subprocess.run(
                    ["bash", "-c", command],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    check=False,
                    env=environment,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                printed += done.stdout
    for line in (
        "checkpoints/step-000000300 is safe",
        "ink     samples   0.",
        "bars: 6 passed",
        "model my-gan",
    ):
        assert line in printed, printed
    assert (tmp_path / "dist" / "my_gan-0.1.0-py3-none-any.whl").is_file()
