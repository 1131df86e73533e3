"""Images that a program has one by one: lists of arrays, of tensors or of PIL images, and map-style
datasets of torch.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from ..errors import DataError
from .files.reading import Target, Unreadable, read_header, read_pixels
from .files.summary import list_sizes, usual_channels

BACKGROUND = "white"
"""Behind transparent pixels, where most images have none."""
LABELS_CALL = (
    "genkit.ImageData(genkit.Split(images, labels), genkit.Split(test_images, test_labels), "
    "'mine', classes=10)"
)


@dataclass(frozen=True)
class Items:
    """Images of one shape, and what is known of them."""

    pixels: np.ndarray
    """uint8 ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``; of PIL images the second."""
    kind: str
    """``"PIL image"``, ``"tensor"`` or ``"array"``."""
    labels: np.ndarray | None
    """int64 ``(N,)``."""
    class_names: tuple[str, ...] | None
    source: str

    @property
    def classes(self) -> int | None:
        """Number of classes."""
        if self.labels is None:
            return None
        return len(self.class_names) if self.class_names else int(self.labels.max()) + 1


def read_items(images: Any) -> Items:
    """Read every item once, in order, with random streams of its own.

    Transforms that draw random numbers so give the same images every time, and the streams of the
    program are left as they were.

    Args:
        images: a list or another iterable, or a map-style dataset, of uint8 images: PIL images of
            any mode, tensors ``(C, H, W)``, arrays ``(H, W, C)``, or either as ``(H, W)``. A pair
            ``(image, label)`` gives an integer label; names of classes are those of the dataset's
            attribute ``classes``.

    Raises:
        DataError: there are none, they differ in size, or one is of another kind.
    """
    _refuse_other_types(images)
    found = _Found(of_dataset=isinstance(images, Dataset))
    with _own_random_streams():
        for number, item in enumerate(_iterate(images)):
            found.add(number, item)
    labels = found.label_array()
    return Items(
        found.stack(),
        found.kind,
        labels=labels,
        class_names=None if labels is None else find_class_names(images),
        source=f"{type(images).__name__} in memory" if found.of_dataset else "images in memory",
    )


def fixing_call(images: Any) -> tuple[str, str] | None:
    """What images of another dtype are, and the call that makes them uint8; None: they are."""
    tensor = isinstance(images, Tensor)
    dtype = str(images.dtype)
    if dtype in ("torch.uint8", "uint8"):
        return None
    to = ".to(torch.uint8)" if tensor else '.astype("uint8")'
    if dtype in ("torch.bool", "bool"):
        return dtype, f"images{to} * 255"
    numbers = images.detach().double() if tensor else images  # torch has no minimum of uint16
    low, high = float(numbers.min()), float(numbers.max())
    given = f"{dtype} from {low:g} to {high:g}"
    if low != low or high != high:
        return f"{dtype} and hold NaN", "find out where it comes from"
    if "float" not in dtype:
        if low >= 0 and high <= 255:
            masks = "; if 1 is white, images * 255" if high == 1 else ""
            return given, f"images{to}{masks}"
        if low >= 0 and high <= 65535:
            return given, f"(images{'.float()' if tensor else ''} / 257).round(){to}"
    elif low >= 0 and high <= 1:
        return given, f"(images * 255).round(){to}"
    elif low >= -1 and high <= 1:
        return given, f"((images + 1) * 127.5).round(){to}"
    elif low >= 0 and high <= 255:
        return given, f"images.round(){to}"
    scaled = "(images - images.min()) / (images.max() - images.min())"
    return given, f"({scaled} * 255).round(){to}, if their lowest is black and their highest white"


def find_class_names(dataset: Any) -> tuple[str, ...] | None:
    """Names of the classes of a dataset of torch, also of a part of one; None: it has none."""
    if isinstance(dataset, ConcatDataset):
        names = {find_class_names(part) for part in dataset.datasets}
        return names.pop() if len(names) == 1 else None
    classes = getattr(dataset, "classes", None)
    if classes is None and isinstance(dataset, Subset):
        return find_class_names(dataset.dataset)
    if not isinstance(classes, list | tuple) or not classes:
        return None
    return tuple(str(name[0] if isinstance(name, tuple) and name else name) for name in classes)


class _Found:
    """What was read so far."""

    def __init__(self, of_dataset: bool) -> None:
        self.of_dataset = of_dataset
        self.kind = ""
        self.arrays: list[np.ndarray] = []
        self.labels: list[int | None] = []
        self.sizes: Counter[tuple[int, ...]] = Counter()

    def add(self, number: int, item: Any) -> None:
        """Add an image, or a pair of an image and its label."""
        image, label = self._unpack(number, item)
        kind, array = self._to_array(number, image)
        if self.kind and kind != self.kind:
            raise DataError(f"image 0 is a {self.kind}, but image {number} a {kind}: give one kind")
        self.kind = kind
        self.labels.append(self._check_label(number, label))
        self.sizes[array.shape[1:] if kind == "PIL image" else array.shape] += 1
        if len(self.sizes) == 1:  # the images of others are of no use
            self.arrays.append(array)

    def stack(self) -> np.ndarray:
        """All images."""
        if not self.sizes:
            raise DataError("there are no images: the list or dataset is empty")
        if len(self.sizes) > 1:
            raise DataError(self._describe_sizes())
        return np.stack(
            _to_usual_channels(self.arrays) if self.kind == "PIL image" else self.arrays
        )

    def label_array(self) -> np.ndarray | None:
        """int64 ``(N,)``; None: no image has a label."""
        missing = sum(label is None for label in self.labels)
        if missing == len(self.labels):
            return None
        if missing:
            raise DataError(
                f"{missing} of {len(self.labels)} images have no label: give all or none"
            )
        return np.array(self.labels, np.int64)

    def _unpack(self, number: int, item: Any) -> tuple[Any, Any]:
        if not isinstance(item, tuple | list):
            return item, None
        if len(item) == 1:
            return item[0], None
        if len(item) == 2:
            return item[0], item[1]
        raise DataError(
            f"image {number} is a {type(item).__name__} of {len(item)}, not an image or a pair "
            f"(image, label); for images and labels apart give {LABELS_CALL}"
        )

    def _to_array(self, number: int, image: Any) -> tuple[str, np.ndarray]:
        """The kind of an image, and its pixels, uint8; those of a PIL image are ``(C, H, W)``."""
        if isinstance(image, Image.Image):
            return "PIL image", _read_natural(number, image)
        if hasattr(image, "__array__") and not isinstance(image, Tensor):
            image = np.asarray(image)
        if not isinstance(image, Tensor | np.ndarray):
            if isinstance(image, str | Path | bytes):
                hint = "for the files of a folder give dataset='folder:PATH'"
            elif isinstance(image, dict):
                hint = f"give the image alone, or a pair, by its keys {', '.join(map(str, image))}"
            else:
                hint = "give a uint8 tensor or array, or a PIL image"
            raise DataError(f"image {number} is a {type(image).__name__}: {hint}")
        if image.ndim not in (2, 3) or 0 in image.shape:
            raise DataError(
                f"image {number} has the shape {tuple(image.shape)}, not that of an image, with or "
                f"without channels; for images and labels apart give {LABELS_CALL}"
            )
        self._check_dtype(number, image)
        if isinstance(image, Tensor):
            return "tensor", image.detach().cpu().numpy().copy()
        return "array", image.copy()

    def _check_dtype(self, number: int, image: Any) -> None:
        if (found := fixing_call(image)) is None:
            return
        given, call = found
        fix = f"[{call.replace('images', 'image')} for image in images]"
        if self.of_dataset:
            fix = (
                "use transforms.PILToTensor() in place of ToTensor() and of what follows it; for "
                f"images of your own, {call}"
            )
        raise DataError(f"image {number} is {given}, but must be uint8 from 0 to 255: {fix}")

    def _check_label(self, number: int, label: Any) -> int | None:
        if label is None or isinstance(label, int | np.integer):
            return None if label is None else int(label)
        if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
            value = label.item()
            if isinstance(value, int):
                return value
        kind = type(label).__name__
        if isinstance(label, Tensor | np.ndarray):
            kind += f" of {label.dtype} {tuple(label.shape)}"
        raise DataError(
            f"the label of image {number} is a {kind}, not an int: give [image for image, _ in "
            f"images] to train without labels; for images and labels apart, {LABELS_CALL}"
        )

    def _describe_sizes(self) -> str:
        """A line on sizes that differ; the most frequent first."""
        height, width = _sides(self.sizes.most_common(1)[0][0])
        if self.of_dataset:
            fix = f"give the dataset transform=transforms.Resize(({height}, {width}))"
        elif self.kind == "PIL image":
            fix = f"give [image.resize(({width}, {height})) for image in images]"
        else:
            fix = f"resize them, to {height}x{width} for example"
        return f"images differ in size (height x width): {list_sizes(self.sizes)}; {fix}"


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)``."""
    if len(shape) == 3:
        shape = shape[1:] if shape[0] <= 4 else shape[:2]
    return shape[0], shape[1]


def _read_natural(number: int, image: Image.Image) -> np.ndarray:
    """Pixels with the channels that the image has once it is grey, RGB or RGBA, ``(C, H, W)``."""
    try:
        header = read_header(image)
        target = Target(header.height, header.width, header.channels, "crop", BACKGROUND)
        return read_pixels(image, target)
    except Unreadable as error:
        raise DataError(f"image {number} cannot be read: {error}") from None


def _to_usual_channels(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Give all ``(C, H, W)`` the most channels that more than half of them have."""
    counts = Counter(len(array) for array in arrays)
    if len(counts) == 1:
        return arrays
    usual = usual_channels(counts)
    return [array if len(array) == usual else _convert(array, usual) for array in arrays]


def _convert(array: np.ndarray, channels: int) -> np.ndarray:
    """``(C, H, W)`` with another number of channels."""
    pixels = array[0] if len(array) == 1 else np.ascontiguousarray(np.moveaxis(array, 0, -1))
    image = Image.fromarray(pixels)
    return read_pixels(image, Target(image.height, image.width, channels, "crop", BACKGROUND))


def _refuse_other_types(images: Any) -> None:
    if isinstance(images, DataLoader):
        raise DataError("a DataLoader gives batches: give its dataset, loader.dataset")
    if isinstance(images, IterableDataset):
        raise DataError("an IterableDataset has no length: give list(dataset) if it ends")
    if isinstance(images, str | Path | bytes):
        raise DataError("for the files of a folder give dataset='folder:PATH'")
    if isinstance(images, dict):
        keys = ", ".join(map(str, images))
        raise DataError(f"a dict ({keys}) is no dataset: give its images; for labels {LABELS_CALL}")
    if not isinstance(images, Iterable) and not hasattr(images, "__getitem__"):
        raise DataError(
            f"images are a {type(images).__name__}: give a uint8 tensor or array, a list of images "
            f"or a dataset of torch; for labels {LABELS_CALL}"
        )


def _iterate(images: Any) -> Iterator[Any]:
    """The items in order. A dataset is read by its index, as many an iterator of one never ends."""
    if not isinstance(images, Dataset):
        yield from images
        return
    if not hasattr(images, "__len__"):
        raise DataError(f"{type(images).__name__} has no length: give list(dataset) if it ends")
    for number in range(len(images)):
        yield images[number]


@contextmanager
def _own_random_streams() -> Iterator[None]:
    """The global random streams start from one place inside, and go on as before behind."""
    states = random.getstate(), np.random.get_state()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
