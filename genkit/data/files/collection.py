"""Pictures of any size and kind become a dataset of one shape: what ``folder:`` and every other
dataset whose images are files are made by.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import DataError
from ...storage.capacity import require_disk
from ..datasets import DataRequest, ImageData
from ..packed.reader import open_packed
from ..packed.writer import PackedWriter, create_packed, scratch_folder, temporary_packed
from ..track import track
from . import cache
from .decoder import Decoded
from .formats import has_image_suffix
from .options import ImageOptions
from .reading import Header, Target
from .summary import Tally, describe_size, list_sizes, usual_channels
from .workers import ENDED, Content, decode_all

HELD_OUT = 10
"""One image in so many is held out."""
SALT = "1745/"
"""Before a name that is hashed: with it, small folders of numbered pictures have their share."""
PASSING_KINDS = {
    *("cannot be read", "missing", "too large", ENDED),
    *("HEIC without pillow-heif", "AVIF without a decoder"),
}
"""Kinds of skipped pictures that another start may be able to read."""


@dataclass(frozen=True)
class ImageSource:
    """A picture on its way into a dataset."""

    name: str
    """What messages call it: for a file, its path in the folder of the dataset."""
    content: Content
    """A file; the bytes of one; or a function that gives these or a PIL image when it is called."""
    label: int | None = None
    held_out: bool = False
    """Whether it is held out; see :func:`is_held_out`."""

    @property
    def has_image_suffix(self) -> bool:
        """Whether its name ends as those of pictures do."""
        return has_image_suffix(self.name)


@dataclass(frozen=True)
class PictureRecord:
    """What was found of a source, for ``genkit data inspect``."""

    name: str
    header: Header | None
    """None: it is not used, and ``problem`` says why."""
    held_out: bool = False
    problem: str = ""


def is_held_out(name: str) -> bool:
    """Whether the image of this name is held out where nobody says: one in ten is.

    It depends on the name alone, by SHA-256, so that another image moves none across the split.
    """
    return int.from_bytes(_digest(name)[:8]) % HELD_OUT == 0


def collect_images(
    request: DataRequest,
    sources: Sequence[ImageSource],
    *,
    origin: str,
    class_names: Sequence[str] | None = None,
    argument: str | None = None,
    left_out: Sequence[tuple[str, str]] = (),
    files: Sequence[Path] | None = None,
    remarks: Sequence[str] = (),
) -> ImageData:
    """Decode pictures and make them one shape, as ``request.options`` say.

    Files are decoded by a worker process for each CPU. What was decoded is kept in the user's
    cache, and used the next time if all files and options are as they were. Pictures that cannot be
    used go to :meth:`genkit.DataRequest.bad_image`.

    Args:
        request: what the dataset was called with; its options are :class:`genkit.ImageOptions`.
        sources: the pictures, in the order that the dataset has.
        origin: where they came from, for the reader.
        class_names: names of the labels 0 to K - 1; None: there are no labels.
        argument: see :attr:`genkit.ImageData.argument`.
        left_out: files that are no sources, each with a reason in a few words, for the summary.
        files: what the pictures come from where contents are no paths, so that they are cached,
            too; None: they are not.
        remarks: for the summary, behind what was done to the pictures.

    Raises:
        DataError: there is nothing to train on, the sizes differ, or too many images.
    """
    options = request.options if isinstance(request.options, ImageOptions) else ImageOptions()
    by_name = all(source.held_out == is_held_out(source.name) for source in sources)
    ordered = _with_both_splits(sources, by_name)
    key = None
    if options.cache and request.records is None:
        more = [class_names, sorted(kind for _, kind in left_out), *remarks]
        key = cache.key(ordered, options, request, origin, files, more)
    data = cache.find(key, request.show_progress) if key else None
    if data is None:
        names = tuple(class_names) if class_names else None
        tally = Tally(left_out, remarks)
        key = None if request.offline else key  # which writes nothing
        data = _decode(ordered, by_name, options, request, origin, tally, names, key)
    if request.records is not None:
        request.records.extend(PictureRecord(name, None, problem=why) for name, why in left_out)
    _check(data, request, origin)
    return replace(data, source=origin, argument=argument)


def _decode(
    sources: Sequence[ImageSource],
    by_name: bool,
    options: ImageOptions,
    request: DataRequest,
    origin: str,
    tally: Tally,
    class_names: tuple[str, ...] | None,
    key: str | None,
) -> ImageData:
    """Read the sources; where all of a split turn out to be unusable, with another split."""
    target, usable = _choose_target(sources, options, request, origin, tally)
    _check_shape((target.channels, target.height, target.width), request, origin)
    usable = _with_both_splits(usable, by_name)
    fill = _Filling(request, usable, target, origin, tally, class_names)
    try:
        return fill.read(key)
    except _EmptySplitError as problem:
        usable = _with_both_splits(problem.used, by_name)
        if all(source.held_out for source in usable):
            raise DataError(f"no images to train on in {origin}{tally.why_none()}") from None
        return replace(fill, sources=usable, tally=tally.of_skipped()).read(key)


def _with_both_splits(sources: Sequence[ImageSource], by_name: bool) -> list[ImageSource]:
    """The sources for training, then those held out. Where one split would have none of two or more
    images, the image whose name has the smallest hash is put there; but none that somebody holds
    out is trained on, unless that is ``by_name``.
    """
    held_out = [source.held_out for source in sources]
    if len(set(held_out)) == 1 and (by_name or not held_out[0]):
        odd = min(range(len(sources)), key=lambda i: _digest(sources[i].name))
        held_out[odd] = len(sources) > 1 and not held_out[odd]
    pairs = zip(sources, held_out, strict=True)
    chosen = [replace(source, held_out=held) for source, held in pairs]
    return sorted(chosen, key=lambda source: source.held_out)  # keeps the order within a split


def _choose_target(
    sources: Sequence[ImageSource],
    options: ImageOptions,
    request: DataRequest,
    origin: str,
    tally: Tally,
) -> tuple[Target, list[ImageSource]]:
    """The shape that the images get, and the sources that may be usable; headers are read where the
    options leave the shape open.
    """
    usable = list(sources)
    headers: list[Header] = []
    if options.image_size is None or options.channels == "auto":
        usable = []
        with (
            closing(decode_all([source.content for source in sources], None)) as found,
            track("reading headers", len(sources), request.show_progress) as advance,
        ):
            for source, decoded in zip(sources, found, strict=True):
                advance(1)
                if decoded.header is None:
                    _report_unusable(source, decoded, request, tally)
                else:
                    usable.append(source)
                    headers.append(decoded.header)
        if not headers:
            raise DataError(f"no images in {origin}{tally.why_none()}")
    height, width = options.image_size or _common_size(headers, request, origin)
    if options.channels == "auto":
        channels = usual_channels(Counter(header.channels for header in headers))
    else:
        channels = int(options.channels)
    return Target(height, width, channels, options.fit, options.background), usable


def _common_size(headers: Sequence[Header], request: DataRequest, origin: str) -> tuple[int, int]:
    """The size of all images.

    Raises:
        DataError: they differ.
    """
    sizes = Counter((header.height, header.width) for header in headers)
    if len(sizes) > 1 and request.records is not None:
        return sizes.most_common(1)[0][0]  # to be looked at, not to be trained on
    if len(sizes) > 1:
        hint = "make them one size with --image-size 64, or HEIGHTxWIDTH such as 48x64"
        if request.shape is not None:
            hint = f"those of the run are all {describe_size(request.shape[1:])}"
        raise DataError(
            f"{origin}: images differ in size (height x width): {list_sizes(sizes)}; {hint}"
        )
    return next(iter(sizes))


def _report_unusable(
    source: ImageSource, decoded: Decoded, request: DataRequest, tally: Tally
) -> None:
    """Count a picture that cannot be used, and name it if its name says that it is one."""
    tally.skip(decoded.kind)
    if request.records is not None:
        request.records.append(PictureRecord(source.name, None, problem=decoded.reason))
    path = source.content if isinstance(source.content, Path) else None
    if path is None or source.has_image_suffix:
        request.bad_image(path or Path(source.name), decoded.reason)


class _EmptySplitError(Exception):
    """Every picture of a split turned out to be unusable; ``used`` are those of the other."""

    def __init__(self, used: Sequence[ImageSource]) -> None:
        super().__init__()
        self.used = used


@dataclass(frozen=True)
class _Filling:
    """Decodes sources into a packed file."""

    request: DataRequest
    sources: Sequence[ImageSource]
    target: Target
    origin: str
    tally: Tally
    class_names: tuple[str, ...] | None

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.target.channels, self.target.height, self.target.width

    def read(self, key: str | None) -> ImageData:
        """The images, from the file in the cache that they are kept in; None: from a file without a
        name.

        Raises:
            _EmptySplitError: a split has no usable picture, and the other has two or more.
        """
        about = self._shape, self.class_names, self.class_names is not None
        show = self.request.show_progress
        if key is None:
            self._check_room()
            with temporary_packed(*about) as (writer, file):
                self._fill(writer)
                return open_packed(file, show_progress=show)
        path = cache.make_room(key, len(self.sources) * int(np.prod(self._shape)))
        if path is None:
            return self.read(None)
        with create_packed(path, *about, show_progress=show) as writer:
            self._fill(writer)
        data = open_packed(path, show_progress=show)
        if self.tally.skipped_kinds & PASSING_KINDS:
            cache.forget(key)  # the next start may be able to read them
        return data

    def _check_room(self) -> None:
        size = len(self.sources) * int(np.prod(self._shape))
        count = f"{len(self.sources):,} images of {describe_size(self._shape[1:])}"
        require_disk(Path(scratch_folder()), size, count, "choose a smaller --image-size")

    def _fill(self, writer: PackedWriter) -> None:
        used: list[ImageSource] = []
        records: list[PictureRecord] = []
        with (
            closing(decode_all([s.content for s in self.sources], self.target)) as found,
            track("decoding", len(self.sources), self.request.show_progress) as advance,
        ):
            for source, decoded in zip(self.sources, found, strict=True):
                advance(1)
                if decoded.header is None or decoded.pixels is None:
                    _report_unusable(source, decoded, self.request, self.tally)
                    continue
                self.tally.count(decoded.header, source.held_out, int(decoded.pixels.max()))
                used.append(source)
                records.append(PictureRecord(source.name, decoded.header, source.held_out))
                if self.request.limit is not None and len(used) > self.request.limit:
                    raise DataError(_too_many(self.origin, self.request.limit))
                labels = None if source.label is None else np.array([source.label])
                writer.add(decoded.pixels[None], labels, source.held_out)
        if len(used) > 1 and 0 in (self.tally.training, self.tally.held_out):
            raise _EmptySplitError(used)
        if not self.tally.training:
            raise DataError(f"no images to train on in {self.origin}{self.tally.why_none()}")
        if self.request.records is not None:
            self.request.records.extend(records)
        writer.finish(self.origin, self.tally.line(self.target, self.class_names))


def _check(data: ImageData, request: DataRequest, origin: str) -> None:
    """Refuse images that cannot be those of the run that they are read for."""
    if request.limit is not None and len(data.train) + len(data.test) > request.limit:
        raise DataError(_too_many(origin, request.limit))
    _check_shape(data.spec.shape, request, origin)


def _check_shape(shape: tuple[int, int, int], request: DataRequest, origin: str) -> None:
    if request.shape is not None and shape != request.shape:
        raise DataError(
            f"the images from {origin} are {shape} in (channels, height, width), "
            f"and those of the run {request.shape}"
        )


def _too_many(origin: str, limit: int) -> str:
    return (
        f"{origin}: there are more than the {limit:,} images of the run: "
        "move those that were added elsewhere, or train a new run"
    )


def _digest(name: str) -> bytes:
    same_everywhere = unicodedata.normalize("NFC", SALT + name).encode("utf-8", "surrogateescape")
    return hashlib.sha256(same_everywhere).digest()
