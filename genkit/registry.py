"""Discovery of plugins, isolation of broken ones, lookup by name.

Entry-point metadata is read without importing anything. Each plugin is then loaded on its own, when a
name is looked up that needs it: one that fails costs a warning, never the command.
"""

import importlib
import importlib.metadata
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pluggy

from . import hookspecs
from .errors import GenkitError, PluginError, UnknownNameError, nearest
from .hookspecs import GROUP, HOOKS, Entry, EntryT

OWN_DISTRIBUTION = "genkit-torch"

KindT = TypeVar("KindT", bound=Entry, covariant=True)


class PluginWarning(UserWarning):
    """A plugin that was left out, and why."""


@dataclass
class Plugin:
    """One entry point of the group ``genkit``, and what became of it when it was loaded."""

    name: str
    module: str
    distribution: str
    version: str
    origin: str
    entries: dict[type[Entry], list[Entry]] = field(default_factory=dict)
    loaded: bool = False
    error: str | None = None
    traceback: str | None = None
    import_seconds: float | None = None

    @property
    def builtin(self) -> bool:
        """Whether it is genkit's own."""
        return self.distribution == OWN_DISTRIBUTION

    def load(self) -> None:
        """Import the module and ask its hooks; on failure keep the reason and provide nothing."""
        if self.loaded:
            return
        self.loaded = True
        start = time.perf_counter()
        try:
            self.entries = _ask_hooks(self)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a plugin may do anything; it is reported, not hidden)
            self.error = f"{type(error).__name__}: {error}".splitlines()[0]
            self.traceback = traceback.format_exc()
        self.import_seconds = time.perf_counter() - start


def _ask_hooks(plugin: Plugin) -> dict[type[Entry], list[Entry]]:
    # A manager of its own for each plugin: nothing of a plugin that fails half-way stays registered.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(importlib.import_module(plugin.module), name=plugin.name)
    manager.check_pending()
    entries: dict[type[Entry], list[Entry]] = {}
    for kind, hook in HOOKS.items():
        found = [entry for answer in getattr(manager.hook, hook)() for entry in answer]
        for entry in found:
            if not isinstance(entry, kind):
                raise PluginError(f"{hook} gave {entry!r}, which is no genkit.{kind.__name__}")
        entries[kind] = found
    return entries


@dataclass(frozen=True)
class Registered(Generic[KindT]):
    """An entry and the plugin that it came from."""

    entry: KindT
    plugin: Plugin

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which is never ambiguous between distributions."""
        return f"{self.plugin.distribution}/{self.entry.name}"

    def target(self) -> Any:
        """The thing itself, imported now.

        Raises:
            PluginError: the target does not exist or cannot be imported.
        """
        module, _, attribute = self.entry.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except GenkitError:
            raise
        except Exception as error:  # a plugin's module may raise anything; it becomes one line, with its cause kept
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise PluginError(f"{self.qualified_name}: cannot load {self.entry.target}: {reason}") from error


class Registry:
    """What the installed plugins provide. Built by :func:`discover`; tests build their own."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = list(plugins)

    def all(self, kind: type[EntryT]) -> list[Registered[EntryT]]:
        """Every entry of one kind, built-ins first; imports the torch-free modules of all plugins."""
        return [registered for plugin in self._ordered() for registered in self._entries(plugin, kind)]

    def find(self, kind: type[EntryT], name: str) -> Registered[EntryT]:
        """The entry called ``name`` or ``distribution/name``; a built-in's name imports no other plugin.

        Raises:
            UnknownNameError: there is none, or two distributions other than genkit's own provide the bare name.
        """
        for own in (plugin for plugin in self._ordered() if plugin.builtin):
            for registered in self._entries(own, kind):
                if name in (registered.entry.name, registered.qualified_name):
                    return registered
        everything = self.all(kind)
        matches = [r for r in everything if name in (r.entry.name, r.qualified_name)]
        if len(matches) == 1:
            return matches[0]
        noun = kind.__name__.lower()
        if matches:
            choices = " or ".join(r.qualified_name for r in matches)
            raise UnknownNameError(f"{noun} {name!r} is provided more than once; say {choices}")
        hint = nearest(name, (r.entry.name for r in everything))
        raise UnknownNameError(f"unknown {noun} {name!r}{hint}; `genkit {noun}s` lists all")

    def _ordered(self) -> Iterator[Plugin]:
        yield from sorted(self.plugins, key=lambda plugin: (not plugin.builtin, plugin.distribution, plugin.name))

    def _entries(self, plugin: Plugin, kind: type[EntryT]) -> Iterator[Registered[EntryT]]:
        if not plugin.loaded:
            plugin.load()
            if plugin.error:
                _report(plugin)
        for entry in plugin.entries.get(kind, ()):
            assert isinstance(entry, kind)
            yield Registered(entry, plugin)


def _report(plugin: Plugin) -> None:
    message = f"plugin {plugin.name} of {plugin.distribution} {plugin.version} was left out: {plugin.error}"
    if os.environ.get("GENKIT_STRICT") == "1":
        raise PluginError(message)
    warnings.warn(message, PluginWarning, stacklevel=2)


def discover(environ: Mapping[str, str] | None = None) -> Registry:
    """The plugins that are installed, from their metadata alone: no plugin is imported.

    ``GENKIT_PLUGINS`` is an allow-list of plugin or distribution names, separated by commas (``none``: only
    genkit's own; unset or empty: all). With ``GENKIT_STRICT=1`` a broken plugin is an error, not a warning.
    """
    allowed = (os.environ if environ is None else environ).get("GENKIT_PLUGINS", "")
    names = {name.strip() for name in allowed.split(",") if name.strip()}
    plugins = []
    for point in importlib.metadata.entry_points(group=GROUP):  # a distribution found twice counts once, as on import
        if point.dist is None:
            continue
        plugin = Plugin(
            name=point.name,
            module=point.value,
            distribution=point.dist.name,
            version=point.dist.version,
            origin=str(point.dist.locate_file("")),
        )
        if plugin.builtin or not names or plugin.name in names or plugin.distribution in names:
            plugins.append(plugin)
    return Registry(plugins)
