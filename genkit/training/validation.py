"""A trainer's measures of itself on held-out images, while it is trained and of a run."""

import warnings
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import torch

from ..config import TrainOptions
from ..data.datasets import ImageData, Notify
from ..data.loader import iterate_batches
from ..errors import (
    GenkitWarning,
    OutOfMemoryError,
    PluginError,
    RunError,
    attribute_errors,
    memory_errors,
)
from ..evaluation import measure
from ..evaluation.measure import Measurement
from ..interfaces import Evaluates, Trainer, evaluating
from ..rng import Rng
from ..run import Run
from ..storage.folder import EVALUATION
from ..storage.state import load_networks, networks
from .session import Training


def validate(training: Training) -> dict[str, float]:
    """Means over the held-out images of what the trainer measures, from a stream of random numbers
    of their own.
    """
    trainer, data, options = training.trainer, training.data, training.options
    assert isinstance(trainer, Evaluates)
    rng = Rng(options.seed, "evaluation", training.device)
    sums: dict[str, float] = {}
    with attribute_errors(training.owner, "to evaluate itself"), evaluating(trainer):
        for batch in iterate_batches(data.test, options.batch_size, training.device):
            for name, mean in trainer.evaluate(batch, rng).items():
                sums[name] = sums.get(name, 0.0) + float(mean) * len(batch.images)
    return {name: total / len(data.test) for name, total in sums.items()}


def evaluate_run(
    run: Run, data: ImageData, metrics: Sequence[str], count: int, seed: int, notify: Notify
) -> dict[str, Measurement]:
    """Measure a run by metrics and by its trainer's measures, and write ``evaluation.json``.

    The arguments are those of :func:`genkit.evaluate`. Values that cannot be written, as in a run
    of somebody else's, are returned all the same, with a warning.

    Raises:
        GenkitError: whatever the caller can correct, in one line.
    """
    with memory_errors():
        measured = measure.evaluate(run, data, metrics, count, seed, notify)
        sections: dict[str, dict[str, Any]] = {
            "metrics": {name: found.content() for name, found in measured.items()}
        }
        if isinstance(run.trainer, Evaluates):
            try:
                sections["test"] = _test(run, data)
            except (PluginError, OutOfMemoryError) as error:  # the metrics are measured by now
                notify(f"the model's own test values are left out: {error}")
    try:
        run.folder.merge_json(EVALUATION, sections)
    except (OSError, RunError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"{run.path / EVALUATION} was not written ({why}): the values are only shown"
        warnings.warn(message, GenkitWarning, stacklevel=3)
    return measured


def _test(run: Run, data: ImageData) -> dict[str, Any]:
    """The trainer's measures of itself, and what they rest on."""
    saved = run.info.options
    options = TrainOptions(
        batch_size=saved.batch_size, seed=saved.seed, device="cpu", kernels="torch"
    )
    make_trainer = partial(_weights_of, run)
    with closing(Training.prepare(make_trainer, data, options, owner=run.owner)) as training:
        values = validate(training)
    return {"step": run.step, "images": len(data.test), **values}


def _weights_of(run: Run, device: torch.device) -> Trainer:
    """A trainer of its own with the run's weights."""
    trainer = run.build(device)
    load_networks(trainer, networks(run.trainer))
    return trainer
