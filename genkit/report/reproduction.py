"""How to train a run a second time: its options beside their defaults, and the command."""

import shlex
from typing import Any

from pydantic import BaseModel

from ..config import TrainOptions
from ..data.dataset_options import config_of
from ..errors import GenkitError, printable
from ..plugins.plugin import OWN_DISTRIBUTION
from ..run import Run
from .comparison import TableRow, format_option
from .summary import PLACES, shorten_dataset


def compare_with_defaults(run: Run) -> tuple[list[TableRow], list[TableRow], str]:
    """Rows of the options that are not at a known default, rows of the others, and a note."""
    changed, same = [], []
    for options, defaults in _with_defaults(run):
        for name, option in options.items():
            if name == "dataset":  # the page has a section for it
                continue
            if name in defaults and option == defaults[name]:
                same.append(TableRow([name, format_option(option)]))
            else:
                default = format_option(defaults[name]) if name in defaults else "not known"
                changed.append(TableRow([name, format_option(option), default]))
    try:
        _ = run.trainer_class
    except GenkitError as error:
        return changed, same, f"The defaults of the model's own options are not known: {error}"
    return changed, same, "" if changed else "All options are at their defaults."


def reproduce(run: Run) -> tuple[str, str]:
    """The command that trains the run a second time, and a note on it. The command is empty for a
    model that is not in a plugin, and for images in memory.
    """
    info = run.info
    if info.model.distribution is None or info.dataset.distribution is None:
        what, does = "images in memory", "loads them"
        if info.model.distribution is None:
            what, does = "a class that is not in a plugin", "defines it"
        return "", (
            f"Trained from Python, with {what}: "
            f"run the program that {does} and calls genkit.train(…)."
        )
    model = qualify(info.model.name, info.model.distribution)
    dataset = qualify(shorten_dataset(info.dataset.name), info.dataset.distribution)
    words = ["genkit", "train", model, "--dataset", dataset]
    kept = {"seed": info.options.seed, "iterations": info.options.iterations}
    changed = {
        name: option
        for options, defaults in _with_defaults(run)
        for name, option in options.items()
        if name not in defaults or option != defaults[name]
    }
    changed.pop("dataset", None)
    if info.options.threads is None and (threads := info.environment.threads):
        kept["threads"] = threads
    for name, option in {**kept, **changed, **_changed_dataset_options(run)}.items():
        words += to_arguments(name, option)
    versions = f"genkit {info.environment.genkit or '?'}, {info.environment.model or '?'}"
    place = "pass it with --data-root"
    if ":" in info.dataset.name:
        place = "complete the path behind --dataset"
    note = (
        f"With {versions} and the environment above the result is the same, bit for bit. "
        f"The folder of the dataset is left out: {place}."
    )
    return " ".join(map(shlex.quote, map(printable, words))), note


def _changed_dataset_options(run: Run) -> dict[str, Any]:
    """The options of the dataset that are not at a known default, as they are typed."""
    options = run.info.dataset.options or {}
    try:
        registered = run.dataset_entry
        config = None if registered is None else config_of(registered)
    except GenkitError:  # not installed here: all are given
        return options
    if config is None:
        return {}
    defaults = _defaults(config)
    return {
        name: _join(config, name, option)
        for name, option in options.items()
        if name in config.model_fields and (name not in defaults or option != defaults[name])
    }


def _join(config: type[BaseModel], name: str, option: Any) -> Any:
    """The parts of a value that is typed with another separator than a comma: ``48x64``."""
    field = config.model_fields.get(name)
    extra = field.json_schema_extra if field is not None else None
    separator = extra.get("separator") if isinstance(extra, dict) else None
    if isinstance(separator, str) and isinstance(option, list):
        return separator.join(map(str, option))
    return option


def qualify(name: str, distribution: str) -> str:
    """The name that finds an entry whatever else is installed; built-ins have their bare names."""
    return name if distribution == OWN_DISTRIBUTION else f"{distribution}/{name}"


def to_arguments(name: str, option: Any) -> list[str]:
    """An option of ``run.json`` as it is typed; nothing for None."""
    flag = "--" + name.replace("_", "-")
    if isinstance(option, bool):
        return [flag if option else f"--no-{flag[2:]}"]
    if option is None:
        return []
    parts = option if isinstance(option, list) else [option]
    return [flag, ",".join(str(part) for part in parts)]


def _with_defaults(run: Run) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The core's options and the model's, as in ``run.json``, each with the defaults."""
    core = run.info.options.model_dump(mode="json", exclude=set(PLACES))
    try:
        of_model = _defaults(run.trainer_class.Config)
    except GenkitError:
        of_model = {}
    return [(core, _defaults(TrainOptions)), (run.info.config, of_model)]


def _defaults(config: type[BaseModel]) -> dict[str, Any]:
    """The defaults of the fields that have one, as ``run.json`` writes them."""
    fields = {name: field for name, field in config.model_fields.items() if not field.is_required()}
    made = config.model_construct(
        **{name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    )
    values = made.model_dump(mode="json", warnings=False)
    return {name: value for name, value in values.items() if name in fields}
