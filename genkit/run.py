"""The run folder: everything about one training, readable without genkit.

``run.json`` (options, seed, versions, dataset, environment), ``metrics.jsonl`` (a row each log
interval), ``timing.jsonl``, ``samples/000001000.png``, ``checkpoints/``, ``plots/``,
``evaluation.json``.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import parse
from .data.dataset_options import find_dataset, fitting_options
from .data.datasets import DataRequest, ImageData, Notify, data_root, load_dataset
from .data.images import describe_images, from_uint8
from .data.selection import DatasetInfo, first_difference, in_memory as images_in_memory, relocate
from .errors import (
    ConfigError,
    ContractError,
    DataError,
    DataUnavailableError,
    GenkitWarning,
    RunError,
    UsageError,
    attribute_errors,
    first_line,
    nearest,
)
from .hookspecs import DatasetEntry
from .interfaces import DataSpec, Reconstructs, Trainer, evaluating
from .models import build, find_trainer
from .plugins.registry import Registered, Registry, discover
from .rng import Rng
from .run_info import RunInfo
from .storage import capacity, checkpoint, state
from .storage.folder import METRICS, RUN, RunFolder

FLOAT_BYTES = 4
STATE_FACTOR = 64
MIN_LIMIT = 2**26
"""A checkpoint may be this much larger than its model (optimizers keep a few copies); in bytes, at
least.
"""
MAX_LISTED_CLASSES = 12
"""Names of classes in an error."""

LEGACY_RULES = (
    "the run is of an older genkit, which turned no picture upright, took suffixes at their word, "
    "and left out sizes and channels that were not the most frequent: where that matters, go on "
    "with that version"
)
"""Why the images of an older run on a folder may not be found, though nothing has changed."""
MAX_WINDOW_BYTES = 256
"""Of the metrics since the last log row, for each step."""


class Run:
    """One training on disk, and the model that it holds.

    Get one from :func:`genkit.train`, :func:`genkit.resume` or :func:`genkit.load`. Its model is
    read from the newest checkpoint that verifies, when it is first needed.
    """

    def __init__(
        self,
        folder: RunFolder,
        info: RunInfo,
        trainer_class: type[Trainer] | None,
        registry: Registry,
    ) -> None:
        self.folder = folder
        self.info = info
        """The content of ``run.json``."""
        self.registry = registry
        self._trainer_class = trainer_class
        self._loaded: tuple[Trainer, int] | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        trainer_class: type[Trainer] | None = None,
        registry: Registry | None = None,
    ) -> "Run":
        """The run in the folder ``path``.

        Raises:
            RunError: there is none, or ``run.json`` is damaged or of another format.
        """
        folder = RunFolder(Path(path))
        try:
            info = parse(RunInfo, folder.read_json(RUN), where=f"{path}/run.json", strict=True)
        except FileNotFoundError as error:
            raise RunError(f"{path} is not a run folder (run.json: {error.strerror})") from None
        except ConfigError as error:
            raise RunError(str(error)) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{path}/run.json is damaged ({type(error).__name__})") from None
        return cls(folder, info, trainer_class, registry or discover())

    def __repr__(self) -> str:
        return f"<genkit.Run {self.info.model.name} on {self.info.dataset.name} in {self.path}>"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def owner(self) -> str | None:
        """The model's name where it came from a plugin: what is to be named when it fails."""
        return self.info.model.plugin_name

    @property
    def spec(self) -> DataSpec:
        """Shape of the images the run was trained on."""
        return self.info.dataset.spec

    @property
    def dataset_entry(self) -> Registered[DatasetEntry] | None:
        """The registry's entry of the dataset; None for images that were in memory.

        Raises:
            UnknownNameError: no plugin provides it.
        """
        dataset = self.info.dataset
        if dataset.distribution is None:
            return None
        return self.registry.find(
            DatasetEntry, f"{dataset.distribution}/{dataset.name.partition(':')[0]}"
        )

    @property
    def trainer_class(self) -> type[Trainer]:
        """The model's Trainer, found in the registry by the name in ``run.json``.

        Raises:
            UsageError: the class is not in a plugin; call ``genkit.load(path, trainer=...)``.
            UnknownNameError: no plugin provides the model.
        """
        if self._trainer_class is None:
            model = self.info.model
            if model.distribution is None:
                how = "genkit.load(path, C) or genkit.resume(path, trainer=C, dataset=images)"
                raise UsageError(
                    f"{self.path} was trained with a class that is not in a plugin; "
                    f"in Python call {how}"
                )
            self._trainer_class = find_trainer(self.registry, f"{model.distribution}/{model.name}")
        return self._trainer_class

    @property
    def trainer(self) -> Trainer:
        """The trainer, on the CPU, with the weights of the newest checkpoint that verifies.

        Raises:
            CheckpointError: no checkpoint can be used.
        """
        return self._load()[0]

    @property
    def step(self) -> int:
        """Updates that the weights of :attr:`trainer` have behind them."""
        return self._load()[1]

    def _load(self) -> tuple[Trainer, int]:
        if self._loaded is None:
            found, skipped = self.newest_checkpoint()
            for problem in skipped:
                warnings.warn(f"{problem}; using step {found.step}", GenkitWarning, stacklevel=3)
            trainer = self.build("cpu")
            state.load_networks(trainer, found.model)
            self._loaded = (trainer, found.step)
        return self._loaded

    def newest_checkpoint(self) -> tuple[checkpoint.Checkpoint, list[str]]:
        """The newest checkpoint that verifies and is of this run's model, and why each newer one
        was skipped.

        The model is first built without memory, so that a run from a stranger that claims another
        size than its files have is refused before anything of that size is made.

        Raises:
            CheckpointError: there is none.
        """
        try:
            model = self.build("meta")
        except (RuntimeError, ValueError, TypeError):  # a constructor that needs its weights
            model = self.build("cpu")
        size = sum(t.numel() * t.element_size() for t in state.networks(model).values())
        options = self.info.options
        window = MAX_WINDOW_BYTES * min(options.log_interval, options.iterations)
        return checkpoint.newest(
            self.folder.checkpoints,
            state.shapes(model),
            min(STATE_FACTOR * size + window + MIN_LIMIT, checkpoint.MAX_FILE_BYTES),
        )

    def build(self, device: torch.device | str) -> Trainer:
        """The run's trainer as it was before the first step.

        Raises:
            GenkitError: ``run.json`` asks for what the model cannot be.
        """
        config = parse(
            self.trainer_class.Config, self.info.config, where=f"{self.path}/run.json", strict=True
        )
        try:
            return build(self.trainer_class, config, self.spec, self.info.options.seed, device)
        except (RuntimeError, MemoryError) as error:
            if str(device) == "meta":  # where not every constructor can do its work
                raise
            raise RunError(
                f"{self.path}: its model cannot be built: {first_line(error)}"
            ) from error

    def data(
        self,
        root: Path | None = None,
        notify: Notify = lambda line: None,
        *,
        dataset: Any = None,
        show_progress: bool = False,
    ) -> ImageData:
        """The images that the run was trained on, read again.

        Args:
            root: folder of the downloads, if they moved.
            notify: called for files that were skipped.
            dataset: where the images are now, if they moved, such as ``folder:NEW``; or the images,
                where they were in memory. None: the dataset of ``run.json``.
            show_progress: whether long work shows a bar on standard error.

        Raises:
            DataError: they are not found, or are others.
            UsageError: the images were in memory, and none are given.
        """
        return self.locate_data(dataset, root, notify, show_progress)[1]

    def locate_data(
        self, dataset: Any, root: Path | None, notify: Notify, show_progress: bool
    ) -> tuple[DatasetInfo, ImageData]:
        """:meth:`data`, and what ``run.json`` would say of the images where they are now.

        Raises:
            GenkitError: they are not found, or are others.
        """
        known = self.info.dataset
        if dataset is None and root is not None and self._describe_gone():
            dataset = f"{known.name.partition(':')[0]}:{root}"  # the folder itself has moved there
        if dataset is not None and not isinstance(dataset, str):
            return known, self.verify_dataset(images_in_memory(dataset))
        if dataset is None and known.distribution is None:
            raise UsageError(
                f"{self.path} was trained on {known.source}: the program that has them passes "
                "dataset=... to genkit.resume, genkit.evaluate or the run's methods"
            )
        name = dataset or f"{known.distribution}/{known.name}"
        registered, _ = find_dataset(self.registry, name)
        options = fitting_options(registered, known.options or {}, f"{self.path}/run.json")
        asked = root is not None or dataset is not None
        request = replace(self._request(root, show_progress, asked), options=options)
        try:
            data = self.verify_dataset(load_dataset(self.registry, name, request, notify))
        except DataError as error:
            if dataset is None and (gone := self._describe_gone()) is not None:
                raise DataUnavailableError(gone) from error
            if known.is_legacy and ":" in known.name:
                raise DataError(f"{error} ({LEGACY_RULES})") from error
            raise
        if dataset is None:
            return known, data
        return relocate(known, self.registry, name, data, options), data

    def _request(self, root: Path | None, show_progress: bool, asked: bool) -> DataRequest:
        """For the recorded dataset; ``asked``: for one that the user names."""
        known, options = self.info.dataset, self.info.options
        saved = options.data_root
        # A run may be a stranger's: from the folder that it names, images are read, and no more;
        # and a dataset that it names by an argument may be of any size.
        here = root is None and saved is not None and saved.is_dir()
        offline = here or (not asked and ":" in known.name)
        return DataRequest(
            saved if here and saved is not None else data_root(root),
            on_bad_image=options.on_bad_image,
            limit=known.images + known.held_out,
            shape=self.spec.shape,
            offline=offline,
            legacy=known.is_legacy,
            show_progress=show_progress,
        )

    def _describe_gone(self) -> str | None:
        """What to type where the path of the recorded dataset is not there any more; None where the
        dataset has no path, or it is there.
        """
        kind, _, argument = self.info.dataset.name.partition(":")
        if not Path(argument).is_absolute() or Path(argument).exists():
            return None
        return (
            f"{self.path} was trained on {kind}:{argument}, which is not there now: "
            f"pass --dataset {kind}:WHERE_IT_IS_NOW"
        )

    def originals(
        self, count: int | None = None, root: Path | None = None, *, dataset: Any = None
    ) -> Tensor:
        """The first ``count`` held-out images (None: ten, or all), ``(count, C, H, W)`` in [-1, 1].

        Raises:
            DataError: the dataset is not found, or holds out fewer.
        """
        held_out = self.data(root, dataset=dataset).test.images
        count = min(10, len(held_out)) or 1 if count is None else count
        if len(held_out) < count:
            name = self.info.dataset.name
            raise DataError(f"{name} holds out {len(held_out)} images, and {count} were asked for")
        return from_uint8(held_out[:count])

    def verify_dataset(self, data: ImageData) -> ImageData:
        """``data``, if it is what the run was trained on.

        Raises:
            DataError: it is not.
        """
        known = self.info.dataset
        if (difference := first_difference(known, data)) is not None:
            kind = known.name.partition(":")[0]
            elsewhere = f", pass --dataset {kind}:PLACE if they moved" if ":" in known.name else ""
            raise DataError(
                f"{difference} are not those that {self.path} was trained on: "
                f"put those back{elsewhere}, or train a new run"
            )
        return data

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes 0 to K - 1; None: they have none."""
        names = self.info.dataset.class_names
        return names if names and len(names) == self.spec.classes else None

    def label_numbers(
        self, labels: Sequence[int | str] | Tensor | None
    ) -> Sequence[int] | Tensor | None:
        """Labels with the number in the place of each name.

        A text that is no name of a class may be its number: ``"3"``.

        Raises:
            UsageError: no class has this name, or the model is not conditional.
        """
        if labels is None:
            return None
        name = self.info.model.name
        if not self.trainer.conditional:
            raise UsageError(
                f"{name} is not conditional: it takes no labels; --labels needs a model that is"
            )
        if isinstance(labels, Tensor):
            return labels
        return [self._label_number(each) if isinstance(each, str) else each for each in labels]

    def _label_number(self, label: str) -> int:
        names = self.class_names or ()
        if label in names:
            return names.index(label)
        if re.fullmatch(r"-?[0-9]{1,9}", label):
            return int(label)
        dataset, count = self.info.dataset.name, self.spec.classes or 1
        if not names:
            raise UsageError(
                f"label {label!r}: the classes of {dataset} have no names; "
                f"give whole numbers from 0 to {count - 1}, such as 3,1,4"
            )
        hint = nearest(label, names) or f"; its classes are {_shorten(names)}"
        raise UsageError(f"label {label!r}: {dataset} has no such class{hint}")

    def sample(
        self, n: int, seed: int = 0, labels: Sequence[int | str] | Tensor | None = None
    ) -> Tensor:
        """``n`` images ``(n, C, H, W)`` in [-1, 1] on the CPU; one seed gives the same images every
        time.

        A conditional model is given ``labels`` ``(n,)``, numbers or names of classes, or 0, 1, 2 …
        in turn; see :meth:`genkit.Trainer.sample`.

        Raises:
            UsageError: they do not fit in memory, or the labels do not fit the model.
        """
        trainer, numbers = self.trainer, self.label_numbers(labels)
        capacity.require_memory(
            FLOAT_BYTES * n * self.spec.size,
            describe_images(n, self.spec.shape),
            "ask for fewer, or take them in parts from sample_chunks()",
        )
        with attribute_errors(self.owner, "to sample"):
            return trainer.sample(n, Rng(seed, "samples"), numbers)

    def sample_chunks(
        self, n: int, seed: int = 0, labels: Sequence[int | str] | Tensor | None = None
    ) -> Iterator[Tensor]:
        """The images of :meth:`sample` in parts, so that few of them are in memory at a time.

        A conditional model is given ``labels``, which are repeated in turn until there are ``n``;
        see :meth:`genkit.Trainer.sample_chunks`.

        Raises:
            UsageError: the labels do not fit the model.
            ContractError: while parts are made, if the model gives images of another shape.
        """
        numbers = self.label_numbers(labels)
        return self._check_chunks(self.trainer.sample_chunks(n, Rng(seed, "samples"), numbers))

    def _check_chunks(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        while True:
            with attribute_errors(self.owner, "to sample"):
                chunk = next(chunks, None)
            if chunk is None:
                return
            if chunk.shape[1:] != self.spec.shape:
                given = tuple(chunk.shape[1:])
                name = self.info.model.name
                raise ContractError(f"{name} gave samples of {given}, not {self.spec.shape}")
            yield chunk

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1] → their reconstructions, the same shape, on the CPU.

        Raises:
            UsageError: the model has no encoder, or the images are of another kind than it was
            trained on.
        """
        trainer = self.trainer
        if not isinstance(trainer, Reconstructs):
            raise UsageError(f"{self.info.model.name} cannot reconstruct images: it has no encoder")
        if images.shape[1:] != self.spec.shape or not images.is_floating_point():
            kind = f"{images.dtype} {tuple(images.shape)}"
            raise UsageError(
                f"images are {kind}, but must be float (B, {', '.join(map(str, self.spec.shape))})"
            )
        with evaluating(trainer), attribute_errors(self.owner, "to reconstruct"):
            return trainer.reconstruct(images)

    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.jsonl``: ``step``, and the mean of each metric over the log
        interval that ends there.

        Raises:
            RunError: the file is damaged.
        """
        return self.folder.read_rows(METRICS)

    def replace_info(self, info: RunInfo) -> None:
        """The content of ``run.json`` is another now; the model is read from the checkpoints when
        next needed.
        """
        self.info = info
        self._loaded = None


def _shorten(names: Sequence[str]) -> str:
    """The first of several names, in one line."""
    shown = [repr(name) for name in names[:MAX_LISTED_CLASSES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
