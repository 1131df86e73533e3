"""What is installed and what is wrong with it. Each plugin is imported in a process of its own, with a time limit:
however broken one is (it may exit or hang), the others are still told of."""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .registry import OWN_DISTRIBUTION, Plugin, Registry

_PROBE = """
import json, sys
from genkit.registry import discover
name, distribution, out = sys.argv[1:]
for plugin in discover({}).plugins:
    if (plugin.name, plugin.distribution) == (name, distribution):
        plugin.load()
        missing = []
        if plugin.state == "ok":
            from genkit.registry import Registered
            for kind, entries in plugin.entries.items():
                for entry in entries:
                    try:
                        Registered(entry, plugin).target()
                    except Exception as error:
                        missing.append(str(error))
        answer = {
            "state": "broken" if missing else plugin.state, "error": missing[0] if missing else plugin.error,
            "traceback": plugin.traceback, "seconds": plugin.import_seconds,
            "provides": [f"{k.__name__.lower()} {e.name}" for k, es in plugin.entries.items() for e in es],
        }
        with open(out, "w") as file:
            json.dump(answer, file)
"""


@dataclass
class Diagnosis:
    """What became of one plugin when it was imported on its own."""

    name: str
    distribution: str
    version: str
    state: str
    """``ok``, ``broken``, ``incompatible``, ``shadowed`` (another has one of its names) or ``disabled``."""
    reason: str = ""
    seconds: float | None = None
    """To import its module; None where it never finished."""
    provides: list[str] = field(default_factory=list)
    traceback: list[str] = field(default_factory=list)
    """The last lines of it."""


def diagnose(everything: Registry, enabled: Registry, time_limit: float = 20.0) -> list[Diagnosis]:
    """Import every plugin on its own, each for at most ``time_limit`` seconds; disabled ones are not imported."""
    names = {(plugin.name, plugin.distribution) for plugin in enabled.plugins}
    found = [
        _probe(plugin, time_limit)
        if (plugin.name, plugin.distribution) in names
        else Diagnosis(plugin.name, plugin.distribution, plugin.version, "disabled", "GENKIT_PLUGINS leaves it out")
        for plugin in everything.plugins
    ]
    _mark_shadowed(found)
    return found


def _probe(plugin: Plugin, time_limit: float) -> Diagnosis:
    result = Diagnosis(plugin.name, plugin.distribution, plugin.version, "broken")
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "answer.json", Path(folder) / "stderr"
        command = [sys.executable, "-c", _PROBE, plugin.name, plugin.distribution, str(out)]
        with errors.open("wb") as stderr:  # a file: a pipe could be held open by what a plugin leaves running
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
                return result
        text = out.read_text() if out.exists() else ""
        if not text:
            result.reason = f"importing it ended the process with exit code {done.returncode}"
            result.traceback = errors.read_text(errors="replace").splitlines()[-5:]
            return result
    answer = json.loads(text)
    result.state = answer["state"]
    result.reason = answer["error"] or ""
    result.seconds = answer["seconds"]
    result.provides = answer["provides"]
    result.traceback = (answer["traceback"] or "").splitlines()[-5:]
    return result


def _mark_shadowed(found: list[Diagnosis]) -> None:
    for one in found:
        for other in found:
            common = sorted(set(one.provides) & set(other.provides))
            own = one.distribution == OWN_DISTRIBUTION
            if one is not other and common and one.state == "ok" and not own:
                one.state = "shadowed"
                one.reason = f"{common[0]} is also of {other.distribution}: say {one.distribution}/NAME for this one"


def strangers() -> list[str]:
    """Other distributions that provide a package called genkit."""
    owners = importlib.metadata.packages_distributions().get("genkit", [])
    return sorted(set(owners) - {OWN_DISTRIBUTION})


def as_row(diagnosis: Diagnosis) -> dict[str, object]:
    """For JSON."""
    return asdict(diagnosis)
