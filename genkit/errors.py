"""Errors that a user can cause. Any other error is a bug and keeps its traceback.

GenkitError                  one line: what failed, where, what to do; exit code 1
├── UsageError               a malformed command or call; exit code 2
│   ├── UnknownNameError     no model, dataset, metric or callback of this name
│   └── ConfigError          an unknown option, or a value that it does not take
├── PluginError              a plugin that cannot be used
│   └── ContractError        a model, dataset or metric that breaks its contract; see `genkit check`
├── DataError                images that are missing, damaged or of the wrong kind
│   └── DataUnavailableError images that are neither on disk nor available from the network
├── DeviceError              a device that this machine or build does not have
├── OutOfMemoryError         more memory than this machine or device has
├── RunError                 a folder that is not a run, cannot become one, or is in use
└── CheckpointError          a checkpoint that is damaged or does not fit

Interrupted                  a KeyboardInterrupt: a signal ended training after a checkpoint;
                             exit code 130 or 143

GenkitWarning                one line on what was skipped, or is going to change
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class GenkitError(Exception):
    """Base of all errors that a user can cause; ``str()`` of it is one line."""

    exit_code = 1


class UsageError(GenkitError):
    """A malformed command or call."""

    exit_code = 2


class UnknownNameError(UsageError):
    """No model, dataset, metric or callback of this name."""


class ConfigError(UsageError):
    """An unknown option, or a value that it does not take."""


class PluginError(GenkitError):
    """A plugin that cannot be used."""


class ContractError(PluginError):
    """A model, dataset or metric that breaks its contract, in :mod:`genkit.interfaces` or
    :mod:`genkit.hookspecs`.
    """


class DataError(GenkitError):
    """Images that are missing, damaged or of the wrong kind."""


class DataUnavailableError(DataError):
    """Images that are neither on disk nor available from the network."""


class DeviceError(GenkitError):
    """A device that this machine or this build of torch does not have."""


class OutOfMemoryError(GenkitError):
    """More memory than this machine or device has."""


class RunError(GenkitError):
    """A folder that is not a run, cannot become one, or in which another process is training."""


class Interrupted(KeyboardInterrupt):
    """A signal ended training after a step, whose checkpoint was written.

    Args:
        message: one line for the user.
        signal_number: the exit code is 128 plus this number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class CheckpointError(GenkitError):
    """A checkpoint that is damaged or does not fit the model."""


class GenkitWarning(UserWarning):
    """Something was skipped, or is going to change; ``str()`` of it is one line."""


def first_line(error: BaseException) -> str:
    """Type and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


@contextmanager
def attribute_errors(owner: str | None, doing: str) -> Iterator[None]:
    """Turn what a plugin's code raises into an error that names the plugin; the cause is kept.

    Args:
        owner: what failed, such as ``dataset mnist``. None for the user's code, whose errors pass
            with their traceback.
        doing: at what, behind ``OWNER failed``.

    Raises:
        OutOfMemoryError: memory ran out, in the user's own code too.
        PluginError: naming the owner.
    """
    try:
        yield
    except GenkitError:
        raise
    except Exception as error:
        if shortage := memory_shortage(error):
            where = f"{owner} failed {doing}: " if owner else ""
            raise OutOfMemoryError(f"{where}{shortage}") from error
        if owner is None:
            raise
        raise PluginError(f"{owner} failed {doing}: {first_line(error)}") from error


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn what is raised where memory runs out into one line; the cause is kept.

    Raises:
        OutOfMemoryError: naming the size that could not be allocated, where it is known.
    """
    with attribute_errors(None, ""):
        yield


LESS_MEMORY = "use smaller images, a smaller model or fewer at a time (--batch-size, --count)"
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|unable to allocate|invalid buffer size"
    r"|storage size calculation overflowed|integer multiplication overflow|overflow when unpacking"
    r"|maximum allowed (dimension|size) exceeded|array is too big|too large to convert to C"
    r"|int too big to convert",
    re.IGNORECASE,
)
"""What torch, NumPy and Python write of a size that no memory has."""
_AMOUNT = re.compile(
    r"(?:tried to|unable to) allocate (\d[\d.]*) *(bytes|[KMGTPE]?i?B)", re.IGNORECASE
)


def memory_shortage(error: BaseException) -> str | None:
    """One line on an error that was raised because memory ran out; None for any other error."""
    kinds = (RuntimeError, ValueError, TypeError, OverflowError)
    text = str(error)
    if not isinstance(error, MemoryError) and not (
        isinstance(error, kinds) and _OUT_OF_MEMORY.search(text)
    ):
        return None
    amount = _AMOUNT.search(text)
    if amount is None:
        needed = ""
    elif amount[2].lower() == "bytes":
        needed = f": {_format_bytes(float(amount[1]))} could not be allocated"
    else:
        needed = f": {amount[1].rstrip('.')} {amount[2]} could not be allocated"
    return f"not enough memory{needed}; {LESS_MEMORY}"


def _format_bytes(size: float) -> str:
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    number = 0
    while size >= 1024 and number < len(units) - 1:
        size, number = size / 1024, number + 1
    return f"{size:.3g} {units[number]}" if size < 1000 else f"{size:.0f} {units[number]}"


def printable(text: str) -> str:
    r"""``text`` with control characters, and all else that is not printable, as escapes (``\x1b``).

    Names, paths and messages may be from untrusted files, so everything shown to a user goes
    through this.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


SIMILAR = 0.75
"""Of two names that are taken for each other, from 0 to 1: ``image-size`` and ``batch-size`` have
0.6.
"""
MIN_PART = 4
"""Letters of a part of a name that stands for the whole: ``fashion`` for ``fashion-mnist``."""


def close_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of ``names`` that ``name`` may have been meant for, the closest first."""
    typed = name.strip("-")

    def likeness(other: str) -> float:
        theirs = other.strip("-")
        if len(typed) >= MIN_PART and (theirs.startswith(typed) or theirs.endswith(typed)):
            return 1.0
        return difflib.SequenceMatcher(None, typed, theirs).ratio()

    found = sorted((-likeness(other), other) for other in set(names))
    return [other for likeness, other in found if -likeness >= SIMILAR][:3]


def nearest(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'a' or 'b'?"`` for the closest of ``names``; empty if none is close."""
    close = close_names(name, names)
    return f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
