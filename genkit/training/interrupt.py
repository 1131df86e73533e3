"""SIGINT, SIGTERM and SIGHUP while training: the step is finished, a checkpoint written, and only
then the process ends.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, final

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""The last says that the terminal was closed; Windows has none."""


@final
class Interrupt:
    """A context in which the first signal is noted, and a second one ends the process at once, as
    the system does it.

    Only the main thread can handle signals; in another one nothing is noted and nothing is changed.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The one that came, if any."""
        self._before: dict[signal.Signals, Any] = {}

    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                # One that is ignored, as by nohup, stays so; None is not Python's to restore.
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
