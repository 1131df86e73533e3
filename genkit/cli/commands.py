"""The table of genkit's own commands. Showing it imports none of them."""

from typing import NamedTuple

SECTIONS = ("Train", "Look", "Judge", "Share", "Data", "Find", "Plugins")
"""Of ``genkit --help``, in order; one without a command is not shown."""


class CommandEntry(NamedTuple):
    """Where a command stands in the help, and where its code is."""

    section: str
    """One of :data:`SECTIONS`; empty for a command that the help does not show."""
    summary: str
    target: str
    """``module:function`` in this folder, imported when the command is called."""


COMMANDS = {
    "train": CommandEntry("Train", "Train a model.", "train:train"),
    "resume": CommandEntry("Train", "Continue a run.", "train:resume"),
    "sample": CommandEntry("Look", "Draw images from a run.", "look:sample"),
    "reconstruct": CommandEntry(
        "Look", "Show held-out images above their reconstructions.", "look:reconstruct"
    ),
    "interpolate": CommandEntry(
        "Look", "Show images between pairs of latent codes.", "look:interpolate"
    ),
    "latent": CommandEntry("Look", "Map the latent codes of held-out images.", "look:latent"),
    "animate": CommandEntry("Look", "Show a training as GIF or MP4.", "look:animate"),
    "evaluate": CommandEntry("Judge", "Measure a run by metrics.", "judge:evaluate"),
    "compare": CommandEntry("Judge", "Show runs side by side.", "judge:compare"),
    "report": CommandEntry("Judge", "Write a run's report: one HTML file.", "judge:report"),
    "plot": CommandEntry("Judge", "Draw the curves of a run.", "judge:plot"),
    "data": CommandEntry("Data", "Inspect a dataset, or pack it into one file.", "data:data"),
    "runs": CommandEntry(
        "Find", "List the runs in a folder, with state and last losses.", "find:runs"
    ),
    "list": CommandEntry(
        "Find",
        "List installed models, datasets, metrics and other entries.",
        "find:list_kind",
    ),
    "check": CommandEntry(
        "Plugins", "Check a model, dataset or metric against the contract.", "plugins:check"
    ),
    "new-plugin": CommandEntry(
        "Plugins", "Write a small plugin package to begin with.", "plugins:new_plugin"
    ),
    "doctor": CommandEntry(
        "Plugins", "Show what is installed, what is broken and why.", "plugins:doctor"
    ),
    "models": CommandEntry("", "List the models.", "find:models"),
    "datasets": CommandEntry("", "List the datasets.", "find:datasets"),
    "metrics": CommandEntry("", "List the metrics.", "find:metrics"),
    "callbacks": CommandEntry("", "List the callbacks.", "find:callbacks"),
    "plugins": CommandEntry("", "List the plugins.", "find:plugins"),
}


def visible_commands() -> dict[str, CommandEntry]:
    """The commands that the help shows, by name."""
    return {name: entry for name, entry in COMMANDS.items() if entry.section}
