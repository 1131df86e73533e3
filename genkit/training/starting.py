"""A new training, from what the user asked for, and the new run that it is recorded in."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..callback import Callback
from ..config import resolve
from ..data.dataset_options import InstalledDatasets
from ..data.selection import absolute, select_dataset
from ..engines.base import choose_device
from ..interfaces import Trainer
from ..models import build, resolve_model
from ..plugins.registry import discover
from ..run_info import RunInfo
from .callbacks import make_callbacks
from .recorder import RunRecorder
from .session import Training
from .threads import fastest_threads


@contextmanager
def start(
    model: str | type[Trainer],
    dataset: Any,
    config: Path | str | None,
    callbacks: str | Sequence[str | Callback],
    progress: bool,
    options: Mapping[str, Any],
) -> Iterator[tuple[Training, RunRecorder]]:
    """A training at step 0, and a run in a new folder, which no other process may train meanwhile.

    The arguments are those of :func:`genkit.train`.

    Raises:
        GenkitError: whatever the caller can correct, in one line; no folder was made then.
    """
    registry = discover()
    trainer_class, model_info = resolve_model(registry, model)
    given = {**options, **_named(dataset, callbacks)}
    file = Path(config) if config else None
    by_name = dataset is None or isinstance(dataset, str)
    datasets = InstalledDatasets(registry) if by_name else None
    core, own, of_dataset = resolve(trainer_class.Config, model_info.name, given, file, datasets)
    device = choose_device(core.device)  # before anything is downloaded
    listeners = make_callbacks(registry, core, callbacks, progress)
    notify = listeners.on_notice
    dataset_info, data = select_dataset(
        registry, trainer_class, dataset, core, of_dataset, notify, show_progress=progress
    )

    make_trainer = partial(build, trainer_class, own, data.spec, core.seed)
    prepare = partial(Training.prepare, make_trainer, data, owner=model_info.plugin_name)
    if core.threads == "probe":
        threads = fastest_threads(prepare, core, device, notify)
        core = core.model_copy(update={"threads": threads})
    training = prepare(core)

    info = RunInfo(
        model=model_info,
        options=core.model_copy(update={"out": None, "data_root": absolute(core.data_root)}),
        config=own.model_dump(mode="json"),
        dataset=dataset_info,
        environment=training.environment(model_info),
    )
    with RunRecorder.create(core.out, info, trainer_class, registry, listeners) as recorder:
        yield training, recorder


def _named(dataset: Any, callbacks: str | Sequence[str | Callback]) -> dict[str, Any]:
    """Of dataset and callbacks what is given by name: that is an option."""
    found: dict[str, Any] = {"dataset": dataset} if isinstance(dataset, str) else {}
    names = callbacks
    if not isinstance(callbacks, str):
        names = [callback for callback in callbacks if isinstance(callback, str)]
    return found | ({"callbacks": names} if names else {})
