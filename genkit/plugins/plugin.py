"""One plugin: an entry point that is imported on its own, and what its hooks return.

A plugin that fails keeps the reason and provides nothing, so that it can break no other.
"""

import importlib
import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

import pluggy

from .. import hookspecs
from ..errors import GenkitWarning, PluginError, first_line, nearest
from ..hookspecs import API_VERSION, GROUP, HOOKS, Entry

OWN_DISTRIBUTION = "genkit-torch"
"""The distribution of genkit and its built-in plugins."""
MARK = f"{GROUP}_impl"
"""The attribute that ``hookimpl`` sets on a function."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
"""A name that an entry or a command can have."""
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


class PluginWarning(GenkitWarning):
    """A plugin that was left out, or a name that will be removed."""


class IncompatiblePluginError(PluginError):
    """A plugin written for an API version that this genkit does not accept."""


@dataclass
class Plugin:
    """An entry point of the group ``genkit``, and the result of importing it."""

    name: str
    module: str
    distribution: str
    version: str
    origin: str
    """The folder that the distribution is installed in."""
    entries: dict[type[Entry], list[Entry]] = field(default_factory=dict)
    loaded: bool = False
    state: str = "not loaded"
    """``not loaded``, ``ok``, ``broken`` or ``incompatible``."""
    error: str | None = None
    traceback: str | None = None
    import_seconds: float | None = None

    @property
    def builtin(self) -> bool:
        """Whether it is part of genkit."""
        return self.distribution == OWN_DISTRIBUTION

    def load(self) -> None:
        """Import the module and call its hooks, once; after an error it provides nothing."""
        if self.loaded:
            return
        self.loaded = True
        start = time.perf_counter()
        before = set(sys.modules)
        try:
            self.entries = _call_hooks(self)
            self.state = "ok"
        except (Exception, SystemExit) as error:  # noqa: BLE001 (it is reported)
            package = self.module.partition(".")[0]
            for name in sys.modules.keys() - before:  # a half-imported plugin must not be found
                if name.partition(".")[0] == package:
                    del sys.modules[name]
            self.state = "incompatible" if isinstance(error, IncompatiblePluginError) else "broken"
            self.error = first_line(error)
            self.traceback = traceback.format_exc()
        self.import_seconds = time.perf_counter() - start


def _call_hooks(plugin: Plugin) -> dict[type[Entry], list[Entry]]:
    # A plugin manager for each plugin: one that fails half-way leaves nothing registered.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    module = importlib.import_module(plugin.module)
    _check_api_version(module, plugin.distribution)
    manager.register(module, name=plugin.name)
    _check_hook_names(module)
    manager.check_pending()
    entries: dict[type[Entry], list[Entry]] = {}
    for kind, hook in HOOKS.items():
        found = [entry for result in getattr(manager.hook, hook)() for entry in result]
        _check_entries(found, kind, hook)
        entries[kind] = found
    return entries


def _check_api_version(module: ModuleType, distribution: str) -> None:
    written_for = getattr(module, "genkit_api_version", API_VERSION - 1)
    if written_for not in (API_VERSION, API_VERSION - 1):
        outdated = OWN_DISTRIBUTION if written_for > API_VERSION else distribution
        raise IncompatiblePluginError(
            f"written for plugin API {written_for}, and this genkit has API {API_VERSION}: "
            f"upgrade {outdated}"
        )


def _check_hook_names(module: ModuleType) -> None:
    marked = {
        name
        for name, value in vars(module).items()
        if name.startswith("genkit_") and hasattr(value, MARK)
    }
    for name in sorted(marked - set(HOOKS.values())):
        hint = nearest(name, HOOKS.values())
        hooks = ", ".join(HOOKS.values())
        raise PluginError(f"it implements {name}, which is no hook{hint}; the hooks are {hooks}")


def _check_entries(found: Sequence[object], kind: type[Entry], hook: str) -> None:
    names: list[str] = []
    for entry in found:
        if not isinstance(entry, kind):
            raise PluginError(f"{hook} gave {entry!r}, which is no genkit.{kind.__name__}")
        _check_entry(entry)
        names += (entry.name, *entry.aliases, *entry.deprecated_names)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PluginError(f"{hook} gives the name {twice[0]!r} twice")


def _check_entry(entry: Entry) -> None:
    for name in (entry.name, *entry.aliases, *entry.deprecated_names):
        if not NAME.fullmatch(name):
            raise PluginError(
                f"{name!r} cannot be a name: use at most 64 letters, digits, '-', '_' and '.', "
                "beginning with a letter"
            )
    if not entry.summary.strip() or not entry.summary.isprintable():
        raise PluginError(f"{entry.name}: its summary has to be one line of printable text")
    if not _TARGET.fullmatch(entry.target):
        raise PluginError(
            f"{entry.name}: its target {entry.target!r} is not 'package.module:attribute'"
        )
