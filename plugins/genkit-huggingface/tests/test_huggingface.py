"""``hf:`` on files that the tests write; there is no network here."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import genkit
from genkit.data.datasets import load_dataset
from genkit.plugins.registry import discover
from genkit.testing import check_dataset

datasets = pytest.importorskip("datasets", reason="needs Hugging Face's library: datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SIZE = (6, 5)
"""Height and width."""
CLASSES = ["apple", "bear", "cherry"]
NUMBER = 30


@pytest.fixture(autouse=True)
def _cache_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for owner, name in (
        (datasets.config, "HF_DATASETS_CACHE"),
        (datasets.config, "HF_CACHE_HOME"),
        (datasets.config, "DOWNLOADED_DATASETS_PATH"),
    ):
        monkeypatch.setattr(owner, name, tmp_path / "hf")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def made(count: int = NUMBER, names: tuple[str, str] = ("image", "label")) -> Any:
    """A dataset of Hugging Face."""
    kinds = datasets.Features(
        {names[0]: datasets.Image(), names[1]: datasets.ClassLabel(names=CLASSES)}
    )
    rows = {
        names[0]: [Image.fromarray(pixels(number)) for number in range(count)],
        names[1]: [number % len(CLASSES) for number in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=kinds)


def load(argument: object, root: Path = Path("data"), **options: object) -> genkit.ImageData:
    request = genkit.DataRequest(root, options=options)
    return load_dataset(discover(), f"hf:{argument}", request)


def test_a_readme_cannot_name_files_that_are_elsewhere(tmp_path: Path) -> None:
    for folder in ("mine", "secret"):
        (tmp_path / folder).mkdir()
        for number in range(12):
            (tmp_path / folder / f"{number}.png").write_bytes(encoded(number))
    for place in (f"{tmp_path}/secret/*.png", "../secret/*.png"):
        header = f"configs:\n- config_name: default\n  data_files: '{place}'"
        (tmp_path / "mine" / "README.md").write_text(f"---\n{header}\n---\n")
        with pytest.raises(genkit.DataError, match="which is not in the folder"):
            load(tmp_path / "mine")


def shown(data: genkit.ImageData) -> Iterator[tuple[bytes, int]]:
    for split in (data.train, data.test):
        for image, label in zip(split.images, split.labels, strict=True):
            yield image.permute(1, 2, 0).numpy().tobytes(), int(label)


def test_a_parquet_file_gives_its_pixels_labels_and_class_names(tmp_path: Path) -> None:
    path = tmp_path / "two words.parquet"
    made().to_parquet(str(path))
    data = load(path)
    assert data.spec == genkit.DataSpec(3, *SIZE, len(CLASSES))
    assert data.class_names == tuple(CLASSES)
    expected = {(pixels(i).tobytes(), i % len(CLASSES)) for i in range(NUMBER)}
    assert set(shown(data)) == expected
    assert 0 < len(data.test) < NUMBER / 2
    assert data.argument == str(path)
    assert data.source == str(path)


def test_a_folder_of_parquet_files_keeps_its_splits(tmp_path: Path) -> None:
    made(20).to_parquet(str(tmp_path / "d" / "train-00000-of-00001.parquet"))
    made(7).to_parquet(str(tmp_path / "d" / "test-00000-of-00001.parquet"))
    data = load(tmp_path / "d")
    assert (len(data.train), len(data.test)) == (20, 7)
    assert data.train.labels.tolist() == [number % 3 for number in range(20)]
    one = load(tmp_path / "d", split="test")
    assert len(one.train) + len(one.test) == 7
    with pytest.raises(genkit.ConfigError, match="there are train, test"):
        load(tmp_path / "d", split="extra")


def test_an_imagefolder(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "d" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pixels(number)).save(folder / f"{number}.png")
    data = load(tmp_path / "d")
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.bincount().tolist() == [4, 4]


def test_sizes_and_channels_are_options(tmp_path: Path) -> None:
    made().to_parquet(str(tmp_path / "a.parquet"))
    data = load(tmp_path / "a.parquet", image_size="4x8", channels="1")
    assert data.spec.shape == (1, 4, 8)


def test_columns_are_found_by_name_and_kind(tmp_path: Path) -> None:
    made(names=("picture", "fruit")).to_parquet(str(tmp_path / "a.parquet"))
    assert load(tmp_path / "a.parquet").class_names == tuple(CLASSES)
    right = made().rename_column("image", "right")
    left = made().select_columns("image").rename_column("image", "left")
    twice = datasets.concatenate_datasets([right, left], axis=1)
    twice.to_parquet(str(tmp_path / "b.parquet"))
    with pytest.raises(genkit.ConfigError, match=r"--image-column; the columns are .*left"):
        load(tmp_path / "b.parquet")
    assert len(load(tmp_path / "b.parquet", image_column="left").train)
    with pytest.raises(genkit.ConfigError, match="no column of images"):
        load(tmp_path / "b.parquet", image_column="label")
    with pytest.raises(genkit.ConfigError, match="no such one"):
        load(tmp_path / "b.parquet", label_column="absent", image_column="left")


def test_bytes_of_another_writer_and_numbers_for_names(tmp_path: Path) -> None:
    table = {"image": [encoded(i) for i in range(10)], "label": [i % 2 for i in range(10)]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.class_names == ("0", "1")
    assert (pixels(3).tobytes(), 1) in set(shown(data))


def test_rows_that_are_no_images_are_skipped_and_accounted_for(tmp_path: Path) -> None:
    rows = made(12).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[3]["image"] = {"bytes": b"not an image", "path": None}
    rows[5]["image"] = None
    kinds = made(1).features
    datasets.Dataset.from_list(rows, features=kinds).to_parquet(str(tmp_path / "a.parquet"))
    data = load(tmp_path / "a.parquet")
    assert len(data.train) + len(data.test) == 10
    assert "skipped 2" in data.summary


def test_a_table_names_no_file_of_this_machine(tmp_path: Path) -> None:
    Image.fromarray(pixels(0)).save(tmp_path / "private.png")
    rows = [{"image": {"bytes": encoded(number), "path": None}} for number in range(12)]
    rows[3] = {"image": {"bytes": None, "path": str(tmp_path / "private.png")}}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert len(data.train) + len(data.test) == 11


def test_targets_that_are_no_classes_are_left_out_and_said(tmp_path: Path) -> None:
    rows = made(10).cast_column("label", datasets.Value("string"))
    rows.to_parquet(str(tmp_path / "a.parquet"))
    data = load(tmp_path / "a.parquet")
    assert data.classes is None
    assert "no labels" in data.summary


def test_a_subset_is_chosen_by_name(tmp_path: Path) -> None:
    configs = [f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("few", "all")]
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    made(5).to_parquet(str(tmp_path / "few.parquet"))
    made().to_parquet(str(tmp_path / "all.parquet"))
    few = load(tmp_path, subset="few")
    assert len(few.train) + len(few.test) == 5
    for subset in (None, "absent"):
        with pytest.raises(genkit.ConfigError, match=r"choose one with --subset .*few"):
            load(tmp_path, subset=subset)
    with pytest.raises(genkit.ConfigError, match="leave out --subset"):
        load(tmp_path / "few.parquet", subset="few")


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    for argument, message in {
        "": "hf:NAME",
        "./absent": "does not exist",
        "absent.parquet": "does not exist",
    }.items():
        with pytest.raises(genkit.DataError, match=message):
            load(argument)
    with pytest.raises(genkit.DataUnavailableError, match="hf:nobody/nothing is not available"):
        load("nobody/nothing")


@pytest.mark.parametrize("name", ["a.csv", "a.pkl", "a.parquet"])
def test_other_formats_and_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"image,label\n1,2\n")
    with pytest.raises(genkit.DataError) as caught:
        load(tmp_path / "d")
    assert "\n" not in str(caught.value)


def test_the_second_start_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made().to_parquet(str(tmp_path / "a.parquet"))
    first = load(tmp_path / "a.parquet")
    monkeypatch.setattr("genkit_huggingface.dataset._read_bytes", lambda *_: b"")
    assert load(tmp_path / "a.parquet").fingerprint() == first.fingerprint()


def test_contract(tmp_path: Path) -> None:
    made().to_parquet(str(tmp_path / "a.parquet"))
    failed = [
        f"{result.name}: {result.reason}"
        for result in check_dataset(f"hf:{tmp_path / 'a.parquet'}")
        if result.outcome == "failed"
    ]
    assert not failed
