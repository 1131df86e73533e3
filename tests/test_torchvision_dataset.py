"""``torchvision:NAME``, on files that the tests write in torchvision's layout."""

import ast
import hashlib
import inspect
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

import genkit
from genkit.data.datasets import load_dataset
from genkit.plugins.registry import discover
from genkit.testing import check_dataset
from genkit_plugins.torchvision_dataset import REFUSED

ACCEPTED = (
    "CLEVRClassification",
    "Caltech101",
    "Caltech256",
    "CelebA",
    "Country211",
    "DTD",
    "EMNIST",
    "EuroSAT",
    "FER2013",
    "FGVCAircraft",
    "FakeData",
    "FashionMNIST",
    "Flowers102",
    "Food101",
    "GTSRB",
    "INaturalist",
    "Imagenette",
    "KMNIST",
    "LFWPeople",
    "MNIST",
    "Omniglot",
    "OxfordIIITPet",
    "PCAM",
    "Places365",
    "QMNIST",
    "RenderedSST2",
    "SEMEION",
    "STL10",
    "SUN397",
    "SVHN",
    "StanfordCars",
    "USPS",
)


def load(name: str, root: Path, offline: bool = False, **options: object) -> genkit.ImageData:
    request = genkit.DataRequest(root, options=options, offline=offline)
    return load_dataset(discover(), f"torchvision:{name}", request)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30, 10 and 12 images of SVHN's splits, with their MD5 in torchvision's table."""
    table = {}
    for split, count in (("train", 30), ("test", 10), ("extra", 12)):
        path = tmp_path / f"{split}_32x32.mat"
        labels = 1 + np.arange(count, dtype=np.uint8)[:, None] % 10
        savemat(path, {"X": drawn(32, 32, 3, count), "y": labels})
        table[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    return tmp_path


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def emnist(tmp_path: Path) -> Path:
    """26 letters to train on, and 5 that are held out."""
    for part, count in (("train", 26), ("test", 5)):
        prefix = tmp_path / "EMNIST" / "raw" / f"emnist-letters-{part}"
        write_idx(Path(f"{prefix}-images-idx3-ubyte"), drawn(count, 28, 28))
        write_idx(Path(f"{prefix}-labels-idx1-ubyte"), 1 + np.arange(count, dtype=np.uint8))
    return tmp_path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """FakeData of 40 small images, in place of 1000 of 224x224."""
    monkeypatch.setattr(
        datasets.FakeData.__init__, "__defaults__", (40, (3, 12, 10), 4, None, None, 0)
    )


def test_fake_data_is_the_same_every_time(few: None, tmp_path: Path) -> None:
    first, second = load("FakeData", tmp_path), load("fakedata", tmp_path)
    assert first.spec == genkit.DataSpec(3, 12, 10, 4)
    assert first.class_names == ("0", "1", "2", "3")
    assert first.argument == second.argument == "FakeData"
    assert first.fingerprint() == second.fingerprint()
    assert 0 < len(first.test) < 20
    held_out = [number for number in range(40) if genkit.is_held_out(str(number))]
    assert len(first.test) == len(held_out)
    assert load("FakeData", tmp_path, image_size="6x8", channels="1").spec.shape == (1, 6, 8)


def test_the_contract_holds(few: None) -> None:
    results = check_dataset("torchvision:FakeData")
    assert [f"{r.check}: {r.reason}" for r in results if r.outcome == "failed"] == []


def test_splits_and_labels_of_svhn(svhn: Path) -> None:
    data = load("svhn", svhn)
    assert (len(data.train), len(data.test)) == (30, 10)
    assert data.spec == genkit.DataSpec(3, 32, 32, 10)
    assert data.train.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    pixels = drawn(32, 32, 3, 30)[..., 7]
    assert np.array_equal(data.train.images[7].permute(1, 2, 0).numpy(), pixels)
    extra = load("SVHN", svhn, split="extra")
    assert len(extra.train) + len(extra.test) == 12
    with pytest.raises(genkit.ConfigError, match="Unknown value 'exta' for argument split"):
        load("SVHN", svhn, split="exta")


def test_emnist_needs_its_split_and_gives_names(emnist: Path) -> None:
    data = load("EMNIST", emnist, split="letters")
    assert (len(data.train), len(data.test)) == (26, 5)
    assert data.class_names[:3] == ("N/A", "a", "b")
    assert data.train.labels.tolist() == list(range(1, 27))
    assert data.spec.shape == (1, 28, 28)
    with pytest.raises(genkit.ConfigError, match="choose one with --split, one of byclass"):
        load("EMNIST", emnist)


def test_files_of_an_old_torchvision_are_not_unpickled(emnist: Path) -> None:
    (emnist / "EMNIST" / "processed").mkdir()
    for part in ("training", "test"):
        (emnist / "EMNIST" / "processed" / f"{part}_letters.pt").write_bytes(b"")
    with pytest.raises(genkit.DataError, match="processed holds files that torchvision would"):
        load("EMNIST", emnist, split="letters")


def test_files_of_pictures_are_read_as_those_of_a_folder(tmp_path: Path) -> None:
    """EuroSAT has neither splits nor a md5 of its files."""
    for name in ("Forest", "River"):
        folder = tmp_path / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for number in range(15):
            Image.fromarray(drawn(9, 8, 3) // (number + 1)).save(folder / f"{number}.png")
    (tmp_path / "eurosat" / "2750" / "River" / "3.png").write_bytes(b"broken")
    data = load("EuroSAT", tmp_path)
    assert data.class_names == ("Forest", "River")
    assert len(data.train) + len(data.test) == 29
    assert "skipped 1" in data.summary


def test_targets_that_are_no_classes_are_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06}.jpg" for number in range(12)]
    for name in names:
        Image.fromarray(drawn(9, 8, 3)).save(folder / "img_align_celeba" / name)
    rows = {
        "list_eval_partition.txt": [f"{name} {2 * (i > 8)}" for i, name in enumerate(names)],
        "identity_CelebA.txt": [f"{name} {i}" for i, name in enumerate(names)],
        "list_bbox_celeba.txt": ["12", "x y w h", *(f"{name} 0 0 8 9" for name in names)],
        "list_landmarks_align_celeba.txt": ["12", "x y", *(f"{name} 1 2" for name in names)],
        "list_attr_celeba.txt": ["12", "Bald Young", *(f"{name} 1 -1" for name in names)],
    }
    table = []
    for name, lines in rows.items():
        (folder / name).write_text("\n".join(lines) + "\n")
        table.append(("", hashlib.md5((folder / name).read_bytes()).hexdigest(), name))
    monkeypatch.setattr(datasets.CelebA, "file_list", table)
    data = load("CelebA", tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (9, 3, None)
    assert data.summary.endswith("no labels, as there are tensors of 2 in their place")


def test_images_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STL10's unlabelled images have -1 for a label."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    drawn(12, 3, 96, 96).tofile(folder / "unlabeled_X.bin")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    data = load("STL10", tmp_path, split="unlabeled", image_size=16)
    assert data.classes is None
    assert "no labels, as there are values of -1 in their place" in data.summary


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10", r"unpickles its files.* use --dataset cifar10"),
        ("ImageNet", "unpickles its files"),
        ("Kinetics", "it gives videos"),
        ("VOCSegmentation", "folder:PATH"),
        ("ImageFolder", "folder:PATH"),
        ("SVNH", r"no dataset 'SVNH' \(did you mean SVHN\?\); these are read: CLEVR"),
        ("", "torchvision:NAME, one of CLEVR"),
    ],
)
def test_what_is_not_read_is_refused_with_what_to_do(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(genkit.GenkitError, match=message) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["SVHN", "DTD", "MNIST", "FER2013", "USPS", "Omniglot", "CelebA"])
def test_absent_files_are_unavailable_offline_and_nothing_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(genkit.DataUnavailableError, match=f"torchvision:{name} not found in") as e:
        load(name, tmp_path, offline=True)
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(genkit.DataUnavailableError, match=r"download failed .*unreachable"):
        load("SVHN", tmp_path)
    with pytest.raises(genkit.DataUnavailableError, match="does not download it"):
        load("FER2013", tmp_path)


def test_a_missing_package_is_named(svhn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(genkit.DataError, match="torchvision:SVHN needs scipy: pip install scipy"):
        load("SVHN", svhn)


def test_every_dataset_of_the_installed_torchvision_is_read_or_refused() -> None:
    for name in datasets.__all__:
        made_by = getattr(datasets, name)
        if inspect.isclass(made_by):
            assert (name in REFUSED) != (name in ACCEPTED), f"is torchvision's {name} read?"
        if name in ACCEPTED:
            parameters = inspect.signature(made_by.__init__).parameters.values()
            needed = {p.name for p in parameters if p.default is p.empty and p.kind not in (2, 4)}
            assert needed <= {"self", "root", "split"}, f"{name} needs {needed}"


UNPICKLING = {"load", "loads", "Unpickler", "read_pickle"}


def test_no_dataset_that_unpickles_is_read() -> None:
    """Scans the source of the installed torchvision. Those that inherit MNIST read pickles only
    from the folder that is refused.
    """
    for name in ACCEPTED:
        made_by = getattr(datasets, name)
        for owner in made_by.__mro__:
            if not owner.__module__.startswith("torchvision.datasets"):
                continue
            for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(owner)))):
                if isinstance(node, ast.Attribute) and node.attr in UNPICKLING:
                    call = ast.unparse(node)
                    harmless = call.startswith("json.") or issubclass(made_by, datasets.MNIST)
                    assert harmless, f"torchvision's {name}: {call}"
                allowed = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
                assert not allowed, f"torchvision's {name} allows pickles"


def test_the_table_of_refusals_names_those_that_unpickle() -> None:
    """The scan above finds what it looks for."""
    for name in ("CIFAR10", "LSUN", "ImageNet", "PhotoTour"):
        source = inspect.getsource(inspect.getmodule(getattr(datasets, name)))
        found = [
            ast.unparse(node)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute) and node.attr in UNPICKLING
        ]
        assert {"pickle.load", "torch.load"} & set(found)
        assert "unpickles" in REFUSED[name]
