"""Images of the Hugging Face Hub, and of Parquet files and image folders on disk.

The library ``datasets`` finds and downloads the files and reads the tables. The images themselves
are decoded by genkit, as files of a stranger are. No code of a dataset is run, and nothing is
unpickled: only :data:`READERS` are used.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from genkit import (
    ConfigError,
    DataError,
    DataRequest,
    DataUnavailableError,
    ImageData,
    ImageSource,
    collect_images,
    is_held_out,
)

from .options import HuggingFaceOptions

READERS_OF_FILES = ("cache", "imagefolder")
"""Readers of ``datasets`` whose tables may name files; ``cache`` is what was downloaded before."""
READERS = (*READERS_OF_FILES, "arrow", "parquet")
HELD_OUT_SPLITS = ("test", "validation", "valid", "val", "dev")
"""Names of splits for held-out images; the first that there is, and has labels if training has."""
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels")
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""A name on the Hub."""


@dataclass(frozen=True)
class _Part:
    """The rows of a split."""

    split: str
    images: Any
    """A ``datasets.Dataset``; its column ``column`` gives the bytes of the images, or paths."""
    column: str
    targets: list[Any]
    """Of the label column; empty if there is none."""
    held_out: bool | None
    """None: one image in ten is."""


def load(request: DataRequest) -> ImageData:
    """The images of ``hf:NAME`` or ``hf:PATH``.

    Training and held-out images are the splits ``train`` and ``test``, or ``validation``; where
    there is one split, or the user names it, one image in ten is held out, by a hash.
    """
    options = request.options or HuggingFaceOptions()
    path = _find_path(request)
    with _progress_bars(request.show_progress):
        builder = _make_builder(request, path, options.subset)
        rows = _prepare(builder, request, path)
    features = next(iter(rows.values())).features
    image_column = _find_image_column(features, options.image_column)
    label_column = _find_label_column(features, options.label_column)
    parts = _make_parts(rows, options.split, image_column, label_column)
    names, problem = _find_classes(parts, features.get(label_column))
    has_files = _reader(builder) in READERS_OF_FILES
    data = collect_images(
        request,
        [
            source
            for part in parts
            for source in _make_sources(part, names is not None, has_files, path)
        ],
        origin=str(path) if path else f"{request.argument} of the Hugging Face Hub",
        class_names=names,
        argument=str(path) if path else request.argument,
        files=[Path(file["filename"]) for part in parts for file in part.images.cache_files],
    )
    return replace(data, summary=f"{data.summary}; {problem}") if problem else data


def _find_path(request: DataRequest) -> Path | None:
    """The file or folder; None: the argument is a name on the Hub.

    Raises:
        DataError: it is neither.
    """
    argument = request.argument
    if not argument:
        raise DataError("name the dataset as hf:NAME, or as hf:PATH for a Parquet file or folder")
    path = request.argument_path
    if path.exists():
        return path.resolve()
    if NAME.fullmatch(argument) and not argument.startswith(".") and path.suffix != ".parquet":
        return None
    raise DataError(f"hf:{argument}: {argument} does not exist, and is no name on the Hub")


def _make_builder(request: DataRequest, path: Path | None, subset: str | None) -> Any:
    """What reads the tables.

    Raises:
        DataUnavailableError: the Hub does not answer, or has no such dataset.
        ConfigError: the subset has to be chosen.
        DataError: the format is not one that is read.
    """
    name, is_file = f"hf:{request.argument}", path is not None and path.is_file()
    if is_file and subset is not None:
        raise ConfigError(f"{name} is one file, which has no subsets: leave out --subset")
    try:
        if is_file:
            builder = datasets.load_dataset_builder("parquet", data_files=str(path))
        else:
            builder = datasets.load_dataset_builder(str(path or request.argument), subset)
    except ValueError as error:
        reason = _one_line(error).partition(" Example of usage")[0]
        if "onfig" in reason:  # "Config name is missing", "BuilderConfig … not found"
            raise ConfigError(f"{name}: choose one with --subset ({reason})") from None
        raise DataError(f"{name}: {_one_line(error)}") from None
    except (OSError, RuntimeError, DatasetsError) as error:
        if path is not None:
            raise DataError(f"{name}: {_one_line(error)}") from None
        raise DataUnavailableError(f"dataset {name} is not available: {_one_line(error)}") from None
    if (reader := _reader(builder)) not in READERS:
        raise DataError(f"{name} is in the format {reader}, not Parquet or a folder of images")
    if path is not None and not is_file:
        _check_inside(builder, path)
    return builder


def _check_inside(builder: Any, folder: Path) -> None:
    """Refuse a folder whose README names files that are elsewhere.

    Raises:
        DataError: naming the first.
    """
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if "://" in file or not Path(os.path.normpath(file)).is_relative_to(folder):
                raise DataError(f"hf:{folder}: its README names {file}, which is not in the folder")


def _reader(builder: Any) -> str:
    """The module of ``datasets`` that reads the tables."""
    module: str = type(builder).__module__
    return module.removeprefix("datasets.packaged_modules.").partition(".")[0]


def _prepare(builder: Any, request: DataRequest, path: Path | None) -> Any:
    """Rows by split; downloaded, if need be, and kept in the cache of ``datasets``."""
    name = f"hf:{request.argument}"
    if request.offline and path is None and not Path(builder.cache_dir).is_dir():
        raise DataUnavailableError(f"dataset {name} was not downloaded to {builder.cache_dir}")
    try:
        builder.download_and_prepare()
        return builder.as_dataset()
    except (OSError, RuntimeError, ValueError, DatasetsError) as error:
        reason = _one_line(error.__cause__ or error)
        if path is None and isinstance(error, OSError):
            raise DataUnavailableError(f"dataset {name} is not available: {reason}") from None
        raise DataError(f"{name} cannot be read: {reason}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _progress_bars(show: bool) -> Iterator[None]:
    """The bars of ``datasets``, which are shown by default."""
    if show or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _find_image_column(features: Any, given: str | None) -> str:
    """The column of the images.

    Raises:
        ConfigError: none is, or several are.
    """
    fitting = [name for name, feature in features.items() if _may_be_images(feature)]
    typed = [name for name in fitting if isinstance(features[name], datasets.Image)]
    if given is not None:
        if given in fitting:
            return given
        raise ConfigError(f"--image-column {given}: no column of images; {_describe(features)}")
    for name in IMAGE_COLUMNS:
        if name in fitting:
            return name
    if len(typed or fitting) == 1:
        return (typed or fitting)[0]
    raise ConfigError(f"choose the column of the images with --image-column; {_describe(features)}")


def _may_be_images(feature: Any) -> bool:
    """Whether a column may hold encoded images: as ``datasets`` or anybody else writes them."""
    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _find_label_column(features: Any, given: str | None) -> str | None:
    """The column of the labels; None: there is none.

    Raises:
        ConfigError: the given one does not exist.
    """
    if given is not None:
        if given in features:
            return given
        raise ConfigError(f"--label-column {given}: there is no such one; {_describe(features)}")
    for name in LABEL_COLUMNS:
        if name in features:
            return name
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    return classes[0] if len(classes) == 1 else None


def _describe(features: Any) -> str:
    return f"the columns are {', '.join(features)}"


def _make_parts(rows: Any, split: str | None, image: str, label: str | None) -> list[_Part]:
    """The rows to train on and those held out, or all of one split.

    Raises:
        ConfigError: it is not clear which split to train on, or there is no such one.
    """
    listed = ", ".join(rows)
    if split is not None and split not in rows:
        raise ConfigError(f"--split {split}: there is no such split; there are {listed}")
    training = split or ("train" if "train" in rows else next(iter(rows)))
    if training != split and training != "train" and len(rows) > 1:
        raise ConfigError(f"choose the split to train on with --split: {listed}")
    first = _make_part(rows[training], training, image, label, False)
    for name in HELD_OUT_SPLITS if split is None else ():
        if name in rows and name != training:
            part = _make_part(rows[name], name, image, label, True)
            if not any(map(_is_label, first.targets)) or all(map(_is_label, part.targets)):
                return [first, part]
    return [replace(first, held_out=None)]


def _make_part(rows: Any, split: str, image: str, label: str | None, held_out: bool) -> _Part:
    targets = [] if label is None else rows[label][:]
    images = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return _Part(split, images, image, targets, held_out)


def _is_label(target: Any) -> bool:
    return isinstance(target, int) and target >= 0


def _find_classes(parts: Sequence[_Part], feature: Any) -> tuple[tuple[str, ...] | None, str]:
    """Names of the classes, numbers where they have none; or None, and why there are no labels
    ("": there is no such column).
    """
    targets = [target for part in parts for target in part.targets]
    if not targets:
        return None, ""
    odd = next((target for target in targets if not _is_label(target)), None)
    if odd is not None or not all(map(_is_label, targets)):
        return None, f"no labels, as there are such as {str(odd)[:40]!r} in their place"
    if isinstance(feature, datasets.ClassLabel) and feature.names:
        return tuple(feature.names), ""
    return tuple(map(str, range(max(targets) + 1))), ""


def _make_sources(
    part: _Part, labelled: bool, has_files: bool, top: Path | None
) -> Iterator[ImageSource]:
    for number in range(len(part.images)):
        name = f"{part.split}/{number}"
        content: Path | partial[bytes] = partial(_read_bytes, part.images, part.column, number)
        path = part.images[number][part.column]["path"] if has_files else None
        if path:
            content = Path(path)
            name = str(content.relative_to(top)) if top in content.parents else name
        yield ImageSource(
            name=name,
            content=content,
            label=part.targets[number] if labelled else None,
            held_out=is_held_out(name) if part.held_out is None else part.held_out,
        )


def _read_bytes(images: Any, column: str, number: int) -> bytes:
    """An encoded image; b"" where the row has none, which is reported as what is no image. A path
    in its place is not followed: who wrote the table may name any file of this machine.
    """
    image = images[number][column]
    return (image and image["bytes"]) or b""
