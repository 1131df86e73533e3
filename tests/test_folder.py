"""Folders of pictures as people have them: which files are used, what is said of the others, the
pixels, the classes and the split.
"""

import os
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

import genkit
from genkit import DataError, DataRequest, ImageData, ImageOptions
from genkit.data.datasets import load_dataset
from genkit.data.files import collection, workers
from genkit.data.files.decoder import Decoded
from genkit.data.packed.reader import open_packed
from genkit.plugins.registry import discover
from tests.conftest import run_cli

SIZES = ((64, 48), (48, 64), (50, 50), (120, 33), (32, 32), (300, 200))
"""(width, height)."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "genkit" / "images"


def load(
    folder: Path, notes: list[str] | None = None, on_bad_image: str = "skip", **options: object
) -> ImageData:
    request = DataRequest(
        folder,
        options=ImageOptions(**options),
        on_bad_image=on_bad_image,  # type: ignore[arg-type]
    )
    notify = (lambda line: None) if notes is None else notes.append
    return load_dataset(discover(), f"folder:{folder}", request, notify)


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """Smooth random colours, so that JPEG and resizing keep them apart."""
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    image = Image.fromarray(small[..., 0] if channels == 1 else small, mode)
    return image.resize(size, Image.Resampling.BICUBIC)


def pictures(folder: Path, count: int = 12, **how: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number, **how).save(folder / f"{number:02d}.png")  # type: ignore[arg-type]


def write_palette(path: Path, seed: int, size: tuple[int, int]) -> None:
    picture(seed, size).quantize(16).save(path.with_suffix(".png"))


def write_transparent_palette(path: Path, seed: int, size: tuple[int, int]) -> None:
    picture(seed, size).quantize(16).save(path.with_suffix(".png"), transparency=3)


def write_1_bit(path: Path, seed: int, size: tuple[int, int]) -> None:
    picture(seed, size, "L").convert("1").save(path.with_suffix(".png"))


def write_16_bit_grey(path: Path, seed: int, size: tuple[int, int]) -> None:
    deep = np.asarray(picture(seed, size, "L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(path.with_suffix(".png"))


def write_animation(path: Path, seed: int, size: tuple[int, int]) -> None:
    first, second = (picture(seed + k, size).quantize(32) for k in (0, 1000))
    first.save(path.with_suffix(".gif"), save_all=True, append_images=[second])


def write_mode(mode: str, suffix: str) -> Callable[[Path, int, tuple[int, int]], None]:
    return lambda path, seed, size: picture(seed, size, mode).save(path.with_suffix(suffix))


def write_turned(orientation: int) -> Callable[[Path, int, tuple[int, int]], None]:
    def write(path: Path, seed: int, size: tuple[int, int]) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(seed, size).save(path.with_suffix(".jpg"), exif=exif, quality=95)

    return write


WRITERS = [
    *(write_turned(orientation) for orientation in range(1, 9)),
    *(write_mode("RGB", suffix) for suffix in (".png", ".JPG", ".bmp", ".webp", ".tif")),
    *(write_mode(mode, ".png") for mode in ("L", "LA", "RGBA")),
    write_mode("CMYK", ".jpg"),
    write_palette,
    write_transparent_palette,
    write_1_bit,
    write_16_bit_grey,
    write_animation,
]


def reference(path: Path, size: int) -> torch.Tensor:
    """The pixels by Pillow and torchvision alone, uint8 ``(3, size, size)``."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "I;16":
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            behind = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(behind, image.convert("RGBA"))
        return v2.functional.pil_to_tensor(
            v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(image.convert("RGB"))
        )


def make_mixed(top: Path) -> dict[str, int]:
    """A folder of 300 pictures of two classes and much else; what is to be skipped, by reason."""
    for number in range(300):
        folder = top / ("my dogs" if number % 3 else "猫 cats")
        folder.mkdir(parents=True, exist_ok=True)
        write = WRITERS[number % len(WRITERS)]
        write(folder / f"IMG {number:03d}", number, SIZES[number // len(WRITERS) % len(SIZES)])
    dogs = top / "my dogs"
    whole = BytesIO()
    picture(1, (200, 200)).save(whole, "JPEG")
    (dogs / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    png = BytesIO()
    picture(1, (50, 50)).save(png, "PNG")
    (dogs / "cut.png").write_bytes(png.getvalue()[:-100])
    (dogs / "empty.png").touch()
    (dogs / "text.jpg").write_text("a line of text")
    (dogs / "notes.txt").write_text("no picture either")
    (dogs / ".hidden.png").write_bytes(png.getvalue())
    (dogs / "._IMG 001.jpg").write_bytes(b"\0\5\x16\7")
    pictures(top / ".ipynb_checkpoints", 2)
    pictures(top / "__MACOSX" / "dogs", 3)
    pictures(top / "runs" / "0001-ae" / "samples", 4)
    (top / "runs" / "0001-ae" / "run.json").write_text("{}")
    (dogs / "gone.png").symlink_to("/gone/annex")
    (dogs / "round").symlink_to(top)
    (top / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return {
        "truncated": 2,
        "empty": 1,
        "not an image": 2,
        "hidden": 4,
        "in __MACOSX": 3,
        "in the folder of a run": 5,
        "dangling link": 1,
        "link to a folder that is used already": 1,
        "outside the folders of classes": 1,
    }


def test_a_mixed_folder_is_read_as_a_person_sees_it_and_every_file_is_accounted_for(
    tmp_path: Path,
) -> None:
    top = tmp_path / "photos of mine"
    skipped = make_mixed(top)
    lies = top / "猫 cats" / "IMG 300.png"  # a JPEG
    picture(300, (40, 30)).save(lies, "JPEG")
    (top / "猫 cats" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    pictures(tmp_path / "elsewhere", 5)
    notes: list[str] = []
    records: list[collection.PictureRecord] = []
    request = DataRequest(top, options=ImageOptions(image_size=24, channels=3), records=records)
    data = load_dataset(discover(), f"folder:{top}", request, notes.append)

    assert data.class_names == ("my dogs", "猫 cats")
    assert data.summary is not None
    head, *parts = data.summary.split("; ")
    total, classes, train, held_out = map(int, re.findall(r"\d+", head))
    assert (total, classes) == (306, 2)
    assert (train, held_out) == (len(data.train), len(data.test))
    assert train + held_out == total
    said = {kind: int(n) for n, kind in re.findall(r"(\d+) ([^,()]+)", parts[-1])}
    assert said == skipped
    assert parts[-1].startswith(f"skipped {sum(skipped.values())} (")
    converted = next(part for part in parts if "converted to RGB" in part)
    for mode in ("grey", "grey with transparency", "RGBA", "CMYK", "palette", "1-bit"):
        assert re.search(rf"\d+ {mode}( and|,| images)", converted), mode
    assert "16-bit grey" in converted
    assert "of 16 bits scaled to 8" in data.summary
    assert "transparency laid over white" in data.summary
    assert "turned upright" in data.summary
    assert "animations" in data.summary
    for name in ("cut.jpg", "cut.png", "empty.png", "text.jpg", "gone.png"):
        assert any(name in note for note in notes), name

    used = [record for record in records if record.header]
    images = torch.cat([data.train.images, data.test.images])
    assert len(used) == total
    for record, image in zip(used, images, strict=True):
        torch.testing.assert_close(image, reference(top / record.name, 24), rtol=0, atol=0)
    labels = torch.cat(
        [split.labels for split in (data.train, data.test) if split.labels is not None]
    )
    expected = [int(record.name.startswith("猫")) for record in used]
    assert labels.tolist() == expected


@pytest.mark.long
def test_one_command_trains_on_a_mixed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_mixed(tmp_path / "my photos")
    options = ["--image-size", "16", "--iterations", "3", "--out", "run"]
    _, out, err = run_cli(capsys, "train", "ae", "--dataset", "folder:my photos", *options)
    assert out.splitlines()[-1] == "run"
    info = genkit.load("run").info.dataset
    assert info.summary is not None
    assert info.summary in err
    assert info.class_names == ("my dogs", "猫 cats")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_images_of_any_channels_need_not_be_square(
    tmp_path: Path, mode: str, channels: int
) -> None:
    for number in range(11):
        colour = number if channels == 1 else (number,) * channels
        Image.new(mode, (7, 5), color=colour).save(tmp_path / f"{number:02}.png")
    data = load(tmp_path)
    assert data.spec == genkit.DataSpec(channels, 5, 7)
    values = [int(image.unique()) for split in (data.train, data.test) for image in split.images]
    assert sorted(values) == list(range(11))


def test_folders_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    request = DataRequest(tmp_path)
    with pytest.raises(DataError, match="folder:PATH"):
        load_dataset(discover(), "folder", request)
    with pytest.raises(DataError, match="absent does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(DataError, match="no images in"):
        load(tmp_path)
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="is not a folder"):
        load(tmp_path / "a.png")


def test_images_of_one_size_are_taken_as_they_are_and_others_need_a_size(tmp_path: Path) -> None:
    pictures(tmp_path / "a", size=(9, 7))
    data = load(tmp_path / "a")
    assert data.spec.shape == (3, 7, 9)
    assert data.summary == f"12 images, {len(data.train)} to train and {len(data.test)} held out"
    for number, size in enumerate([(9, 7)] * 3 + [(8, 8)] * 2 + [(7, 7), (6, 6), (5, 5)]):
        picture(number, size).save(tmp_path / "a" / f"more{number}.png")
    with pytest.raises(DataError) as failed:
        load(tmp_path / "a")
    assert "15 of 7x9, 2 of 8x8, 1 of " in str(failed.value)
    assert "2 of 2 other sizes; make them one size with --image-size 64" in str(failed.value)
    assert load(tmp_path / "a", image_size="6x5").spec.shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("counts", "channels"),
    [
        ({"L": 9, "RGB": 3}, 1),
        ({"L": 5, "RGB": 7}, 3),
        ({"L": 5, "RGB": 3, "RGBA": 4}, 3),
        ({"RGB": 5, "RGBA": 7}, 4),
        ({"RGB": 6, "RGBA": 6}, 3),
    ],
)
def test_channels_are_the_most_that_more_than_half_have(
    tmp_path: Path, counts: dict[str, int], channels: int
) -> None:
    for mode, count in counts.items():
        for number in range(count):
            picture(number, mode=mode).save(tmp_path / f"{mode}{number}.png")
    assert load(tmp_path).spec.channels == channels
    assert len(load(tmp_path).train) + len(load(tmp_path).test) == 12
    assert load(tmp_path, channels="1").spec.channels == 1


def test_a_new_file_moves_no_other_across_the_split(tmp_path: Path) -> None:
    pictures(tmp_path / "cats", 40)
    pictures(tmp_path / "dogs", 40)

    def held_out() -> set[str]:
        records: list[collection.PictureRecord] = []
        request = DataRequest(tmp_path, options=ImageOptions(), records=records)
        load_dataset(discover(), f"folder:{tmp_path}", request)
        return {record.name for record in records if record.held_out}

    before = held_out()
    assert 1 <= len(before) <= 20
    assert {name.partition("/")[0] for name in before} == {"cats", "dogs"}
    picture(99).save(tmp_path / "cats" / "05b.png")
    assert held_out() - {"cats/05b.png"} == before


def test_one_in_ten_names_is_held_out() -> None:
    held_out = sum(genkit.is_held_out(f"photos/{number}.jpg") for number in range(10_000))
    assert 900 < held_out < 1100


@pytest.mark.parametrize("name", ["test", "val", "Validation"])
def test_subfolders_are_the_split_where_both_exist(tmp_path: Path, name: str) -> None:
    for split, count in (("Train", 7), (name, 3)):
        pictures(tmp_path / split / "b", count)
        pictures(tmp_path / split / "a", count)
    pictures(tmp_path / "more", 2)
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (14, 6)
    assert data.class_names == ("a", "b")
    assert data.train.labels is not None
    assert data.train.labels.bincount().tolist() == [7, 7]
    assert data.summary is not None
    assert f"skipped 2 (2 outside Train/ and {name}/)" in data.summary


def test_pictures_beside_the_class_folders_leave_no_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "a")
    pictures(tmp_path / "b")
    (tmp_path / "list.csv").write_text("a,b")
    assert load(tmp_path).classes == 2
    picture(5).save(tmp_path / "c.png")
    assert load(tmp_path).classes is None
    assert len(load(tmp_path).train) + len(load(tmp_path).test) == 25


def test_two_images_are_one_to_train_and_one_held_out(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (1, 1)


def test_a_split_whose_images_are_all_unusable_takes_another(tmp_path: Path) -> None:
    """Whichever of them is damaged, in its header or only in its pixels."""
    whole = BytesIO()
    picture(1).save(whole, "PNG")
    for number in range(5):
        folder = tmp_path / str(number)
        pictures(folder, 5)
        content = bytearray((folder / f"{number:02}.png").read_bytes())
        content[content.index(b"IDAT") + 8] ^= 255
        (folder / f"{number:02}.png").write_bytes(content if number % 2 else content[:20])
        records: list[collection.PictureRecord] = []
        request = DataRequest(folder, options=ImageOptions(image_size=8), records=records)
        data = load_dataset(discover(), f"folder:{folder}", request)
        assert (len(data.train), len(data.test)) == (3, 1)
        assert sorted(record.name for record in records) == [f"{n:02}.png" for n in range(5)]
        assert "skipped 1 (" in str(data.summary)


def test_refusing_bad_images_names_the_first_and_ignores_what_is_no_picture(
    tmp_path: Path,
) -> None:
    pictures(tmp_path)
    (tmp_path / "notes.txt").write_text("a line of text")
    load(tmp_path, on_bad_image="refuse")
    (tmp_path / "bad.png").write_text("a line of text")
    with pytest.raises(DataError, match=r"bad\.png: .*--on-bad-image skip"):
        load(tmp_path, on_bad_image="refuse")
    (tmp_path / "bad.png").unlink()
    (tmp_path / "gone.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"gone\.png: a link to nothing"):
        load(tmp_path, on_bad_image="refuse")


def test_a_folder_without_pictures_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("a line of text")
    (tmp_path / "b.txt").write_text("a line of text")
    with pytest.raises(DataError, match=r"no images in .*: skipped 2 \(2 not an image\)"):
        load(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in of the system's answer, as root may read every folder."""
    pictures(tmp_path / "a")
    (tmp_path / "b").mkdir()
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    notes: list[str] = []
    data = load(tmp_path, notes)
    assert any("b: cannot be read: Permission denied" in note for note in notes)
    assert "1 unreadable folder" in str(data.summary)
    with pytest.raises(DataError, match="b: cannot be read"):
        load(tmp_path, on_bad_image="refuse")


def test_masks_of_0_and_1_are_said(tmp_path: Path) -> None:
    for number in range(4):
        mask = np.eye(8, dtype=np.uint8) if number else np.full((8, 8), 200, np.uint8)
        Image.fromarray(mask).save(tmp_path / f"{number}.png")
    assert "3 images with no value above 1" in str(load(tmp_path).summary)


def test_workers_decode_the_same_pixels_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, 70, size=(20, 12))
    (tmp_path / "05b.png").write_text("a line of text")
    inline = load(tmp_path, image_size=8, cache=False)
    monkeypatch.setattr(workers, "MIN_FILES", 1)
    monkeypatch.setattr(workers, "FILES_PER_JOB", 8)
    notes: list[str] = []
    by_workers = load(tmp_path, notes, image_size=8, cache=False)
    assert by_workers.fingerprint() == inline.fingerprint()
    assert by_workers.summary == inline.summary
    assert any("05b.png" in note for note in notes)


def test_a_file_that_ends_its_worker_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, 20)
    (tmp_path / "13b.png").write_text("kill")
    code = workers.WORKER_CODE.replace(
        "work()",
        "import os, genkit.data.files.decoder as d; f = d.decode; "
        "d.decode = lambda p, t: os.kill(os.getpid(), 9) if p.name == '13b.png' else f(p, t); "
        "work()",
    )
    monkeypatch.setattr(workers, "WORKER_CODE", code)
    monkeypatch.setattr(workers, "MIN_FILES", 1)
    notes: list[str] = []
    data = load(tmp_path, notes, cache=False)
    assert len(data.train) + len(data.test) == 20
    assert any("13b.png: it ended the decoder (signal 9)" in note for note in notes)


def test_runs_of_before_find_their_images(tmp_path: Path) -> None:
    """By the rules of then: every tenth in order is held out, and there are no classes."""
    for number in range(20):
        colour = (number, 1, 2)
        folder = tmp_path / ("a" if number < 10 else "b")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(folder / f"{number:02}.png")
    request = DataRequest(tmp_path, legacy=True, limit=20, shape=(3, 4, 4))
    data = load_dataset(discover(), f"folder:{tmp_path}", request)
    assert data.test.images[:, 0, 0, 0].tolist() == [9, 19]
    assert data.classes is None


def test_a_large_folder_without_a_cache_is_mapped_from_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "photos", 23)
    in_memory = load(tmp_path / "photos", cache=False)
    monkeypatch.setattr(collection, "open_packed", partial(open_packed, max_memory_bytes=100))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    mapped = load(tmp_path / "photos", cache=False)
    assert mapped.train.release is not None
    assert mapped.fingerprint() == in_memory.fingerprint()
    assert mapped.test.images.equal(in_memory.test.images)
    assert not list(scratch.iterdir())
    mapped.train.images[0] = 7  # a copy of the page, as for images in memory


def cached(own_cache: Path) -> list[Path]:
    return sorted(own_cache.glob("*.packed"))


def test_the_second_start_reads_the_cache(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    pictures(folder)
    first = load(folder)
    assert len(cached(own_cache)) == 1
    monkeypatch.setattr(collection, "decode_all", None)
    second = load(folder)
    assert second.fingerprint() == first.fingerprint()
    assert (second.summary, second.source, second.argument) == (
        first.summary,
        first.source,
        first.argument,
    )


def test_the_cache_is_never_trusted_over_the_files(tmp_path: Path, own_cache: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        picture(number).save(folder / f"{number:02d}.bmp")
    before = load(folder)
    changed = folder / "03.bmp"
    times = changed.stat()
    picture(77).save(changed)  # the same size, and then the same time
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(folder).fingerprint() != before.fingerprint()
    picture(3).save(changed)
    assert load(folder).fingerprint() == before.fingerprint()
    changed.rename(folder / "other.bmp")
    load(folder)
    load(folder, image_size=4)
    assert len(cached(own_cache)) == 5


def test_a_damaged_cache_entry_is_decoded_again(tmp_path: Path, own_cache: Path) -> None:
    folder = tmp_path / "photos"
    pictures(folder)
    before = load(folder)
    (entry,) = cached(own_cache)
    content = bytearray(entry.read_bytes())
    content[4096 + 50] ^= 1
    entry.write_bytes(content)
    with pytest.warns(genkit.GenkitWarning, match="decoding the images again"):
        assert load(folder).fingerprint() == before.fingerprint()
    assert load(folder).fingerprint() == before.fingerprint()


def test_no_cache_and_a_cache_that_cannot_be_written(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    pictures(folder)
    load(folder, cache=False)
    assert not cached(own_cache)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(genkit.GenkitWarning, match="not kept in a cache"):
        load(folder)


def test_the_oldest_cache_entries_make_room(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    pictures(folder)
    load(folder)
    (first,) = cached(own_cache)
    os.utime(first, (1, 1))
    load(folder, image_size=7)
    monkeypatch.setattr("genkit.data.files.cache.MAX_CACHE_BYTES", 2 * first.stat().st_size)
    load(folder, image_size=6)
    assert len(cached(own_cache)) == 2
    assert first not in cached(own_cache)


def test_a_run_in_the_folder_of_its_images_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    train = ["train", "ae", "--dataset", "folder:.", "--iterations", "4"]
    assert run_cli(capsys, *train)[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run_cli(capsys, "resume", str(run), "--iterations", "6")[0] == 0
    assert run_cli(capsys, "reconstruct", str(run))[0] == 0


# --- workers ---


@pytest.fixture
def by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MIN_FILES", 1)
    monkeypatch.setattr(workers, "FILES_PER_JOB", 4)


def count_children() -> int:
    task = Path(f"/proc/{os.getpid()}/task")
    return sum(len((thread / "children").read_text().split()) for thread in task.iterdir())


@pytest.mark.usefixtures("by_workers")
def test_modules_in_the_working_directory_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "photos")
    for name in ("json", "numpy", "PIL"):
        (tmp_path / "photos" / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path / "photos")
    data = load(tmp_path / "photos", cache=False)
    assert len(data.train) + len(data.test) == 12


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.usefixtures("by_workers")
def test_no_worker_is_left_whatever_ends_the_reading(tmp_path: Path) -> None:
    pictures(tmp_path, 40)
    (tmp_path / "00b.png").write_text("a line of text")
    before = count_children()
    with pytest.raises(DataError, match=r"00b\.png") as held:
        load(tmp_path, on_bad_image="refuse", cache=False)
    assert count_children() == before
    assert held.value


@pytest.mark.usefixtures("by_workers")
def test_a_busy_worker_is_ended_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C while it decodes a huge picture: the reader of its answers does not wait."""
    pictures(tmp_path, 12)
    code = workers.WORKER_CODE.replace(
        "work()",
        "import time, genkit.data.files.decoder as d; f = d.decode; "
        "d.decode = lambda p, t: time.sleep(600) if p.name == '07.png' else f(p, t); work()",
    )
    monkeypatch.setattr(workers, "WORKER_CODE", code)
    found = workers.decode_all(sorted(tmp_path.iterdir()), None)
    assert next(found).header is not None
    found.close()  # hangs if it waits for the worker


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent/python"])
@pytest.mark.usefixtures("by_workers")
def test_without_workers_pictures_are_decoded_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    pictures(tmp_path)
    monkeypatch.setattr("sys.executable", program)
    with pytest.warns(genkit.GenkitWarning, match="no worker starts"):
        data = load(tmp_path, cache=False)
    assert len(data.train) + len(data.test) == 12


# --- bounds of the cache ---


def test_what_may_be_readable_next_time_is_not_kept_as_unreadable(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    pictures(folder)
    real = workers.decode

    def fail_once(source: Path, target: object) -> Decoded:
        if source.name == "03.png":
            return Decoded(kind="cannot be read", reason="cannot be read (Input/output error)")
        return real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(workers, "decode", fail_once)
    assert "skipped 1 (1 cannot be read)" in str(load(folder).summary)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache.parent.parent))
    assert str(load(folder).summary).startswith("12 images")


def test_a_full_disk_of_the_cache_is_said_and_not_an_error(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "photos")
    monkeypatch.setattr("genkit.data.files.cache.SPARE_BYTES", 2**62)
    with pytest.warns(genkit.GenkitWarning, match="decoded images are not kept: .* are free"):
        load(tmp_path / "photos")
    assert not cached(own_cache)


def test_what_killed_writers_left_is_removed(tmp_path: Path, own_cache: Path) -> None:
    pictures(tmp_path / "photos")
    own_cache.mkdir(parents=True)
    left = own_cache / ".abc.packed.packing-12ab34cd.tmp"
    left.write_bytes(b"x" * 100)
    load(tmp_path / "photos")
    assert not left.exists()


def test_the_shape_of_a_run_is_compared_before_anything_is_decoded(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's run may ask for any size."""
    pictures(tmp_path / "photos")
    monkeypatch.setattr(collection._Filling, "read", None)
    options = ImageOptions(image_size=(8192, 8192), channels="4")
    request = DataRequest(tmp_path, options=options, shape=(3, 8, 8), limit=12)
    with pytest.raises(DataError, match=r"those of the run \(3, 8, 8\)"):
        load_dataset(discover(), f"folder:{tmp_path / 'photos'}", request)
    assert not cached(own_cache)


# --- odd folders ---


def test_what_may_not_be_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``lost+found``, or a link into a closed folder."""
    pictures(tmp_path)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "closed.png").symlink_to("12.png")
    real = Path.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        if path.name in (".png", "run.json") or path.name == "closed.png":
            raise PermissionError(13, "Permission denied")
        return real(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    notes: list[str] = []
    data = load(tmp_path, notes)
    assert len(data.train) + len(data.test) == 12
    assert any("closed.png: cannot be read" in note for note in notes)


def test_a_training_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path / "test")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train holds no picture to train on"):
        load(tmp_path)
    (tmp_path / "train" / "readme.txt").write_text("a line of text")
    with pytest.raises(DataError, match="no images to train on"):
        load(tmp_path)


def test_every_class_has_an_image_to_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        pictures(tmp_path / name, 3)
    monkeypatch.setattr("genkit_plugins.folder_dataset.is_held_out", lambda name: "b/" in name)
    data = load(tmp_path)
    assert data.train.labels is not None
    assert data.train.labels.bincount().tolist() == [3, 1, 3]


def test_classes_are_in_one_order_whatever_form_accents_have(tmp_path: Path) -> None:
    names = "école", "fleur", "zoo"
    found = []
    for form in ("NFC", "NFD"):
        for name in names:
            written: str = unicodedata.normalize(form, name)  # type: ignore[arg-type]
            pictures(tmp_path / form / written, 4)
        found.append(load(tmp_path / form))
    assert found[0].class_names == found[1].class_names == ("fleur", "zoo", "école")
    assert found[0].fingerprint() == found[1].fingerprint()


def test_files_that_are_left_out_are_counted_up_to_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genkit_plugins.folder_dataset.MAX_COUNTED", 5)
    pictures(tmp_path)
    for name in (".a", ".b", ".c"):
        pictures(tmp_path / name, 4)
    assert "skipped 5 (5 hidden)" in str(load(tmp_path).summary)


@pytest.mark.parametrize("argument", ["/" + "a" * 300, "nul\0byte"])
def test_paths_that_no_system_takes(tmp_path: Path, argument: str) -> None:
    for name in ("folder", "packed"):
        with pytest.raises(DataError):
            load_dataset(discover(), f"{name}:{argument}", DataRequest(tmp_path))
