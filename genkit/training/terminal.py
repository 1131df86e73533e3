"""Standard output and standard error, which may go away while a training runs: a reader ends, a
disk fills, a terminal is closed. What cannot be written there is dropped, and nothing ends for it.
"""

import contextlib
import os
import sys
from typing import Any, Literal, final

NAMES = {"stdout": "standard output", "stderr": "standard error"}


@final
class Output:
    """One of the two streams; whatever it is at the moment, as notebooks replace it.

    It has what rich and ``print`` need of a file.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name
        self.problem: str | None = None
        """Why something could not be written, once that happened."""

    @property
    def _stream(self) -> Any:
        """None where the process was started without it."""
        return getattr(sys, self._name)

    @property
    def encoding(self) -> str:
        """Of the text that can be written; other characters become escapes."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether a person reads it."""
        try:
            return bool(self._stream is not None and self._stream.isatty())
        except ValueError:  # it was closed
            return False

    def fileno(self) -> int:
        """The descriptor, for the size of the terminal.

        Raises:
            OSError: there is none.
        """
        stream = self._stream
        if stream is None:
            raise OSError(f"no {NAMES[self._name]}")
        return int(stream.fileno())

    def write(self, text: str) -> int:
        """Write ``text``, or drop it."""
        stream = self._stream
        if stream is not None:
            try:
                stream.write(self._encodable(text))
            except (OSError, ValueError) as error:
                self._lose(stream, error)
        return len(text)

    def flush(self) -> None:
        """Write what was kept back, or drop it."""
        stream = self._stream
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError) as error:
                self._lose(stream, error)

    def _encodable(self, text: str) -> str:
        try:
            return text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        except (LookupError, UnicodeError):
            return ascii(text)[1:-1].replace("\\n", "\n")

    def _lose(self, stream: Any, error: OSError | ValueError) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        self.problem = f"{NAMES[self._name]} cannot be written ({reason})"
        discard_pending(stream)


def discard_pending(stream: Any) -> None:
    """Forget what a stream that cannot be written has kept back. Python would try to write it once
    more when it ends, and end in an error of its own.
    """
    try:
        descriptor = stream.fileno()
        kept = os.dup(descriptor)
    except (AttributeError, OSError, ValueError):  # it has no descriptor, or is closed
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, descriptor)
        finally:
            os.close(nowhere)
        with contextlib.suppress(OSError, ValueError):  # there is nowhere left to say so
            stream.flush()
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
