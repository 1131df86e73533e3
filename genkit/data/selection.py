"""Which images a training uses: a registered dataset, the first that the model prefers, or images
in memory.
"""

from pathlib import Path
from typing import Any

from ..config import Config, TrainOptions
from ..errors import UsageError
from ..hookspecs import DatasetEntry
from ..interfaces import DataSpec, Trainer
from ..plugins.registry import Registry
from .datasets import (
    DataRequest,
    ImageData,
    Notify,
    combine_fingerprints,
    data_root,
    from_images,
    load_dataset,
    load_preferred,
)


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


def select_dataset(
    registry: Registry,
    trainer: type[Trainer],
    dataset: Any,
    options: TrainOptions,
    notify: Notify,
) -> tuple[DatasetInfo, ImageData]:
    """The images to train on, and what ``run.json`` says of them.

    Args:
        registry: where datasets are found by name.
        trainer: whose preferred datasets are tried where none is named.
        dataset: images in memory, see :func:`in_memory`; a name or None: what ``options.dataset``
        names.
        options: of the run.
        notify: called for files that were skipped and datasets that were passed over.

    Raises:
        GenkitError: there is no such dataset, or its images cannot be used.
    """
    if dataset is not None and not isinstance(dataset, str):
        return describe("images", None, data := in_memory(dataset)), data
    request = DataRequest(data_root(options.data_root), on_bad_image=options.on_bad_image)
    if options.dataset is None:
        name, data = load_preferred(registry, trainer.preferred_datasets, request, notify)
    else:
        name, data = options.dataset, load_dataset(registry, options.dataset, request, notify)
    registered = registry.find(DatasetEntry, name.partition(":")[0])
    argument = data.argument or name.partition(":")[2]
    full_name = registered.entry.name + (f":{argument}" if argument else "")
    return describe(full_name, registered.plugin.distribution, data), data


def describe(
    name: str, distribution: str | None, data: ImageData, options: Config | None = None
) -> DatasetInfo:
    """What ``run.json`` says of images, which were read with ``options``."""
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


def in_memory(images: Any) -> ImageData:
    """Images that a program has: an :class:`ImageData`, or what :func:`from_images` takes.

    Raises:
        UsageError: a name.
        DataError: images of a kind that cannot be used.
    """
    if isinstance(images, str):
        raise UsageError(
            "a run's dataset by name is in its run.json; give images only where they were in memory"
        )
    return images if isinstance(images, ImageData) else from_images(images)


def absolute(path: Path | str | None) -> Path | None:
    """The path from any working directory, with ``~`` resolved."""
    return None if path is None else Path(path).expanduser().absolute()
