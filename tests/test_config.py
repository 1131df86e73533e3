from pathlib import Path
from typing import Literal

import pytest

import genkit
from genkit.config import TrainOptions, parse, resolve, to_toml
from genkit.errors import ConfigError, PluginError


class Options(genkit.Config):
    width: int = genkit.Field(8, ge=1)
    betas: tuple[float, float] = (0.9, 0.999)
    kind: Literal["a", "b"] = "a"
    flag: bool = False


def test_strings_are_read_by_type() -> None:
    assert parse(
        Options, {"width": "16", "betas": "0.5, 0.9", "kind": "b", "flag": "true"}
    ) == Options(width=16, betas=(0.5, 0.9), kind="b", flag=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": "0"}, "width '0': has to be at least 1"),
        ({"width": "wide"}, "width 'wide'"),
        ({"widht": 1}, "did you mean 'width'"),
        ({"betas": "0.5"}, "betas '0.5'"),
        ({"kind": "c"}, "kind 'c'"),
    ],
)
def test_bad_values_are_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Options, values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_strict(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('width = "16"\n')
    with pytest.raises(ConfigError, match=r"a\.toml: width '16'"):
        resolve(Options, "model", {}, file)


def test_order_of_precedence_and_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("width = 16\nseed = 3\nbetas = [0.5, 0.9]\n")
    core, options, of_dataset = resolve(Options, "model", {"seed": "4"}, file)
    assert of_dataset is None
    assert (core.seed, options.width, options.betas, core.batch_size) == (4, 16, (0.5, 0.9), 128)
    file.write_text(to_toml(core, options))
    assert resolve(Options, "model", {}, file) == (core, options, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width = ", "a.toml"),
        ("[own]\nwidth = 1", r"without the table \[own\]"),
        ("widht = 1", "did you mean 'width'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve(Options, "model", {}, file)


def test_a_field_may_not_shadow_a_core_option() -> None:
    class Shadows(genkit.Config):
        seed: int = 1

    with pytest.raises(PluginError, match="'seed'"):
        resolve(Shadows, "shadows", {})


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainOptions().seed = 1  # type: ignore[misc]
