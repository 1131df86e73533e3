"""Writes files in order: at once, or in a thread while a device goes on computing."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, final

Written = TypeVar("Written")


@final
class Writer:
    """Runs one write after the other.

    Args:
        in_thread: run them in a thread. What is written must not change then.
    """

    def __init__(self, in_thread: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "genkit-writer") if in_thread else None
        self._pending: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()

    def submit(self, write: Callable[[], Written], then: Callable[[Written], None]) -> None:
        """Run ``write``; :meth:`settle` hands its result to ``then``, in the caller's thread."""
        if self._thread is None:
            then(write())
        else:
            self._pending.append((self._thread.submit(write), then))

    def settle(self, *, wait: bool = True) -> None:
        """Finish all that was submitted; without ``wait``, only what is written by now.

        Raises:
            Exception: what the first write that failed raised.
        """
        failed: Exception | None = None
        while self._pending and (wait or self._pending[0][0].done()):
            future, then = self._pending.popleft()
            try:
                then(future.result())
            except Exception as error:  # noqa: BLE001 (raised below)
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Let the thread end, with all that was submitted written."""
        if self._thread is not None:
            self._thread.shutdown()
