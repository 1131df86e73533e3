"""Discovery of plugins, isolation of broken ones, lookup by name.

Entry-point metadata is read without importing anything. Each plugin is then loaded on its own, when
a name is looked up that needs it: one that fails costs a warning, never the command.
"""

import importlib
import importlib.metadata
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pluggy

from .. import hookspecs
from ..errors import GenkitError, GenkitWarning, PluginError, UnknownNameError, first_line, nearest
from ..hookspecs import API_VERSION, COMMAND_GROUP, GROUP, HOOKS, Entry, EntryT

OWN_DISTRIBUTION = "genkit-torch"
MARK = f"{GROUP}_impl"
"""The attribute that ``hookimpl`` leaves on a function."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)

KindT = TypeVar("KindT", bound=Entry, covariant=True)


class PluginWarning(GenkitWarning):
    """A plugin that was left out, or a name that is going to go."""


class IncompatiblePluginError(PluginError):
    """A plugin written for an API version that this genkit does not have."""


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
    state: str = "not loaded"
    """``not loaded``, ``ok``, ``broken`` or ``incompatible``."""
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
        before = set(sys.modules)
        try:
            self.entries = _ask_hooks(self)
            self.state = "ok"
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a plugin may do anything; it is reported, not hidden)
            package = self.module.partition(".")[0]
            for name in sys.modules.keys() - before:  # half of a plugin is no plugin
                if name.partition(".")[0] == package:
                    del sys.modules[name]
            self.state = "incompatible" if isinstance(error, IncompatiblePluginError) else "broken"
            self.error = first_line(error)
            self.traceback = traceback.format_exc()
        self.import_seconds = time.perf_counter() - start


def _ask_hooks(plugin: Plugin) -> dict[type[Entry], list[Entry]]:
    # A manager of its own for each plugin: nothing of a plugin that fails half-way stays
    # registered.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    module = importlib.import_module(plugin.module)
    written_for = getattr(module, "genkit_api_version", API_VERSION)
    if written_for not in (API_VERSION, API_VERSION - 1):
        raise IncompatiblePluginError(
            f"written for plugin API {written_for}, and this genkit has API {API_VERSION}: "
            + (
                "upgrade genkit-torch"
                if written_for > API_VERSION
                else f"upgrade {plugin.distribution}"
            )
        )
    manager.register(module, name=plugin.name)
    unknown = [
        name
        for name in vars(module)
        if name.startswith("genkit_") and hasattr(vars(module)[name], MARK)
    ]
    for name in sorted(set(unknown) - set(HOOKS.values())):
        hint = nearest(name, HOOKS.values())
        raise PluginError(
            f"it implements {name}, which is no hook{hint}; the hooks are {', '.join(HOOKS.values())}"
        )
    manager.check_pending()
    entries: dict[type[Entry], list[Entry]] = {}
    for kind, hook in HOOKS.items():
        found = [entry for answer in getattr(manager.hook, hook)() for entry in answer]
        for entry in found:
            if not isinstance(entry, kind):
                raise PluginError(f"{hook} gave {entry!r}, which is no genkit.{kind.__name__}")
            _check_entry(entry)
        names = [
            name
            for entry in found
            for name in (entry.name, *entry.aliases, *entry.deprecated_names)
        ]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PluginError(f"{hook} gives the name {twice[0]!r} twice")
        entries[kind] = found
    return entries


def _check_entry(entry: Entry) -> None:
    for name in (entry.name, *entry.aliases, *entry.deprecated_names):
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"{name!r} is no name: letters, digits, '-', '_' and '.', at most 64, beginning with a letter"
            )
    if not entry.summary.strip() or not entry.summary.isprintable():
        raise PluginError(f"{entry.name}: its summary has to be one line of printable text")
    if not _TARGET.fullmatch(entry.target):
        raise PluginError(
            f"{entry.name}: its target {entry.target!r} is not 'package.module:attribute'"
        )


@dataclass(frozen=True)
class Registered(Generic[KindT]):
    """An entry and the plugin that it came from."""

    entry: KindT
    plugin: Plugin

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which is never ambiguous between distributions."""
        return f"{self.plugin.distribution}/{self.entry.name}"

    def answers_to(self, name: str) -> bool:
        """Whether ``name`` finds it: its name, an alias, a former name, each with the distribution
        before it or not.
        """
        bare = name.removeprefix(f"{self.plugin.distribution}/")
        return bare in (self.entry.name, *self.entry.aliases, *self.entry.deprecated_names)

    def warn_if_deprecated(self, name: str) -> "Registered[KindT]":
        """Itself, after a warning where ``name`` is a former one."""
        if name.rpartition("/")[2] in self.entry.deprecated_names:
            _warn(f"{name} is now called {self.entry.name}")
        return self

    def target(self) -> Any:
        """The thing itself, imported now.

        Raises:
            PluginError: the target does not exist or cannot be imported.
        """
        return self.load(self.entry.target)

    def load(self, target: str) -> Any:
        """What ``"package.module:attribute"``, a target of the entry, names; imported now.

        Raises:
            PluginError: it does not exist or cannot be imported.
        """
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except GenkitError:
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # a plugin's module may raise anything; it becomes one line
            raise PluginError(
                f"{self.qualified_name}: cannot load {target}: {first_line(error)}"
            ) from error


class Registry:
    """What the installed plugins provide. Built by :func:`discover`; tests build their own."""

    def __init__(self, plugins: Sequence[Plugin], disabled: Sequence[str] = ()) -> None:
        self.plugins = list(plugins)
        self.disabled = list(disabled)
        """Names of plugins that ``GENKIT_PLUGINS`` leaves out."""

    def all(self, kind: type[EntryT]) -> list[Registered[EntryT]]:
        """Every entry of one kind, built-ins first; imports the torch-free modules of all plugins."""
        return [
            registered for plugin in self._ordered() for registered in self._entries(plugin, kind)
        ]

    def own(self, kind: type[EntryT]) -> list[Registered[EntryT]]:
        """The built-in entries of one kind; imports no other plugin."""
        return [
            registered
            for plugin in self._ordered()
            if plugin.builtin
            for registered in self._entries(plugin, kind)
        ]

    def find(self, kind: type[EntryT], name: str) -> Registered[EntryT]:
        """The entry called ``name`` or ``distribution/name``.

        A built-in's name imports no other plugin, and a qualified one only those of its
        distribution.

        Raises:
            UnknownNameError: there is none, or two distributions other than genkit's own provide
            the bare name.
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
                f"{kind.noun} {name!r} is provided more than once; say {choices}"
            )
        hint = nearest(name, (r.entry.name for r in everything))
        if self.disabled:
            hint += f"; GENKIT_PLUGINS leaves out {', '.join(self.disabled)}"
        raise UnknownNameError(
            f"unknown {kind.noun} {name!r}{hint}; `genkit {kind.noun}s` lists all"
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
        for entry in plugin.entries.get(kind, ()):
            assert isinstance(entry, kind)
            yield Registered(entry, plugin)


def _report(plugin: Plugin) -> None:
    _warn(
        f"plugin {plugin.name} of {plugin.distribution} {plugin.version} was left out: {plugin.error}"
    )


def _warn(message: str) -> None:
    """Say it; with ``GENKIT_STRICT=1`` it is an error."""
    if os.environ.get("GENKIT_STRICT") == "1":
        raise PluginError(message)
    warnings.warn(message, PluginWarning, stacklevel=3)


def discover(environ: Mapping[str, str] | None = None) -> Registry:
    """The plugins that are installed, from their metadata alone: no plugin is imported.

    ``GENKIT_PLUGINS`` is an allow-list of plugin or distribution names, separated by commas
    (``none``: only genkit's own; unset or empty: all). With ``GENKIT_STRICT=1`` a broken plugin is
    an error, not a warning.
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
    """One entry point of the group ``genkit.commands``; nothing is imported before :meth:`load`."""

    name: str
    distribution: str
    version: str
    target: str

    def load(self) -> Any:
        """The click command itself.

        Raises:
            PluginError: it cannot be imported.
        """
        try:
            return importlib.metadata.EntryPoint(self.name, self.target, COMMAND_GROUP).load()
        except (Exception, SystemExit) as error:
            message = f"command {self.name} of {self.distribution} {self.version} cannot be loaded: {first_line(error)}"
            raise PluginError(message) from error


def discover_commands(environ: Mapping[str, str] | None = None) -> list[PluginCommand]:
    """The commands that plugins add, from metadata alone; ``GENKIT_PLUGINS`` counts here too."""
    names = _allowed(os.environ if environ is None else environ)
    return [
        PluginCommand(point.name, point.dist.name, point.dist.version, point.value)
        for point in _entry_points(COMMAND_GROUP)
        if _NAME.fullmatch(point.name) and (not names or {point.name, point.dist.name} & names)
    ]


def _allowed(environ: Mapping[str, str]) -> set[str]:
    return {name.strip() for name in environ.get("GENKIT_PLUGINS", "").split(",") if name.strip()}


def _entry_points(group: str) -> list[Any]:
    """Entry points of a group, by distribution; one that is found twice (editable, installed)
    counts once.

    Each distribution is read on its own, so that the remains of one that was removed by half break
    nothing.
    """
    points: dict[tuple[str, str], importlib.metadata.EntryPoint] = {}
    for distribution in importlib.metadata.distributions():
        try:
            found = [point for point in distribution.entry_points if point.group == group]
            name = distribution.metadata["Name"] if found else ""
            for point in found:
                points.setdefault((name.lower().replace("_", "-"), point.name), point)
        except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            _warn(
                f"a damaged installation was left out ({distribution.locate_file('')}): {first_line(error)}"
            )
    return [points[key] for key in sorted(points)]
