"""The built-in datasets: each a function ``(request) -> ImageData``. Nothing here reads a pickle."""

import gzip
import hashlib
import http.client
import math
import os
import socket
import struct
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genkit import (
    DataError,
    DataRequest,
    DataUnavailableError,
    ImageData,
    Split,
    open_image,
)

ANSWER_SECONDS = 5.0
"""A network that has not answered by then counts as absent."""
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_UBYTE = 0x08
CIFAR_IMAGES, CIFAR_ROW = 10_000, 1 + 3 * 32 * 32
"""Images in a file of CIFAR-10, and bytes of one: its label, then its pixels."""
MAX_IMAGE_PIXELS = 4096 * 4096
MAX_UNPACKED_BYTES = 2**28
IN_MEMORY_BYTES = 2**30
"""Pixels of a folder that are kept in memory."""
Shape = tuple[int, int, int]
"""``(C, H, W)``."""
PICTURES = {
    **{
        ".png": "PNG",
        ".jpg": "JPEG",
        ".jpeg": "JPEG",
        ".bmp": "BMP",
        ".gif": "GIF",
        ".webp": "WEBP",
    },
    **{".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM"},
}
"""Suffix → the format that the file has to be in."""


def mnist(request: DataRequest) -> ImageData:
    """MNIST (LeCun et al. 1998)."""
    return _idx_dataset("mnist", "MNIST", request)


def fashion_mnist(request: DataRequest) -> ImageData:
    """Fashion-MNIST (Xiao et al. 2017)."""
    return _idx_dataset("fashion-mnist", "FashionMNIST", request)


def kmnist(request: DataRequest) -> ImageData:
    """Kuzushiji-MNIST (Clanuwat et al. 2018)."""
    return _idx_dataset("kmnist", "KMNIST", request)


def cifar10(request: DataRequest) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009), from its binary archive: the one for Python holds pickles."""
    _no_argument("cifar10", request.argument)
    root = request.root
    folder = root / "cifar-10-batches-bin"
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    if not all((folder / name).is_file() for name in names):
        archive = root / "cifar-10-binary.tar.gz"
        addresses = ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
        _download(
            "cifar10", addresses, archive, "c32a1d4ab5d03f1284b67883e8d87530", request.offline
        )
        with tarfile.open(archive) as tar:
            for name in names:
                member = tar.extractfile(f"cifar-10-batches-bin/{name}")
                if member is None:
                    raise DataError(f"{archive} holds no {name}")
                folder.mkdir(parents=True, exist_ok=True)
                _write_whole(folder / name, member.read(CIFAR_IMAGES * CIFAR_ROW))
    train = [_cifar_batch(folder / name) for name in names[:-1]]
    images, labels = (torch.cat(part) for part in zip(*train, strict=True))
    return ImageData(
        Split(images, labels),
        Split(*_cifar_batch(folder / names[-1])),
        source=str(folder),
        classes=10,
    )


def _cifar_batch(path: Path) -> tuple[Tensor, Tensor]:
    size, expected = path.stat().st_size, CIFAR_IMAGES * CIFAR_ROW
    if size != expected:
        raise DataError(
            f"{path}: {size} bytes, not the {expected} of {CIFAR_IMAGES} images; delete it to have it again"
        )
    rows = torch.from_numpy(np.fromfile(path, dtype=np.uint8)).view(CIFAR_IMAGES, CIFAR_ROW)
    return rows[:, 1:].reshape(-1, 3, 32, 32).contiguous(), rows[:, 0].long()


def digits(request: DataRequest) -> ImageData:
    """The 8x8 digits that scikit-learn embeds (Alpaydin & Kaynak 1998), enlarged to 28x28; every
    sixth is held out.
    """
    _no_argument("digits", request.argument)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)
    large = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC))
            for image in small
        ]
    )
    images = torch.from_numpy(large)[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    held_out = torch.arange(len(images)) % 6 == 5
    return ImageData(
        Split(images[~held_out], labels[~held_out]),
        Split(images[held_out], labels[held_out]),
        source="scikit-learn's embedded digits",
        classes=10,
    )


def folder(request: DataRequest) -> ImageData:
    """Any folder of images, all of one size, searched recursively; every tenth (by name) is held
    out.

    The channels are those of the files: grey stays grey, colour becomes RGB, transparency RGBA.
    Pixels of more than ``IN_MEMORY_BYTES`` go through a temporary file, of which the system keeps
    in memory what is in use.
    """
    if not request.argument:
        raise DataError("dataset folder: say which by folder:PATH")
    top = Path(request.argument).expanduser().resolve()
    if not top.is_dir():
        raise DataError(f"folder:{request.argument}: there is no folder {request.argument}")
    found: Iterable[Path] = (
        path for path in top.rglob("*") if path.suffix.lower() in PICTURES and path.is_file()
    )
    if (
        request.limit is not None and request.on_bad_image == "refuse"
    ):  # one more is too many: stop looking
        found = islice(found, request.limit + 1)
    paths = sorted(found)
    if request.shape is None:
        paths, shape = _of_one_shape(paths, request)
        most = len(paths)
    else:
        shape = request.shape
        most = len(paths) if request.limit is None else request.limit
    in_memory = most * math.prod(shape) <= IN_MEMORY_BYTES
    with _Pixels(shape, in_memory) as train, _Pixels(shape, in_memory) as held_out:
        for number, picture in enumerate(_read(paths, shape, request)):
            (held_out if number % 10 == 9 else train).add(picture)
        if not train.count:
            raise DataError(
                f"folder:{request.argument}: no images in {top} ({', '.join(sorted(PICTURES))})"
            )
        return ImageData(
            Split(train.images()), Split(held_out.images()), source=str(top), argument=str(top)
        )


class _Pixels:
    """Images of one shape, one behind the other: in memory, or in a nameless file that goes with
    its last user.
    """

    def __init__(self, shape: Shape, in_memory: bool) -> None:
        self.shape = shape
        self.count = 0
        self._memory = bytearray()
        self._file = None if in_memory else tempfile.TemporaryFile(dir=_scratch())  # noqa: SIM115 (see __exit__)

    def __enter__(self) -> "_Pixels":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, picture: np.ndarray) -> None:
        """Add a picture, uint8 ``(C, H, W)``."""
        try:
            if self._file:
                self._file.write(picture.data)
            else:
                self._memory.extend(picture.data.cast("B"))
        except OSError as error:
            room = f"{math.prod(self.shape) * (self.count + 1) / 2**30:.1f} GiB of pixels do not fit in {_scratch()}"
            raise DataError(
                f"{room} ({error.strerror}); set TMPDIR to where there is room"
            ) from None
        self.count += 1

    def images(self) -> Tensor:
        """All of them, uint8 ``(N, C, H, W)``."""
        size = (self.count, *self.shape)
        if not self.count:
            return torch.empty(size, dtype=torch.uint8)
        if not self._file:
            return torch.from_numpy(np.frombuffer(self._memory, np.uint8).reshape(size))
        self._file.flush()
        return torch.from_numpy(np.memmap(self._file, np.uint8, mode="c", shape=size))


def _scratch() -> str:
    """A folder for large temporary files: ``$TMPDIR``, else one that is on disk rather than in
    memory.
    """
    lasting = Path("/var/tmp")
    on_disk = "TMPDIR" not in os.environ and lasting.is_dir() and os.access(lasting, os.W_OK)
    return str(lasting) if on_disk else tempfile.gettempdir()


def _of_one_shape(paths: Iterable[Path], request: DataRequest) -> tuple[list[Path], Shape]:
    """The files whose headers promise the shape that most have, and that shape; none is decoded."""
    found: list[tuple[Path, Shape]] = []
    for path in paths:
        try:
            with _opened(path) as image:
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


def _read(paths: Iterable[Path], shape: Shape, request: DataRequest) -> Iterator[np.ndarray]:
    """The pictures of the files that can be used, each uint8 ``(C, H, W)``."""
    count = 0
    for path in paths:
        try:
            picture = _picture(path)
            if picture.shape != shape:
                raise ValueError(f"{picture.shape} in (channels, height, width), not {shape}")
        except ValueError as error:
            request.bad_image(path, str(error))
            continue
        count += 1
        if request.limit is not None and count > request.limit:
            raise DataError(
                f"folder:{request.argument}: there are more than the {request.limit} images of the run"
            )
        yield picture


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A file whose header is that of an image of the kind its name says, of a size and depth one
    can use.

    Raises:
        ValueError: it cannot be used, and why; also where the body of the ``with`` finds it
        damaged.
    """
    with open_image(path, [PICTURES[path.suffix.lower()]], MAX_IMAGE_PIXELS) as image:
        if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
            raise ValueError(f"{image.mode} pixels of more than 8 bits; save it with 8")
        yield image


def _channels(image: Image.Image) -> int:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return 4
    return 1 if image.mode in ("1", "L") else 3


def _picture(path: Path) -> np.ndarray:
    """One file as uint8 ``(C, H, W)``.

    Raises:
        ValueError: it cannot be used, and why.
    """
    if (
        PICTURES[path.suffix.lower()] == "PNG"
    ):  # which is read without a word where only its end is missing
        with _opened(path) as image:
            image.verify()
    with _opened(path) as image:
        array = np.array(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[_channels(image)]))
    return np.ascontiguousarray(np.moveaxis(array[..., None] if array.ndim == 2 else array, -1, 0))


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise DataError(f"dataset {name} takes no argument, but was given {argument!r}")


def _idx_dataset(name: str, torchvision_name: str, request: DataRequest) -> ImageData:
    """A dataset of four IDX files in torchvision's layout, downloaded where they are absent."""
    _no_argument(name, request.argument)
    raw = request.root / torchvision_name / "raw"
    for file in IDX_FILES:
        if not (raw / file).is_file():
            addresses, md5 = _torchvision_source(torchvision_name, f"{file}.gz")
            archive = raw / f"{file}.gz"
            _download(name, addresses, archive, md5, request.offline)
            _unpack(archive, raw / file)
    images, labels, test_images, test_labels = (read_idx(raw / file) for file in IDX_FILES)
    if images.dim() != 3 or test_images.dim() != 3:
        raise DataError(f"{raw}: the image files do not hold images")
    train, test = (
        Split(images[:, None], labels.long()),
        Split(test_images[:, None], test_labels.long()),
    )
    return ImageData(train, test, source=str(raw), classes=10)


def read_idx(path: Path) -> Tensor:
    """An IDX file of unsigned bytes as uint8; what its header claims is checked before anything is
    allocated.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(4)
        if (
            len(header) != 4
            or header[:2] != b"\0\0"
            or header[2] != IDX_UBYTE
            or not 1 <= header[3] <= 4
        ):
            raise DataError(f"{path}: not an IDX file of unsigned bytes")
        lengths = file.read(4 * header[3])
        if len(lengths) != 4 * header[3]:
            raise DataError(f"{path}: cut short in its header")
        shape = struct.unpack(f">{header[3]}I", lengths)
        if size != 4 + len(lengths) + math.prod(shape):
            raise DataError(
                f"{path}: {size} bytes, but its header promises {shape}; delete it to have it downloaded again"
            )
        data = np.fromfile(file, dtype=np.uint8)
    return torch.from_numpy(data.reshape(shape))


def _torchvision_source(name: str, file: str) -> tuple[list[str], str]:
    """Where torchvision gets a file, and its MD5. Imported here: data that is on disk needs no
    torchvision.
    """
    from torchvision import datasets

    source = getattr(datasets, name)
    return [mirror + file for mirror in source.mirrors], dict(source.resources)[file]


def _download(name: str, addresses: Iterable[str], path: Path, md5: str, offline: bool) -> None:
    """Fetch the first address that answers, to ``path``; torchvision shows the progress and checks
    the sum.
    """
    if offline:
        raise DataUnavailableError(
            f"{name} is not in {path.parent}; say where it is by --data-root"
        )
    from torchvision.datasets.utils import download_url

    if path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{name}: cannot write to {path.parent}: {error.strerror}") from None
    reasons = []
    for address in addresses:
        host = urlsplit(address).hostname or ""
        try:
            _wait_for(_connect, address)
            with _answer_within(ANSWER_SECONDS):
                download_url(address, path.parent, path.name, md5)
        except (OSError, RuntimeError, urllib.error.URLError, http.client.HTTPException) as error:
            reasons.append(f"{host}: {getattr(error, 'strerror', None) or error}")
        else:
            return
    raise DataUnavailableError(
        f"{name} is not in {path.parent} and cannot be downloaded ({'; '.join(reasons)})"
    )


def _connect(address: str) -> None:
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname or "", port), ANSWER_SECONDS).close()


def _wait_for(action: Callable[[str], None], address: str) -> None:
    """Run ``action`` for at most ANSWER_SECONDS: a look-up of a name has no time limit of its own."""
    outcome: list[OSError | None] = []

    def attempt() -> None:
        try:
            action(address)
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")
    if outcome[0] is not None:
        raise outcome[0]


@contextmanager
def _answer_within(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unpack(archive: Path, target: Path) -> None:
    try:
        with gzip.open(archive, "rb") as source:
            data = source.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive}: damaged ({error}); delete it to have it downloaded again"
        ) from None
    if len(data) > MAX_UNPACKED_BYTES:
        raise DataError(f"{archive}: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    _write_whole(target, data)


def _write_whole(target: Path, data: bytes) -> None:
    """Write next to the final name, then rename, so that a half-written file never counts as data."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    temporary.replace(target)
