"""The run folder: everything about one training, readable without genkit.

``run.json`` (options, seed, versions, dataset, environment), ``metrics.jsonl`` (a row each log
interval), ``timing.jsonl``, ``samples/000001000.png``, ``checkpoints/``, ``plots/``,
``evaluation.json``.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import parse
from .data.datasets import DataRequest, ImageData, Notify, data_root, load_dataset
from .data.images import from_uint8
from .data.selection import in_memory as images_in_memory
from .errors import (
    ConfigError,
    DataError,
    GenkitWarning,
    RunError,
    UsageError,
    attribute_errors,
    first_line,
)
from .hookspecs import DatasetEntry
from .interfaces import DataSpec, Reconstructs, Trainer, evaluating
from .models import build, find_trainer
from .plugins.registry import Registered, Registry, discover
from .rng import Rng
from .run_info import RunInfo
from .storage import checkpoint, state
from .storage.folder import METRICS, RUN, RunFolder

STATE_FACTOR = 64
MIN_LIMIT = 2**26
"""A checkpoint may be this much larger than its model (optimizers keep a few copies); in bytes, at
least.
"""


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
        return checkpoint.newest(
            self.folder.checkpoints,
            state.shapes(model),
            min(STATE_FACTOR * size + MIN_LIMIT, checkpoint.MAX_FILE_BYTES),
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

    def data(self, root: Path | None = None, notify: Notify = lambda line: None) -> ImageData:
        """The dataset of the run, read again; ``notify`` is called for files that were skipped.

        Raises:
            DataError: it is not found, or is not the one that the run was trained on.
            UsageError: the images were in memory.
        """
        dataset = self.info.dataset
        if dataset.distribution is None:
            how = f"genkit.resume({str(self.path)!r}, dataset=...)"
            raise UsageError(
                f"{self.path} was trained on {dataset.source}: "
                f"the program that has them calls {how}"
            )
        name = f"{dataset.distribution}/{dataset.name}"
        options, saved = self.info.options, self.info.options.data_root
        # A run may be a stranger's: from the folder that it names, images are read, and no more.
        offline = root is None and saved is not None and saved.is_dir()
        request = DataRequest(
            saved if offline and saved is not None else data_root(root),
            on_bad_image=options.on_bad_image,
            limit=dataset.images + dataset.held_out,
            shape=self.spec.shape,
            offline=offline,
        )
        return self.verify_dataset(load_dataset(self.registry, name, request, notify))

    def read_data(self, in_memory: Any, root: Path | None, notify: Notify) -> ImageData:
        """The images that the run was trained on: those given, or else the dataset by its name.

        Raises:
            GenkitError: they are not found, or are others.
        """
        if in_memory is None:
            return self.data(root, notify)
        return self.verify_dataset(images_in_memory(in_memory))

    def originals(self, count: int | None = None, root: Path | None = None) -> Tensor:
        """The first ``count`` held-out images (None: ten, or all), ``(count, C, H, W)`` in [-1, 1].

        Raises:
            DataError: the dataset is not found, or holds out fewer.
        """
        held_out = self.data(root).test.images
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
        if data.fingerprint() != self.info.dataset.fingerprint:
            dataset = self.info.dataset
            was, now = dataset.images + dataset.held_out, len(data.train) + len(data.test)
            counts = f" ({now} now, {was} then)" if now != was else ""
            raise DataError(
                f"the images from {data.source}{counts} are not those that {self.path} "
                "was trained on: put those back, or train a new run"
            )
        return data

    def sample(self, n: int, seed: int = 0, labels: Sequence[int] | Tensor | None = None) -> Tensor:
        """``n`` images ``(n, C, H, W)`` in [-1, 1] on the CPU; one seed gives the same images every
        time.

        A conditional model is given ``labels`` ``(n,)``, or 0, 1, 2 … in turn; see
        :meth:`genkit.Trainer.sample`.
        """
        trainer = self.trainer
        with attribute_errors(self.owner, "to sample"):
            return trainer.sample(n, Rng(seed, "samples"), labels)

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
