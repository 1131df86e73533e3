"""The built-in datasets that have a name: MNIST and its kin, CIFAR-10, and embedded digits.

Each is a function ``(request) -> ImageData``. Nothing is unpickled.
"""

import gzip
import hashlib
import http.client
import math
import os
import socket
import struct
import tarfile
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genkit import DataError, DataRequest, DataUnavailableError, ImageData, Split

CONNECT_TIMEOUT_SECONDS = 5.0
"""A network that does not answer within this time counts as absent."""
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_UBYTE = 0x08
CIFAR_IMAGES, CIFAR_RECORD_BYTES = 10_000, 1 + 3 * 32 * 32
"""Images in a file of CIFAR-10, and bytes of one: its label, then its pixels."""
MAX_UNPACKED_BYTES = 2**28


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
    """CIFAR-10 (Krizhevsky 2009), from its binary archive, as the one for Python holds pickles."""
    _refuse_argument("cifar10", request.argument)
    root = request.root
    folder = root / "cifar-10-batches-bin"
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    if not all((folder / name).is_file() for name in names):
        archive = root / "cifar-10-binary.tar.gz"
        addresses = ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
        md5 = "c32a1d4ab5d03f1284b67883e8d87530"
        _download("cifar10", addresses, archive, md5, request.offline)
        with tarfile.open(archive) as tar:
            for name in names:
                member = tar.extractfile(f"cifar-10-batches-bin/{name}")
                if member is None:
                    raise DataError(f"{archive} holds no {name}")
                folder.mkdir(parents=True, exist_ok=True)
                _write_atomically(folder / name, member.read(CIFAR_IMAGES * CIFAR_RECORD_BYTES))
    train = [_cifar_batch(folder / name) for name in names[:-1]]
    images, labels = (torch.cat(part) for part in zip(*train, strict=True))
    return ImageData(
        Split(images, labels),
        Split(*_cifar_batch(folder / names[-1])),
        source=str(folder),
        classes=10,
    )


def _cifar_batch(path: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 ``(10000, 3, 32, 32)`` and labels int64 ``(10000,)`` of one file."""
    size, expected = path.stat().st_size, CIFAR_IMAGES * CIFAR_RECORD_BYTES
    if size != expected:
        raise DataError(
            f"{path}: {size} bytes, not the {expected} of {CIFAR_IMAGES} images; "
            "delete it, and it is downloaded the next time"
        )
    content = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    records = content.view(CIFAR_IMAGES, CIFAR_RECORD_BYTES)
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


def digits(request: DataRequest) -> ImageData:
    """The 8x8 digits embedded in scikit-learn (Alpaydin & Kaynak 1998), enlarged to 28x28.

    Every sixth is held out.
    """
    _refuse_argument("digits", request.argument)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC))
        for image in small
    ]
    images = torch.from_numpy(np.stack(large))[:, None]  # (N, 1, 28, 28)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    held_out = torch.arange(len(images)) % 6 == 5
    return ImageData(
        Split(images[~held_out], labels[~held_out]),
        Split(images[held_out], labels[held_out]),
        source="scikit-learn's embedded digits",
        classes=10,
    )


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise DataError(f"dataset {name} takes no argument, not {argument!r}: use --dataset {name}")


def _idx_dataset(name: str, torchvision_name: str, request: DataRequest) -> ImageData:
    """A dataset of four IDX files in torchvision's layout; absent files are downloaded."""
    _refuse_argument(name, request.argument)
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
    train = Split(images[:, None], labels.long())
    test = Split(test_images[:, None], test_labels.long())
    return ImageData(train, test, source=str(raw), classes=10)


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes as uint8 of the shape in its header.

    The header is checked against the file's size before memory is allocated.

    Raises:
        DataError: the file is damaged, or of another type.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(4)
        is_idx = len(header) == 4 and header[:3] == bytes([0, 0, IDX_UBYTE])
        if not is_idx or not 1 <= header[3] <= 4:
            raise DataError(f"{path}: not an IDX file of unsigned bytes")
        lengths = file.read(4 * header[3])
        if len(lengths) != 4 * header[3]:
            raise DataError(f"{path}: its header is cut short")
        shape = struct.unpack(f">{header[3]}I", lengths)
        if size != 4 + len(lengths) + math.prod(shape):
            raise DataError(
                f"{path}: {size} bytes, but its header promises {shape}; "
                "delete it, and it is downloaded the next time"
            )
        data = np.fromfile(file, dtype=np.uint8)
    return torch.from_numpy(data.reshape(shape))


def _torchvision_source(name: str, file: str) -> tuple[list[str], str]:
    """The addresses that torchvision downloads a file from, and its MD5."""
    from torchvision import datasets  # only here: data on disk needs no torchvision

    source = getattr(datasets, name)
    return [mirror + file for mirror in source.mirrors], dict(source.resources)[file]


def _download(name: str, addresses: Iterable[str], path: Path, md5: str, offline: bool) -> None:
    """Download ``path`` from the first address that answers, by torchvision, which checks the MD5.

    Raises:
        DataUnavailableError: ``offline``, or no address answers.
        DataError: the folder cannot be written.
    """
    if offline:
        raise DataUnavailableError(
            f"dataset {name} not found in {path.parent}; pass --data-root with its folder"
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
            _run_with_timeout(_connect, address)
            with _socket_timeout(CONNECT_TIMEOUT_SECONDS):
                download_url(address, path.parent, path.name, md5)
        except (OSError, RuntimeError, urllib.error.URLError, http.client.HTTPException) as error:
            reasons.append(f"{host}: {getattr(error, 'strerror', None) or error}")
        else:
            return
    raise DataUnavailableError(
        f"dataset {name} not found in {path.parent}, and the download failed ({'; '.join(reasons)})"
    )


def _connect(address: str) -> None:
    """Open and close a connection to the host of an address, or to the proxy in front of it."""
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_SECONDS).close()


def _run_with_timeout(action: Callable[[str], None], address: str) -> None:
    """Call ``action`` in a thread with a time limit, because looking up a host has none."""
    outcome: list[OSError | None] = []

    def attempt() -> None:
        try:
            action(address)
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer within {CONNECT_TIMEOUT_SECONDS:g} s")
    if outcome[0] is not None:
        raise outcome[0]


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Give new sockets a time limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack a gzip archive of one file.

    Raises:
        DataError: it is damaged, or larger than ``MAX_UNPACKED_BYTES``.
    """
    try:
        with gzip.open(archive, "rb") as source:
            data = source.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive}: damaged ({error}); delete it, and it is downloaded the next time"
        ) from None
    if len(data) > MAX_UNPACKED_BYTES:
        raise DataError(f"{archive}: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    _write_atomically(target, data)


def _write_atomically(target: Path, data: bytes) -> None:
    """Write under a temporary name, then rename: a half-written file never counts as data."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    temporary.replace(target)
