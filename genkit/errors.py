"""What a user can cause. Everything else that goes wrong is a bug, and keeps its traceback.

GenkitError                  one line that says what, where and what to do; exit code 1
├── UsageError               the command or call was not well formed; exit code 2
│   ├── UnknownNameError     no model, dataset, metric or callback of this name
│   └── ConfigError          an option that does not exist, or a value it does not take
├── PluginError              a plugin that cannot be used
│   └── ContractError        a model, dataset or metric that breaks the contract; `genkit check` says more
├── DataError                images that are missing, damaged or of the wrong kind
│   └── DataUnavailableError not on disk, and not to be had from the network
├── DeviceError              a device that this machine or build does not have
├── RunError                 a folder that is no run, cannot become one, or is in use
└── CheckpointError          a checkpoint that is damaged or does not fit

Interrupted                  a KeyboardInterrupt: a signal ended training, with a checkpoint; exit code 130 or 143

GenkitWarning                one line on what was passed over, or is going to change
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class GenkitError(Exception):
    """Base of all errors that a user can cause; ``str()`` of it is one line."""

    exit_code = 1


class UsageError(GenkitError):
    """The command or call was not well formed."""

    exit_code = 2


class UnknownNameError(UsageError):
    """No model, dataset, metric or callback of this name."""


class ConfigError(UsageError):
    """An option that does not exist, or a value that it does not take."""


class PluginError(GenkitError):
    """A plugin that cannot be used."""


class ContractError(PluginError):
    """A model, dataset or metric that breaks the contract of :mod:`genkit.interfaces` or
    :mod:`genkit.hookspecs`.
    """


class DataError(GenkitError):
    """Images that are missing, damaged or of the wrong kind."""


class DataUnavailableError(DataError):
    """Images that are not on disk and not to be had from the network."""


class DeviceError(GenkitError):
    """A device that this machine or this build of torch does not have."""


class RunError(GenkitError):
    """A folder that is no run, cannot become one, or in which another process is training."""


class Interrupted(KeyboardInterrupt):
    """A signal ended training after a step; its checkpoint is safe. The exit code is 128 + the
    signal's number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class CheckpointError(GenkitError):
    """A checkpoint that is damaged or does not fit the model."""


class GenkitWarning(UserWarning):
    """Something was passed over, or is going to change; ``str()`` of it is one line."""


def first_line(error: BaseException) -> str:
    """Type and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


@contextmanager
def attribute_errors(owner: str | None, doing: str) -> Iterator[None]:
    """What a plugin raises inside becomes one line that names it, with the cause kept.

    Args:
        owner: which plugin's; None for what the user wrote, whose traceback is what helps.
        doing: what failed, behind ``owner failed``.

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
    r"""``text`` with everything that could move a cursor, colour or reorder a line written as an
    escape (``\x1b``).

    Names, paths and messages may come from strangers' files: whatever is shown to a person goes
    through this.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'a' or 'b'?"`` for the names closest to ``name``, or nothing where none is
    close.
    """
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
