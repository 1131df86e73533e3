"""The command line. It parses, calls :mod:`genkit.api` and prints. A command is imported when it is
called.
"""

import importlib
import io
import sys
import warnings
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import (
    GenkitError,
    GenkitWarning,
    Interrupted,
    PluginError,
    UnknownNameError,
    memory_shortage,
    nearest,
    printable,
)
from ..plugins.registry import PluginCommand, discover_commands
from ..training.terminal import discard_pending
from .commands import COMMANDS, SECTIONS, visible_commands
from .output import print_line, print_text


class _LazyGroup(click.Group):
    """genkit's own commands, and those of plugins. Each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*visible_commands(), *(shown for shown, _ in _plugin_commands())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in COMMANDS:
            return _load_plugin_command(name)
        module, _, attribute = COMMANDS[name].target.partition(":")
        command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = visible_commands()
        width = max(map(len, commands))
        for section in SECTIONS:
            shown = [
                (name.ljust(width), entry.summary)
                for name, entry in commands.items()
                if entry.section == section
            ]
            if shown:
                with formatter.section(section):
                    formatter.write_dl(shown)
        if theirs := _plugin_commands():
            with formatter.section("Commands of plugins"):
                formatter.write_dl(
                    [
                        (name, printable(f"of {command.distribution} {command.version}"))
                        for name, command in theirs
                    ]
                )


def _plugin_commands() -> list[tuple[str, PluginCommand]]:
    """What to type for each, and the command: its name where no other command has it, else
    ``distribution/name``.
    """
    found = discover_commands()
    names = [*COMMANDS, *(command.name for command in found)]
    return [
        (c.name if names.count(c.name) == 1 else f"{c.distribution}/{c.name}", c) for c in found
    ]


def _load_plugin_command(name: str) -> click.Command:
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
            f"command {name!r} is provided more than once; type {' or '.join(choices)}"
        )
    hint = nearest(name, [*COMMANDS, *(shown for shown, _ in theirs)])
    raise UnknownNameError(f"no command {name!r}{hint}; `genkit --help` lists all")


@click.group(
    cls=_LazyGroup, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="genkit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train, sample and share small generative image models; every model and dataset is a plugin.

    Start with: genkit train simple-gan

    With your own pictures: genkit train simple-gan --dataset "folder:MY PICTURES" --image-size 64
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake, or a machine that is too small, ends in one line on
    standard error and exit code 2 (usage) or 1.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot write becomes escapes
            stream.reconfigure(errors="backslashreplace")
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
            print_line(str(stop), error=True)
            sys.exit(stop.exit_code)
        _fail("interrupted", 130)
    except Exception as error:
        if "--debug" in arguments or (message := _explain(error)) is None:
            raise
        if isinstance(error, BrokenPipeError):  # who read the output has seen enough
            sys.exit(1)
        _fail(message, getattr(error, "exit_code", 1))
    finally:
        _flush_output()


def _explain(error: Exception) -> str | None:
    """One line on what a user or a machine can cause; None for a bug."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename is not None else reason
    if isinstance(error, GenkitError | UnicodeError):
        return str(error)
    return memory_shortage(error)


def _flush_output() -> None:
    """Write what is left; what cannot be is dropped, or Python would end in an error of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            discard_pending(stream)


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    print_line(f"error: {line}", error=True)
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
        print_line(f"warning: {message}", error=True)
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        print_text(text.rstrip("\n"), error=True)
