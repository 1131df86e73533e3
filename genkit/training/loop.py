"""fit(): the training loop of a run, and what happens between its steps."""

import shlex
from collections.abc import Callable, Mapping

from ..callback import describe
from ..config import TrainOptions
from ..data.datasets import Notify
from ..errors import GenkitError, Interrupted, attribute_errors, memory_errors
from ..evaluation.extractor import load_extractor
from ..interfaces import Evaluates
from ..rng import Rng
from ..run import Run
from ..storage import capacity, checkpoint
from ..storage.folder import ALARM, EVALUATION
from .collapse import Alarm, Classify
from .interrupt import Interrupt
from .pace import Pace
from .recorder import RunRecorder, describe_engine
from .session import Training
from .turns import Turns
from .validation import validate

GRID = 16
"""Images in a sample grid."""
METRIC_BYTES = 4
"""Of one metric of one step."""


@memory_errors()
def fit(
    training: Training,
    recorder: RunRecorder,
    draw_curves: Callable[[Run], object],
) -> None:
    """Train from where ``training`` stands to ``options.iterations``; the run holds everything that
    came of it.

    Args:
        training: what is trained.
        recorder: writes the run, and notifies its callbacks.
        draw_curves: draws the curves of a run that is finished.

    Raises:
        Interrupted: a signal to stop came; the step was finished, and its checkpoint is safe.
        GenkitError: a loss or weight is not finite, memory ran out, or the disk refused a
            checkpoint or a row.

    An error that ends the training is written down in ``failure.json``. What only informs never
    does: where the progress, a picture or the test values cannot be written, training goes on.
    """
    run, callbacks, options = recorder.run, recorder.callbacks, training.options
    classify = _make_classify(run, callbacks.on_notice)
    _notify_of_engine(training, recorder)
    _require_memory_for_metrics(options)
    log_format = training.trainer.log_format
    callbacks.on_start(run.path, training.step, options.iterations, log_format)
    alarm = _make_alarm(training, recorder, classify)
    pace = Pace(training.step, options.iterations)
    with (
        Interrupt() as interrupt,
        Turns(training.device, callbacks.on_notice, interrupt.requested) as turns,
    ):

        def should_stop() -> bool:
            turns.pass_on()
            return interrupt.requested() or pace.due()

        try:
            with memory_errors():
                _begin(training, recorder, alarm)
                while training.step < options.iterations:
                    # As many steps as fit before something has to happen.
                    steps = _next_event(training.step, options) - training.step
                    training.run(steps, should_stop)
                    recorder.write_engine(training)
                    _report_progress(training, recorder, pace)
                    _act(training, recorder, alarm, interrupt)
        except Exception as error:
            recorder.write_failure(training.step, error)
            raise
        finally:
            training.close()
            try:
                recorder.stop()
            finally:
                callbacks.on_stop(training.step)
        _evaluate(training, recorder)
        recorder.attempt(lambda: run.folder.has_curves() and draw_curves(run), "the curves")
    grids = run.folder.all_samples()
    callbacks.on_end(training.step, run.path, grids[-1] if grids else None)


def _act(training: Training, recorder: RunRecorder, alarm: Alarm, interrupt: Interrupt) -> None:
    """Do what is due at this step: log, sample, check for collapse, save, stop."""
    step, options = training.step, training.options
    last = step == options.iterations

    # A row of metrics.jsonl. The last one may cover less than an interval; resuming replaces it.
    if last or step % options.log_interval == 0:
        _log(training, recorder)

    # The same latents every time, so that one can watch an image change.
    wrong: Mapping[str, str] = {}
    if last or step % options.sample_interval == 0:
        _sample(training, recorder)
        wrong = _check_for_collapse(step, alarm, recorder)
    collapsed = wrong.get("collapse") if options.stop_on_collapse and not last else None

    # Older checkpoints go only when the new one is safe.
    signal = interrupt.signal  # read once: it may come at any moment
    if last or signal or collapsed or step % options.checkpoint_interval == 0:
        recorder.write_checkpoint(training)
    if last or signal or collapsed:
        recorder.settle()
    if collapsed:
        raise GenkitError(
            f"{collapsed}; stopped at step {step}, as --stop-on-collapse asks, with its checkpoint"
        )

    # What follows the last step takes a moment, and is done all the same.
    if signal and not last:
        how = f"`genkit resume {shlex.quote(str(recorder.run.path))}` goes on"
        raise Interrupted(
            f"stopped by {signal.name}; the checkpoint of step {step} is safe: {how}", signal
        )


def _require_memory_for_metrics(options: TrainOptions) -> None:
    """Refuse an interval whose metrics could not be kept until its row is written."""
    steps = min(options.log_interval, options.iterations)
    capacity.require_memory(
        METRIC_BYTES * steps, f"the metrics of {steps:,} steps", "use a smaller --log-interval"
    )


def _notify_of_engine(training: Training, recorder: RunRecorder) -> None:
    if training.options.engine == "graph" and training.stepper.kind != "graph":
        recorder.callbacks.on_notice(f"the engine is {describe_engine(training)}")
    if training.streamed and training.data.train.release is None:
        size = f"{training.data.train.images.nbytes / 2**30:.1f} GiB"
        recorder.callbacks.on_notice(
            f"the images ({size}) are streamed to {training.device}: "
            "they would take most of its free memory"
        )


def _report_progress(training: Training, recorder: RunRecorder, pace: Pace) -> None:
    if now := pace.read(training.step):
        recorder.callbacks.on_progress(now.step, now.iterations, now.rate, now.seconds_left)


def _make_alarm(training: Training, recorder: RunRecorder, classify: Classify | None) -> Alarm:
    options, notify = training.options, recorder.callbacks.on_notice
    rows = recorder.folder.readable_rows(ALARM)
    return Alarm(
        training.trainer,
        training.data,
        options.batch_size,
        options.seed,
        classify,
        rows,
        notify,
        options.precision,
    )


def _make_classify(run: Run, notify: Notify) -> Classify | None:
    """What tells the classes of samples, where there is a classifier ready for these images."""
    try:
        extractor = load_extractor(run, lambda line: None)
    except GenkitError as error:
        notify(f"the alarm does not look at classes: {error}")
        return None
    return None if extractor is None else lambda images: extractor(images).probabilities


def _begin(training: Training, recorder: RunRecorder, alarm: Alarm) -> None:
    """What is needed before the first step, and what a crash after the last one left undone."""
    recorder.start(training)
    folder, step = recorder.folder, training.step
    if not checkpoint.steps(folder.checkpoints):  # then a run that is killed can be resumed
        recorder.write_checkpoint(training)
    if step == training.options.iterations and not folder.samples(step).exists():
        _sample(training, recorder)
        if step not in {row["step"] for row in alarm.rows}:
            _check_for_collapse(step, alarm, recorder)


def _next_event(step: int, options: TrainOptions) -> int:
    intervals = (options.log_interval, options.sample_interval, options.checkpoint_interval)
    return min(options.iterations, *((step // interval + 1) * interval for interval in intervals))


def _log(training: Training, recorder: RunRecorder) -> None:
    # A format that does not fit stops the run here, at its first row.
    describe(training.trainer.log_format, training.means())
    if (bad := training.not_finite()) is not None:
        where = recorder.folder.checkpoints
        raise GenkitError(f"{bad}: training stopped; the checkpoints in {where} are from before")
    recorder.write_row(training)


def _sample(training: Training, recorder: RunRecorder) -> None:
    with attribute_errors(training.owner, "to sample"):
        rng = Rng(training.options.seed, "grid", training.device)
        grid = training.trainer.sample(GRID, rng)
    recorder.write_grid(training.step, grid, training.means())


def _check_for_collapse(step: int, alarm: Alarm, recorder: RunRecorder) -> Mapping[str, str]:
    """What is wrong."""
    row, wrong = alarm.check(step)
    recorder.write_reading(step, row, wrong)
    return wrong


def _evaluate(training: Training, recorder: RunRecorder) -> None:
    data = training.data
    if not isinstance(training.trainer, Evaluates) or len(data.test) == 0:
        return
    step, metrics = training.step, validate(training)
    sections = {"test": {"step": step, "images": len(data.test), **metrics}}
    recorder.attempt(lambda: recorder.folder.merge_json(EVALUATION, sections), EVALUATION)
    recorder.callbacks.on_evaluate(step, metrics)
