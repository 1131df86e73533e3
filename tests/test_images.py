from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genkit.data import images, saving
from genkit.data.reading import open_image
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


def test_untrusted_pictures_are_opened_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.write_picture(images.encode_png(Image.new("L", (8, 4), 7)), path)
    for source in (path, path.read_bytes()):
        with open_image(source, ["PNG"], max_pixels=32) as picture:
            assert np.asarray(picture).tolist() == [[7] * 8] * 4
        with (
            pytest.raises(ValueError, match="8x4 pixels, more than 31"),
            open_image(source, ["PNG"], max_pixels=31),
        ):
            pass
    whole = path.read_bytes()
    for data in (b"", b"GIF89a", whole[:20], whole[:-30]):
        with (
            pytest.raises(ValueError, match="not a PNG image that can be read"),
            open_image(data, ["PNG"], max_pixels=32) as picture,
        ):
            picture.load()
