"""Diagnosis of the installed plugins.

Each is imported in its own process with a time limit, so that one that exits or hangs leaves the
diagnosis of the others intact.
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ..errors import GenkitError, PluginError
from .plugin import OWN_DISTRIBUTION, Plugin
from .registry import (
    PluginCommand,
    Registered,
    discover,
    discover_commands,
)


@dataclass
class Diagnosis:
    """The result of importing one plugin or command in its own process."""

    name: str
    distribution: str
    version: str
    state: str
    """``ok``, ``broken``, ``incompatible``, ``disabled``, or ``shadowed`` by a namesake."""
    reason: str = ""
    seconds: float | None = None
    """Time to import its module; None if that did not finish."""
    provides: list[str] = field(default_factory=list)
    traceback: list[str] = field(default_factory=list)
    """Its last lines."""


def diagnose(time_limit: float = 20.0) -> list[Diagnosis]:
    """Import every plugin and every command of one, each in its own process.

    Those that ``GENKIT_PLUGINS`` leaves out are not imported.

    Args:
        time_limit: seconds for each.
    """
    everything: list[Plugin | PluginCommand] = [*discover({}).plugins, *discover_commands({})]
    allowed: list[Plugin | PluginCommand] = [*discover().plugins, *discover_commands()]
    enabled = {_key(one) for one in allowed}
    found = []
    for one in everything:
        result = Diagnosis(
            _title(one), one.distribution, one.version, "disabled", "GENKIT_PLUGINS leaves it out"
        )
        if _key(one) in enabled:
            _probe(one, result, time_limit)
        found.append(result)
    _mark_shadowed(found)
    return found


def _key(one: Plugin | PluginCommand) -> tuple[str, str, str]:
    return (type(one).__name__, one.name, one.distribution)


def _title(one: Plugin | PluginCommand) -> str:
    return one.name if isinstance(one, Plugin) else f"command {one.name}"


def _probe(one: Plugin | PluginCommand, result: Diagnosis, time_limit: float) -> None:
    """Import it in a new process and complete ``result``."""
    result.state = "broken"
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "report.json", Path(folder) / "stderr"
        command = [sys.executable, "-c", _CHILD, *_key(one), str(out)]
        # stderr is a file, because a process that a plugin leaves running can keep a pipe open.
        with errors.open("wb") as stderr:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    timeout=time_limit,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                result.reason = f"importing it did not end within {time_limit:g} s"
                return
        text = out.read_text() if out.exists() else ""
        if not text:
            result.reason = f"importing it ended the process with exit code {done.returncode}"
            result.traceback = errors.read_text(errors="replace").splitlines()[-5:]
            return
    report = json.loads(text)
    result.state = report["state"]
    result.reason = report["error"] or ""
    result.seconds = report["seconds"]
    result.provides = report["provides"]
    result.traceback = (report["traceback"] or "").splitlines()[-5:]


_CHILD = "import sys; from genkit.plugins.doctor import child_main; child_main(*sys.argv[1:])"


def child_main(kind: str, name: str, distribution: str, out: str) -> None:
    """Import one plugin or command and report to the file ``out``; runs in the new process."""
    examine = _examine_plugin if kind == Plugin.__name__ else _examine_command
    Path(out).write_text(json.dumps(examine(name, distribution)))


def _examine_plugin(name: str, distribution: str) -> dict[str, Any]:
    (plugin,) = (
        p for p in discover({}).plugins if (p.name, p.distribution) == (name, distribution)
    )
    plugin.load()
    state, error, trace = plugin.state, plugin.error, plugin.traceback
    entries = [(kind, entry) for kind, found in plugin.entries.items() for entry in found]
    problems = []
    for _, entry in entries:
        try:
            Registered(entry, plugin).target()
        except GenkitError as problem:
            problems.append(str(problem))
            trace = trace or traceback.format_exc()
    if problems:
        state, error = "broken", "; ".join(problems)
    return {
        "state": state,
        "error": error,
        "traceback": trace,
        "seconds": plugin.import_seconds,
        "provides": [f"{kind.noun} {entry.name}" for kind, entry in entries],
    }


def _examine_command(name: str, distribution: str) -> dict[str, Any]:
    (command,) = (
        c for c in discover_commands({}) if (c.name, c.distribution) == (name, distribution)
    )
    start = time.perf_counter()
    error = trace = None
    try:
        if not isinstance(command.load(), click.Command):
            error = f"{command.target} is no click command"
    except PluginError as problem:
        error, trace = str(problem), traceback.format_exc()
    seconds = time.perf_counter() - start
    state = "broken" if error else "ok"
    return {
        "state": state,
        "error": error,
        "traceback": trace,
        "seconds": seconds,
        "provides": [f"command {name}"],
    }


def _mark_shadowed(found: list[Diagnosis]) -> None:
    for one in found:
        for other in found:
            common = sorted(set(one.provides) & set(other.provides))
            builtin = one.distribution == OWN_DISTRIBUTION
            if one is not other and common and one.state == "ok" and not builtin:
                one.state = "shadowed"
                one.reason = (
                    f"{common[0]} is also of {other.distribution}: "
                    f"use {one.distribution}/NAME for this one"
                )


def conflicting_distributions() -> list[str]:
    """Other installed distributions with a package called genkit."""
    owners = importlib.metadata.packages_distributions().get("genkit", [])
    return sorted(set(owners) - {OWN_DISTRIBUTION})
