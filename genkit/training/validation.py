"""A trainer's measures of itself on held-out images, while it is trained and of a run."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import torch

from ..config import TrainOptions
from ..data.datasets import ImageData, Notify
from ..data.loader import iterate_batches
from ..errors import attribute_errors
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

    The arguments are those of :func:`genkit.evaluate`.

    Raises:
        GenkitError: whatever the caller can correct, in one line.
    """
    measured = measure.evaluate(run, data, metrics, count, seed, notify)
    sections: dict[str, dict[str, Any]] = {
        "metrics": {name: found.content() for name, found in measured.items()}
    }
    if isinstance(run.trainer, Evaluates):
        saved = run.info.options
        options = TrainOptions(
            batch_size=saved.batch_size, seed=saved.seed, device="cpu", kernels="torch"
        )
        make_trainer = partial(_weights_of, run)
        with closing(Training.prepare(make_trainer, data, options, owner=run.owner)) as training:
            values = validate(training)
        sections["test"] = {"step": run.step, "images": len(data.test), **values}
    run.folder.merge_json(EVALUATION, sections)
    return measured


def _weights_of(run: Run, device: torch.device) -> Trainer:
    """A trainer of its own with the run's weights."""
    trainer = run.build(device)
    load_networks(trainer, networks(run.trainer))
    return trainer
