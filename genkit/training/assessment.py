"""A run measured by metrics and by its trainer itself, kept in ``evaluation.json``."""

from collections.abc import Sequence
from typing import Any

from ..config import TrainOptions
from ..data.datasets import ImageData, Notify
from ..evaluation import measure
from ..evaluation.measure import Measurement
from ..interfaces import Evaluates
from ..run import Run
from ..storage.folder import EVALUATION
from .recorder import merge_json
from .session import Training


def evaluate_run(
    run: Run, data: ImageData, metrics: Sequence[str], count: int, seed: int, notify: Notify
) -> dict[str, Measurement]:
    """Measure a run by metrics and by its trainer's measures, and write ``evaluation.json``.

    The arguments are those of :func:`genkit.evaluate`.

    Raises:
        GenkitError: whatever the caller can correct, in one line.
    """
    measured = measure.evaluate(run, data, metrics, count, seed, notify)
    sections: dict[str, dict[str, Any]] = {
        "metrics": {name: found.content() for name, found in measured.items()}
    }
    if isinstance(run.trainer, Evaluates):
        options = {"batch_size": run.info.options.batch_size, "seed": run.info.options.seed}
        on_cpu = TrainOptions(**options, device="cpu", kernels="torch", engine="eager")
        training = Training.prepare(lambda device: run.trainer, data, on_cpu, owner=run.owner)
        values = training.validate()
        sections["test"] = {"step": run.step, "images": len(data.test), **values}
    merge_json(run.folder, EVALUATION, sections)
    return measured
