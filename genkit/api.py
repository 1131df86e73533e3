"""The verbs: train, resume, load, evaluate. The command line calls the same, and adds parsing and
printing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .callback import Callback
from .data.selection import absolute
from .errors import memory_errors
from .evaluation.measure import Measurement
from .interfaces import Trainer
from .report.plotting import draw_curves
from .run import Run
from .training.callbacks import make_notify
from .training.loop import fit
from .training.resuming import reopen
from .training.starting import start
from .training.validation import evaluate_run


@memory_errors()
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
        dataset: a dataset by name, such as ``mnist`` or ``folder:PATH``; or images of your own:
            a uint8 array or tensor, grey ``(N, H, W)`` or with 1, 3 or 4 channels, a list of
            images or of pairs ``(image, label)``, a map-style torch dataset, or a
            :class:`genkit.ImageData`. None: the first that can be loaded of those that the model
            prefers.
        config: a TOML file of options; those given here count more.
        callbacks: notified of what happens in the run: objects of yours, or names of registered
            callbacks, which ``run.json`` records and :func:`resume` uses too.
        progress: whether the progress is printed.
        options: the core's options (``iterations=``, ``seed=`` …, see
            :class:`genkit.config.TrainOptions`), the model's, and those of the dataset that is
            named.

    Raises:
        GenkitError: whatever the caller can correct, in one line.
    """
    with start(model, dataset, config, callbacks, progress, options) as (training, recorder):
        fit(training, recorder, draw_curves)
    return recorder.run


@memory_errors()
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
        dataset: where the images are now, if they moved, such as ``folder:NEW``; or the images,
            where they were in memory. They have to be those that the run was trained on.
        data_root: folder of the downloads, if they moved.
        device: if another than the run was started on; the result is then not bit-identical.
        stop_on_collapse: if another than the run was started with.
        callbacks: objects of yours to notify besides those that the run was started with by name.
        progress: whether the progress is printed.

    Raises:
        GenkitError: whatever the caller can correct, in one line.
    """
    run = run if isinstance(run, Run) else Run.open(run, trainer)
    changes = {
        "iterations": iterations,
        "data_root": absolute(data_root),
        "device": device,
        "stop_on_collapse": stop_on_collapse,
    }
    with reopen(run, changes, dataset, callbacks, progress) as (training, recorder):
        fit(training, recorder, draw_curves)
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
    """Measure a run's samples, reconstructions and bounds, and keep the values in its
    ``evaluation.json``.

    Args:
        run: a run or its folder.
        metrics: names of registered metrics; none: genkit's, those that the model can be measured
        by.
        count: images, of the model and held out each; the latter may be fewer.
        seed: of the samples.
        dataset: where the images are now, if they moved, such as ``folder:NEW``; or the images,
            where they were in memory. They have to be those that the run was trained on.
        data_root: folder of the downloads, if they moved.
        progress: whether what is being done is printed.

    Returns:
        Metric → its values, those of real images in place of samples, and what both rest on.

    Raises:
        GenkitError: whatever the caller can correct, in one line.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    notify = make_notify(progress)
    root = absolute(data_root)
    data = run.data(root, notify, dataset=dataset, show_progress=progress)
    return evaluate_run(run, data, metrics, count, seed, notify)
