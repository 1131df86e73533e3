import gzip
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import genkit
from genkit.data.datasets import DataRequest, Split, data_root, load_dataset, load_preferred
from genkit.data.in_memory import from_images
from genkit.errors import ConfigError, DataError, DataUnavailableError
from genkit.plugins.registry import discover
from genkit_plugins import datasets


def load(
    name: str, root: Path, notices: list[str] | None = None, **options: object
) -> genkit.ImageData:
    return load_dataset(
        discover(), name, DataRequest(root, **options), ([] if notices is None else notices).append
    )


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def fake_mnist(tmp_path: Path) -> Path:
    raw = tmp_path / "data" / "MNIST" / "raw"
    for name, count in (("train", 12), ("t10k", 5)):
        write_idx(
            raw / f"{name}-images-idx3-ubyte",
            np.arange(count * 784).reshape(count, 28, 28).astype(np.uint8),
        )
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path / "data"


def test_mnist_is_read_without_torchvision(fake_mnist: Path) -> None:
    data = load("mnist", fake_mnist)
    assert data.spec == genkit.DataSpec(1, 28, 28, 10)
    assert (len(data.train), len(data.test)) == (12, 5)
    assert data.train.labels.tolist() == [*range(10), 0, 1]


def test_what_a_short_training_does_not_need_is_not_imported(fake_mnist: Path) -> None:
    """torchvision downloads, matplotlib draws curves, torchmetrics and the rest measure: each costs
    its start.
    """
    arguments = [
        "train",
        "simple-gan",
        "--dataset",
        "mnist",
        "--data-root",
        str(fake_mnist),
        "--device",
        "cpu",
    ]
    code = (
        "import sys\nfrom genkit.cli.main import main\n"
        f"main({[*arguments, '--iterations', '1', '--batch-size', '4', '--out', 'run']!r})\n"
        "heavy = {'torchvision', 'matplotlib', 'torchmetrics', 'jinja2', 'sklearn'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert 'torch' in sys.modules and not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_mnist(mnist_root: Path) -> None:
    data = load("mnist", mnist_root)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert torch.bincount(data.train.labels).tolist()[:2] == [5923, 6742]


@pytest.mark.parametrize("damage", ["truncated", "magic", "huge", "empty"])
def test_damaged_idx_is_named(fake_mnist: Path, damage: str) -> None:
    path = fake_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    good = path.read_bytes()
    bad = {
        "truncated": good[:-1],
        "magic": b"xxxx" + good[4:],
        "huge": good[:4] + b"\xff" * 12 + good[16:],
        "empty": b"",
    }
    path.write_bytes(bad[damage])
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as caught:
        load("mnist", fake_mnist)
    assert not isinstance(
        caught.value, DataUnavailableError
    )  # damaged data is no reason to train on something else


def test_absent_data_without_network(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(DataUnavailableError, match="Network is unreachable"):
        load("mnist", tmp_path)


def test_preferred_falls_back_with_a_notice(tmp_path: Path, no_network: None) -> None:
    notices: list[str] = []
    name, data = load_preferred(
        discover(), ("mnist", "digits"), DataRequest(tmp_path), notices.append
    )
    assert name == "digits"
    assert (len(data.train), len(data.test)) == (1498, 299)
    assert "training on digits instead" in notices[0]
    assert data.spec == genkit.DataSpec(1, 28, 28, 10)
    with pytest.raises(ConfigError, match="--dataset"):
        load_preferred(discover(), (), DataRequest(tmp_path), notices.append)


def test_a_network_that_never_answers_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import threading

    monkeypatch.setattr(datasets, "CONNECT_TIMEOUT_SECONDS", 0.05)
    hung = threading.Event()
    monkeypatch.setattr(datasets, "_connect", lambda address: hung.wait(5))
    with pytest.raises(DataUnavailableError, match="no answer within"):
        load("mnist", tmp_path)
    hung.set()


def test_download_unpacks(
    monkeypatch: pytest.MonkeyPatch, fake_mnist: Path, tmp_path: Path
) -> None:
    def download_url(url: str, root: Path, filename: str, md5: str) -> None:
        source = fake_mnist / "MNIST" / "raw" / Path(filename).stem
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / filename).write_bytes(gzip.compress(source.read_bytes()))

    monkeypatch.setattr(datasets, "_connect", lambda address: None)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    fresh = load("fashion-mnist", tmp_path / "elsewhere")
    assert fresh.fingerprint() == load("mnist", fake_mnist).fingerprint()


def test_cifar10_from_its_binary_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:, 0] = np.arange(10_000) % 10
    rows[0, 1:1025] = 9  # the first image's red plane
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (folder / name).write_bytes(rows.tobytes())
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(folder, "cifar-10-batches-bin")
    for path in folder.iterdir():
        path.unlink()
    monkeypatch.setattr(datasets, "_download", lambda *arguments: None)
    data = load("cifar10", tmp_path)
    assert data.spec == genkit.DataSpec(3, 32, 32, 10)
    assert len(data.train) == 50_000
    assert data.train.images[0, 0].unique().tolist() == [9]
    assert data.train.images[0, 1].unique().tolist() == [0]


def test_images_in_memory(images: Tensor) -> None:
    assert from_images(images).spec == genkit.DataSpec(1, 6, 5)
    assert from_images(images[:, 0]).spec == genkit.DataSpec(1, 6, 5)
    colour = np.zeros((20, 6, 5, 3), np.uint8)
    assert from_images(colour).spec == genkit.DataSpec(3, 6, 5)
    assert from_images([Image.fromarray(image) for image in colour]).spec == genkit.DataSpec(
        3, 6, 5
    )
    assert (len(from_images(colour).train), len(from_images(colour).test)) == (18, 2)
    for floats in (images.float() / 255, colour / 255):
        with pytest.raises(DataError, match="must be uint8"):
            from_images(floats)


def test_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_root(None) == Path("/cache/genkit/data")
    monkeypatch.setenv("GENKIT_DATA", str(tmp_path))
    assert data_root(None) == tmp_path
    assert data_root("elsewhere") == Path("elsewhere")


def test_no_dataset_unpickles(fake_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickling")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load("mnist", fake_mnist)
    load("digits", fake_mnist)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 2}, "labels from here go from 0 to 2, not 0 to 1"),
        ({"classes": None}, "give classes and labels for both splits, or neither"),
        (
            {"test": Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long())},
            "held-out images from here are",
        ),
        (
            {"test": Split(torch.zeros(4, 1, 4, 5, dtype=torch.uint8))},
            "give classes and labels for both splits",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    changes: dict[str, object], message: str
) -> None:
    images, labels = torch.zeros(6, 1, 4, 5, dtype=torch.uint8), torch.arange(6) % 3
    right = {
        "train": Split(images, labels),
        "test": Split(images[:3], labels[:3]),
        "source": "here",
        "classes": 3,
    }
    assert genkit.ImageData(**right).spec.classes == 3
    with pytest.raises(DataError, match=message):
        genkit.ImageData(**{**right, **changes})


def test_a_dataset_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "digits", lambda request: [][1])
    with pytest.raises(genkit.PluginError, match="dataset digits failed to load: IndexError"):
        load("digits", tmp_path)
    monkeypatch.setattr(datasets, "digits", lambda request: [1])
    with pytest.raises(genkit.ContractError, match=r"gave list, not genkit\.ImageData"):
        load("digits", tmp_path)
