"""Images that a program has: layouts are checked, not guessed, and messages show the call that
fixes what is wrong.
"""

import ast
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)
from torchvision import transforms
from torchvision.datasets import FakeData

import genkit
from genkit import DataError
from genkit.data.in_memory import from_images

WORDS = ("no", "yes")
CALLS: tuple[Callable[[Any], Any], ...] = (
    lambda images: (images * 255).round().astype("uint8"),
    lambda images: (images * 255).round().to(torch.uint8),
    lambda images: ((images + 1) * 127.5).round().astype("uint8"),
    lambda images: ((images + 1) * 127.5).round().to(torch.uint8),
    lambda images: images.round().astype("uint8"),
    lambda images: images.round().to(torch.uint8),
    lambda images: images.astype("uint8"),
    lambda images: images.to(torch.uint8),
    lambda images: (images / 257).round().astype("uint8"),
    lambda images: (images.float() / 257).round().to(torch.uint8),
    lambda images: images.astype("uint8") * 255,
    lambda images: images.to(torch.uint8) * 255,
    lambda images: (
        ((images - images.min()) / (images.max() - images.min()) * 255).round().astype("uint8")
    ),
    lambda images: (
        ((images - images.min()) / (images.max() - images.min()) * 255).round().to(torch.uint8)
    ),
    lambda images: torch.from_numpy(images).permute(0, 3, 1, 2),
    lambda images: images.permute(0, 3, 1, 2),
    lambda images: torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
    lambda images: torch.stack(images).permute(0, 3, 1, 2),
    lambda x: genkit.ImageData(genkit.Split(x[10:]), genkit.Split(x[:10]), "mine"),
)
"""What messages advise."""


def written_as(shown: str) -> Callable[[Any], Any]:
    """The one of :data:`CALLS` that is written as a message shows it, to the last character that
    matters.
    """
    module = ast.parse(Path(__file__).read_text())
    assigned = (node for node in module.body if isinstance(node, ast.AnnAssign))
    listed = next(node.value for node in assigned if ast.unparse(node.target) == "CALLS")
    assert isinstance(listed, ast.Tuple)
    wanted = ast.dump(ast.parse(shown, mode="eval").body)
    bodies = [ast.dump(call.body) for call in listed.elts if isinstance(call, ast.Lambda)]
    assert wanted in bodies, f"no call is written as {shown}"
    return CALLS[bodies.index(wanted)]


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pictures(mode: str, count: int = 20, size: tuple[int, int] = (16, 12)) -> list[Image.Image]:
    """PIL images of this mode, ``size`` high and wide."""
    colour = [Image.fromarray(image) for image in drawn(count, *size, 3)]
    if mode == "P":
        return [image.quantize(16) for image in colour]
    if mode == "LA":
        return [Image.fromarray(image, "LA") for image in drawn(count, *size, 2)]
    if mode == "I;16":
        return [Image.fromarray(image.astype(np.uint16) * 257) for image in drawn(count, *size)]
    return [image.convert(mode) for image in colour]


def whole(data: genkit.ImageData) -> torch.Tensor:
    """All images in the order in which they were given."""
    images = torch.empty(len(data.train) + len(data.test), *data.spec.shape, dtype=torch.uint8)
    held_out = torch.arange(len(images)) % 10 == 9
    images[~held_out], images[held_out] = data.train.images, data.test.images
    return images


class Pairs(Dataset):
    """Made from a list of images, with the parity of their number as label."""

    classes = WORDS

    def __init__(self, images: Any, transform: Any = None) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        image = self.images[number]
        return (self.transform(image) if self.transform else image), number % 2


LAYOUTS = {
    "array, channels last": (drawn(20, 9, 8, 3), "last"),
    "array, channels first": (drawn(20, 3, 9, 8), "first"),
    "array, RGBA first": (drawn(20, 4, 9, 8), "first"),
    "array, grey with an axis": (drawn(20, 9, 8, 1), "last"),
    "array, grey": (drawn(20, 9, 8), "grey"),
    "array, two channels last": (drawn(20, 9, 8, 2), "last"),
    "tensor, channels first": (torch.from_numpy(drawn(20, 3, 9, 8)), "first"),
    "tensor, channels last": (torch.from_numpy(drawn(20, 9, 8, 3)), "last"),
    "tensor, grey": (torch.from_numpy(drawn(20, 9, 8)), "grey"),
    "tensor, five channels first": (torch.from_numpy(drawn(20, 5, 9, 8)), "first"),
    "tensor, small": (torch.from_numpy(drawn(20, 1, 4, 4)), "first"),
    "tensor, small grey": (torch.from_numpy(drawn(20, 4, 4)), "grey"),
    "array, small": (drawn(20, 4, 4, 1), "last"),
}


@pytest.mark.parametrize(("images", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_is_the_only_one_is_taken(images: Any, layout: str) -> None:
    tensor = torch.as_tensor(images)
    expected = {"first": tensor, "grey": tensor[:, None]}.get(layout)
    if expected is None:
        expected = tensor.permute(0, 3, 1, 2)
    for given in (images, list(images)):
        data = from_images(given)
        assert whole(data).equal(expected)
        assert (len(data.train), len(data.test)) == (18, 2)


def test_arrays_of_other_libraries_are_taken() -> None:
    class Foreign:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return self.array

    array = drawn(20, 9, 8, 3)
    for images in (Foreign(array), [Foreign(image) for image in array]):
        assert from_images(images).fingerprint() == from_images(array).fingerprint()


def test_images_are_copied() -> None:
    for images in (drawn(20, 9, 8, 3), drawn(20, 9, 8), torch.from_numpy(drawn(20, 3, 9, 8))):
        data = from_images(images)
        before = whole(data).clone()
        images[:] = 0
        assert whole(data).equal(before)


def test_arrays_that_are_read_only_or_views_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", drawn(20, 9, 8, 3))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert whole(from_images(mapped)).equal(whole(from_images(drawn(20, 9, 8, 3))))
    assert from_images(mapped[::2, ::-1]).spec.shape == (3, 9, 8)


REFUSED_SHAPES = {
    (32, 32, 3): r"images\[None\]",
    (3, 32, 32): r"images\[None\]",
    (28, 28, 1): r"images\[None\]",
    (28, 28): r"images\[None\]",
    (100, 784): r"images\.reshape\(-1, 28, 28\)",
    (20, 3, 4, 4): r"first or last: with x = .* give genkit\.ImageData\(genkit\.Split",
    (20, 4, 9, 3): r"x = .*images.*\.permute\(0, 3, 1, 2\) if the channels are last",
    (20, 32, 32, 64): "have neither 1, 3 or 4 channels nor",
    (20, 1, 3, 32, 32): r"not \(N, C, H, W\)",
    (20,): r"not \(N, C, H, W\)",
    (0, 28, 28): "there are no images",
    (20, 0, 28): "there are no images",
}


@pytest.mark.parametrize("tensors", [False, True], ids=["array", "tensor"])
@pytest.mark.parametrize(("shape", "message"), REFUSED_SHAPES.items(), ids=str)
def test_a_shape_that_can_be_read_in_two_ways_or_none_is_refused(
    shape: tuple[int, ...], message: str, tensors: bool
) -> None:
    images = drawn(*shape)
    with pytest.raises(DataError, match=message) as caught:
        from_images(torch.from_numpy(images) if tensors else images)
    assert "\n" not in str(caught.value)


def test_the_calls_that_messages_show_work() -> None:
    assert from_images(drawn(32, 32, 3)[None]).spec.shape == (3, 32, 32)
    assert from_images(drawn(3, 32, 32)[:, None]).spec.shape == (1, 32, 32)
    assert from_images(drawn(20, 784).reshape(-1, 28, 28)).spec.shape == (1, 28, 28)
    array = drawn(20, 4, 9, 3)
    for images in (array, torch.from_numpy(array), list(array), list(torch.from_numpy(array))):
        with pytest.raises(DataError) as caught:
            from_images(images)
        shown = str(caught.value)
        x = written_as(shown.split("or x = ")[1].split(" if the")[0])(images)
        data = written_as(shown.split(" give ")[1])(x)
        assert data.spec.shape == (3, 4, 9)


RANGES = {
    "0 to 1": (drawn(20, 9, 8) / 255, "(images * 255).round()"),
    "-1 to 1": (drawn(20, 9, 8) / 127.5 - 1, "((images + 1) * 127.5).round()"),
    "0 to 255": (drawn(20, 9, 8).astype(np.float32), "images.round()"),
    "int64": (drawn(20, 9, 8).astype(np.int64), "images"),
    "uint16": (drawn(20, 9, 8).astype(np.uint16) * 257, "(images"),
    "bool": (drawn(20, 9, 8) > 127, "images"),
    "beyond": (drawn(20, 9, 8) * 3.0 - 100, "((images - images.min())"),
}


@pytest.mark.parametrize("tensors", [False, True], ids=["array", "tensor"])
@pytest.mark.parametrize(("images", "call"), RANGES.values(), ids=RANGES)
def test_numbers_that_are_not_uint8_are_refused_with_the_call_for_their_range(
    images: np.ndarray, call: str, tensors: bool
) -> None:
    given = torch.from_numpy(images) if tensors else images
    with pytest.raises(DataError, match="must be uint8 from 0 to 255") as caught:
        from_images(given)
    shown = str(caught.value).split("0 to 255: ", 1)[1].partition(", if ")[0]
    assert shown.startswith(call)
    made = written_as(shown)(given)
    expected = drawn(20, 9, 8).astype(int)
    if images.dtype == bool:
        expected = (expected > 127) * 255
    found = whole(from_images(made))[:, 0].numpy().astype(int)
    assert np.abs(found - expected).max() <= (1 if call.startswith("((images - ") else 0)


def test_nan_and_items_that_are_not_uint8_are_named() -> None:
    images = torch.rand(20, 9, 8)
    images[3, 2, 1] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        from_images(images)
    with pytest.raises(DataError, match=r"image 0 is torch.float32 .* \[\(image \* 255\)"):
        from_images(list(torch.rand(20, 9, 8)))


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("I;16", 1), ("P", 3), ("RGB", 3), ("CMYK", 3), ("LA", 4), ("RGBA", 4)],
)
def test_pil_images_are_converted_as_files_are(mode: str, channels: int) -> None:
    given = pictures(mode)
    data = from_images(given)
    assert data.spec.shape == (channels, 16, 12)
    shown = given[3].convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    if mode == "I;16":
        shown = Image.fromarray((np.asarray(given[3]) // 257).astype(np.uint8))
    pixels = np.asarray(shown).reshape(16, 12, channels)
    assert np.array_equal(whole(data)[3].permute(1, 2, 0).numpy(), pixels)


def test_most_pil_images_decide_the_channels() -> None:
    assert from_images([*pictures("L", 9), *pictures("RGB", 11)]).spec.channels == 3
    data = from_images([*pictures("RGB", 9), *pictures("L", 11)])
    assert data.spec.channels == 1
    grey = np.asarray(pictures("RGB", 9)[0].convert("L"))
    assert np.array_equal(whole(data)[0, 0].numpy(), grey)
    transparent = Image.new("RGBA", (12, 16), (9, 9, 9, 0))
    data = from_images([transparent, *pictures("RGB", 19)])
    assert data.spec.channels == 3
    assert whole(data)[0].unique().tolist() == [255]  # it lies over white


def test_a_pil_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("L", (8, 5))
    turned.info["exif"] = exif.tobytes()
    assert from_images([turned] * 10).spec.shape == (1, 8, 5)


def test_sizes_that_differ_are_counted_and_the_call_is_shown() -> None:
    mixed = [
        *pictures("L", 9),
        *pictures("L", 5, (9, 9)),
        *pictures("L", 3, (8, 9)),
        *pictures("L", 2, (7, 9)),
        *pictures("L", 1, (6, 9)),
    ]
    listed = "9 of 16x12, 5 of 9x9, 3 of 8x9, 3 of 2 other sizes; "
    with pytest.raises(DataError, match=listed) as caught:
        from_images(mixed)
    assert "[image.resize((12, 16)) for image in images]" in str(caught.value)
    assert from_images([image.resize((12, 16)) for image in mixed]).spec.shape == (1, 16, 12)
    with pytest.raises(DataError, match=r"transforms\.Resize\(\(16, 12\)\)"):
        from_images(Pairs(mixed))
    assert from_images(Pairs(mixed, transforms.Resize((16, 12)))).spec.shape == (1, 16, 12)
    with pytest.raises(DataError, match="1 of 9x8x3, 1 of 8x9x3"):
        from_images([drawn(9, 8, 3), drawn(8, 9, 3)])


OTHER_TYPES = {
    "number": (3, "images are a int"),
    "numbers": ([1, 2, 3], "image 0 is a int"),
    "none": (None, "images are a NoneType"),
    "empty": ([], "there are no images"),
    "path": (Path("a"), "folder:PATH"),
    "paths": (["a.png"], "folder:PATH"),
    "dict": ({"image": drawn(20, 9, 8)}, "give its images"),
    "dicts": ([{"image": drawn(9, 8)}], "by its keys image"),
    "images and labels": ((drawn(20, 9, 8, 3), np.arange(20)), "classes=10"),
    "grey images and labels": ((drawn(20, 9, 8), np.arange(20)), "classes=10"),
    "kinds": ([drawn(16, 12), *pictures("L", 1)], "give one kind"),
    "triples": ([(drawn(9, 8), 1, 2)] * 3, "not an image or a pair"),
    "loader": (DataLoader(TensorDataset(torch.zeros(9, 1, 9, 8))), r"loader\.dataset"),
}


@pytest.mark.parametrize(("given", "message"), OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_other_types_are_refused_with_what_to_give(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        from_images(given)
    assert "\n" not in str(caught.value)


def test_a_damaged_pil_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pictures("L", 1, (64, 64))[0].save(path)
    path.write_bytes(path.read_bytes()[:300])
    with Image.open(path) as damaged, pytest.raises(DataError, match="image 0 cannot be read"):
        from_images([damaged])


def test_a_dataset_of_torch_gives_images_labels_and_class_names() -> None:
    data = from_images(Pairs(pictures("RGB")))
    assert data.spec == genkit.DataSpec(3, 16, 12, 2)
    assert data.class_names == WORDS
    assert data.train.labels[:4].tolist() == [0, 1, 0, 1]
    assert data.test.labels.tolist() == [1, 1]
    assert whole(data).equal(whole(from_images(pictures("RGB"))))
    as_tensors = from_images(Pairs(pictures("RGB"), transforms.PILToTensor()))
    assert as_tensors.fingerprint() == data.fingerprint()
    as_arrays = from_images(Pairs(list(drawn(20, 16, 12, 3))))
    assert as_arrays.fingerprint() == data.fingerprint()


def test_parts_of_datasets_keep_their_labels_and_names() -> None:
    pairs = Pairs(pictures("RGB"))
    half = from_images(Subset(pairs, range(1, 20, 2)))
    assert half.train.labels.unique().tolist() == [1]
    assert half.class_names == WORDS
    both = from_images(ConcatDataset([pairs, pairs]))
    assert (len(both.train), len(both.test), both.class_names) == (36, 4, WORDS)


def test_tensor_datasets_and_torchvision_s() -> None:
    images, labels = torch.from_numpy(drawn(20, 3, 9, 8)), torch.arange(20) % 5
    data = from_images(TensorDataset(images, labels))
    assert whole(data).equal(images)
    assert data.classes == 5
    assert data.class_names is None
    assert from_images(TensorDataset(images)).classes is None
    assert from_images(FakeData(12, (3, 9, 8), 4)).spec.shape == (3, 9, 8)


def test_labels_are_integers_of_all_images_or_none() -> None:
    images = list(drawn(4, 9, 8))
    for label in (2, np.int32(2), np.uint8(2), torch.tensor(2), np.array(2)):
        assert from_images([(image, label) for image in images]).classes == 3
    assert from_images([(image, None) for image in images]).classes is None
    for label in (1.5, "cat", torch.zeros(40, dtype=torch.int64), torch.tensor(1.0)):
        with pytest.raises(DataError, match=r"the label of image 0 .*\[image for image, _ in"):
            from_images([(image, label) for image in images])
    with pytest.raises(DataError, match="1 of 4 images have no label"):
        from_images([(images[0], None), *((image, 1) for image in images[1:])])


def test_floats_of_a_transform_are_refused_with_the_transform_to_use() -> None:
    with pytest.raises(DataError, match=r"use transforms\.PILToTensor\(\) in place of"):
        from_images(Pairs(pictures("RGB"), transforms.ToTensor()))


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        while True:
            yield drawn(9, 8)


def test_an_iterable_dataset_and_one_without_length_are_refused() -> None:
    class NoLength(Dataset):
        def __getitem__(self, number: int) -> np.ndarray:
            return drawn(9, 8)

    for dataset in (Endless(), NoLength()):
        with pytest.raises(DataError, match="has no length"):
            from_images(dataset)


def test_random_transforms_leave_the_streams_alone_and_give_the_same_twice() -> None:
    def shift(image: Image.Image) -> Image.Image:
        turns = random.randrange(4) + np.random.randint(4)
        return image.rotate(90 * turns)

    steps = [transforms.RandomHorizontalFlip(), shift]
    dataset = Pairs(pictures("RGB", size=(9, 9)), transforms.Compose(steps))
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    first = from_images(dataset)
    drawn_after = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    assert drawn_after == (torch.rand(3).tolist(), random.random(), np.random.rand())
    assert from_images(dataset).fingerprint() == first.fingerprint()
    assert not whole(first).equal(whole(from_images(dataset.images)))


def test_genkit_trains_on_a_dataset_of_torch(tiny: type[genkit.Trainer]) -> None:
    dataset = Pairs(pictures("L"))
    how = {"dataset": dataset, "batch_size": 4, "device": "cpu", "progress": False}
    run = genkit.train(tiny, iterations=2, out="run", **how)
    assert run.info.dataset.class_names == WORDS
    resumed = genkit.resume("run", 3, trainer=tiny, dataset=dataset, progress=False)
    assert resumed.info.dataset.fingerprint == run.info.dataset.fingerprint
