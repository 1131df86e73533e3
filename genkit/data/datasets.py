"""Datasets: what a dataset plugin returns, what it is called with, and loading by name."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import OnBadImage
from ..errors import (
    ConfigError,
    ContractError,
    DataError,
    DataUnavailableError,
    attribute_errors,
    printable,
)
from ..interfaces import DataSpec
from ..plugins.registry import Registry
from ..rng import Rng
from .dataset_options import find_dataset, make_options

HASHED_IMAGES = 4096
"""Images that are hashed at a time, so that few of a mapped file are in memory at once."""
MAX_LISTED_SKIPS = 10
"""Skipped files that are listed; of the others only the number is shown."""

Notify = Callable[[str], None]
"""Shows one line to the user."""
Augment = Callable[[Tensor, Rng], Tensor]
"""Changes training batches, see :attr:`ImageData.augment`."""


@dataclass(frozen=True)
class Split:
    """Images of one split, and their labels, if any.

    Raises:
        DataError: a tensor of another dtype or shape.
    """

    images: Tensor
    """uint8 ``(N, C, H, W)``."""
    labels: Tensor | None = None
    """int64 ``(N,)``."""
    release: Callable[[], None] | None = None
    """For images that are mapped from a file: lets go of the memory that was read so far. Such a
    split is streamed, and never copied to the device as a whole.
    """
    known_fingerprint: str | None = None
    """What :meth:`fingerprint` gives, where whoever made the split has computed it."""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            given = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise DataError(f"images must be uint8 (N, C, H, W), not {given}")
        if self.labels is not None and (
            self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]
        ):
            given = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise DataError(
                f"labels must be int64 ({len(self.images)},), one for each image, not {given}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """SHA-256 of the shape, pixels and labels."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for start in range(0, len(self), HASHED_IMAGES):
            digest.update(self.images[start : start + HASHED_IMAGES].contiguous().numpy().data)
            if self.release is not None:
                self.release()
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


def combine_fingerprints(training: str, held_out: str) -> str:
    """The fingerprint of a dataset, from those of its splits."""
    return hashlib.sha256(f"{training} {held_out}".encode()).hexdigest()


@dataclass(frozen=True)
class ImageData:
    """A dataset: what a dataset plugin's target returns.

    Images may be mapped from a file and are then read as needed.

    Raises:
        DataError: there are no training images, or the splits do not match.
    """

    train: Split
    test: Split
    """Held-out images; may be empty."""
    source: str
    """Where the images came from, for the reader: a folder, an address, a package."""
    classes: int | None = None
    """Number of classes K; labels are 0 to K - 1. None: there are no labels."""
    argument: str | None = None
    """An argument that finds the same images from any working directory; None: the one given."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes 0 to K - 1; None: they have none."""
    summary: str | None = None
    """One line on what was read and what was done to it; shown, and kept in the run."""
    augment: Augment | None = None
    """Called as ``augment(images, rng)`` on every training batch, on the device: float ``(B, C, H,
    W)`` in [-1, 1] → the same. It is captured with the step, so it changes no input in place, draws
    from ``rng`` alone and reads nothing on the host.
    """

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise DataError(f"no training images in {self.source}")
        if self.class_names is not None and len(self.class_names) != (self.classes or 0):
            counts = f"{len(self.class_names)} class_names for {self.classes or 0} classes"
            raise DataError(f"{self.source}: {counts}")
        for name, split in (("training", self.train), ("held-out", self.test)):
            if not len(split):
                continue
            if split.images.shape[1:] != self.train.images.shape[1:]:
                shapes = f"{tuple(split.images.shape[1:])}, not {self.spec.shape}"
                raise DataError(f"the {name} images from {self.source} are {shapes}")
            if (split.labels is None) != (self.classes is None):
                raise DataError(
                    f"{self.source}: give classes and labels for both splits, or neither"
                )
            if split.labels is not None and self.classes is not None:
                low, high = int(split.labels.min()), int(split.labels.max())
                if low < 0 or high >= self.classes:
                    expected = f"not 0 to {self.classes - 1} (classes - 1)"
                    raise DataError(
                        f"the {name} labels from {self.source} go from {low} to {high}, {expected}"
                    )

    @property
    def spec(self) -> DataSpec:
        """Shape of the images and number of classes: what a model is built from."""
        _, channels, height, width = self.train.images.shape
        return DataSpec(channels, height, width, self.classes)

    def fingerprint(self) -> str:
        """SHA-256 of the shapes, pixels and labels of the training and the held-out images."""
        return combine_fingerprints(self.train.fingerprint(), self.test.fingerprint())


@dataclass(frozen=True)
class DataRequest:
    """What a dataset's target is called with."""

    root: Path
    """The data root: the folder of downloads."""
    argument: str = ""
    """What follows the colon in ``--dataset NAME:ARGUMENT``."""
    options: Any = None
    """The options of the dataset: an instance of the ``config`` of its entry; None where it names
    none.
    """
    on_bad_image: OnBadImage = "skip"
    """What :meth:`bad_image` does."""
    limit: int | None = None
    """Number of images of a run whose dataset is read again, else None; with more, stop reading."""
    shape: tuple[int, int, int] | None = None
    """``(C, H, W)`` of the images of such a run, else None."""
    offline: bool = False
    """Download and write nothing; absent images raise :class:`genkit.DataUnavailableError`."""
    legacy: bool = False
    """The run is of a genkit that knew no options of datasets: read the images as it did."""
    show_progress: bool = False
    """Whether long work shows a bar on standard error."""
    skipped: list[str] = field(default_factory=list)
    """Files skipped and why; genkit shows them to the user."""
    records: list[Any] | None = None
    """A list to which :func:`genkit.collect_images` adds what it finds of each picture; it decodes
    all of them then, whatever is in the cache.
    """

    @property
    def argument_path(self) -> Path:
        """The argument as an absolute path, with a ``~`` at its start resolved.

        Raises:
            DataError: there is no such home directory, or the system knows no such paths.
        """
        return argument_path(self.argument)

    def bad_image(self, path: Path, reason: str) -> None:
        """Record a file that cannot be used as skipped, or refuse the dataset.

        Raises:
            DataError: ``on_bad_image`` is ``"refuse"``.
        """
        if self.on_bad_image == "refuse":
            hint = "repair or remove it, or skip such files with --on-bad-image skip"
            raise DataError(f"{path}: {reason}; {hint}")
        self.skipped.append(f"{path}: {reason}")


NO_DATA_ROOT = Path(os.devnull, "no-home-directory")
"""The data root of a user without a home directory: nothing is there, and nothing can be written
there. A dataset that downloads nothing does not miss it.
"""
NO_HOME = (
    "this user has no home directory to keep files in: set XDG_CACHE_HOME or GENKIT_DATA, "
    "or pass --data-root"
)


def data_root(given: Path | None) -> Path:
    """``given``, else ``$GENKIT_DATA``, else the user's cache folder, else :data:`NO_DATA_ROOT`.

    Raises:
        DataError: the folder begins with ``~``, and there is no home directory.
    """
    chosen = given or os.environ.get("GENKIT_DATA")
    if chosen:
        return expand_home(Path(chosen))
    try:
        return cache_folder() / "data"
    except DataError:
        return NO_DATA_ROOT


def cache_folder() -> Path:
    """genkit's folder in the user's cache.

    Raises:
        DataError: the user has no home directory, as in a container.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache:
        return Path(cache) / "genkit"
    try:
        return Path.home() / ".cache" / "genkit"
    except RuntimeError:
        raise DataError(NO_HOME) from None


@contextmanager
def _no_root_errors(dataset: str) -> Iterator[None]:
    """What fails because it needs :data:`NO_DATA_ROOT` says what to set.

    Raises:
        DataUnavailableError: in the place of that error.
    """
    try:
        yield
    except Exception as error:
        if str(NO_DATA_ROOT) in str(error):
            raise DataUnavailableError(f"dataset {dataset}: {NO_HOME}") from error
        raise


def expand_home(path: Path) -> Path:
    """``path`` with ``~`` resolved.

    Raises:
        DataError: there is no such home directory.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise DataError(
            f"{path}: there is no home directory for {path.parts[0]}; give the whole path"
        ) from None


def argument_path(argument: str) -> Path:
    """The argument of a dataset as an absolute path; see :attr:`DataRequest.argument_path`."""
    path = Path(argument)
    if argument.startswith("~"):  # which a path forgets of "./~"
        path = expand_home(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # whether it has to exist is the dataset's to say
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{printable(argument)[:80]}: {reason}") from None
    return path.absolute()


def load_dataset(
    registry: Registry, name: str, request: DataRequest, notify: Notify = lambda line: None
) -> ImageData:
    """Load the dataset ``name`` or ``name:argument``.

    Args:
        registry: the installed plugins.
        name: the dataset, with its argument behind a colon.
        request: root and options; the argument is set here. Its options may be an instance of the
            dataset's ``config``, values by name, or None for the defaults.
        notify: called with a line for each of the first skipped files, and for their number.

    Raises:
        UnknownNameError: no plugin provides it.
        ConfigError: an option that the dataset does not have.
        DataError: the images are missing, damaged or of the wrong kind.
        PluginError: the dataset's target or its options failed.
        ContractError: it did not return :class:`genkit.ImageData`.
    """
    registered, argument = find_dataset(registry, name)
    options = make_options(registered, request.options)
    request = replace(request, argument=argument, options=options, skipped=[])
    load, name = registered.target(), registered.entry.name
    with _no_root_errors(name), attribute_errors(f"dataset {name}", "to load"):
        loaded = load(request)
    if not isinstance(loaded, ImageData):
        given = type(loaded).__name__
        raise ContractError(
            f"dataset {name} gave {given}, not genkit.ImageData; report this to its author"
        )
    for line in request.skipped[:MAX_LISTED_SKIPS]:
        notify(f"skipped {line}")
    if more := len(request.skipped[MAX_LISTED_SKIPS:]):
        notify(f"skipped {more} more")
    if request.skipped and loaded.summary is None:
        left = len(loaded.train) + len(loaded.test)
        notify(f"skipped {len(request.skipped)} files in all; {left} images are left")
    return loaded


def load_preferred(
    registry: Registry, names: Sequence[str], request: DataRequest, notify: Notify
) -> tuple[str, ImageData]:
    """Load the first available dataset of ``names``; returns its name and its images.

    ``notify`` is called with a line for each dataset that was not available.

    Raises:
        ConfigError: ``names`` is empty.
        DataUnavailableError: none is available.
    """
    if not names:
        raise ConfigError(
            "this model prefers no dataset: pass --dataset NAME (`genkit list datasets` shows them)"
        )
    problems: list[str] = []
    for name in names:
        try:
            data = load_dataset(registry, name, request, notify)
        except DataUnavailableError as error:
            problems.append(str(error))
        else:
            for problem in problems:
                notify(f"{problem}; training on {name} instead ({data.source})")
            return name, data
    raise DataUnavailableError("; ".join(problems))
