import json
import os
from pathlib import Path

import pytest
import torch

from genkit.errors import CheckpointError, RunError
from genkit.storage import checkpoint
from genkit.storage.folder import RunFolder

MODEL = {"a.weight": torch.arange(6.0).view(2, 3), "a.tied": torch.arange(6.0).view(2, 3)}
STATE = {"rng/training": torch.arange(5, dtype=torch.uint8), "trainer/iteration": torch.tensor(7)}


def test_round_trip(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path, 7, MODEL, STATE)
    assert path.name == "step-000000007"
    found = checkpoint.read(path)
    assert found.step == 7
    for part, saved in ((found.model, MODEL), (found.state, STATE)):
        assert part.keys() == saved.keys()
        assert all(torch.equal(part[name], saved[name]) for name in saved)
    assert {file.name for file in path.iterdir()} == {
        "manifest.json",
        "model.safetensors",
        "state.safetensors",
    }
    assert [file.name for file in tmp_path.iterdir()] == ["step-000000007"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(CheckpointError, match=r"a\.weight has NaN or infinite"):
        checkpoint.write(tmp_path, 1, {"a.weight": torch.tensor([1.0, value])}, STATE)
    assert not list(tmp_path.iterdir())


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        checkpoint.write(tmp_path, step, MODEL, STATE)
    (tmp_path / ".step-000000200.1.tmp").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in checkpoint.steps(tmp_path)] == [
        "step-000000100",
        "step-000000020",
    ]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "empty", "symlink"])
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, file: str, damage: str
) -> None:
    checkpoint.write(tmp_path, 1, MODEL, STATE)
    path = checkpoint.write(tmp_path, 2, MODEL, STATE) / file
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "symlink":
        path.symlink_to(tmp_path / "step-000000001" / file)
    found, skipped = checkpoint.newest(tmp_path)
    assert found.step == 1
    assert len(skipped) == 1
    assert file in skipped[0]


def test_none_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.newest(tmp_path)


def test_a_format_of_the_future_is_named(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path, 1, MODEL, STATE) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"format": 1}', "[" * 100_000, "\0", '{"sha256": 1}']
)
def test_hostile_manifests(tmp_path: Path, text: str) -> None:
    path = checkpoint.write(tmp_path, 1, MODEL, STATE)
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.read(path)


def test_a_write_error_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(tmp_path, 1, MODEL, STATE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"step 2: cannot write .* No space left"):
        checkpoint.write(tmp_path, 2, MODEL, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


def test_whether_there_are_curves_is_read_within_bounds(tmp_path: Path) -> None:
    """Metrics may be a stranger's: a pipe, or one endless line."""
    folder = RunFolder(tmp_path)
    assert not folder.has_curves()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n')
    assert not folder.has_curves()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.truncate(2**33)  # sparse: it takes no room
    assert not folder.has_curves()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n')
    assert folder.has_curves()
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match="regular file"):
        folder.has_curves()
