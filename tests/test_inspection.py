"""What ``genkit data inspect`` finds in a dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genkit import DataRequest, ImageData, ImageOptions, Split
from genkit.data import inspection
from genkit.data.inspection import Inspection, inspect
from genkit.plugins.registry import discover
from tests.conftest import run_cli
from tests.test_folder import picture, pictures


def look_at(folder: Path, **options: object) -> Inspection:
    request = DataRequest(folder, options=ImageOptions(**options))  # type: ignore[arg-type]
    return inspect(discover(), f"folder:{folder}", request)


def test_sizes_kinds_classes_and_unused_files(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 6)
    pictures(tmp_path / "b", 5, mode="L", size=(9, 7))
    (tmp_path / "b" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = look_at(tmp_path, image_size=8)
    assert found.sizes == [("8x8", 6), ("7x9", 5)]
    assert found.modes == [("RGB", 6), ("grey", 5)]
    assert [(name, train + held_out) for name, train, held_out in found.classes] == [
        ("a", 6),
        ("b", 5),
    ]
    ((name, reason),) = found.unused
    assert name == "b/cut.png"
    assert reason


def test_mean_and_spread_are_those_of_the_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "BLOCK_BYTES", 500)  # some images at a time
    pictures(tmp_path, 20)
    found = look_at(tmp_path)
    values = found.data.train.images.double().transpose(0, 1).flatten(1)  # (C, N * H * W)
    assert found.mean == pytest.approx(values.mean(1).tolist())
    assert found.spread == pytest.approx(values.std(1, correction=0).tolist())


@pytest.mark.parametrize("most", [30_000, 0])
def test_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(inspection, "MAX_COMPARED", most)
    pictures(tmp_path, 12, size=(32, 32))
    picture(3, (32, 32)).save(tmp_path / "copy.png")
    lighter = picture(5, (32, 32)).point(lambda value: value * 0.99)
    lighter.save(tmp_path / "lighter.png")
    inverted = picture(7, (32, 32)).point(lambda value: 255 - value)
    inverted.save(tmp_path / "inverted.png")
    found = look_at(tmp_path)
    assert [sorted(group) for group in found.exact] == [["03.png", "copy.png"]]
    assert [sorted(group) for group in found.near] == [["05.png", "lighter.png"]]


def test_held_out_copies_masks_and_empty_classes_are_warned_of(tmp_path: Path) -> None:
    images = torch.eye(4, dtype=torch.uint8).expand(5, 1, 4, 4)
    labels = torch.tensor([0, 0, 2, 2, 2])
    data = ImageData(Split(images, labels), Split(images[:2], labels[:2]), "made", 3)
    exact, _ = inspection._duplicates(data, False)
    said = "\n".join(inspection._warnings(data, [0.4], exact))
    assert "masks of 0 and 1" in said
    assert "class 1 has no image to train on" in said
    assert "2 held-out images are copies of training images" in said
    nothing = ImageData(Split(images * 99), Split(images[:0]), "made")
    assert "no image is held out" in "\n".join(inspection._warnings(nothing, [9.0], []))


def test_the_command_prints_everything_and_writes_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", 80, size=(16, 12))
    picture(1, (16, 12)).save(tmp_path / "photos" / "copy.png")
    (tmp_path / "photos" / "bad.jpg").write_text("a line of text")
    command = ["data", "inspect", "folder:photos", "--image-size", "8", "--channels", "1"]
    code, out, _ = run_cli(capsys, *command)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("81 images, ")
    assert "resized from 12x16 to 8x8 (crop)" in lines[0]
    assert "81 12x16" in out
    assert "01.png | copy.png" in out
    assert "bad.jpg: not an image" in out
    assert lines[-1] == "inspection.png"
    with Image.open("inspection.png") as grid:
        assert len(np.unique(np.asarray(grid))) > 10
    code, out, _ = run_cli(capsys, *command, "--json", "--out", "other.png")
    content = json.loads(out)
    assert code == 0
    assert content["training"] + content["held_out"] == 81
    assert content["shape"] == [1, 8, 8]
    assert content["unused"][0][0] == "bad.jpg"
    assert Path("other.png").exists()


def test_the_picture_does_not_become_a_part_of_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    for name in (".", str(tmp_path / "photos")):
        code, _, err = run_cli(capsys, "data", "inspect", f"folder:{name}")
        assert code == 2
        assert f"inspection.png would become a part of folder:{name}: give --out" in err
    assert run_cli(capsys, "data", "inspect", "folder:../photos", "--out", "../a.png")[0] == 0


def test_a_dataset_without_files_can_be_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli(capsys, "data", "inspect", "digits")
    assert code == 0
    assert "28x28" in out
    assert "inspection.png" in out
