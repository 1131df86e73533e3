"""Datasets: images as plugins give them, checked, and found by name."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import (
    ConfigError,
    ContractError,
    DataError,
    DataUnavailableError,
    UnknownNameError,
    attribute_errors,
)
from ..hookspecs import Dataset
from ..interfaces import DataSpec
from ..plugins.registry import Registry

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Images of one split, and their labels where there are any."""

    images: Tensor
    """uint8 ``(N, C, H, W)``."""
    labels: Tensor | None = None
    """int64 ``(N,)``."""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise DataError(
                f"images must be uint8 (N, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels is not None and (
            self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]
        ):
            given = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise DataError(
                f"labels must be int64 ({len(self.images)},), one for each image, not {given}"
            )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageData:
    """A dataset: what a dataset plugin's target returns. Images may be mapped from a file, and are
    read as needed.
    """

    train: Split
    test: Split
    """Held-out images; may be empty."""
    source: str
    """Where the images came from, for people: a folder, an address, a package."""
    classes: int | None = None
    """Number of labels, or None without labels."""
    argument: str | None = None
    """The argument that finds the same images from any working directory; None: the one that was
    given.
    """

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise DataError(f"no training images in {self.source}")
        for name, split in (("training", self.train), ("held-out", self.test)):
            if not len(split):
                continue
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"the {name} images from {self.source} are of another shape than the training images"
                )
            if (split.labels is None) != (self.classes is None):
                raise DataError(
                    f"{self.source}: give classes and labels for both splits, or neither"
                )
            if split.labels is not None and self.classes is not None:
                low, high = int(split.labels.min()), int(split.labels.max())
                if low < 0 or high >= self.classes:
                    raise DataError(
                        f"the {name} labels from {self.source} go from {low} to {high}, not 0 to classes - 1"
                    )

    @property
    def spec(self) -> DataSpec:
        """What a model may know of this dataset."""
        _, channels, height, width = self.train.images.shape
        return DataSpec(channels, height, width, self.classes)

    def fingerprint(self) -> str:
        """SHA-256 of the training images' shape and pixels, and of their labels."""
        digest = hashlib.sha256(str(tuple(self.train.images.shape)).encode())
        digest.update(self.train.images.contiguous().numpy().data)
        if self.train.labels is not None:
            digest.update(self.train.labels.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class DataRequest:
    """What a dataset is asked for; it is called with this."""

    root: Path
    """The data root: where downloads go."""
    argument: str = ""
    """What follows the colon in ``--dataset NAME:ARGUMENT``."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    limit: int | None = None
    """How many images there are in all, where that is known from a run: whoever finds more can
    stop.
    """
    shape: tuple[int, int, int] | None = None
    """Their ``(C, H, W)``, where that is known from a run."""
    offline: bool = False
    """Whether nothing may be downloaded or written: what is not there raises
    :class:`genkit.DataUnavailableError`.
    """
    skipped: list[str] = field(default_factory=list)
    """What was passed over, and why; genkit says it to the user."""

    def bad_image(self, path: Path, reason: str) -> None:
        """Called for a file that is no image one can use: note it and return, or refuse, as the
        user has chosen.

        Raises:
            DataError: the user did not choose ``on_bad_image="skip"``.
        """
        if self.on_bad_image == "refuse":
            raise DataError(
                f"{path}: {reason}; mend it, or pass over such files by --on-bad-image skip"
            )
        self.skipped.append(f"{path}: {reason}")


def data_root(given: Path | None) -> Path:
    """``given``, else ``$GENKIT_DATA``, else the user's cache folder."""
    chosen = given or os.environ.get("GENKIT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return cache_folder() / "data"


def cache_folder() -> Path:
    """genkit's folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "genkit"


def load_dataset(
    registry: Registry, name: str, request: DataRequest, notify: Notify = lambda line: None
) -> ImageData:
    """The dataset ``name``, or ``name:argument``; the files that were passed over are said through
    ``notify``.

    Raises:
        UnknownNameError: no plugin provides it.
        DataError: the images are missing, damaged or of the wrong kind.
        ContractError: the dataset's target gave something else than images.
    """
    name, _, argument = name.partition(":")
    request = replace(request, argument=argument, skipped=[])
    try:
        load = registry.find(Dataset, name).target()
    except UnknownNameError:
        if not Path(name).is_dir():
            raise
        raise UnknownNameError(
            f"unknown dataset {name!r}; for the images in that folder say folder:{name}"
        ) from None
    with attribute_errors(f"dataset {name}", "to load"):
        loaded = load(request)
    if not isinstance(loaded, ImageData):
        raise ContractError(
            f"dataset {name} gave {type(loaded).__name__}, not genkit.ImageData; tell its author"
        )
    for line in request.skipped[:MAX_LISTED_SKIPS]:
        notify(f"skipped {line}")
    if request.skipped:
        left = len(loaded.train) + len(loaded.test)
        notify(f"skipped {len(request.skipped)} files in all; {left} images are left")
    return loaded


MAX_LISTED_SKIPS = 10
"""Skipped files that are named one by one."""


def load_preferred(
    registry: Registry, names: Sequence[str], request: DataRequest, notify: Notify
) -> tuple[str, ImageData]:
    """The first of ``names`` that is to be had, and its name; whatever was passed over is said
    through ``notify``.

    Raises:
        ConfigError: the model prefers no dataset.
        DataUnavailableError: none of them is to be had.
    """
    if not names:
        raise ConfigError(
            "this model prefers no dataset: name one by --dataset (`genkit datasets` lists them)"
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


def from_images(images: Any) -> ImageData:
    """A dataset from uint8 images in memory, as a notebook has them; every tenth is held out (of
    ten or more).

    Args:
        images: a tensor ``(N, H, W)`` or ``(N, C, H, W)``; or whatever numpy makes an array ``(N,
            H, W)`` or ``(N, H, W, C)`` of, a list of PIL images for one.

    Raises:
        DataError: not uint8, or another shape.
    """
    if isinstance(images, Tensor):
        tensor = images.detach().cpu()
        tensor = tensor[:, None] if tensor.dim() == 3 else tensor
    else:
        try:
            array = (
                np.asarray(images)
                if isinstance(images, np.ndarray)
                else np.stack([np.asarray(i) for i in images])
            )
        except (TypeError, ValueError) as error:
            raise DataError(
                f"images have to be a tensor, an array or a list of images of one size ({error})"
            ) from None
        if array.dtype != np.uint8:
            raise DataError(_NOT_UINT8.format(array.dtype))
        array = array[..., None] if array.ndim == 3 else array
        tensor = (
            torch.from_numpy(np.moveaxis(array, -1, 1).copy())
            if array.ndim == 4
            else torch.from_numpy(array.copy())
        )
    if tensor.dtype != torch.uint8:
        raise DataError(_NOT_UINT8.format(tensor.dtype))
    held_out = torch.arange(len(tensor)) % 10 == 9
    return ImageData(Split(tensor[~held_out]), Split(tensor[held_out]), source="images in memory")


_NOT_UINT8 = "images are {}, but must be uint8 from 0 to 255: for floats in [0, 1], (images * 255).round().to(torch.uint8)"
