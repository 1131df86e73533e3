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
from .callback import Callback
from .config import TrainOptions, resolve
from .data import ImageData, data_root, from_images, load_dataset, load_preferred
from .engine import Engine, choose_device
from .errors import DataError, UsageError
from .hookspecs import Dataset, Model
from .images import from_uint8
from .interfaces import Trainer, build
from .loop import fit
from .registry import Registry, discover
from .run import Run, find_trainer, next_path


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

    data_entry, data = _load(registry, trainer_class, dataset, core, callbacks)
    _set_threads(core.threads)
    info = {
        "model": {"name": name, **_provenance(registry, model)},
        "options": core.model_dump(mode="json", exclude={"out"}),
        "config": own.model_dump(mode="json"),
        "dataset": data_entry,
        "environment": _environment(device),
    }
    path = Path(core.out) if core.out else next_path(Path("runs"), f"{name}-{_slug(data_entry['name'])}")
    trainer = build(trainer_class, own, data.spec, core.seed, device)
    engine = _engine(trainer, data, core)
    run = Run.create(path, info, trainer_class, registry)
    fit(run, engine, data, core, callbacks)
    return run


def resume(
    run: str | Path | Run,
    iterations: int | None = None,
    *,
    trainer: type[Trainer] | None = None,
    dataset: Any = None,
    data_root: str | None = None,
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
    changes = {"iterations": iterations, "data_root": data_root, "device": device}
    options = run.info["options"] | {key: value for key, value in changes.items() if value is not None}
    core, own = resolve(run.trainer_class.Config, run.info["model"]["name"], options | run.info["config"])
    found, skipped = checkpoint.newest(run.checkpoints)
    for problem in skipped:
        _notify(callbacks, f"{problem}; going on from step {found.step}")
    if core.iterations <= found.step:
        raise UsageError(
            f"{run.path} is at step {found.step} already; --iterations is the total, so give more than that"
        )

    _set_threads(core.threads or run.info["environment"]["threads"])
    chosen = choose_device(core.device)
    environment = _environment(chosen)
    for key, before in run.info["environment"].items():
        if environment.get(key) != before:
            _notify(callbacks, f"{key} was {before}, is {environment.get(key)}: the result will not be bit-identical")
    data = run.data(core.data_root) if dataset is None else _in_memory(dataset)
    engine = _engine(build(run.trainer_class, own, data.spec, core.seed, chosen), data, core)
    engine.restore(found.step, found.model, found.state)
    run.rewind(found.step - found.step % core.log_interval, core.model_dump(mode="json", exclude={"out"}))
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


def originals(run: Run, count: int, root: str | None = None) -> torch.Tensor:
    """The first ``count`` held-out images of a run's dataset, ``(count, C, H, W)`` in [-1, 1].

    Raises:
        DataError: the dataset is not to be had, or holds fewer.
    """
    held_out = run.data(root).test.images
    if len(held_out) < count:
        raise DataError(
            f"{run.info['dataset']['name']} holds out {len(held_out)} images, fewer than the {count} asked for"
        )
    return from_uint8(held_out[:count])


def _engine(trainer: Trainer, data: ImageData, core: TrainOptions) -> Engine:
    return Engine(trainer, data, batch_size=core.batch_size, log_interval=core.log_interval, seed=core.seed)


def _load(
    registry: Registry, trainer: type[Trainer], dataset: Any, core: TrainOptions, callbacks: Sequence[Callback]
) -> tuple[dict[str, Any], ImageData]:
    """The images to train on, and what ``run.json`` says of them."""
    if dataset is not None and not isinstance(dataset, str):
        name, distribution, data = "images", None, _in_memory(dataset)
    else:
        root = data_root(core.data_root)
        if core.dataset is None:
            name, data = load_preferred(
                registry, trainer.preferred_datasets, root, lambda text: _notify(callbacks, text)
            )
        else:
            name, data = core.dataset, load_dataset(registry, core.dataset, root)
        distribution = registry.find(Dataset, name.partition(":")[0]).plugin.distribution
    return {
        "name": name,
        "distribution": distribution,
        "source": data.source,
        "images": len(data.train),
        "held_out": len(data.test),
        "spec": vars(data.spec),
        "fingerprint": data.fingerprint(),
    }, data


def _in_memory(images: Any) -> ImageData:
    return images if isinstance(images, ImageData) else from_images(images)


def _provenance(registry: Registry, model: str | type[Trainer]) -> dict[str, str | None]:
    if not isinstance(model, str):
        return {"distribution": None, "version": None}
    plugin = registry.find(Model, model).plugin
    return {"distribution": plugin.distribution, "version": plugin.version}


def _environment(device: torch.device) -> dict[str, Any]:
    """What bit-exactness depends on."""
    return {
        "genkit": version("genkit-torch"),
        "python": platform.python_version(),
        "torch": torch.__version__,
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


def _notify(callbacks: Sequence[Callback], message: str) -> None:
    for callback in callbacks:
        callback.on_notice(message)


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-")[:40] or "images"
