"""fit(): the only training loop."""

import shlex
import time
from collections.abc import Callable, Mapping

import torch

from ..callback import Callback, describe
from ..config import TrainOptions
from ..data import images
from ..data.datasets import ImageData
from ..data.loader import iterate_batches
from ..engines.base import Engine
from ..errors import GenkitError, Interrupted, RunError, attribute_errors, first_line
from ..interfaces import Evaluates, Trainer
from ..rng import Rng
from ..run import Run
from ..storage import checkpoint, state
from ..storage.folder import ALARM, EVALUATION, FAILURE, METRICS, TIMING
from .collapse import Alarm, Classify
from .interrupt import Interrupt

GRID = 16
"""Images in a sample grid."""


def fit(
    run: Run,
    engine: Engine,
    data: ImageData,
    options: TrainOptions,
    told: Callback,
    classify: Classify | None = None,
) -> None:
    """Train from the engine's step to ``options.iterations``; the run folder holds everything that
    came of it.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the step was finished, and its checkpoint is safe.
        GenkitError: a loss or weight is not finite, or the disk refused a checkpoint or a row.

    An error that ends the training is written down in ``failure.json``.
    """
    if options.engine == "graph" and engine.name != "graph":
        told.on_notice(f"the engine is {engine.name}")
    if engine.streamed:
        size = f"{data.train.images.nbytes / 2**30:.1f} GiB"
        told.on_notice(
            f"the images ({size}) are streamed to {engine.device}: they would take most of its free memory"
        )
    told.on_start(run.path, engine.step, options.iterations, engine.trainer.log_format)
    rows = run.folder.readable_rows(ALARM)
    alarm = Alarm(
        engine.trainer, data, options.batch_size, options.seed, classify, rows, told.on_notice
    )
    with Interrupt() as interrupt:
        try:
            _train(run, engine, options, told, interrupt, alarm)
        except Exception as error:
            failure = {
                "step": engine.step,
                "reason": str(error) if isinstance(error, GenkitError) else first_line(error),
            }
            _written(lambda: run.folder.write_json(FAILURE, failure), FAILURE, told)
            raise
        finally:
            engine.close()
            told.on_stop(engine.step)
        _evaluate(run, engine, data, options, told)
        if run.folder.has_curves():
            _written(run.plot, "the curves", told)
    samples = run.folder.all_samples()
    told.on_end(engine.step, run.path, samples[-1] if samples else None)


def _train(
    run: Run,
    engine: Engine,
    options: TrainOptions,
    told: Callback,
    interrupt: Interrupt,
    alarm: Alarm,
) -> None:
    clock = _Clock(engine.step)
    if not checkpoint.steps(
        run.folder.checkpoints
    ):  # from here on, a run that is killed can be resumed
        _save(run, engine, options, told)
    if engine.step == options.iterations and not run.folder.samples(engine.step).exists():
        _sample(
            run, engine, options.seed, told
        )  # all steps were made, but the disk refused it, or a crash came
        if engine.step not in {row["step"] for row in alarm.rows}:
            _look(run, engine.step, alarm, told)
    while engine.step < options.iterations:
        # As many steps as fit before something has to happen.
        engine.run(_next_event(engine.step, options) - engine.step, stop=interrupt)
        step, last = engine.step, engine.step == options.iterations
        if engine.name != run.info.environment.get("engine"):
            told.on_notice(f"the engine is {engine.name}")
            run.note_engine(engine.name)

        # A row of metrics.jsonl. The last one may cover less than an interval; resuming replaces
        # it.
        if last or step % options.log_interval == 0:
            _log(run, engine, clock, told)

        # The same latents every time, so that one can watch an image change.
        wrong: Mapping[str, str] = {}
        if last or step % options.sample_interval == 0:
            _sample(run, engine, options.seed, told)
            wrong = _look(run, step, alarm, told)
        stopped = wrong.get("collapse") if options.stop_on_collapse and not last else None

        # Older checkpoints go only when the new one is safe.
        signal = interrupt.signal  # looked at once: it may come at any moment
        if last or signal or stopped or step % options.checkpoint_interval == 0:
            _save(run, engine, options, told)
        if stopped:
            raise GenkitError(
                f"{stopped}; stopped at step {step}, as --stop-on-collapse says, with its checkpoint"
            )

        # What follows the last step takes a moment, and is done all the same.
        if signal and not last:
            how = f"`genkit resume {shlex.quote(str(run.path))}` goes on"
            raise Interrupted(
                f"stopped by {signal.name}; the checkpoint of step {step} is safe: {how}", signal
            )


class _Clock:
    """Seconds and steps since the last reading."""

    def __init__(self, step: int) -> None:
        self._step, self._time = step, time.perf_counter()

    def read(self, step: int) -> Mapping[str, float]:
        now = time.perf_counter()
        steps, seconds = step - self._step, now - self._time
        self._step, self._time = step, now
        return {
            "step": step,
            "seconds": round(seconds, 6),
            "iterations_per_second": round(steps / seconds, 3),
        }


def _next_event(step: int, options: TrainOptions) -> int:
    intervals = (options.log_interval, options.sample_interval, options.checkpoint_interval)
    return min(options.iterations, *((step // interval + 1) * interval for interval in intervals))


def _log(run: Run, engine: Engine, clock: _Clock, told: Callback) -> None:
    means = engine.means()
    describe(
        engine.trainer.log_format, means
    )  # a format that does not fit stops the run here, at its first row
    if (bad := engine.not_finite()) is not None:
        raise GenkitError(
            f"{bad}: training stopped; the checkpoints in {run.folder.checkpoints} are from before"
        )
    try:
        run.folder.append(METRICS, {"step": engine.step, **means})
        run.folder.append(TIMING, clock.read(engine.step))
    except OSError as error:
        raise RunError(
            f"step {engine.step}: cannot write the log in {run.path}: {error.strerror}"
        ) from error
    told.on_log(engine.step, means)


def _sample(run: Run, engine: Engine, seed: int, told: Callback) -> None:
    with attribute_errors(engine.owner, "to sample"):
        grid = engine.trainer.sample(GRID, Rng(seed, "grid", engine.device))
    path = run.folder.samples(engine.step)
    if _written(lambda: images.save_grid(grid, path), f"the samples of step {engine.step}", told):
        told.on_sample(engine.step, path, engine.means())


def _look(run: Run, step: int, alarm: Alarm, told: Callback) -> Mapping[str, str]:
    """Read the alarm, and keep and tell what it says; what is wrong."""
    row, wrong = alarm.look(step)
    if row:
        _written(lambda: run.folder.append(ALARM, row), ALARM, told)
        told.on_alarm(step, row, wrong)
    return wrong


def _written(write: Callable[[], object], what: str, told: Callback) -> bool:
    """Write what can be made again. If the disk refuses, that is said: it is no reason to stop
    training.
    """
    try:
        write()
    except (OSError, RunError) as error:
        told.on_notice(
            f"{what} could not be written ({getattr(error, 'strerror', None) or error}); going on without"
        )
        return False
    return True


def _save(run: Run, engine: Engine, options: TrainOptions, told: Callback) -> None:
    try:
        run.folder.sync_rows()
    except OSError as error:
        raise RunError(
            f"step {engine.step}: cannot write the log in {run.path}: {error.strerror}"
        ) from error
    model, rest = state.networks(engine.trainer), engine.state()
    path = checkpoint.write(
        run.folder.checkpoints, engine.step, model, rest, engine.may_be_infinite
    )
    if not options.keep_all:
        try:
            checkpoint.prune(run.folder.checkpoints, options.keep)
        except OSError as error:
            told.on_notice(f"an old checkpoint stays: {error}")
    told.on_checkpoint(engine.step, path)


@torch.no_grad()
def _evaluate(
    run: Run, engine: Engine, data: ImageData, options: TrainOptions, told: Callback
) -> None:
    trainer = engine.trainer
    if not isinstance(trainer, Evaluates) or len(data.test) == 0:
        return
    step = int(trainer.iteration)
    with attribute_errors(engine.owner, "to evaluate itself"):
        metrics = evaluate(trainer, data, options.batch_size, options.seed)
    content = {"test": {"step": step, "images": len(data.test), **metrics}}
    _written(lambda: run.record(EVALUATION, content), EVALUATION, told)
    told.on_evaluate(step, metrics)


@torch.no_grad()
def evaluate(trainer: Trainer, data: ImageData, batch_size: int, seed: int) -> dict[str, float]:
    """Means over the held-out images of what the trainer measures, in evaluation mode, from a
    stream of its own.
    """
    assert isinstance(trainer, Evaluates)
    device = trainer.iteration.device
    rng = Rng(seed, "evaluation", device)
    sums: dict[str, float] = {}
    trainer.eval()
    try:
        for batch in iterate_batches(data.test, batch_size, device):
            for name, mean in trainer.evaluate(batch, rng).items():
                sums[name] = sums.get(name, 0.0) + float(mean) * len(batch.images)
    finally:
        trainer.train()
    return {name: total / len(data.test) for name, total in sums.items()}
