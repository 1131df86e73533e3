"""Turns: trainings of one machine that each want most of its cores compute one after the other.

Threads of a CPU kernel wait for each other many times in a step, and while they wait they occupy
their cores. Where two trainings each have as many threads as there are cores, each waits for
threads that the other one keeps from running, and both together reach a third of the rate of one.
In turns of a quarter of a second they reach nearly all of it. It changes no number of threads, so
no bit.

Trainings of one user on one set of cores take turns, by locked files in the system's temporary
folder. Other programs know nothing of it.
"""

import hashlib
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SLICE_SECONDS = 0.25
"""Of a turn: long beside the milliseconds for which idle threads still occupy their cores."""
POLL_SECONDS = 0.001
PATIENCE_SECONDS = 2.0
"""Without a turn that anyone takes, after which a training computes all the same: who has the turn
may have been stopped, or be in a very long step.
"""
RETRY_SECONDS = 30.0
"""After which it asks for a turn again."""
_taking = threading.local()


@final
class Turns:
    """A context in which a training takes turns with others; :meth:`pass_on` between its steps.

    Args:
        device: where it computes; only on a CPU is there anything to share.
        notify: called if turns cannot be taken though they would be of use.
        should_stop: a training that is to stop does not wait.
        folder: where the locked files are; None: in the system's temporary folder.
    """

    def __init__(
        self,
        device: torch.device,
        notify: Callable[[str], object],
        should_stop: Callable[[], bool] = lambda: False,
        folder: Path | None = None,
    ) -> None:
        cores = _cores()
        wants_most = device.type == "cpu" and 2 * torch.get_num_threads() > len(cores) > 1
        # A training inside another one, as of a callback, computes in the turn of that.
        self._inner = getattr(_taking, "now", False)
        self._notify = notify
        self._should_stop = should_stop
        self._files: list[int] = []
        self._ends = 0.0
        self._has_turn = False
        if wants_most and not self._inner and fcntl is not None:
            try:
                self._open(folder or Path(tempfile.gettempdir()), cores)
            except OSError as error:
                self._give_up(error)

    def _open(self, folder: Path, cores: list[int]) -> None:
        # The folder may be shared by several machines.
        name = hashlib.sha256(f"{platform.node()} {cores}".encode()).hexdigest()[:12]
        for part in ("turn", "next"):
            path = folder / f"genkit-{os.getuid()}-{name}.{part}"
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._files.append(os.open(path, flags, 0o600))

    def __enter__(self) -> "Turns":
        _taking.now = True
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _taking.now = self._inner
        self._close()

    def pass_on(self) -> None:
        """If this turn is over, let others compute, and wait for the next."""
        if self._files and time.perf_counter() >= self._ends:
            self._release()
            self._take()

    def _take(self) -> None:
        if not self._files:
            return
        turn, following = self._files
        try:
            # Who waits holds the place behind the one who computes, who cannot overtake it then.
            if self._lock(following):
                self._has_turn = self._lock(turn)
                fcntl.flock(following, fcntl.LOCK_UN)
            if self._has_turn:
                os.pwrite(turn, time.time_ns().to_bytes(16), 0)  # others see that someone goes on
        except OSError as error:
            self._give_up(error)
        now = time.perf_counter()
        self._ends = now + (SLICE_SECONDS if self._has_turn else RETRY_SECONDS)

    def _lock(self, file: int) -> bool:
        """Whether it could be locked before there was no turn for too long."""
        last, deadline = b"", 0.0
        while not self._should_stop():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return True
            now, current = time.perf_counter(), os.pread(self._files[0], 16, 0)
            if current != last or not deadline:
                last, deadline = current, now + PATIENCE_SECONDS
            elif now >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return False

    def _release(self) -> None:
        if self._has_turn:
            fcntl.flock(self._files[0], fcntl.LOCK_UN)
            self._has_turn = False

    def _give_up(self, error: OSError) -> None:
        self._close()
        self._notify(f"no turns with other trainings are taken: {error.strerror}")

    def _close(self) -> None:
        """Closing unlocks, too."""
        for file in self._files:
            os.close(file)
        self._files, self._has_turn = [], False


def _cores() -> list[int]:
    """Those that this process may use."""
    affinity: Callable[[int], Any] | None = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
