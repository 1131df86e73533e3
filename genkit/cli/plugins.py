"""Commands for those who write or install plugins: check, new-plugin and doctor."""

import json
import platform
import shlex
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from .. import __version__
from ..hookspecs import DatasetEntry, Entry, MetricEntry, ModelEntry
from .options import json_option
from .output import print_line, print_table

CHECKED_KINDS: dict[str, type[Entry]] = {
    kind.noun: kind for kind in (ModelEntry, DatasetEntry, MetricEntry)
}


@click.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(CHECKED_KINDS)),
    default="model",
    show_default=True,
    help="What NAME is.",
)
@click.option(
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    help="An option of a dataset; may be repeated.",
)
@json_option
def check(name: str, kind: str, options: tuple[str, ...], as_json: bool) -> None:
    """Check NAME against the contract between genkit and its plugins. Exit code 1 if a check fails.

    The argument of a dataset follows its name: genkit check --kind dataset folder:PATH --option
    image_size=64.
    """
    from ..testing import CHECKS, Result
    from ..testing.runner import run_checks, subject_of

    start = time.perf_counter()
    entry_kind = CHECKED_KINDS[kind]
    results: list[Result] = []
    width = max(map(len, CHECKS[entry_kind]))
    subject = subject_of(name, entry_kind, _parse_options(options, kind))
    for result in run_checks(subject, entry_kind):
        results.append(result)
        if not as_json:  # one line as soon as each is known, so this is not a table
            print_line(f"{result.check:{width}}  {result.outcome}  {result.reason}".rstrip())
    outcomes = Counter(result.outcome for result in results)
    counts = {outcome: outcomes[outcome] for outcome in ("passed", "failed", "skipped")}
    if as_json:
        checks = [asdict(result) for result in results]
        click.echo(json.dumps({kind: name, **counts, "checks": checks}, indent=2))
    else:
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        print_line(f"{name}: {summary} in {time.perf_counter() - start:.1f} s")
    sys.exit(1 if counts["failed"] else 0)


def _parse_options(options: tuple[str, ...], kind: str) -> dict[str, str]:
    """``NAME=VALUE`` of each; dashes in a name are underscores.

    Raises:
        click.BadParameter: one has no ``=``, or is not of a dataset.
    """
    if options and kind != DatasetEntry.noun:
        raise click.BadParameter("only datasets have options here", param_hint="--option")
    parsed = {}
    for option in options:
        name, given, value = option.partition("=")
        if not given:
            raise click.BadParameter(f"{option!r} is not NAME=VALUE", param_hint="--option")
        parsed[name.lstrip("-").replace("-", "_")] = value
    return parsed


@click.command()
@click.argument("name")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def new_plugin(name: str, folder: Path | None) -> None:
    """Write a small plugin package NAME into the folder DIR (default: ./NAME).

    It can be installed, trained and checked without changes.
    """
    from ..errors import UsageError
    from ..plugins.registry import discover
    from ..plugins.scaffold import write_plugin

    for registered in discover().builtin(ModelEntry):
        if registered.answers_to(name):
            raise UsageError(f"{name} is the name of a built-in model; choose another name")
    target = folder or Path(name)
    for path in write_plugin(name, target, __version__):
        print_line(path)
    package = shlex.quote(f"{target}[test]")
    print_line(f"next: pip install -e {package} && genkit train {name} && genkit check {name}")


@click.command()
@json_option
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.1, max=86_400),
    default=20.0,
    show_default=True,
    help="Seconds per plugin.",
)
def doctor(as_json: bool, time_limit: float) -> None:
    """Show what is installed, what is broken and why.

    Each plugin and each command of a plugin is imported in a separate process. Exit code 1 if one
    is broken.
    """
    import torch

    from ..data.datasets import NO_DATA_ROOT, NO_HOME, data_root
    from ..engines.base import choose_device
    from ..plugins.doctor import conflicting_distributions, diagnose

    root = data_root(None)
    exists = "exists" if root.is_dir() else "does not exist yet"
    about = {
        "genkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(choose_device("auto")),
        "data root": f"none: {NO_HOME}" if root == NO_DATA_ROOT else f"{root} ({exists})",
    }
    found = diagnose(time_limit)
    others = conflicting_distributions()
    if as_json:
        plugins = [asdict(diagnosis) for diagnosis in found]
        click.echo(json.dumps({**about, "plugins": plugins, "other genkits": others}, indent=2))
    else:
        print_table(list(about.items()))
        for d in found:
            seconds = "" if d.seconds is None else f"  imported in {d.seconds:.2f} s"
            click.echo()
            print_line(f"{d.name} of {d.distribution} {d.version}: {d.state}{seconds}")
            trace = [line for line in d.traceback if d.reason not in line]
            for line in filter(None, [d.reason, ", ".join(d.provides), *trace]):
                print_line(f"    {line}")
        for other in others:
            click.echo()
            print_line(
                f"warning: the distribution {other} provides a package genkit too; "
                "uninstall one of the two"
            )
    sys.exit(1 if any(d.state in ("broken", "incompatible") for d in found) else 0)
