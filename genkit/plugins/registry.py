"""The installed plugins and commands, and lookup of entries by name.

Discovery reads entry-point metadata and imports nothing. A plugin is imported when a name is looked
up that needs it. One that fails costs a warning, never the command.
"""

import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from ..errors import GenkitError, PluginError, UnknownNameError, first_line, nearest
from ..hookspecs import COMMAND_GROUP, GROUP, Entry, EntryT, current_kind
from .plugin import NAME, OWN_DISTRIBUTION, Plugin, PluginWarning

KindT = TypeVar("KindT", bound=Entry, covariant=True)


@dataclass(frozen=True)
class Registered(Generic[KindT]):
    """An entry, and the plugin that provides it."""

    entry: KindT
    plugin: Plugin

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which no other distribution can provide."""
        return f"{self.plugin.distribution}/{self.entry.name}"

    def answers_to(self, name: str) -> bool:
        """Whether ``name``, qualified or not, is its name, an alias or a former name."""
        bare = name.removeprefix(f"{self.plugin.distribution}/")
        return bare in (self.entry.name, *self.entry.aliases, *self.entry.deprecated_names)

    def warn_if_deprecated(self, name: str) -> "Registered[KindT]":
        """Itself; warns if ``name`` is a former name."""
        if name.rpartition("/")[2] in self.entry.deprecated_names:
            _warn(f"{name} is now called {self.entry.name}")
        return self

    def target(self) -> Any:
        """Import the entry's target.

        Raises:
            PluginError: the target does not exist or cannot be imported.
        """
        return self.load(self.entry.target)

    def load(self, target: str) -> Any:
        """Import ``"package.module:attribute"``, one of the entry's targets.

        Raises:
            PluginError: it does not exist or cannot be imported.
        """
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except GenkitError:
            raise
        except (Exception, SystemExit) as error:  # a plugin's module may raise anything
            message = f"{self.qualified_name}: cannot load {target}: {first_line(error)}"
            raise PluginError(message) from error


class Registry:
    """The entries of installed plugins; :func:`discover` builds it."""

    def __init__(self, plugins: Sequence[Plugin], disabled: Sequence[str] = ()) -> None:
        self.plugins = list(plugins)
        self.disabled = list(disabled)
        """Names of the plugins that ``GENKIT_PLUGINS`` leaves out."""

    def all(self, kind: type[EntryT]) -> list[Registered[EntryT]]:
        """All entries of one kind, built-ins first; imports every plugin's (torch-free) module."""
        return [
            registered for plugin in self._ordered() for registered in self._entries(plugin, kind)
        ]

    def builtin(self, kind: type[EntryT]) -> list[Registered[EntryT]]:
        """The built-in entries of one kind; imports no other plugin."""
        return [
            registered
            for plugin in self._ordered()
            if plugin.builtin
            for registered in self._entries(plugin, kind)
        ]

    def find(self, kind: type[EntryT], name: str) -> Registered[EntryT]:
        """The entry of one kind called ``name`` or ``distribution/name``.

        The name of a built-in imports no other plugin, and a qualified name only those of its
        distribution.

        Raises:
            UnknownNameError: there is none, or two distributions other than genkit's provide the
                bare name.
        """
        first = name.rpartition("/")[0] or OWN_DISTRIBUTION
        for plugin in (plugin for plugin in self._ordered() if plugin.distribution == first):
            for registered in self._entries(plugin, kind):
                if registered.answers_to(name):
                    return registered.warn_if_deprecated(name)
        everything = self.all(kind)
        matches = [r for r in everything if r.answers_to(name)]
        if len(matches) == 1:
            return matches[0].warn_if_deprecated(name)
        if matches:
            choices = " or ".join(r.qualified_name for r in matches)
            raise UnknownNameError(
                f"{kind.noun} {name!r} is provided more than once; use {choices}"
            )
        hint = nearest(name, (r.entry.name for r in everything))
        if self.disabled:
            hint += f"; GENKIT_PLUGINS leaves out {', '.join(self.disabled)}"
        raise UnknownNameError(
            f"unknown {kind.noun} {name!r}{hint}; `genkit list {kind.noun}s` shows all"
        )

    def _ordered(self) -> Iterator[Plugin]:
        yield from sorted(
            self.plugins, key=lambda plugin: (not plugin.builtin, plugin.distribution, plugin.name)
        )

    def _entries(self, plugin: Plugin, kind: type[EntryT]) -> Iterator[Registered[EntryT]]:
        if not plugin.loaded:
            plugin.load()
            if plugin.error:
                _report(plugin)
        for entry in plugin.entries.get(current_kind(kind), ()):
            yield Registered(cast(EntryT, entry), plugin)


def _report(plugin: Plugin) -> None:
    title = f"plugin {plugin.name} of {plugin.distribution} {plugin.version}"
    _warn(f"{title} was left out: {plugin.error}")


def _warn(message: str) -> None:
    """Issue a PluginWarning; with ``GENKIT_STRICT=1`` raise a PluginError instead."""
    if os.environ.get("GENKIT_STRICT") == "1":
        raise PluginError(message)
    warnings.warn(message, PluginWarning, stacklevel=3)


def discover(environ: Mapping[str, str] | None = None) -> Registry:
    """Find the installed plugins from their metadata; none is imported.

    ``GENKIT_PLUGINS`` is an allow-list of plugin or distribution names, separated by commas
    (``none``: only built-in plugins; unset or empty: all). With ``GENKIT_STRICT=1`` a broken plugin
    is an error, not a warning.

    Args:
        environ: where these variables are read; None: this process's environment.
    """
    points = _entry_points(GROUP)
    plugins = [
        Plugin(
            name=point.name,
            module=point.value,
            distribution=point.dist.name,
            version=point.dist.version,
            origin=str(point.dist.locate_file("")),
        )
        for point in points
    ]
    names = _allowed(os.environ if environ is None else environ)
    known = {name for plugin in plugins for name in (plugin.name, plugin.distribution)}
    for name in sorted(names - known - {"none"}):
        hint = nearest(name, known)
        _warn(f"GENKIT_PLUGINS: no plugin is called {name!r}{hint}")
    enabled = [p for p in plugins if p.builtin or not names or {p.name, p.distribution} & names]
    return Registry(enabled, disabled=[p.name for p in plugins if p not in enabled])


@dataclass(frozen=True)
class PluginCommand:
    """An entry point of the group ``genkit.commands``; :meth:`load` imports it."""

    name: str
    distribution: str
    version: str
    target: str

    def load(self) -> Any:
        """Import the click command.

        Raises:
            PluginError: it cannot be imported.
        """
        try:
            return importlib.metadata.EntryPoint(self.name, self.target, COMMAND_GROUP).load()
        except (Exception, SystemExit) as error:
            title = f"command {self.name} of {self.distribution} {self.version}"
            raise PluginError(f"{title} cannot be loaded: {first_line(error)}") from error


def discover_commands(environ: Mapping[str, str] | None = None) -> list[PluginCommand]:
    """Find the commands that plugins add from their metadata; see :func:`discover`."""
    names = _allowed(os.environ if environ is None else environ)
    return [
        PluginCommand(point.name, point.dist.name, point.dist.version, point.value)
        for point in _entry_points(COMMAND_GROUP)
        if NAME.fullmatch(point.name) and (not names or {point.name, point.dist.name} & names)
    ]


def _allowed(environ: Mapping[str, str]) -> set[str]:
    return {name.strip() for name in environ.get("GENKIT_PLUGINS", "").split(",") if name.strip()}


def _entry_points(group: str) -> list[Any]:
    """Entry points of a group, by distribution and name.

    One that is found twice, installed and editable, counts once. Each distribution is read on its
    own, so that a half-removed one breaks no other.
    """
    points: dict[tuple[str, str], importlib.metadata.EntryPoint] = {}
    for distribution in importlib.metadata.distributions():
        try:
            found = [point for point in distribution.entry_points if point.group == group]
            name = distribution.metadata["Name"] if found else ""
            for point in found:
                points.setdefault((name.lower().replace("_", "-"), point.name), point)
        except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            folder = distribution.locate_file("")
            _warn(f"a damaged installation was left out ({folder}): {first_line(error)}")
    return [points[key] for key in sorted(points)]
