"""Callback: told of what happens in a run, and how a run is told about."""

from collections.abc import Mapping, Sequence
from pathlib import Path


class Callback:
    """Told of what happens in a run; override what you need. It acts only where the user names it.

    Steps count finished updates; metrics are means over the log interval that ends at the step. A callback
    never changes what is computed.
    """

    def on_notice(self, message: str) -> None:
        """Something that the user should know, in one line."""

    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        """Training is about to go from ``step`` to ``iterations`` in the run folder ``path``."""

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of ``metrics.jsonl`` was written."""

    def on_sample(self, step: int, path: Path, metrics: Mapping[str, float]) -> None:
        """A sample grid was written to ``path``; ``metrics`` are the means since the log interval began."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is safe on disk."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        """The model was evaluated on the held-out images."""

    def on_stop(self, step: int) -> None:
        """No further step follows: all were made, or an error or the user ended them."""

    def on_end(self, step: int, path: Path, samples: Path | None) -> None:
        """The run is complete; ``samples`` is its latest grid."""


def notify(callbacks: Sequence[Callback], message: str) -> None:
    """Tell all of them something that the user should know, in one line."""
    for callback in callbacks:
        callback.on_notice(message)


def describe(log_format: str, metrics: Mapping[str, float]) -> str:
    """``metrics`` in one line: by the trainer's ``log_format``, else ``name: value`` for each."""
    if log_format:
        return log_format.format(**metrics)
    return "  ".join(f"{name}: {value:.6g}" for name, value in metrics.items())
