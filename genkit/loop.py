"""fit(): the only training loop."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from . import checkpoint, images, state
from .callback import Callback, describe
from .config import TrainOptions
from .data import Batches, ImageData
from .engine import Engine
from .errors import GenkitError
from .interfaces import Evaluates, Trainer
from .rng import Rng
from .run import Run

GRID = 16
"""Images in a sample grid."""


def fit(run: Run, engine: Engine, data: ImageData, options: TrainOptions, told: Callback) -> None:
    """Train from the engine's step to ``options.iterations``; the run folder holds everything that came of it.

    Raises:
        GenkitError: a loss or weight is not finite, or a checkpoint could not be written.
    """
    log_format = engine.trainer.log_format
    clock = _Clock(engine.step)
    told.on_start(run.path, engine.step, options.iterations, log_format)
    try:
        if engine.step == 0:  # from here on, a run that is killed can be resumed
            _save(run, engine, options, told)
        while engine.step < options.iterations:
            # As many steps as fit before something has to happen.
            engine.run(_next_event(engine.step, options) - engine.step)
            step, last = engine.step, engine.step == options.iterations

            # A row of metrics.jsonl. The last one may cover less than an interval; resuming replaces it.
            if last or step % options.log_interval == 0:
                _log(run, engine, clock, told)

            # The same latents every time, so that one can watch an image change.
            if last or step % options.sample_interval == 0:
                path = _sample(run, engine.trainer, options.seed, step)
                told.on_sample(step, path, engine.means())

            # Older checkpoints go only when the new one is safe.
            if last or step % options.checkpoint_interval == 0:
                _save(run, engine, options, told)
    finally:
        told.on_stop(engine.step)
    _evaluate(run, engine.trainer, data, options, told)
    run.plot()
    told.on_end(engine.step, run.path, run.latest_samples())


class _Clock:
    """Seconds and steps since the last reading."""

    def __init__(self, step: int) -> None:
        self._step, self._time = step, time.perf_counter()

    def read(self, step: int) -> Mapping[str, float]:
        now = time.perf_counter()
        steps, seconds = step - self._step, now - self._time
        self._step, self._time = step, now
        return {"step": step, "seconds": round(seconds, 6), "iterations_per_second": round(steps / seconds, 3)}


def _next_event(step: int, options: TrainOptions) -> int:
    intervals = (options.log_interval, options.sample_interval, options.checkpoint_interval)
    return min(options.iterations, *((step // interval + 1) * interval for interval in intervals))


def _log(run: Run, engine: Engine, clock: _Clock, told: Callback) -> None:
    means = engine.means()
    describe(engine.trainer.log_format, means)  # a format that does not fit stops the run here, at its first row
    first = (engine.step - 1) // engine.log_interval * engine.log_interval + 1
    for name, value in means.items():
        if not math.isfinite(value):
            raise GenkitError(
                f"{name} became {value} between step {first} and {engine.step}: "
                f"training stopped; the checkpoints in {run.checkpoints} are from before"
            )
    run.append("metrics.jsonl", {"step": engine.step, **means})
    run.append("timing.jsonl", clock.read(engine.step))
    told.on_log(engine.step, means)


def _sample(run: Run, trainer: Trainer, seed: int, step: int) -> Path:
    rng = Rng(seed, "grid", trainer.iteration.device)
    path = run.samples_path(step)
    images.save_grid(trainer.generator.sample(GRID, rng), path)
    return path


def _save(run: Run, engine: Engine, options: TrainOptions, told: Callback) -> None:
    path = checkpoint.write(run.checkpoints, engine.step, state.networks(engine.trainer), engine.state())
    if not options.keep_all:
        try:
            checkpoint.prune(run.checkpoints, options.keep)
        except OSError as error:
            told.on_notice(f"an old checkpoint stays: {error}")
    told.on_checkpoint(engine.step, path)


@torch.no_grad()
def _evaluate(run: Run, trainer: Trainer, data: ImageData, options: TrainOptions, told: Callback) -> None:
    if not isinstance(trainer, Evaluates) or len(data.test) == 0:
        return
    step = int(trainer.iteration)
    metrics = evaluate(trainer, data, options.batch_size, options.seed)
    run.record("evaluation.json", {"test": {"step": step, "images": len(data.test), **metrics}})
    told.on_evaluate(step, metrics)


@torch.no_grad()
def evaluate(trainer: Trainer, data: ImageData, batch_size: int, seed: int) -> dict[str, float]:
    """Means over the held-out images of what the trainer measures, in evaluation mode, from a stream of its own."""
    assert isinstance(trainer, Evaluates)
    device = trainer.iteration.device
    rng = Rng(seed, "evaluation", device)
    sums: dict[str, float] = {}
    trainer.eval()
    try:
        for batch in Batches(data.test, device).in_order(batch_size):
            for name, mean in trainer.evaluate(batch, rng).items():
                sums[name] = sums.get(name, 0.0) + float(mean) * len(batch.images)
    finally:
        trainer.train()
    return {name: total / len(data.test) for name, total in sums.items()}
