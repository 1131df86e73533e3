"""Callback: told of what happens in a run, and how a run is told about."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from .errors import ContractError, PluginError, first_line


class Callback:
    """Told of what happens in a run; override what you need. It acts only where the user names it.

    Steps count finished updates; metrics are means over the log interval that ends at the step. A
    callback never changes what is computed.
    """

    def on_notice(self, message: str) -> None:
        """Something that the user should know, in one line."""

    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        """Training is about to go from ``step`` to ``iterations`` in the run folder ``path``."""

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of ``metrics.jsonl`` was written."""

    def on_sample(self, step: int, path: Path, metrics: Mapping[str, float]) -> None:
        """A sample grid was written to ``path``; ``metrics`` are the means since the log interval
        began.
        """

    def on_alarm(self, step: int, figures: Mapping[str, float], wrong: Mapping[str, str]) -> None:
        """The alarm has looked: a row of ``alarm.jsonl``, and what is wrong, kind → line; mostly
        nothing.
        """

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is safe on disk."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        """The model was evaluated on the held-out images."""

    def on_stop(self, step: int) -> None:
        """No further step follows: all were made, or an error or the user ended them."""

    def on_end(self, step: int, path: Path, samples: Path | None) -> None:
        """The run is complete; ``samples`` is its latest grid."""


@final
class Audience(Callback):
    """All that a run tells, as one callback.

    Those that a user made are called as they are. One that came from a plugin by name is guarded:
    when it raises, that is said once, it is told nothing more, and training goes on
    (``GENKIT_STRICT=1``: it stops).
    """

    def __init__(self, own: Sequence[Callback], named: Mapping[str, Callback]) -> None:
        self._own = list(own)
        self._named = dict(named)

    def on_notice(self, message: str) -> None:
        self._tell("on_notice", message)

    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        self._tell("on_start", path, step, iterations, log_format)

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tell("on_log", step, metrics)

    def on_sample(self, step: int, path: Path, metrics: Mapping[str, float]) -> None:
        self._tell("on_sample", step, path, metrics)

    def on_alarm(self, step: int, figures: Mapping[str, float], wrong: Mapping[str, str]) -> None:
        self._tell("on_alarm", step, figures, wrong)

    def on_checkpoint(self, step: int, path: Path) -> None:
        self._tell("on_checkpoint", step, path)

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tell("on_evaluate", step, metrics)

    def on_stop(self, step: int) -> None:
        self._tell("on_stop", step)

    def on_end(self, step: int, path: Path, samples: Path | None) -> None:
        self._tell("on_end", step, path, samples)

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self._own:
            getattr(callback, event)(*arguments)
        for name, callback in list(self._named.items()):
            try:
                getattr(callback, event)(*arguments)
            except Exception as error:  # Interrupted is none: it goes through
                problem = f"callback {name} failed in {event}: {first_line(error)}"
                if os.environ.get("GENKIT_STRICT") == "1":
                    raise PluginError(problem) from error
                del self._named[name]
                self.on_notice(f"{problem}; it is told nothing more")


def describe(log_format: str, metrics: Mapping[str, float]) -> str:
    """``metrics`` in one line: by the trainer's ``log_format``, else ``name: value`` for each.

    Raises:
        ContractError: the format is of other metrics.
    """
    if log_format:
        try:
            return log_format.format(**metrics)
        except (KeyError, IndexError, ValueError) as error:
            message = f"log_format {log_format!r} does not fit the metrics {tuple(metrics)}"
            raise ContractError(f"{message} ({first_line(error)})") from None
    return "  ".join(f"{name}: {value:.6g}" for name, value in metrics.items())
