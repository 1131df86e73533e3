"""What the pages say is what the program does."""

import re
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
    run = genkit.train(module.MyGAN, dataset=images, iterations=4, batch_size=4, width=9, progress=False, device="cpu")
    assert run.sample(2).shape == (2, 1, 8, 8)
