"""Every dataset of torchvision that gives images, alone or with a label.

Those that unpickle files are refused, as are videos, and images whose targets are other images,
boxes or captions.
"""

import difflib
import http.client
import inspect
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from genkit import (
    ConfigError,
    DataError,
    DataRequest,
    DataUnavailableError,
    ImageData,
    ImageSource,
    UnknownNameError,
    collect_images,
    is_held_out,
)

TIMEOUT_SECONDS = 10.0
"""A server that sends nothing for so long counts as absent."""

_UNPICKLES = "torchvision unpickles its files, which runs the code in them; "
_VIDEOS = "it gives videos, not images"
_BOXES = "its targets are boxes or polygons, not a label; train on its images by folder:PATH"
_MASKS = "its targets are images, not a label; train on its images by folder:PATH"
_CAPTIONS = "its targets are sentences, not a label; train on its images by folder:PATH"
_PAIRS = "it gives pairs of images"
_FOLDER = "for a folder of your own use folder:PATH"
REFUSED = {
    "CIFAR10": f"{_UNPICKLES}use --dataset cifar10, which reads the binary files",
    "CIFAR100": f"{_UNPICKLES}convert it to PNG files and use folder:PATH",
    "ImageNet": f"{_UNPICKLES}extract the images and use folder:PATH",
    "LSUN": f"{_UNPICKLES}export the images and use folder:PATH",
    "LSUNClass": f"{_UNPICKLES}export the images and use folder:PATH",
    "PhotoTour": f"{_UNPICKLES}extract the images and use folder:PATH",
    **dict.fromkeys(("HMDB51", "Kinetics", "MovingMNIST", "UCF101"), _VIDEOS),
    **dict.fromkeys(("CocoDetection", "Kitti", "VOCDetection", "WIDERFace"), _BOXES),
    **dict.fromkeys(("Cityscapes", "SBDataset", "VOCSegmentation"), _MASKS),
    **dict.fromkeys(("FlyingChairs", "FlyingThings3D", "HD1K", "KittiFlow", "Sintel"), _PAIRS),
    **dict.fromkeys(("CREStereo", "CarlaStereo", "ETH3DStereo", "FallingThingsStereo"), _PAIRS),
    **dict.fromkeys(("InStereo2k", "Kitti2012Stereo", "Kitti2015Stereo"), _PAIRS),
    **dict.fromkeys(("Middlebury2014Stereo", "SceneFlowStereo", "SintelStereo"), _PAIRS),
    "LFWPairs": f"{_PAIRS}; use torchvision:LFWPeople",
    **dict.fromkeys(("CocoCaptions", "Flickr30k", "Flickr8k", "SBU"), _CAPTIONS),
    **dict.fromkeys(("DatasetFolder", "ImageFolder", "VisionDataset"), _FOLDER),
}
"""Datasets of torchvision that are not read → why, and what to do."""
SPLITS = {
    "CLEVRClassification": ("train", "val"),  # its test images have no labels
    "LFWPeople": ("train", "test"),
    "Places365": ("train-standard", "val"),  # its test images have no labels
}
"""Where the training images are not torchvision's default or the held-out ones not its ``test``."""
HELD_OUT_SPLITS = ("test", "val", "valid")
"""Names of the held-out split elsewhere; the first that the dataset has."""


@dataclass(frozen=True)
class _Part:
    """A dataset of torchvision, and what it is used for."""

    name: str
    images: Any
    held_out: bool | None
    """None: one image in ten is."""


@dataclass(frozen=True)
class _Item:
    """An image, and what torchvision gives with it."""

    source: ImageSource
    target: Any


def torchvision_dataset(request: DataRequest) -> ImageData:
    """The images of ``torchvision:NAME``, in torchvision's layout under the data root.

    Training and held-out images are torchvision's where it has both; elsewhere, and of a split that
    the user names, one in ten is held out, by a hash of its number.
    """
    made_by = _find(request.argument)
    name = made_by.__name__
    _refuse_legacy_files(made_by, request.root)
    parts = _make_parts(made_by, request)
    items = [item for part in parts for item in _read_items(part)]
    problem = _find_label_problem(items)
    if problem is None:
        sources = [replace(item.source, label=int(item.target)) for item in items]
        names = _class_names(parts[0].images, 1 + max(int(item.target) for item in items))
    else:
        sources, names = [item.source for item in items], None
    origin = f"torchvision's {name} in {request.root}"
    data = collect_images(request, sources, origin=origin, class_names=names, argument=name)
    return replace(data, summary=f"{data.summary}; {problem}") if problem else data


def _find(name: str) -> Any:
    """The class of this name, in any case.

    Raises:
        UnknownNameError: torchvision has none.
        DataError: it has one that is not read.
    """
    from torchvision import datasets

    classes = [member for member in datasets.__all__ if inspect.isclass(getattr(datasets, member))]
    by_name = {member.lower(): member for member in classes}
    usable = sorted(set(classes) - set(REFUSED))
    if not name:
        raise UnknownNameError(f"name the dataset as torchvision:NAME, one of {', '.join(usable)}")
    if name.lower() not in by_name:
        close = difflib.get_close_matches(name.lower(), [one.lower() for one in usable], n=2)
        meant = f" (did you mean {' or '.join(by_name[one] for one in close)}?)" if close else ""
        raise UnknownNameError(
            f"torchvision has no dataset {name!r}{meant}; these are read: {', '.join(usable)}"
        )
    name = by_name[name.lower()]
    if name in REFUSED:
        raise DataError(f"torchvision:{name} is not read: {REFUSED[name]}")
    return getattr(datasets, name)


def _refuse_legacy_files(made_by: Any, root: Path) -> None:
    """MNIST and its kin unpickle the files that an old torchvision left, if there are some."""
    from torchvision.datasets import MNIST

    folder = root / made_by.__name__ / "processed"
    if issubclass(made_by, MNIST) and any(folder.glob("*.pt")):
        raise DataError(f"{folder} holds files that torchvision would unpickle: remove that folder")


def _make_parts(made_by: Any, request: DataRequest) -> list[_Part]:
    """The training and the held-out images, or all of them."""
    parameters = inspect.signature(made_by.__init__).parameters
    splits = "split" in parameters
    chosen = getattr(request.options, "split", None)
    if chosen is not None and not splits:
        raise ConfigError(f"torchvision:{made_by.__name__} has no splits to choose with --split")
    if "train" in parameters or issubclass(made_by, _mnist()):
        given = _needed_split(made_by, parameters, chosen)
        return [
            _Part("train", _make(made_by, request, train=True, **given), False),
            _Part("test", _make(made_by, request, train=False, **given), True),
        ]
    if chosen is not None:
        return [_Part(chosen, _make(made_by, request, split=chosen), None)]
    if not splits:
        return [_Part("", _make(made_by, request), None)]
    training, *held_out = SPLITS.get(made_by.__name__, (parameters["split"].default,))
    parts = [_Part(training, _make(made_by, request, split=training), False)]
    for name in held_out or HELD_OUT_SPLITS:
        try:
            return [*parts, _Part(name, _make(made_by, request, split=name), True)]
        except ConfigError:  # it has no split of this name
            continue
    return [replace(parts[0], held_out=None)]


def _mnist() -> Any:
    """Of which some have ``train`` among their keyword arguments only."""
    from torchvision.datasets import MNIST

    return MNIST


def _needed_split(made_by: Any, parameters: Any, chosen: str | None) -> dict[str, str]:
    """The split beside ``train`` of a dataset such as EMNIST, where it has no default."""
    if "split" not in parameters:
        return {}
    if chosen is None:
        raise ConfigError(
            f"torchvision:{made_by.__name__} has several sets of images: choose one with --split, "
            f"one of {', '.join(made_by.splits)}"
        )
    return {"split": chosen}


def _make(made_by: Any, request: DataRequest, **how: Any) -> Any:
    """One of torchvision's datasets; files that are absent are downloaded where it does that.

    Raises:
        DataUnavailableError: they are absent, and cannot be downloaded.
        DataError: a package is missing, or the split.
    """
    name = made_by.__name__
    parameters = inspect.signature(made_by.__init__).parameters
    may_download = "download" in parameters or issubclass(made_by, _mnist())
    if "root" in parameters:
        how["root"] = str(request.root)
    if "loader" in parameters:
        how["loader"] = Path  # the path of an image in place of the image: genkit reads it
    try:
        return made_by(**how, **({"download": False} if may_download else {}))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise DataError(f"torchvision:{name} needs {package}: pip install {package}") from None
    except ValueError as error:
        kind = ConfigError if "Unknown value" in str(error) else DataError
        raise kind(f"torchvision:{name}: {_one_line(error)}") from None
    except (RuntimeError, OSError) as error:
        absent = f"torchvision:{name} not found in {request.root}"
        if request.offline:
            raise DataUnavailableError(
                f"{absent}; pass --data-root with its folder ({_one_line(error)})"
            ) from None
        if not may_download:
            raise DataUnavailableError(
                f"{absent}, and torchvision does not download it ({_one_line(error)})"
            ) from None
    return _download(made_by, how, absent)


def _download(made_by: Any, how: dict[str, Any], absent: str) -> Any:
    try:
        Path(how["root"]).mkdir(parents=True, exist_ok=True)
        with _socket_timeout(TIMEOUT_SECONDS):
            return made_by(**how, download=True)
    except (RuntimeError, ValueError, OSError, http.client.HTTPException) as error:
        raise DataUnavailableError(
            f"{absent}, and the download failed ({_one_line(error)})"
        ) from None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # of a URLError, without its brackets
    return " ".join(str(reason).split()) or type(error).__name__


def _read_items(part: _Part) -> Iterator[_Item]:
    """The images of a part. Only those that are no files are read here, and later again."""
    for number in range(len(part.images)):
        image, target = _read(part.images, number)
        content = _find_file(image) or partial(_read_image, part.images, number)
        source = ImageSource(
            name=f"{part.name}/{number}" if part.name else str(number),
            content=content,
            held_out=is_held_out(str(number)) if part.held_out is None else part.held_out,
        )
        yield _Item(source, target)


def _find_file(image: Any) -> Path | None:
    """The file of a path, or of a PIL image that was opened and not read yet, which is closed."""
    if isinstance(image, Path):
        return image
    if not getattr(image, "filename", ""):
        return None
    image.close()
    return Path(image.filename)


def _read(dataset: Any, number: int) -> tuple[Any, Any]:
    """The image of this number, and its target; None: it has none."""
    item = dataset[number]
    return item if isinstance(item, tuple) else (item, None)


def _read_image(dataset: Any, number: int) -> Any:
    return _read(dataset, number)[0]


def _find_label_problem(items: Sequence[_Item]) -> str | None:
    """Why the images have no labels; "": they have no targets; None: each has a label."""
    problems = {_describe_target(item.target) for item in items if not _is_label(item.target)}
    if not problems:
        return None
    return f"no labels, as there are {max(problems)} in their place" if any(problems) else ""


def _is_label(target: Any) -> bool:
    value = target.item() if getattr(target, "shape", None) == () else target
    return isinstance(value, int) and value >= 0


def _describe_target(target: Any) -> str:
    """Targets that are no labels, in a few words; "": there is none."""
    if target is None:
        return ""
    if shape := tuple(getattr(target, "shape", ())):
        return f"tensors of {'x'.join(map(str, shape))}"
    return f"values of {target}" if isinstance(target, int) else f"a {type(target).__name__} each"


def _class_names(dataset: Any, count: int) -> tuple[str, ...]:
    """Names of the classes in the order of their labels; numbers where torchvision has none."""
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    by_name = getattr(dataset, "class_to_idx", None)
    if not names and by_name and sorted(by_name.values()) == list(range(len(by_name))):
        names = sorted(by_name, key=by_name.__getitem__)
    if not names or len(names) < count:
        return tuple(map(str, range(count)))
    return tuple(name[0] if isinstance(name, tuple) else str(name) for name in names)
