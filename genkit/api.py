"""What a user calls: train, resume, load. The command line calls the same, and adds parsing and
printing.
"""

import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .callback import Callback, CallbackList
from .config import MAX_THREADS, TrainOptions, resolve
from .data.datasets import (
    DataRequest,
    ImageData,
    Notify,
    data_root,
    from_images,
    load_dataset,
    load_preferred,
)
from .data.images import from_uint8
from .engines.base import Engine, choose_device
from .engines.kernels import again
from .errors import (
    ContractError,
    DataError,
    GenkitError,
    UnknownNameError,
    UsageError,
    blame,
    nearest,
)
from .evaluation import extractor, measure
from .evaluation.measure import Measurement
from .hookspecs import CallbackEntry, Dataset, Model
from .interfaces import Trainer, build
from .plugins.registry import Registry, discover
from .run import DatasetInfo, ModelInfo, Run, RunInfo, find_trainer
from .storage import checkpoint
from .training.collapse import Classify
from .training.loop import fit
from .training.threads import fastest_threads


def train(
    model: str | type[Trainer],
    *,
    dataset: Any = None,
    config: Path | str | None = None,
    callbacks: str | Sequence[str | Callback] = (),
    progress: bool = True,
    **options: Any,
) -> Run:
    """Train a model and return its run.

    Args:
        model: the name of a registered model, or a Trainer class of your own.
        dataset: a dataset by name; or images of your own, uint8 ``(N, H, W)``, tensors ``(N, C, H,
            W)`` or arrays ``(N, H, W, C)``; or a :class:`genkit.ImageData`. None: the first to be
            had of what the model prefers.
        config: a TOML file of options; those given here count more.
        callbacks: what is told of the run besides: objects of yours, or names of registered
            callbacks, which ``run.json`` records and :func:`resume` tells again.
        progress: whether the progress is printed.
        options: the core's options (``iterations=``, ``seed=`` …, see
            :class:`genkit.config.TrainOptions`) and the model's.

    Raises:
        GenkitError: whatever can be mended by the caller, in one line.
    """
    registry = discover()
    trainer_class = find_trainer(registry, model) if isinstance(model, str) else model
    name = model.rpartition("/")[2] if isinstance(model, str) else _kebab(model.__name__)
    if isinstance(dataset, str):
        options["dataset"] = dataset
    if (
        named := callbacks
        if isinstance(callbacks, str)
        else [c for c in callbacks if isinstance(c, str)]
    ):
        options["callbacks"] = named
    core, own = resolve(trainer_class.Config, name, options, Path(config) if config else None)
    device = choose_device(core.device)
    told = _audience(registry, core, callbacks, progress)

    dataset_info, data = _load(registry, trainer_class, dataset, core, told)
    owner = name if isinstance(model, str) else None

    def engine_of(options: TrainOptions) -> Engine:
        with blame(owner, "to be built"):
            trainer = build(trainer_class, own, data.spec, core.seed, device)
        return _engine(trainer, data, options, owner)

    if core.threads == "probe":
        core = core.model_copy(
            update={"threads": fastest_threads(engine_of, core, device, told.on_notice)}
        )
    _set_threads(core.threads)
    engine = engine_of(core)
    model_info = _model_info(registry, name, model)
    info = RunInfo(
        model=model_info,
        options=core.model_copy(update={"out": None, "data_root": _absolute(core.data_root)}),
        config=own.model_dump(mode="json"),
        dataset=dataset_info,
        environment=_environment(engine, model_info),
    )
    with Run.create(core.out, info, trainer_class, registry) as run:
        fit(run, engine, data, core, told, _classifier(run, told))
    return run


def resume(
    run: str | Path | Run,
    iterations: int | None = None,
    *,
    trainer: type[Trainer] | None = None,
    dataset: Any = None,
    data_root: Path | str | None = None,
    device: str | None = None,
    stop_on_collapse: bool | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Go on with a run from its newest good checkpoint, to a total of ``iterations``.

    Args:
        run: a run or its folder.
        iterations: the total to go to; None: the total that the run was started with.
        trainer: the Trainer class, where it came from no plugin.
        dataset: the images, where they were in memory.
        data_root: where the dataset is now, if it moved.
        device: if another than the run was started on; the result is then not bit-identical.
        stop_on_collapse: if another than the run was started with.
        callbacks: objects of yours to tell of the run; those it was started with by name are told
        again.
        progress: whether the progress is printed.

    Raises:
        GenkitError: whatever can be mended by the caller, in one line.
    """
    if any(isinstance(callback, str) for callback in callbacks):
        raise UsageError(
            "callbacks of a resumed run are objects; those by name are the ones that it was started with"
        )
    run = run if isinstance(run, Run) else Run.open(run, trainer)
    with run.folder.exclusive():
        changes = {
            "iterations": iterations,
            "data_root": _absolute(data_root),
            "device": device,
            "stop_on_collapse": stop_on_collapse,
        }
        _resume(
            run,
            {key: value for key, value in changes.items() if value is not None},
            dataset,
            callbacks,
            progress,
        )
    return run


def _resume(
    run: Run, changes: dict[str, Any], dataset: Any, callbacks: Sequence[Callback], progress: bool
) -> None:
    info = run.info
    given = info.options.model_dump() | changes
    core, _ = resolve(run.trainer_class.Config, info.model.name, given | info.config)
    core, gone = _without_callbacks_that_are_gone(run.registry, core)
    told = _audience(run.registry, core, callbacks, progress)
    for problem in gone:
        told.on_notice(f"{problem}; going on without")
    if core.callbacks:
        told.on_notice(f"telling {', '.join(core.callbacks)} of it too, as run.json says")
    found = _newest(run, told)
    step = found.step if found else 0
    if core.iterations < step or (core.iterations == step and run.folder.is_complete(step)):
        total = f"{run.path} is at step {step} already"
        raise UsageError(f"{total}; --iterations is the total, so give more than that")

    threads = info.environment.get("threads")
    known = threads if isinstance(threads, int) and 1 <= threads <= MAX_THREADS else None
    _set_threads(core.threads or known)
    chosen = choose_device(core.device)
    data = (
        run.data(changes.get("data_root"), told.on_notice)
        if dataset is None
        else run.recognise(_in_memory(dataset))
    )
    recorded = {"kernels": "torch", **info.environment}  # older runs knew no others
    as_before = core.model_copy(
        update={"kernels": again(core.kernels, str(recorded["kernels"]), chosen)}
    )
    engine = _engine(run.build(chosen), data, as_before, run.owner)
    environment = _environment(engine, _model_info(run.registry, info.model.name, info.model))
    for key in (recorded.keys() | environment.keys()) - {"engine"}:
        before, now = recorded.get(key), environment.get(key)
        if before != now:
            told.on_notice(f"{key} was {before}, is {now}: the result will not be bit-identical")
    if found:
        engine.restore(found.step, found.model, found.state)
    info = info.model_copy(update={"options": core, "environment": environment})
    run.rewind(step, info)
    fit(run, engine, data, core, told, _classifier(run, told))


def _without_callbacks_that_are_gone(
    registry: Registry, core: TrainOptions
) -> tuple[TrainOptions, list[str]]:
    """A run does not depend on a display: callbacks of ``run.json`` that no plugin provides any
    more are left out.
    """
    kept, gone = [], []
    for name in core.callbacks:
        try:
            registry.find(CallbackEntry, name)
            kept.append(name)
        except UnknownNameError as error:
            gone.append(str(error))
    return core.model_copy(update={"callbacks": tuple(kept)}), gone


def _newest(run: Run, told: Callback) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from; None where the run ended before it had one, so that it begins
    anew.
    """
    if not checkpoint.steps(run.folder.checkpoints):
        told.on_notice(f"{run.path} has no checkpoint yet: beginning at step 0")
        return None
    found, skipped = run.newest_checkpoint()
    for problem in skipped:
        told.on_notice(f"{problem}; going on from step {found.step}")
    return found


def load(path: str | Path, trainer: type[Trainer] | None = None) -> Run:
    """The run in a folder: ``genkit.load("runs/0001-simple-gan-mnist").sample(16, seed=0)``.

    Args:
        path: the folder.
        trainer: the Trainer class, where it came from no plugin.

    Raises:
        RunError: the folder is no run.
    """
    return Run.open(path, trainer)


def originals(run: Run, count: int | None = None, root: Path | None = None) -> torch.Tensor:
    """The first ``count`` held-out images of a run's dataset (None: ten, or all), ``(count, C, H,
    W)`` in [-1, 1].

    Raises:
        DataError: the dataset is not to be had, or holds fewer.
    """
    held_out = run.data(root).test.images
    count = min(10, len(held_out)) or 1 if count is None else count
    if len(held_out) < count:
        raise DataError(
            f"{run.info.dataset.name} holds out {len(held_out)} images, fewer than the {count} asked for"
        )
    return from_uint8(held_out[:count])


def evaluate(
    run: str | Path | Run,
    metrics: Sequence[str] = (),
    *,
    count: int = 10_000,
    seed: int = 0,
    dataset: Any = None,
    data_root: Path | str | None = None,
    progress: bool = True,
) -> dict[str, Measurement]:
    """Measure a run's samples, reconstructions and bounds, and keep the figures in its
    ``measure.json``.

    Args:
        run: a run or its folder.
        metrics: names of registered metrics; none: genkit's own, those that the model can be
        measured by.
        count: images, of the model and held out each; the latter may be fewer.
        seed: of the samples.
        dataset: the images, where they were in memory.
        data_root: where the dataset is now, if it moved.
        progress: whether it is said what is being done.

    Returns:
        Metric → its figures, those of real images in place of samples, and what both rest on.

    Raises:
        GenkitError: whatever can be mended by the caller, in one line.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    notify: Notify = lambda line: None  # noqa: E731
    if progress:
        from .training.progress import Console

        notify = Console().on_notice
    data = (
        run.data(_absolute(data_root), notify)
        if dataset is None
        else run.recognise(_in_memory(dataset))
    )
    return measure.evaluate(run, data, metrics, count, seed, notify)


def _engine(trainer: Trainer, data: ImageData, core: TrainOptions, owner: str | None) -> Engine:
    return Engine(trainer, data, core, owner)


def _load(
    registry: Registry, trainer: type[Trainer], dataset: Any, core: TrainOptions, told: Callback
) -> tuple[DatasetInfo, ImageData]:
    """The images to train on, and what ``run.json`` says of them."""
    if dataset is not None and not isinstance(dataset, str):
        name, distribution, data = "images", None, _in_memory(dataset)
    else:
        request = DataRequest(data_root(core.data_root), on_bad_image=core.on_bad_image)
        if core.dataset is None:
            name, data = load_preferred(
                registry, trainer.preferred_datasets, request, told.on_notice
            )
        else:
            name, data = core.dataset, load_dataset(registry, core.dataset, request, told.on_notice)
        registered = registry.find(Dataset, name.partition(":")[0])
        argument = data.argument or name.partition(":")[2]
        name, distribution = (
            registered.entry.name + (f":{argument}" if argument else ""),
            registered.plugin.distribution,
        )
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
        raise UsageError(
            "a run's dataset by name is in its run.json; give images only where they were in memory"
        )
    return images if isinstance(images, ImageData) else from_images(images)


def _model_info(registry: Registry, name: str, model: str | type[Trainer] | ModelInfo) -> ModelInfo:
    if isinstance(model, type) or (isinstance(model, ModelInfo) and model.distribution is None):
        return ModelInfo(name=name)
    plugin = registry.find(
        Model, model if isinstance(model, str) else f"{model.distribution}/{model.name}"
    ).plugin
    return ModelInfo(name=name, distribution=plugin.distribution, version=plugin.version)


def _environment(engine: Engine, model: ModelInfo) -> dict[str, str | int]:
    """What bit-exactness depends on, and the engine, on which it does not."""
    device = engine.device
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
        "kernels": engine.kernels,
        "engine": engine.name,
    }


def _set_threads(threads: int | str | None) -> None:
    if isinstance(threads, int) and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def _audience(
    registry: Registry,
    core: TrainOptions,
    callbacks: str | Sequence[str | Callback],
    progress: bool,
) -> CallbackList:
    """The console where progress is wanted, the caller's own callbacks, and those that the options
    name.
    """
    named: dict[str, Callback] = {}
    for name in core.callbacks:
        target = registry.find(CallbackEntry, name).target()
        with blame(f"callback {name}", "to be made"):
            named[name] = target()
        if not isinstance(named[name], Callback):
            raise ContractError(
                f"callback {name} is {type(named[name]).__name__}, not a genkit.Callback"
            )
    for callback in () if isinstance(callbacks, str) else callbacks:
        if not isinstance(callback, Callback | str):
            raise UsageError(
                f"callbacks: {callback!r} is neither a genkit.Callback object nor a name"
            )
    own = [callback for callback in callbacks if isinstance(callback, Callback)]
    for callback in (*own, *named.values()):
        for method in (
            m for m in dir(callback) if m.startswith("on_") and not hasattr(Callback, m)
        ):
            raise ContractError(
                f"{type(callback).__name__}.{method} is never called{nearest(method, dir(Callback))}"
            )
    if progress:
        from .training.progress import Console

        own.insert(0, Console())
    return CallbackList(own, named)


def _classifier(run: Run, told: Callback) -> Classify | None:
    """What tells the classes of samples to the alarm, where there is an extractor ready for these
    images.
    """
    try:
        found = extractor.known(run.dataset_entry, run.info.dataset.fingerprint, lambda line: None)
    except GenkitError as error:
        told.on_notice(f"the alarm does not look at classes: {error}")
        return None
    return None if found is None else lambda images: found(images).probabilities


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _absolute(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()
