"""Going on with a run from its newest good checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..callback import Callback
from ..config import TrainOptions, parse
from ..data.datasets import ImageData, Notify
from ..data.selection import DatasetInfo
from ..engines.base import choose_device
from ..engines.first_steps import PYTHON_STEPS
from ..engines.kernels import resolve_for_resume
from ..errors import UsageError
from ..models import ModelInfo, resolve_model
from ..run import Run
from ..storage import checkpoint, lock
from .callbacks import drop_missing_callbacks, make_callbacks
from .recorder import RunRecorder
from .session import Training


@contextmanager
def reopen(
    run: Run,
    changes: Mapping[str, Any],
    dataset: Any,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Iterator[tuple[Training, RunRecorder]]:
    """A training that stands where the run's newest good checkpoint does, and the run set back to
    that.

    Args:
        run: the run, which no other process may train meanwhile.
        changes: options of the core that are others than before; None: as before.
        dataset: where the images are now, if they moved, or images in memory; None: as recorded.
        callbacks: objects of the caller's to notify.
        progress: whether the progress is printed.

    Raises:
        GenkitError: there is nothing left to do, or the run, its images or its checkpoints cannot
        be used.
    """
    if any(isinstance(callback, str) for callback in callbacks):
        raise UsageError(
            "callbacks of a resumed run are objects: those by name are the ones it was started with"
        )
    with lock.hold(run.folder):
        options, missing = drop_missing_callbacks(run.registry, _changed_options(run, changes))
        listeners = make_callbacks(run.registry, options, callbacks, progress)
        for problem in missing:
            listeners.on_notice(f"{problem}; going on without")
        if options.callbacks:
            listeners.on_notice(f"callbacks of run.json: {', '.join(options.callbacks)}")
        recorder = RunRecorder(run, listeners)

        def locate() -> tuple[DatasetInfo, ImageData]:
            root = changes.get("data_root")
            return run.locate_data(dataset, root, listeners.on_notice, progress)

        yield _prepare(run, options, locate, recorder), recorder


def _changed_options(run: Run, changes: Mapping[str, Any]) -> TrainOptions:
    """The core's options of a run, but for ``changes``."""
    given = {name: value for name, value in changes.items() if value is not None}
    return parse(TrainOptions, run.info.options.model_dump() | given)


def _prepare(
    run: Run,
    options: TrainOptions,
    locate: Callable[[], tuple[DatasetInfo, ImageData]],
    recorder: RunRecorder,
) -> Training:
    """The training in the state of the newest good checkpoint; the run is set back to that."""
    notify, before = recorder.callbacks.on_notice, run.info.environment
    found = _newest_checkpoint(run, notify)
    step = found.step if found else 0
    if options.iterations < step or (options.iterations == step and run.folder.is_complete(step)):
        total = f"{run.path} is at step {step} already"
        raise UsageError(f"{total}; --iterations is the total, so give more than that")
    device = choose_device(options.device)
    as_before = {
        "threads": options.threads or before.threads or None,
        "kernels": resolve_for_resume(
            options.kernels, before.kernels, device, undecided=step < PYTHON_STEPS
        ),
    }
    dataset, data = locate()
    if dataset.name != run.info.dataset.name:
        options = options.model_copy(update={"dataset": dataset.name})
    training = Training.prepare(
        run.build, data, options.model_copy(update=as_before), owner=run.owner
    )
    environment = training.environment(_installed_model(run))
    for name, then, now in before.differences(environment):
        was = then or "not recorded"
        notify(f"{name} was {was}, is {now}: the result will not be bit-identical")
    if found:
        training.restore(found.step, found.model, found.state)
    info = run.info.model_copy(
        update={"options": options, "dataset": dataset, "environment": environment}
    )
    recorder.rewind(step, info)
    return training


def _installed_model(run: Run) -> ModelInfo:
    """The run's model, with the version of its plugin that is installed now."""
    model = run.info.model
    if model.distribution is None:
        return model
    return resolve_model(run.registry, f"{model.distribution}/{model.name}")[1]


def _newest_checkpoint(run: Run, notify: Notify) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from; None where the run ended before it had one: it begins at step
    0.
    """
    if not checkpoint.steps(run.folder.checkpoints):
        notify(f"{run.path} has no checkpoint yet: beginning at step 0")
        return None
    found, skipped = run.newest_checkpoint()
    for problem in skipped:
        notify(f"{problem}; going on from step {found.step}")
    return found
