"""Writes docs/cli.md from the program's own help: `python -m tests.cli_reference`. A test holds the
two together.
"""

from pathlib import Path

import click
from click.testing import CliRunner

from genkit.cli.commands import visible_commands
from genkit.cli.main import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
COMMAND_LINES = [
    [],
    *([name] for name in visible_commands()),
    ["train", "simple-gan"],
    ["train", "ae"],
    ["train", "vae"],
]


def reference() -> str:
    """The help of every command, and of every built-in model's training, 100 columns wide."""
    parts = ["# Every command and option\n\nGenerated from the program by `just docs`.\n"]
    for command_line in COMMAND_LINES:
        title = " ".join(["genkit", *command_line])
        done = CliRunner(env={"GENKIT_PLUGINS": "none"}).invoke(
            cli, [*command_line, "--help"], prog_name="genkit", terminal_width=100
        )
        if done.exit_code:
            raise click.ClickException(f"{title} --help: {done.output}")
        parts.append(f"## `{title}`\n\n```\n{done.output}```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference())
