"""The tests of ``plugins/genkit-huggingface``, run where its wheel is installed."""

import importlib.util
from pathlib import Path

import pytest

from tests.conftest import call
from tests.test_wheels import ROOT, install


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs Hugging Face's library: datasets"
)
def test_its_own_tests_pass_where_its_wheel_is_installed(
    fresh_python: Path, tmp_path: Path
) -> None:
    source = ROOT / "plugins" / "genkit-huggingface"
    install(fresh_python, source, tmp_path / "wheels")
    arguments = ("-q", "-n", "0", "-p", "no:cacheprovider", source / "tests")
    assert " passed" in call(fresh_python, "-m", "pytest", *map(str, arguments))
