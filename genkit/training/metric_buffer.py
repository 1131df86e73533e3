"""The metrics of each step since the last log row, on the device, so that nothing waits for it
before a row is due.
"""

from typing import final

import torch
from torch import Tensor

from ..errors import CheckpointError


@final
class MetricBuffer:
    """A ring with a row for each step of a log interval.

    Args:
        log_interval: steps after which the ring begins at its first row.
        capacity: rows that are kept at most: no more steps follow one another.
        device: where the metrics are.
    """

    def __init__(self, log_interval: int, capacity: int, device: torch.device) -> None:
        self.log_interval = log_interval
        self.names: tuple[str, ...] = ()
        """Known after the first step."""
        self._capacity = capacity
        self._device = device
        self._ring = torch.empty(0)
        self._restored: dict[str, Tensor] = {}
        """Of a checkpoint, until the first step after it tells in which order the names come."""

    def add(self, step: int, names: tuple[str, ...], metrics: Tensor) -> None:
        """Keep the metrics ``(S, M)`` of the S steps after ``step``.

        Raises:
            CheckpointError: the names are others than those of the checkpoint that training goes on
            from.
        """
        if not self.names:
            self._begin(names)
        start = step % self.log_interval
        self._ring[start : start + len(metrics)] = metrics

    def _begin(self, names: tuple[str, ...]) -> None:
        if self._restored and self._restored.keys() != set(names):
            raise CheckpointError(
                f"the checkpoint has metrics {sorted(self._restored)}, the model {sorted(names)}"
            )
        self.names = names
        self._ring = torch.zeros((self._capacity, len(names)), device=self._device)
        for name, values in self._restored.items():
            self._ring[: len(values), names.index(name)] = values.to(self._device)

    def means(self, step: int) -> dict[str, float]:
        """Means since the log interval of ``step`` began (the whole interval at its end); empty
        before a step.
        """
        if not self.names:
            return {name: float(values.double().mean()) for name, values in self._restored.items()}
        return dict(zip(self.names, self.summary(step).tolist()[:-1], strict=True))

    def summary(self, step: int) -> Tensor:
        """The means, and 1 if all numbers are finite: float64 ``(M + 1,)``, still on the device."""
        rows = self._rows(step)
        if self._device.type == "mps":  # which has no double precision
            rows = rows.cpu()
        finite = torch.isfinite(rows).all().double()
        return torch.cat([rows.double().mean(0), finite[None]])

    def first_not_finite(self, step: int) -> str | None:
        """The first metric since the log interval of ``step`` began that is NaN or infinite, and
        its step.
        """
        rows = self._rows(step).cpu()
        for row, column in (~torch.isfinite(rows)).nonzero().tolist():
            value, at = float(rows[row, column]), step - len(rows) + row + 1
            return f"{self.names[column]} became {value} at step {at}"
        return None

    def _rows(self, step: int) -> Tensor:
        return self._ring[: step % self.log_interval or self.log_interval]

    def state(self, step: int) -> dict[str, Tensor]:
        """The metrics since the last log row, by name, for a checkpoint of ``step``."""
        if not self.names:
            return dict(self._restored)
        rows = step % self.log_interval
        return {name: self._ring[:rows, i] for i, name in enumerate(self.names) if rows}

    def check(self, step: int, saved: dict[str, Tensor]) -> None:
        """Whether a checkpoint's metrics fit its step.

        Raises:
            CheckpointError: they do not.
        """
        for values in saved.values():
            if values.shape != (step % self.log_interval,) or values.dtype != torch.float32:
                raise CheckpointError(
                    "the checkpoint's losses since the last log row do not fit its step"
                )

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go on with the metrics of a checkpoint."""
        self._restored = saved
        self.names = ()
