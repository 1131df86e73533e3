"""What is in a dataset: sizes, kinds, classes, brightness, duplicates, and each file that
is not used.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..plugins.registry import Registry
from .datasets import DataRequest, ImageData, Notify, Split, load_dataset
from .files.collection import PictureRecord
from .files.reading import Header, perceptual_hash
from .files.summary import describe_size
from .images import from_uint8, grid
from .track import track

SHOWN = 64
"""Images in the picture."""
NEAR_BITS = 4
"""Perceptual hashes of 64 bits that differ in so few may be of pictures that look alike."""
NEAR_LEVELS = 8.0
"""They do if their thumbnails of 8x8 differ by so little on average, of 255."""
MAX_COMPARED = 30_000
"""With more perceptual hashes, only equal ones are of near duplicates."""
BLOCK_BYTES = 2**24
"""Of images that are looked at at a time."""
COMPARED_AT_ONCE = 1024
"""Images that are compared with all others at a time."""


@dataclass(frozen=True)
class Inspection:
    """What was found in a dataset."""

    data: ImageData
    unused: list[tuple[str, str]]
    """Files that are not used, and why."""
    sizes: list[tuple[str, int]]
    """Sizes of the files, ``HEIGHTxWIDTH``, and how many have each; empty: there are no files."""
    modes: list[tuple[str, int]]
    """Kinds of pictures, such as ``palette``, and how many there are of each."""
    classes: list[tuple[str, int, int]]
    """Name, training images and held-out images of each class."""
    mean: list[float]
    """Of each channel of the training images, in [0, 255]."""
    spread: list[float]
    """Standard deviation of each channel."""
    exact: list[list[str]]
    """Groups of images with the same pixels."""
    near: list[list[str]]
    """Groups of other images that look alike."""
    warnings: list[str]

    def picture(self) -> Image.Image:
        """A grid of the first training images, as a model sees them."""
        return grid(from_uint8(_evenly(self.data.train.images, SHOWN)))


def inspect(
    registry: Registry, name: str, request: DataRequest, notify: Notify = lambda line: None
) -> Inspection:
    """Read all of a dataset and look at every image.

    Args:
        registry: the installed plugins.
        name: the dataset, ``NAME`` or ``NAME:ARGUMENT``.
        request: root and options.
        notify: called with a line for each of the first files that cannot be used.

    Raises:
        GenkitError: the dataset cannot be read.
    """
    records: list[PictureRecord] = []
    data = load_dataset(registry, name, replace(request, records=records), notify)
    headers = [record.header for record in records if record.header]
    names = _names(data, records)
    exact, near = _duplicates(data, request.show_progress)
    mean, spread = _moments(data.train)
    return Inspection(
        data=data,
        unused=[(record.name, record.problem) for record in records if not record.header],
        sizes=Counter(describe_size((h.height, h.width)) for h in headers).most_common(),
        modes=Counter(header.mode for header in headers).most_common(),
        classes=list(_classes(data)),
        mean=mean,
        spread=spread,
        exact=[[names[number] for number in group] for group in exact],
        near=[[names[number] for number in group] for group in near],
        warnings=[*_of_sizes(headers, request), *_warnings(data, spread, exact)],
    )


def _of_sizes(headers: Sequence[Header], request: DataRequest) -> Iterator[str]:
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) > 1 and getattr(request.options, "image_size", None) is None:
        yield "the images differ in size: training on them needs --image-size; shown as most are"


def _names(data: ImageData, records: Sequence[PictureRecord]) -> list[str]:
    """A name for each image, training first."""
    used = [record.name for record in records if record.header]
    if len(used) == len(data.train) + len(data.test):
        return used
    training = [f"training image {number}" for number in range(len(data.train))]
    return training + [f"held-out image {number}" for number in range(len(data.test))]


def _classes(data: ImageData) -> Iterator[tuple[str, int, int]]:
    if data.classes is None or data.train.labels is None:
        return
    counts = []
    for labels in (data.train.labels, data.test.labels):
        found = torch.zeros(0, dtype=torch.int64) if labels is None else labels
        counts.append(torch.bincount(found, minlength=data.classes).tolist())
    names = data.class_names or tuple(map(str, range(data.classes)))
    yield from zip(names, *counts, strict=True)


def _blocks(split: Split) -> Iterator[np.ndarray]:
    """The images of a split, some at a time."""
    size = max(1, BLOCK_BYTES // split.images[0].numel()) if len(split) else 1
    for start in range(0, len(split), size):
        yield split.images[start : start + size].numpy()
        if split.release is not None:
            split.release()


def _moments(split: Split) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel."""
    total = squares = np.zeros(split.images.shape[1])
    for block in _blocks(split):
        values = block.astype(np.float64)
        total = total + values.sum((0, 2, 3))
        squares = squares + (values**2).sum((0, 2, 3))
    numbers = split.images[:, 0].numel()
    mean = total / numbers
    return mean.tolist(), np.sqrt(np.maximum(squares / numbers - mean**2, 0)).tolist()


def _duplicates(data: ImageData, show_progress: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Groups of images with the same pixels, and of other images that look alike, by number."""
    by_pixels: dict[bytes, list[int]] = defaultdict(list)
    hashes: list[int] = []
    thumbnails: list[Tensor] = []
    total = len(data.train) + len(data.test)
    with track("looking for duplicates", total, show_progress) as advance:
        for block in (block for split in (data.train, data.test) for block in _blocks(split)):
            thumbnails.append(F.adaptive_avg_pool2d(torch.from_numpy(block).float(), 8))
            for image in block:
                by_pixels[sha256(image.data).digest()].append(len(hashes))
                hashes.append(perceptual_hash(image))
                advance(1)
    first = [numbers[0] for numbers in by_pixels.values()]
    small = torch.cat(thumbnails).flatten(1)[first].numpy()  # (N, C * 8 * 8)
    alike = _groups_of_near(np.array([hashes[number] for number in first], np.uint64), small)
    exact = [same for same in by_pixels.values() if len(same) > 1]
    return exact, [[first[number] for number in group] for group in alike]


def _groups_of_near(hashes: np.ndarray, thumbnails: np.ndarray) -> list[list[int]]:
    """Groups of images whose hashes are equal or, of not too many images, nearly so, and whose
    thumbnails are close.
    """
    parent = list(range(len(hashes)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second in _candidates(hashes, thumbnails.mean(1)):
        if np.abs(thumbnails[first] - thumbnails[second]).mean() <= NEAR_LEVELS:
            parent[root(second)] = root(first)
    groups: dict[int, list[int]] = defaultdict(list)
    for number in range(len(hashes)):
        groups[root(number)].append(number)
    return [group for group in groups.values() if len(group) > 1]


def _candidates(hashes: np.ndarray, brightness: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of images that may look alike: of equal hashes, neighbours in brightness; and one of
    each of two hashes that are nearly equal, if there are not too many hashes.
    """
    order = np.lexsort((brightness, hashes))
    for before, after in pairwise(order.tolist()):
        if hashes[before] == hashes[after]:
            yield before, after
    distinct, first = np.unique(hashes, return_index=True)
    if len(distinct) > MAX_COMPARED:
        return
    for start in range(0, len(distinct), COMPARED_AT_ONCE):
        some = distinct[start : start + COMPARED_AT_ONCE, None]
        near = np.bitwise_count(some ^ distinct[None, start:]) <= NEAR_BITS
        for row, column in zip(*np.nonzero(np.triu(near, 1)), strict=True):
            yield int(first[start + row]), int(first[start + column])


def _warnings(
    data: ImageData, spread: Sequence[float], exact: Sequence[Sequence[int]]
) -> Iterator[str]:
    brightest = max(int(block.max()) for block in _blocks(data.train))
    if brightest <= 1:
        yield (
            "no value is above 1: these look like masks of 0 and 1, which are black to a model; "
            "multiply them by 255"
        )
    elif max(spread) < 1:
        yield "the images hardly differ from one colour"
    if data.classes is not None and data.train.labels is not None:
        counts = torch.bincount(data.train.labels, minlength=data.classes)
        for label in (counts == 0).nonzero().flatten().tolist():
            name = data.class_names[label] if data.class_names else label
            yield f"class {name} has no image to train on"
    if not len(data.test):
        yield "no image is held out: test losses and most metrics cannot be measured"
    training = len(data.train)
    shared = sum(number >= training for group in exact if group[0] < training for number in group)
    if shared:
        yield f"{shared:,} held-out images are copies of training images"


def _evenly(images: Tensor, count: int) -> Tensor:
    """``count`` images, or all if they are fewer, from all over the split."""
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return images[chosen]
