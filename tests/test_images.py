from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genkit.data import images, saving
from genkit.errors import UsageError


def test_scale_is_exact_both_ways() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    scaled = images.from_uint8(every)
    assert scaled.dtype == torch.float32
    assert (scaled[0], scaled[-1]) == (-1, 1)
    assert torch.equal(images.to_uint8(scaled), every)
    assert images.to_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGBA")])
def test_grid_of_any_shape(channels: int, mode: str) -> None:
    picture = images.grid(torch.zeros(5, channels, 10, 7))
    assert picture.mode == mode
    assert picture.size == (6 * (3 * 8 + 1), 6 * (2 * 11 + 1))


def test_files(tmp_path: Path) -> None:
    grey, colour = torch.full((3, 1, 4, 5), -1.0), torch.ones(3, 3, 4, 5)
    saving.save(grey, tmp_path / "a.npy")
    saving.save(colour, tmp_path / "b.npy")
    saving.save(colour, tmp_path / "c.png")
    saving.save(grey, tmp_path / "folder")
    with pytest.raises(UsageError, match="is not empty"):
        saving.save(grey[:1], tmp_path / "folder")
    assert np.load(tmp_path / "a.npy").shape == (3, 4, 5)
    assert np.load(tmp_path / "b.npy").shape == (3, 4, 5, 3)
    assert np.load(tmp_path / "b.npy").dtype == np.uint8
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.mode == "RGB"
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    with Image.open(tmp_path / "folder" / "000000.png") as picture:
        assert np.asarray(picture).max() == 0
