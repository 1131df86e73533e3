"""Callback: the events of a training. CallbackList passes each of them to several callbacks."""

import os
from collections.abc import Mapping, Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any, final

from .errors import ContractError, PluginError, first_line


class Callback:
    """Its methods are called on the events of a training; override those you need.

    A callback acts only where the user names it, and never changes what is computed. Steps count
    finished updates. Metrics are means over the log interval that ends at the step.
    """

    def on_notice(self, message: str) -> None:
        """The user should read ``message``, one line."""

    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        """Training is about to go from ``step`` to ``iterations`` in the run folder ``path``."""

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of ``metrics.jsonl`` was written."""

    def on_progress(self, step: int, iterations: int, rate: float, seconds_left: float) -> None:
        """Some ten seconds have passed since training began or since the last such event; ``rate``
        is in iterations a second since it began.
        """

    def on_sample(self, step: int, path: Path, metrics: Mapping[str, float]) -> None:
        """A sample grid was written to ``path``; ``metrics`` are the means since the last log."""

    def on_alarm(self, step: int, figures: Mapping[str, float], wrong: Mapping[str, str]) -> None:
        """The alarm took a reading: ``figures`` is its row of ``alarm.jsonl``; ``wrong`` maps each
        kind of problem to one line, and is empty in a healthy training.
        """

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is safe on disk."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        """The model was evaluated on the held-out images."""

    def on_stop(self, step: int) -> None:
        """No further step follows: all were made, or an error or the user ended the training."""

    def on_end(self, step: int, path: Path, samples: Path | None) -> None:
        """The run is complete; ``samples`` is its latest grid."""


EVENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))
"""The methods of :class:`Callback`; a new event is a new method there, and nothing else."""


@final
class CallbackList(Callback):
    """Several callbacks as one: each event is passed to all of them.

    Args:
        callbacks: objects that the user made. They are called as they are: what they raise ends
            the training.
        named: callbacks of plugins, by name. One that raises is dropped with one notice, and
            training goes on (with ``GENKIT_STRICT=1`` it ends in a :class:`genkit.PluginError`).
    """

    def __init__(self, callbacks: Sequence[Callback], named: Mapping[str, Callback]) -> None:
        self._callbacks = list(callbacks)
        self._named = dict(named)

    def _dispatch(self, event: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, event)(*arguments)
        for name, callback in list(self._named.items()):
            try:
                getattr(callback, event)(*arguments)
            except Exception as error:  # Interrupted is not one: it ends the training
                problem = f"callback {name} failed in {event}: {first_line(error)}"
                if os.environ.get("GENKIT_STRICT") == "1":
                    raise PluginError(problem) from error
                del self._named[name]
                self.on_notice(f"{problem}; it is not called any more")


for _event in EVENTS:
    setattr(CallbackList, _event, partialmethod(CallbackList._dispatch, _event))


def describe(log_format: str, metrics: Mapping[str, float]) -> str:
    """``metrics`` in one line: by the trainer's ``log_format``, else ``name: value`` for each.

    Raises:
        ContractError: the format names metrics that are not there.
    """
    if log_format:
        try:
            return log_format.format(**metrics)
        except (KeyError, IndexError, ValueError) as error:
            message = f"log_format {log_format!r} does not fit the metrics {tuple(metrics)}"
            raise ContractError(f"{message} ({first_line(error)})") from None
    return "  ".join(f"{name}: {value:.6g}" for name, value in metrics.items())
