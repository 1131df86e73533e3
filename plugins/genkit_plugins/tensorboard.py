"""Logs of a run for TensorBoard, also the worked example of a callback."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import genkit

MAX_PIXELS = 2**28
"""Of a sample grid."""


class TensorBoard(genkit.Callback):
    """Writes metrics, the alarm's values and sample grids to ``tensorboard/`` in the run folder.

    Raises:
        GenkitError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            message = "tensorboard is not installed: pip install 'genkit-torch[tensorboard]'"
            raise genkit.GenkitError(message) from None
        self._make = SummaryWriter
        self._writer: Any = None

    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        if (path / "tensorboard").is_symlink():
            raise genkit.GenkitError(
                f"{path / 'tensorboard'} leads out of the run folder: remove it"
            )
        # When a run is resumed, TensorBoard hides what was written after the checkpoint.
        self._writer = self._make(str(path / "tensorboard"), purge_step=step + 1 if step else None)

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"training/{name}", value, step)

    def on_alarm(self, step: int, figures: Mapping[str, float], wrong: Mapping[str, str]) -> None:
        for name in figures.keys() - {"step"}:
            self._writer.add_scalar(f"alarm/{name}", figures[name], step)

    def on_sample(self, step: int, path: Path, metrics: Mapping[str, float]) -> None:
        with genkit.open_image(path, ["PNG"], MAX_PIXELS) as grid:
            self._writer.add_image(
                "samples", np.asarray(grid.convert("RGB")), step, dataformats="HWC"
            )

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"test/{name}", value, step)

    def on_stop(self, step: int) -> None:
        self._writer.close()  # a later write reopens it

    def on_end(self, step: int, path: Path, samples: Path | None) -> None:
        self._writer.close()
