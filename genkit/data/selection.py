"""Which images a training uses: a registered dataset, the first that the model prefers, or images
in memory.
"""

from pathlib import Path
from typing import Any

from ..config import Config, TrainOptions
from ..hookspecs import DatasetEntry
from ..interfaces import DataSpec, Trainer
from ..plugins.registry import Registry
from .dataset_options import check_text, find_dataset, make_options
from .datasets import (
    DataRequest,
    ImageData,
    Notify,
    argument_path,
    combine_fingerprints,
    data_root,
    expand_home,
    load_dataset,
    load_preferred,
)
from .in_memory import from_images

PATHS = ("PATH", "FILE", "FOLDER", "DIR")
"""What the argument of an entry is called where it is a path."""


class DatasetInfo(Config):
    """Which images; ``distribution`` is None for images that were in memory."""

    name: str
    distribution: str | None = None
    source: str
    images: int
    held_out: int
    spec: DataSpec
    fingerprint: str
    """Of training and held-out images and labels; in runs of an older genkit, which know no
    ``training_fingerprint``, of those for training alone.
    """
    training_fingerprint: str | None = None
    options: dict[str, Any] | None = None
    """The options of the dataset; None in runs of an older genkit, which knew none."""
    class_names: tuple[str, ...] | None = None
    summary: str | None = None
    """What was read and what was done to it, in one line."""

    @property
    def of_training(self) -> str:
        """The fingerprint of the training images and labels."""
        return self.training_fingerprint or self.fingerprint

    @property
    def is_legacy(self) -> bool:
        """Whether the run is of an older genkit, which recorded no options of datasets."""
        return self.options is None


def select_dataset(
    registry: Registry,
    trainer: type[Trainer],
    dataset: Any,
    options: TrainOptions,
    dataset_options: Config | None,
    notify: Notify,
    *,
    show_progress: bool = False,
) -> tuple[DatasetInfo, ImageData]:
    """The images to train on, and what ``run.json`` says of them.

    Args:
        registry: where datasets are found by name.
        trainer: whose preferred datasets are tried where none is named.
        dataset: images in memory, see :func:`in_memory`; a name or None: what ``options.dataset``
            names.
        options: of the run.
        dataset_options: of the dataset that is named; None: its defaults.
        notify: called with the summary, for files that were skipped and for datasets that were
            passed over.
        show_progress: whether long work shows a bar on standard error.

    Raises:
        GenkitError: there is no such dataset, or its images cannot be used.
    """
    if dataset is not None and not isinstance(dataset, str):
        return describe("images", None, data := in_memory(dataset)), data
    check_text(options.data_root)
    request = DataRequest(
        data_root(options.data_root),
        options=dataset_options,
        on_bad_image=options.on_bad_image,
        show_progress=show_progress,
    )
    if options.dataset is None:
        name, data = load_preferred(registry, trainer.preferred_datasets, request, notify)
    else:
        name, data = options.dataset, load_dataset(registry, options.dataset, request, notify)
    if data.summary:
        notify(data.summary)
    return describe_named(registry, name, data, dataset_options), data


def describe_named(
    registry: Registry, name: str, data: ImageData, options: Config | None
) -> DatasetInfo:
    """What ``run.json`` says of the images of the dataset ``name``, which were read with
    ``options``; None: with the defaults.
    """
    registered, argument = find_dataset(registry, name)
    full_name = _full_name(registered.entry, data, argument)
    used = make_options(registered, options)
    return describe(full_name, registered.plugin.distribution, data, used)


def _full_name(entry: DatasetEntry, data: ImageData, argument: str) -> str:
    """``NAME``, or ``NAME:ARGUMENT`` as it is found from every working directory."""
    if data.argument:
        argument = data.argument
    elif argument and entry.argument in PATHS:
        argument = str(argument_path(argument))
    return f"{entry.name}:{argument}" if argument else entry.name


def relocate(
    known: DatasetInfo, registry: Registry, name: str, data: ImageData, options: Config | None
) -> DatasetInfo:
    """What ``run.json`` says of the images of a run that are in the dataset ``name`` now."""
    registered, argument = find_dataset(registry, name)
    where: dict[str, Any] = {
        "name": _full_name(registered.entry, data, argument),
        "distribution": registered.plugin.distribution,
        "source": data.source,
    }
    if known.options is not None and options is not None:
        # Those that this dataset lacks say how the images were made, for where it is read next.
        where["options"] = known.options | options.model_dump(mode="json")
    for text in (where["name"], data.source):
        check_text(text)
    return known.model_copy(update=where)


def describe(
    name: str, distribution: str | None, data: ImageData, options: Config | None = None
) -> DatasetInfo:
    """What ``run.json`` says of images, which were read with ``options``.

    Raises:
        DataError: a path or a class whose name is not UTF-8.
    """
    for text in (name, data.source, data.summary, *(data.class_names or ())):
        check_text(text)
    training = data.train.fingerprint()
    return DatasetInfo(
        name=name,
        distribution=distribution,
        source=data.source,
        images=len(data.train),
        held_out=len(data.test),
        spec=data.spec,
        fingerprint=combine_fingerprints(training, data.test.fingerprint()),
        training_fingerprint=training,
        options={} if options is None else options.model_dump(mode="json"),
        class_names=data.class_names,
        summary=data.summary,
    )


def first_difference(known: DatasetInfo, data: ImageData) -> str | None:
    """What of ``data`` is not as in a run, in words; None where all is."""
    training = data.train.fingerprint()
    if known.training_fingerprint is None:
        same = training == known.fingerprint, True
    else:
        found = combine_fingerprints(training, data.test.fingerprint())
        # Where the training images are others, too, the held-out ones cannot be told apart.
        same = training == known.training_fingerprint, found == known.fingerprint
    if all(same):
        return None
    if data.spec.shape != known.spec.shape:
        shape, before = ("x".join(map(str, spec.shape)) for spec in (data.spec, known.spec))
        return f"the images from {data.source} ({shape} now, {before} then)"
    kind, now, then = "training", len(data.train), known.images
    if same[0]:
        kind, now, then = "held-out", len(data.test), known.held_out
    what = f"{kind} images" + (" or their labels" if data.classes else "")
    counts = f" ({now} now, {then} then)" if now != then else ""
    return f"the {what} from {data.source}{counts}"


def in_memory(images: Any) -> ImageData:
    """Images that a program has: an :class:`ImageData`, or what :func:`from_images` takes.

    Raises:
        DataError: images of a kind that cannot be used.
    """
    return images if isinstance(images, ImageData) else from_images(images)


def absolute(path: Path | str | None) -> Path | None:
    """The path from any working directory, with ``~`` resolved.

    Raises:
        DataError: there is no such home directory.
    """
    return None if path is None else expand_home(Path(path)).absolute()
