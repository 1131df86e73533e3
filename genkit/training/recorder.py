"""Writes a run while it is trained: its rows, grids, checkpoints and ``run.json``."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

from torch import Tensor

from ..callback import Callback
from ..data import images
from ..errors import ContractError, GenkitError, RunError, first_line
from ..interfaces import Trainer
from ..plugins.registry import Registry
from ..run import Run
from ..run_info import RunInfo
from ..storage import checkpoint, lock, state
from ..storage.folder import (
    ALARM,
    FAILURE,
    METRICS,
    RUN,
    TIMING,
    RunFolder,
)
from .session import Training
from .writer import Writer

THREADED_DEVICES = {"cuda"}
"""Types of devices that compute while the host writes; a CPU has no core to spare for that."""
MAX_REASON = 10_000
"""Characters of why a training failed."""


@final
class RunRecorder:
    """Writes what comes of a training while it runs.

    What training cannot do without (rows, checkpoints) raises where the disk refuses it; whatever
    goes wrong with the rest (grids, curves, evaluation) is a notice.
    """

    def __init__(self, run: Run, callbacks: Callback) -> None:
        self.run = run
        self.callbacks = callbacks
        self._clock = _Clock(0)
        self._writer = Writer(in_thread=False)
        self._training: Training | None = None

    @classmethod
    @contextmanager
    def create(
        cls,
        out: Path | None,
        info: RunInfo,
        trainer_class: type[Trainer],
        registry: Registry,
        callbacks: Callback,
    ) -> Iterator["RunRecorder"]:
        """A new run in the folder ``out``, or the next number under ``runs/``, that no other
        process may train. A run that fails before its first step leaves nothing.

        Raises:
            RunError: the folder is not empty, in use, or cannot be written.
        """
        title = f"{_slug(info.model.name)}-{_slug(info.dataset.name)}"
        is_new = out is None or not out.exists()
        with lock.claim(out, title) as folder:
            recorder = cls(Run(folder, info, trainer_class, registry), callbacks)
            try:
                recorder.write_info(info)
                yield recorder
            except Exception:
                if recorder.has_no_step():
                    with contextlib.suppress(OSError):  # the error itself is what is to be shown
                        lock.discard(folder, with_folder=is_new)
                raise

    @property
    def folder(self) -> RunFolder:
        """The run's files."""
        return self.run.folder

    def has_no_step(self) -> bool:
        """Whether no step has been made."""
        return self._training is None or self._training.step == 0

    def start(self, training: Training) -> None:
        """Steps are timed from now on, and what takes long is written beside them where a device
        would wait for it.
        """
        self._training = training
        self._clock = _Clock(training.step)
        self._writer = Writer(in_thread=training.device.type in THREADED_DEVICES)

    def settle(self) -> None:
        """Wait until all is written.

        Raises:
            GenkitError: a checkpoint could not be.
        """
        self._writer.settle()

    def stop(self) -> None:
        """No more is written; what was begun is finished."""
        self._writer.close()
        try:
            self._writer.settle()
        except Exception as error:  # noqa: BLE001 (what ended the training comes first)
            self.callbacks.on_notice(first_line(error))

    def rewind(self, step: int, info: RunInfo) -> None:
        """Forget all after the checkpoint of ``step``, as if training had not gone past it;
        ``info`` is what goes on.

        A row or grid of ``step`` itself stays only where training writes one at that step anyway.
        Checkpoints of later steps were passed over as damaged: they are set aside.

        Raises:
            RunError: a file is damaged, or cannot be written.
        """
        options = info.options
        finished = options.iterations == step
        row = step if finished else step - step % options.log_interval
        grid = step if finished or step % options.sample_interval == 0 else step - 1
        try:
            self.folder.forget_after(row, grid)
            checkpoint.set_aside(self.folder.checkpoints, step)
        except OSError as error:
            raise RunError(f"cannot write in {self.run.path}: {error.strerror}") from error
        self.write_info(info)

    def write_info(self, info: RunInfo) -> None:
        """Write ``run.json``.

        Raises:
            RunError: it cannot be written.
        """
        self.run.replace_info(info)
        try:
            self.folder.write_json(RUN, info.model_dump(mode="json"))
        except OSError as error:
            raise RunError(f"cannot write {self.run.path}/{RUN}: {error.strerror}") from error

    def write_engine(self, training: Training) -> None:
        """Record in ``run.json`` which engine and kernels make the steps now; notify the callbacks
        of another engine.
        """
        info, stepper = self.run.info, training.stepper
        now = {
            "engine": stepper.kind,
            "fallback_reason": stepper.fallback_reason,
            "kernels": stepper.kernels,
        }
        known = info.environment.model_dump()
        if now.items() <= known.items():
            return
        if any(now[name] != known[name] for name in ("engine", "fallback_reason")):
            self.callbacks.on_notice(f"the engine is {describe_engine(training)}")
        environment = info.environment.model_copy(update=now)
        self.write_info(info.model_copy(update={"environment": environment}))

    def write_row(self, training: Training) -> None:
        """A row of metrics and one of times.

        Raises:
            RunError: the disk refused.
            ContractError: the model gives more metrics than a row can have.
        """
        step, means = training.step, training.means()
        self._writer.settle(wait=False)
        try:
            self.folder.append(METRICS, {"step": step, **means})
            self.folder.append(TIMING, {**self._clock.read(step), **_replay_length(training)})
        except OSError as error:
            raise _cannot_log(self.run, step, error) from error
        except RunError as error:
            raise ContractError(f"{self.run.info.model.name}: {error}") from None
        self.callbacks.on_log(step, means)

    def write_grid(self, step: int, grid: Tensor, means: Mapping[str, float]) -> None:
        """The sample grid of a step."""
        path, on_host = self.folder.samples(step), grid.cpu()

        def write() -> Exception | None:
            return _failure_of(lambda: images.save_grid(on_host, path))

        def then(failure: Exception | None) -> None:
            if self._forgive(failure, f"the samples of step {step}"):
                self.callbacks.on_sample(step, path, means)

        self._writer.submit(write, then)

    def write_reading(self, step: int, row: Mapping[str, float], wrong: Mapping[str, str]) -> None:
        """What the alarm read."""
        if row:
            self.attempt(lambda: self.folder.append(ALARM, row), ALARM)
            self.callbacks.on_alarm(step, row, wrong)

    def write_checkpoint(self, training: Training) -> None:
        """The checkpoint of this step; older ones go only when it is safe.

        On a device that computes on meanwhile, its state is copied, and written in a thread:
        :meth:`settle` waits for it.

        Raises:
            RunError: the rows before it could not be made safe.
            CheckpointError: the disk refused, or a number is not finite; here or in
                :meth:`settle`.
        """
        self.settle()  # one copy of the state at a time
        step, options, folder = training.step, training.options, self.folder.checkpoints
        model, rest = state.networks(training.trainer), training.state()
        if training.device.type in THREADED_DEVICES:
            model, rest = state.copy_to_host(model), state.copy_to_host(rest)

        def write() -> tuple[Path, Exception | None]:
            try:
                self.folder.sync_rows()
            except OSError as error:
                raise _cannot_log(self.run, step, error) from error
            path = checkpoint.write(folder, step, model, rest, training.may_be_infinite)
            if options.keep_all:
                return path, None
            return path, _failure_of(lambda: checkpoint.prune(folder, options.keep))

        def then(written: tuple[Path, Exception | None]) -> None:
            path, failure = written
            if failure:
                self.callbacks.on_notice(f"an old checkpoint stays: {failure}")
            self.callbacks.on_checkpoint(step, path)

        self._writer.submit(write, then)

    def write_failure(self, step: int, error: Exception) -> None:
        """What ended the training."""
        reason = str(error) if isinstance(error, GenkitError) else first_line(error)
        failure = {"step": step, "reason": reason[:MAX_REASON]}
        self.attempt(lambda: self.folder.write_json(FAILURE, failure), FAILURE)

    def attempt(self, write: Callable[[], object], what: str) -> bool:
        """Write what only informs; whatever goes wrong is a notice, and training goes on."""
        return self._forgive(_failure_of(write), what)

    def _forgive(self, failure: Exception | None, what: str) -> bool:
        """Whether it was written; if not, that is a notice."""
        if failure is not None:
            known = isinstance(failure, OSError | GenkitError)
            why = (getattr(failure, "strerror", None) or failure) if known else first_line(failure)
            self.callbacks.on_notice(f"{what} could not be written ({why}); going on without")
        return failure is None


def _failure_of(write: Callable[[], object]) -> Exception | None:
    """Why it could not be written; None where it was."""
    try:
        write()
    except Exception as error:  # noqa: BLE001 (matplotlib, Pillow and codecs raise all kinds)
        return error
    return None


def _replay_length(training: Training) -> dict[str, float]:
    """Steps of a replay, where steps are captured several at a time; chosen by timing."""
    length = getattr(training.stepper, "steps_per_replay", 1)
    return {"steps_per_replay": length} if length > 1 else {}


class _Clock:
    """Seconds and steps since the last reading."""

    def __init__(self, step: int) -> None:
        self._step, self._time = step, time.perf_counter()

    def read(self, step: int) -> Mapping[str, float]:
        now = time.perf_counter()
        steps, seconds = step - self._step, now - self._time
        self._step, self._time = step, now
        rate = round(steps / seconds, 3)
        return {"step": step, "seconds": round(seconds, 6), "iterations_per_second": rate}


def describe_engine(training: Training) -> str:
    """``graph``, or ``eager`` with the reason where steps were to be captured."""
    reason = training.stepper.fallback_reason
    return training.stepper.kind + (f" ({reason})" if reason else "")


def _cannot_log(run: Run, step: int, error: OSError) -> RunError:
    return RunError(f"step {step}: cannot write the log in {run.path}: {error.strerror}")


def _slug(name: str) -> str:
    last = name.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9]+", "-", last).strip("-")[:40] or "images"
