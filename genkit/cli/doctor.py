"""genkit doctor."""

import json
import platform
import sys
from dataclasses import asdict

import click

from .. import __version__
from .output import say


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.1),
    default=20.0,
    show_default=True,
    help="Seconds a plugin.",
)
def doctor(as_json: bool, time_limit: float) -> None:
    """Say what is installed, what is broken and why.

    Each plugin, and each command of one, is imported in a process of its own. Exit code 1 if one is
    broken.
    """
    import torch

    from ..data.datasets import data_root
    from ..engines.base import choose_device
    from ..plugins.doctor import conflicting_distributions, diagnose

    root = data_root(None)
    about = {
        "genkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(choose_device("auto")),
        "data root": f"{root} ({'exists' if root.is_dir() else 'does not exist yet'})",
    }
    found = diagnose(time_limit)
    others = conflicting_distributions()
    broken = [d for d in found if d.state in ("broken", "incompatible")]
    if as_json:
        click.echo(
            json.dumps(
                {**about, "plugins": [asdict(d) for d in found], "other genkits": others}, indent=2
            )
        )
    else:
        for name, value in about.items():
            say(f"{name:10} {value}")
        for d in found:
            seconds = "" if d.seconds is None else f"  imported in {d.seconds:.2f} s"
            click.echo()
            say(f"{d.name} of {d.distribution} {d.version}: {d.state}{seconds}")
            trace = [line for line in d.traceback if d.reason not in line]
            for line in filter(None, [d.reason, ", ".join(d.provides), *trace]):
                say(f"    {line}")
        for other in others:
            message = f"warning: the distribution {other} provides a package genkit too; uninstall one of the two"
            click.echo()
            say(message)
    sys.exit(1 if broken else 0)
