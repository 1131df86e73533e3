"""A folder of the user's pictures as a dataset: which files are used, their classes, their split.

Every file is untrusted; :func:`genkit.collect_images` reads them.
"""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from genkit import DataError, DataRequest, ImageData, ImageSource, collect_images, is_held_out

TRAINING = "train"
HELD_OUT = ("test", "val", "valid", "validation")
"""Names of subfolders that are the split; of those for held-out images, the first that there is."""
RUN_FILE = "run.json"
"""A folder that holds one is genkit's own output."""
MAX_COUNTED = 100_000
"""Files of folders that are left out are counted up to this number."""
FILES_PER_IMAGE, SPARE_FILES = 100, 10_000
"""A run's folder may hold so many files for each image of the run, and so many more."""
REPORTED = {
    "dangling link": "a link to nothing",
    "unreadable": "cannot be read: permission denied",
}
"""What may have been a picture, and why it is none."""
LEGACY_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
"""Of the files that genkit read before datasets had options."""


def folder(request: DataRequest) -> ImageData:
    """Pictures of any size and kind in a folder, searched recursively.

    Subfolders ``train`` and ``test`` are the split where both exist; otherwise one image in ten is
    held out, by a hash of its path. Subfolders are classes where every image lies in one of two or
    more, as in torchvision's ``ImageFolder``.
    """
    if not request.argument:
        raise DataError("dataset folder: name the folder as folder:PATH")
    top = _find_top(request)
    found = _Scan(top, request)
    found.scan()
    if request.legacy:
        sources, names = _legacy_sources(found), None
    else:
        sources, names = _make_sources(found)
    remarks = [] if names or request.legacy else found.why_no_classes()
    return collect_images(
        request,
        sources,
        origin=str(top),
        class_names=names,
        argument=str(top),
        left_out=found.left_out,
        remarks=remarks,
    )


def _find_top(request: DataRequest) -> Path:
    try:
        top = request.argument_path.resolve()
        if not top.is_dir():
            kind = "is not a folder" if top.exists() else "does not exist"
            raise DataError(f"folder:{request.argument}: {top} {kind}")
        next(top.iterdir(), None)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"folder:{request.argument}: cannot be read: {reason}") from None
    return top


@dataclass
class _Scan:
    """Finds the files below a folder that may be pictures; links are followed."""

    top: Path
    request: DataRequest
    files: dict[str, Path] = field(default_factory=dict)
    """Path below the folder, with ``/`` → file."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Other files and folders, with a reason in a few words."""
    at_top: list[str] = field(default_factory=list)
    """The folders in the folder itself."""

    def scan(self) -> None:
        """Look into every folder once: into links after all that are none, so that a folder is
        known by its own name and not by that of a link to it.
        """
        seen = {_identity(self.top)}
        folders = [(self.top, "")]
        links: list[tuple[Path, str]] = []
        while folders or links:
            if not folders:
                path, name = links.pop(0)
                if self._is_new(path, name, seen):
                    folders.append((path, name))
                continue
            for path, below in self._folders(*folders.pop()):
                if path.is_symlink():
                    links.append((path, below))
                elif self._is_new(path, below, seen):
                    folders.append((path, below))
        self.at_top.sort()

    def why_no_classes(self) -> list[str]:
        """What is to be said where two or more subfolders are no classes."""
        beside = [name for name in sorted(self.files) if "/" not in name]
        pictures = [name for name in beside if ImageSource(name, self.top).has_image_suffix]
        if len(self.at_top) < 2 or not pictures:
            return []
        return [f"subfolders are no classes, as {pictures[0]} lies beside them"]

    def _folders(self, path: Path, name: str) -> Iterator[tuple[Path, str]]:
        """The folders in a folder, with their path below the top; files are recorded."""
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            self._report(path, name, "unreadable folder", f"cannot be read: {error.strerror}")
            return
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            kind = _kind(Path(entry.path))
            if reason := _why_left_out(entry, kind):
                self._leave_out(entry, kind, below, reason)
            elif kind == "folder":
                if not name:
                    self.at_top.append(entry.name)
                yield Path(entry.path), below
            else:
                self._record(Path(entry.path), kind, below)

    def _record(self, path: Path, kind: str, below: str) -> None:
        """Record what is no folder."""
        limit = self.request.limit
        if kind == "file":
            self.files[below] = path
            if limit is not None and len(self.files) > FILES_PER_IMAGE * limit + SPARE_FILES:
                raise DataError(f"{self.top} holds far more files than the run has images")
        elif kind in REPORTED:
            self._report(path, below, kind, REPORTED[kind])
        else:
            self.left_out.append((below, kind))

    def _report(self, path: Path, below: str, kind: str, reason: str) -> None:
        """Leave out what may have been a picture, and name it."""
        self.request.bad_image(path, reason)
        self.left_out.append((below, kind))

    def _is_new(self, path: Path, below: str, seen: set[tuple[int, int]]) -> bool:
        """Whether a folder was not looked into yet, by whatever name."""
        identity = _identity(path)
        if identity in seen:
            self.left_out.append((below, "link to a folder that is used already"))
            return False
        seen.add(identity)
        return True

    def _leave_out(self, entry: "os.DirEntry[str]", kind: str, below: str, reason: str) -> None:
        """Record a file, or every file in a folder, as left out."""
        if entry.is_symlink() or kind != "folder":
            self.left_out.append((below, reason))
            return
        for folder_path, _, names in os.walk(entry.path):
            room = max(0, MAX_COUNTED - len(self.left_out))
            inside = Path(folder_path).relative_to(self.top)
            self.left_out += [((inside / name).as_posix(), reason) for name in names[:room]]


def _why_left_out(entry: "os.DirEntry[str]", kind: str) -> str:
    """Why a file or folder is no part of a dataset whatever it holds; empty: it may be."""
    if entry.name == "__MACOSX":
        return "in __MACOSX"
    if entry.name.startswith("."):
        return "hidden"
    if kind == "folder" and _kind(Path(entry.path, RUN_FILE)) == "file":
        return "in the folder of a run"
    return ""


def _kind(path: Path) -> str:
    """What a path, or what it is a link to, is: a folder, a file, or neither."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "dangling link"
    except OSError as error:
        return "dangling link" if error.errno == errno.ELOOP else "unreadable"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "special file"


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def _make_sources(found: _Scan) -> tuple[list[ImageSource], tuple[str, ...] | None]:
    """The pictures with class and split, by name, and the names of the classes, if there are any;
    what lies outside the split or the classes is left out.
    """
    names = sorted(found.files, key=lambda name: (_normal(name), name))
    by_case = {folder.lower(): folder for folder in found.at_top}
    held_out = next((by_case[name] for name in HELD_OUT if name in by_case), None)
    training = by_case.get(TRAINING)
    if training is None or held_out is None:
        by_name = [(name, name, is_held_out(name)) for name in names]
        sources, classes = _classified(found, by_name)
        return _with_every_class(sources), classes
    split = []
    for name in names:
        part, _, rest = name.partition("/")
        if part in (training, held_out) and rest:
            split.append((name, rest, part == held_out))
        else:
            found.left_out.append((name, f"outside {training}/ and {held_out}/"))
    sources, classes = _classified(found, split)
    if all(source.held_out for source in sources):
        raise DataError(f"{found.top / training} holds no picture to train on")
    return sources, classes


def _with_every_class(sources: Sequence[ImageSource]) -> list[ImageSource]:
    """The sources; of a class whose pictures are all held out, the first is not."""
    trained = {source.label for source in sources if not source.held_out}
    kept = []
    for source in sources:
        kept.append(source if source.label in trained else replace(source, held_out=False))
        trained.add(source.label)
    return kept


def _normal(name: str) -> str:
    """A name as every system sorts it: macOS may give an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)


def _classified(
    found: _Scan, names: Sequence[tuple[str, str, bool]]
) -> tuple[list[ImageSource], tuple[str, ...] | None]:
    """Sources from (name, path below the folders of classes, held out)."""
    sources = [ImageSource(name, found.files[name], None, held) for name, _, held in names]
    pictures = [
        path for (_, path, _), source in zip(names, sources, strict=True) if source.has_image_suffix
    ]
    classes = sorted({_normal(path.partition("/")[0]) for path in pictures if "/" in path})
    if len(classes) < 2 or any("/" not in path for path in pictures):
        return sources, None
    labels = {name: label for label, name in enumerate(classes)}
    labelled = []
    for (name, path, _), source in zip(names, sources, strict=True):
        first, _, rest = path.partition("/")
        if rest and _normal(first) in labels:
            labelled.append(replace(source, label=labels[_normal(first)]))
        else:
            found.left_out.append((name, "outside the folders of classes"))
    # A name that is not UTF-8 could not be written down.
    printable = (name.encode("utf-8", "backslashreplace").decode() for name in classes)
    return labelled, tuple(printable)


def _legacy_sources(found: _Scan) -> list[ImageSource]:
    """The pictures as genkit took them before datasets had options: every tenth is held out."""
    known = [path for path in found.files.values() if path.suffix.lower() in LEGACY_SUFFIXES]
    return [
        ImageSource(path.relative_to(found.top).as_posix(), path, None, number % 10 == 9)
        for number, path in enumerate(sorted(known))
    ]
