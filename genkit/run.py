"""The run folder: everything about one training, readable without genkit.

``run.json`` (options, seed, versions, dataset, environment), ``metrics.jsonl`` (a row each log
interval), ``timing.jsonl``, ``samples/000001000.png``, ``checkpoints/``, ``plots/``,
``evaluation.json``.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .config import Config, TrainOptions, parse
from .data.datasets import DataRequest, ImageData, Notify, data_root, load_dataset
from .errors import (
    ConfigError,
    ContractError,
    DataError,
    GenkitWarning,
    RunError,
    UsageError,
    blame,
    first_line,
)
from .hookspecs import Dataset, Model
from .interfaces import DataSpec, Reconstructs, Trainer, build
from .plugins.registry import Registered, Registry, discover
from .report.plotting import plot_curves
from .report.summary import shorten_dataset
from .rng import Rng
from .storage import checkpoint, state
from .storage.folder import CURVES, METRICS, RUN, RunFolder

FORMAT: Literal[1] = 1
STATE_FACTOR = 64
MIN_LIMIT = 2**26
"""A checkpoint may be this much larger than its model (optimizers keep a few copies); in bytes, at
least.
"""


class ModelInfo(Config):
    """Which model, and whose; ``distribution`` is None for a class of no plugin."""

    name: str
    distribution: str | None = None
    version: str | None = None


class DatasetInfo(Config):
    """Which images; ``distribution`` is None for images that were in memory."""

    name: str
    distribution: str | None = None
    source: str
    images: int
    held_out: int
    spec: DataSpec
    fingerprint: str


class RunInfo(Config):
    """The content of ``run.json``."""

    format: Literal[1] = FORMAT
    model: ModelInfo
    options: TrainOptions
    config: dict[str, Any]
    """The model's own options; its ``Config`` reads them."""
    dataset: DatasetInfo
    environment: dict[str, str | int]
    """What bit-exactness depends on."""


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
    @contextmanager
    def create(
        cls, out: Path | None, info: RunInfo, trainer_class: type[Trainer], registry: Registry
    ) -> Iterator["Run"]:
        """A new run in the folder ``out``, or the next number under ``runs/``, that no other
        process may train.

        Raises:
            RunError: the folder is not empty, in use, or cannot be written.
        """
        with RunFolder.claim(out, f"{_slug(info.model.name)}-{_slug(info.dataset.name)}") as folder:
            run = cls(folder, info, trainer_class, registry)
            run.save_info()
            yield run

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
            raise RunError(f"{path} is no run folder (run.json: {error.strerror})") from None
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
        return self.info.model.name if self.info.model.distribution else None

    @property
    def spec(self) -> DataSpec:
        """Shape of the images the run was trained on."""
        return self.info.dataset.spec

    @property
    def dataset_entry(self) -> Registered[Dataset] | None:
        """The registry's entry of the dataset; None for images that were in memory.

        Raises:
            UnknownNameError: no plugin provides it.
        """
        dataset = self.info.dataset
        if dataset.distribution is None:
            return None
        return self.registry.find(
            Dataset, f"{dataset.distribution}/{dataset.name.partition(':')[0]}"
        )

    @property
    def trainer_class(self) -> type[Trainer]:
        """The model's Trainer, found in the registry by the name in ``run.json``.

        Raises:
            UsageError: the model came from no plugin; give ``genkit.load(path, trainer=...)``.
            UnknownNameError: no plugin provides the model.
        """
        if self._trainer_class is None:
            model = self.info.model
            if model.distribution is None:
                how = "genkit.load(path, TheClass) or genkit.resume(path, trainer=TheClass, dataset=images)"
                raise UsageError(
                    f"{self.path} was trained with a class of no plugin; in Python say {how}"
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
        except (
            RuntimeError,
            NotImplementedError,
            ValueError,
            TypeError,
        ):  # a constructor that needs its weights
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
        """The dataset of the run, read again; files that it passes over are said through
        ``notify``.

        Raises:
            DataError: it is not to be had, or is not the one that the run was trained on.
            UsageError: the images were in memory.
        """
        dataset = self.info.dataset
        if dataset.distribution is None:
            how = f"genkit.resume({str(self.path)!r}, dataset=...)"
            raise UsageError(
                f"{self.path} was trained on {dataset.source}: the program that has them says {how}"
            )
        name = f"{dataset.distribution}/{dataset.name}"
        options, saved = self.info.options, self.info.options.data_root
        if root is None and saved is not None and saved.is_dir():
            root, offline = (
                saved,
                True,
            )  # where a run that may be a stranger's says: read there, and nothing more
        else:
            root, offline = data_root(root), False
        request = DataRequest(
            root,
            on_bad_image=options.on_bad_image,
            limit=dataset.images + dataset.held_out,
            shape=self.spec.shape,
            offline=offline,
        )
        return self.recognise(load_dataset(self.registry, name, request, notify))

    def recognise(self, data: ImageData) -> ImageData:
        """``data``, if it is what the run was trained on.

        Raises:
            DataError: it is not.
        """
        if data.fingerprint() != self.info.dataset.fingerprint:
            was, now = (
                self.info.dataset.images + self.info.dataset.held_out,
                len(data.train) + len(data.test),
            )
            counts = f" ({now} now, {was} then)" if now != was else ""
            raise DataError(
                f"the images from {data.source}{counts} are not those that {self.path} was trained on: put those back, "
                "or train anew"
            )
        return data

    def sample(self, n: int, seed: int = 0, labels: Sequence[int] | Tensor | None = None) -> Tensor:
        """``n`` images ``(n, C, H, W)`` in [-1, 1] on the CPU; one seed gives the same images every
        time.

        A conditional model is given ``labels`` ``(n,)``, or 0, 1, 2 … in turn; see
        :meth:`genkit.Trainer.sample`.
        """
        trainer = self.trainer
        with blame(self.owner, "to sample"):
            return trainer.sample(n, Rng(seed, "samples"), labels)

    @torch.no_grad()
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
        training = trainer.training
        trainer.eval()
        try:
            with blame(self.owner, "to reconstruct"):
                return trainer.reconstruct(images)
        finally:
            trainer.train(training)

    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.jsonl``: ``step``, and the mean of each metric over the log
        interval that ends there.

        Raises:
            RunError: the file is damaged.
        """
        return self.folder.read_rows(METRICS)

    def plot(self, path: Path | None = None) -> Path:
        """Draw the curves of ``metrics.jsonl`` to ``path`` (None: ``plots/curves.png`` in the run),
        and say where.

        Raises:
            RunError: there are fewer than two rows.
        """
        path = path or self.folder.inside(CURVES)
        plot_curves(
            self.metrics(),
            path,
            title=f"{self.info.model.name} on {shorten_dataset(self.info.dataset.name)}",
        )
        return path

    def rewind(self, step: int, info: RunInfo) -> None:
        """Forget all after the checkpoint of ``step``, as if training had not gone past it;
        ``info`` is what goes on.

        A row or grid of ``step`` itself stays only where training writes one at that step anyway.
        Checkpoints of later steps were passed over as damaged: they are set aside.

        Raises:
            RunError: a file is damaged, or cannot be written.
        """
        options = info.options
        finished = options.iterations == step
        row = step if finished else step - step % options.log_interval
        grid = step if finished or step % options.sample_interval == 0 else step - 1
        try:
            self.folder.forget_after(row, grid)
            checkpoint.set_aside(self.folder.checkpoints, step)
        except OSError as error:
            raise RunError(f"cannot write in {self.path}: {error.strerror}") from error
        self.info = info
        self.save_info()
        self._loaded = None

    def note_engine(self, name: str) -> None:
        """Record in ``run.json`` how the steps are executed now."""
        environment = {**self.info.environment, "engine": name}
        self.info = self.info.model_copy(update={"environment": environment})
        self.save_info()

    def save_info(self) -> None:
        """Write ``run.json``.

        Raises:
            RunError: it cannot be written.
        """
        try:
            self.folder.write_json(RUN, self.info.model_dump(mode="json"))
        except OSError as error:
            raise RunError(f"cannot write {self.path}/run.json: {error.strerror}") from error

    def record(self, name: str, content: Mapping[str, Mapping[str, Any]]) -> None:
        """Merge the sections of ``content`` into a JSON file of the run.

        Raises:
            RunError: what is there is damaged.
        """
        try:
            known = self.folder.read_json(name)
        except FileNotFoundError:
            known = {}
        try:
            merged = {
                section: _plain({**known.get(section, {}), **values})
                for section, values in content.items()
            }
        except (TypeError, AttributeError) as error:
            raise RunError(
                f"{self.path / name} is damaged ({type(error).__name__}); move it away"
            ) from None
        self.folder.write_json(name, {**known, **merged})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON, which has no NaN and no infinity: they become null."""
    return {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in values.items()
    }


def find_trainer(registry: Registry, name: str) -> type[Trainer]:
    """The Trainer class of the model ``name``.

    Raises:
        UnknownNameError: no plugin provides it.
        ContractError: its target is no Trainer.
    """
    found = registry.find(Model, name)
    target = found.target()
    if not (isinstance(target, type) and issubclass(target, Trainer)):
        raise ContractError(f"{found.qualified_name}: {found.entry.target} is no genkit.Trainer")
    return target


def _slug(name: str) -> str:
    return (
        re.sub(r"[^A-Za-z0-9]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-")[:40]
        or "images"
    )
