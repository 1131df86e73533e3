"""The command line: thin. It parses, calls :mod:`genkit.api` and prints; commands are imported when
they are used.
"""

import importlib
import sys
import warnings
from typing import Any

import click

from .. import __version__
from ..errors import (
    GenkitError,
    GenkitWarning,
    Interrupted,
    PluginError,
    UnknownNameError,
    nearest,
    printable,
)
from ..plugins.registry import PluginCommand, discover_commands
from .output import say

COMMANDS = {
    "train": "Train a model.",
    "resume": "Go on with a run.",
    "sample": "Draw images from a run.",
    "reconstruct": "Show held-out images above their reconstructions.",
    "evaluate": "Measure a run's samples by metrics.",
    "plot": "Draw the curves of a run.",
    "interpolate": "Show the walk between latents of a run.",
    "latent": "Map the latent codes of held-out images.",
    "animate": "Show the training of a run as GIF or MP4.",
    "report": "Write a run's report: one HTML file.",
    "compare": "Set runs side by side.",
    "runs": "List the runs in a folder, with state and last losses.",
    "check": "Check a model, dataset or metric against the contract.",
    "new-plugin": "Write a small plugin package to begin with.",
    "doctor": "Say what is installed, what is broken and why.",
    "models": "List the models.",
    "datasets": "List the datasets.",
    "metrics": "List the metrics.",
    "callbacks": "List the callbacks.",
    "plugins": "List the plugins.",
}
"""Name and help of each command; its code is in the module of its name and is not imported to list
it.
"""


_LISTINGS = ("models", "datasets", "metrics", "callbacks", "plugins")


class _Lazy(click.Group):
    """genkit's own commands, and those of plugins; each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(shown for shown, _ in _plugin_commands())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in COMMANDS:
            return _load(name)
        attribute = name.replace("-", "_")
        module = "listing" if name in _LISTINGS else attribute
        command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        if theirs := _plugin_commands():
            with formatter.section("Commands of plugins"):
                formatter.write_dl(
                    [
                        (shown, printable(f"of {command.distribution} {command.version}"))
                        for shown, command in theirs
                    ]
                )


def _plugin_commands() -> list[tuple[str, PluginCommand]]:
    """How each is called, and the command: by its bare name where that is free, else
    ``distribution/name``.
    """
    found = discover_commands()
    bare = [*COMMANDS, *(command.name for command in found)]
    return [(c.name if bare.count(c.name) == 1 else f"{c.distribution}/{c.name}", c) for c in found]


def _load(name: str) -> click.Command:
    theirs = _plugin_commands()
    for command in (c for shown, c in theirs if name in (shown, f"{c.distribution}/{c.name}")):
        loaded = command.load()
        if not isinstance(loaded, click.Command):
            raise PluginError(
                f"command {name} of {command.distribution}: {command.target} is no click command"
            )
        return loaded
    choices = [shown for shown, c in theirs if c.name == name]
    if choices:
        raise UnknownNameError(
            f"command {name!r} is provided more than once; say {' or '.join(choices)}"
        )
    hint = nearest(name, [*COMMANDS, *(shown for shown, _ in theirs)])
    raise UnknownNameError(f"no command {name!r}{hint}; `genkit --help` lists all")


@click.group(
    cls=_Lazy, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="genkit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train, sample and share small generative image models; every model and dataset is a plugin.

    Start with: genkit train simple-gan
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one line on standard error and exit code 2
    (usage) or 1.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning
    try:
        cli.main(arguments, prog_name="genkit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Interrupted) else error.__cause__
        if isinstance(stop, Interrupted):
            say(str(stop), error=True)
            sys.exit(stop.exit_code)
        _fail("interrupted", 130)
    except (GenkitError, OSError, UnicodeError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        _fail(str(error) or "there is not enough memory", getattr(error, "exit_code", 1))


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    say(f"error: {line}", error=True)
    sys.exit(code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: Any = None,
) -> None:
    if issubclass(category, GenkitWarning):
        say(f"warning: {message}", error=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
