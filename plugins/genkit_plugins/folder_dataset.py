"""A folder of the user's images as a dataset, which treats every file as untrusted."""

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genkit import DataError, DataRequest, ImageData, Split, open_image

MAX_IMAGE_PIXELS = 4096 * 4096
MAX_MEMORY_BYTES = 2**30
"""Larger datasets are mapped from a temporary file."""
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
"""Suffix → the format that the file must have."""
Shape = tuple[int, int, int]
"""``(C, H, W)``."""


def folder(request: DataRequest) -> ImageData:
    """A folder of images of one size, searched recursively; every tenth by name is held out.

    Grey images stay grey, colour becomes RGB, transparency RGBA. Pixels of more than
    ``MAX_MEMORY_BYTES`` are mapped from a temporary file, of which the system keeps in memory what
    is in use.
    """
    if not request.argument:
        raise DataError("dataset folder: name the folder as folder:PATH")
    top = Path(request.argument).expanduser().resolve()
    if not top.is_dir():
        raise DataError(f"folder:{request.argument}: there is no folder {request.argument}")
    paths = _find(top, request)
    if request.shape is None:
        paths, shape = _select_shape(paths, request)
        most = len(paths)
    else:
        shape = request.shape
        most = len(paths) if request.limit is None else request.limit
    in_memory = most * math.prod(shape) <= MAX_MEMORY_BYTES
    with _PixelBuffer(shape, in_memory) as train, _PixelBuffer(shape, in_memory) as held_out:
        for number, image in enumerate(_read_images(paths, shape, request)):
            (held_out if number % 10 == 9 else train).add(image)
        if not train.count:
            suffixes = ", ".join(sorted(FORMATS))
            raise DataError(f"folder:{request.argument}: no images in {top} ({suffixes})")
        splits = Split(train.images()), Split(held_out.images())
    return ImageData(*splits, source=str(top), argument=str(top))


def _find(top: Path, request: DataRequest) -> list[Path]:
    """The files with a suffix of ``FORMATS``, by name."""
    found: Iterable[Path] = (
        path for path in top.rglob("*") if path.suffix.lower() in FORMATS and path.is_file()
    )
    if request.limit is not None and request.on_bad_image == "refuse":
        found = islice(found, request.limit + 1)  # one more than the limit is refused anyway
    return sorted(found)


class _PixelBuffer:
    """Images of one shape, in memory or in a nameless file that the system removes after use."""

    def __init__(self, shape: Shape, in_memory: bool) -> None:
        self.shape = shape
        self.count = 0
        self._memory = bytearray()
        self._file = None
        if not in_memory:
            self._file = tempfile.TemporaryFile(dir=_scratch())  # noqa: SIM115 (see __exit__)

    def __enter__(self) -> "_PixelBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, image: np.ndarray) -> None:
        """Append an image, uint8 ``(C, H, W)``."""
        try:
            if self._file:
                self._file.write(image.data)
            else:
                self._memory.extend(image.data.cast("B"))
        except OSError as error:
            size = math.prod(self.shape) * (self.count + 1) / 2**30
            raise DataError(
                f"{size:.1f} GiB of pixels do not fit in {_scratch()} ({error.strerror}); "
                "set TMPDIR to a folder with more space"
            ) from None
        self.count += 1

    def images(self) -> Tensor:
        """All images, uint8 ``(N, C, H, W)``."""
        size = (self.count, *self.shape)
        if not self.count:
            return torch.empty(size, dtype=torch.uint8)
        if not self._file:
            return torch.from_numpy(np.frombuffer(self._memory, np.uint8).reshape(size))
        self._file.flush()
        return torch.from_numpy(np.memmap(self._file, np.uint8, mode="c", shape=size))


def _scratch() -> str:
    """A folder for large temporary files: ``$TMPDIR``, else ``/var/tmp``, as ``/tmp`` may be in
    memory.
    """
    on_disk = Path("/var/tmp")
    usable = "TMPDIR" not in os.environ and on_disk.is_dir() and os.access(on_disk, os.W_OK)
    return str(on_disk) if usable else tempfile.gettempdir()


def _select_shape(paths: Iterable[Path], request: DataRequest) -> tuple[list[Path], Shape]:
    """The files of the most frequent shape, and that shape; only headers are read."""
    found: list[tuple[Path, Shape]] = []
    for path in paths:
        try:
            with _open_checked(path) as image:
                found.append((path, (_channels(image), image.height, image.width)))
        except ValueError as error:
            request.bad_image(path, str(error))
    if not found:
        return [], (1, 1, 1)
    (usual, _), *_ = Counter(shape for _, shape in found).most_common(1)
    example = next(path.name for path, shape in found if shape == usual)
    for path, shape in found:
        if shape != usual:
            sizes = f"{example} is {usual} and {path.name} is {shape}"
            request.bad_image(path, f"images differ in (channels, height, width): {sizes}")
    return [path for path, shape in found if shape == usual], usual


def _read_images(paths: Iterable[Path], shape: Shape, request: DataRequest) -> Iterator[np.ndarray]:
    """Yield the images of the files that can be used, each uint8 ``(C, H, W)``."""
    count = 0
    for path in paths:
        try:
            image = _decode(path)
            if image.shape != shape:
                raise ValueError(f"{image.shape} in (channels, height, width), not {shape}")
        except ValueError as error:
            request.bad_image(path, str(error))
            continue
        count += 1
        if request.limit is not None and count > request.limit:
            more = f"more than the {request.limit} images of the run"
            raise DataError(f"folder:{request.argument}: there are {more}")
        yield image


@contextmanager
def _open_checked(path: Path) -> Iterator[Image.Image]:
    """Open an image of the format of its suffix, and of a size and depth that can be used.

    Raises:
        ValueError: why it cannot be used; also if it turns out damaged inside the ``with``.
    """
    kind = FORMATS[path.suffix.lower()]
    with open_image(path, [kind], MAX_IMAGE_PIXELS) as image:
        if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
            raise ValueError(f"{image.mode} pixels of more than 8 bits; save it with 8")
        yield image


def _channels(image: Image.Image) -> int:
    """Channels of an image once it is grey, RGB or RGBA."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return 4
    return 1 if image.mode in ("1", "L") else 3


def _decode(path: Path) -> np.ndarray:
    """Read one file as uint8 ``(C, H, W)``.

    Raises:
        ValueError: why it cannot be used.
    """
    if FORMATS[path.suffix.lower()] == "PNG":  # Pillow reads one without its end, silently
        with _open_checked(path) as image:
            image.verify()
    with _open_checked(path) as image:
        array = np.array(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[_channels(image)]))
    return np.ascontiguousarray(np.moveaxis(array[..., None] if array.ndim == 2 else array, -1, 0))
