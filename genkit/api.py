"""What a user calls: train, resume, load. The command line calls the same, and adds parsing and printing."""

import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import checkpoint
from .callback import Callback, notify
from .config import TrainOptions, resolve
from .data import ImageData, data_root, from_images, load_dataset, load_preferred
from .engine import Engine, choose_device
from .errors import DataError, UsageError
from .hookspecs import Dataset, Model
from .images import from_uint8
from .interfaces import Trainer, build
from .loop import fit
from .registry import Registry, discover
from .run import DatasetInfo, ModelInfo, Run, RunInfo, find_trainer


def train(
    model: str | type[Trainer],
    *,
    dataset: Any = None,
    config: Path | str | None = None,
    callbacks: Sequence[Callback] | None = None,
    **options: Any,
) -> Run:
    """Train a model and return its run.

    Args:
        model: the name of a registered model, or a Trainer class of your own.
        dataset: a dataset by name; or images of your own, uint8 ``(N, H, W)``, tensors ``(N, C, H, W)`` or
            arrays ``(N, H, W, C)``; or a :class:`genkit.ImageData`. None: the first to be had of what the
            model prefers.
        config: a TOML file of options; those given here count more.
        callbacks: what is told of the progress; None prints it.
        options: the core's options (``iterations=``, ``seed=`` …, see :class:`genkit.config.TrainOptions`)
            and the model's.

    Raises:
        GenkitError: whatever can be mended by the caller, in one line.
    """
    registry = discover()
    trainer_class = find_trainer(registry, model) if isinstance(model, str) else model
    name = model.rpartition("/")[2] if isinstance(model, str) else _kebab(model.__name__)
    if isinstance(dataset, str):
        options["dataset"] = dataset
    core, own = resolve(trainer_class.Config, name, options, Path(config) if config else None)
    device = choose_device(core.device)
    callbacks = _callbacks(callbacks)

    dataset_info, data = _load(registry, trainer_class, dataset, core, callbacks)
    _set_threads(core.threads)
    model_info = _model_info(registry, name, model)
    info = RunInfo(
        model=model_info,
        options=core.model_copy(update={"out": None, "data_root": _absolute(core.data_root)}),
        config=own.model_dump(mode="json"),
        dataset=dataset_info,
        environment=_environment(device, model_info),
    )
    engine = _engine(build(trainer_class, own, data.spec, core.seed, device), data, core)
    run = Run.create(core.out, info, trainer_class, registry)
    fit(run, engine, data, core, callbacks)
    return run


def resume(
    run: str | Path | Run,
    iterations: int | None = None,
    *,
    trainer: type[Trainer] | None = None,
    dataset: Any = None,
    data_root: Path | str | None = None,
    device: str | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> Run:
    """Go on with a run from its newest good checkpoint, to a total of ``iterations``.

    Args:
        run: a run or its folder.
        iterations: the total to go to; None: the total that the run was started with.
        trainer: the Trainer class, where it came from no plugin.
        dataset: the images, where they were in memory.
        data_root: where the dataset is now, if it moved.
        device: if another than the run was started on; the result is then not bit-identical.

    Raises:
        GenkitError: whatever can be mended by the caller, in one line.
    """
    callbacks = _callbacks(callbacks)
    run = run if isinstance(run, Run) else Run.open(run, trainer)
    info = run.info
    changes = {"iterations": iterations, "data_root": _absolute(data_root), "device": device}
    given = info.options.model_dump() | {key: value for key, value in changes.items() if value is not None}
    core, own = resolve(run.trainer_class.Config, info.model.name, given | info.config)
    found, skipped = checkpoint.newest(run.checkpoints)
    for problem in skipped:
        notify(callbacks, f"{problem}; going on from step {found.step}")
    if core.iterations < found.step or (core.iterations == found.step and run.complete(found.step)):
        total = f"{run.path} is at step {found.step} already"
        raise UsageError(f"{total}; --iterations is the total, so give more than that")

    threads = info.environment.get("threads")
    _set_threads(core.threads or (threads if isinstance(threads, int) else None))
    chosen = choose_device(core.device)
    environment = _environment(chosen, _model_info(run.registry, info.model.name, trainer or info.model))
    for key in info.environment.keys() | environment.keys():
        before, now = info.environment.get(key), environment.get(key)
        if before != now:
            notify(callbacks, f"{key} was {before}, is {now}: the result will not be bit-identical")
    data = run.data(core.data_root) if dataset is None else run.recognise(_in_memory(dataset))
    engine = _engine(build(run.trainer_class, own, data.spec, core.seed, chosen), data, core)
    engine.restore(found.step, found.model, found.state)
    info = info.model_copy(update={"options": core, "environment": environment})
    run.rewind(found.step if core.iterations == found.step else found.step - found.step % core.log_interval, info)
    fit(run, engine, data, core, callbacks)
    return run


def load(path: str | Path, trainer: type[Trainer] | None = None) -> Run:
    """The run in a folder: ``genkit.load("runs/0001-simple-gan-mnist").sample(16, seed=0)``.

    Args:
        path: the folder.
        trainer: the Trainer class, where it came from no plugin.

    Raises:
        RunError: the folder is no run.
    """
    return Run.open(path, trainer)


def originals(run: Run, count: int, root: Path | None = None) -> torch.Tensor:
    """The first ``count`` held-out images of a run's dataset, ``(count, C, H, W)`` in [-1, 1].

    Raises:
        DataError: the dataset is not to be had, or holds fewer.
    """
    held_out = run.data(root).test.images
    if len(held_out) < count:
        raise DataError(f"{run.info.dataset.name} holds out {len(held_out)} images, fewer than the {count} asked for")
    return from_uint8(held_out[:count])


def _engine(trainer: Trainer, data: ImageData, core: TrainOptions) -> Engine:
    return Engine(trainer, data, batch_size=core.batch_size, log_interval=core.log_interval, seed=core.seed)


def _load(
    registry: Registry, trainer: type[Trainer], dataset: Any, core: TrainOptions, callbacks: Sequence[Callback]
) -> tuple[DatasetInfo, ImageData]:
    """The images to train on, and what ``run.json`` says of them."""
    if dataset is not None and not isinstance(dataset, str):
        name, distribution, data = "images", None, _in_memory(dataset)
    else:
        root = data_root(core.data_root)
        if core.dataset is None:
            name, data = load_preferred(
                registry, trainer.preferred_datasets, root, lambda text: notify(callbacks, text)
            )
        else:
            name, data = core.dataset, load_dataset(registry, core.dataset, root)
        distribution = registry.find(Dataset, name.partition(":")[0]).plugin.distribution
    info = DatasetInfo(
        name=name,
        distribution=distribution,
        source=data.source,
        images=len(data.train),
        held_out=len(data.test),
        spec=data.spec,
        fingerprint=data.fingerprint(),
    )
    return info, data


def _in_memory(images: Any) -> ImageData:
    if isinstance(images, str):
        raise UsageError("a run's dataset by name is in its run.json; give images only where they were in memory")
    return images if isinstance(images, ImageData) else from_images(images)


def _model_info(registry: Registry, name: str, model: str | type[Trainer] | ModelInfo) -> ModelInfo:
    if isinstance(model, type) or (isinstance(model, ModelInfo) and model.distribution is None):
        return ModelInfo(name=name)
    plugin = registry.find(Model, model if isinstance(model, str) else f"{model.distribution}/{model.name}").plugin
    return ModelInfo(name=name, distribution=plugin.distribution, version=plugin.version)


def _environment(device: torch.device, model: ModelInfo) -> dict[str, str | int]:
    """What bit-exactness depends on."""
    return {
        "genkit": version("genkit-torch"),
        "model": f"{model.distribution} {model.version}" if model.distribution else "of no plugin",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "platform": f"{sys.platform} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "engine": Engine.name,
    }


def _set_threads(threads: int | None) -> None:
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def _callbacks(callbacks: Sequence[Callback] | None) -> Sequence[Callback]:
    if callbacks is None:
        from .console import Console

        return [Console()]
    return callbacks


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _absolute(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()
