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
├── RunError                 a folder that is not a run, cannot become one, or is in use
└── CheckpointError          a checkpoint that is damaged or does not fit

Interrupted                  a KeyboardInterrupt: a signal ended training after a checkpoint;
                             exit code 130 or 143

GenkitWarning                one line on what was skipped, or is going to change
"""

import difflib
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
        PluginError: naming the owner.
    """
    try:
        yield
    except GenkitError:
        raise
    except Exception as error:
        if owner is None:
            raise
        raise PluginError(f"{owner} failed {doing}: {first_line(error)}") from error


def printable(text: str) -> str:
    r"""``text`` with control characters, and all else that is not printable, as escapes (``\x1b``).

    Names, paths and messages may be from untrusted files, so everything shown to a user goes
    through this.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'a' or 'b'?"`` for the closest of ``names``; empty if none is close."""
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
