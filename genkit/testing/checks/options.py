"""Checks of what any entry owes, and of a model's options."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import annotated_types
from torch import Tensor

from ...config import Config, check_fields as refuse_shadowing, parse
from ...data.dataset_options import config_of
from ...errors import ConfigError
from ...interfaces import DataSpec
from ...models import build
from ...rng import Rng
from ...storage.state import snapshot
from ..subject import (
    SHAPE,
    DatasetSubject,
    ModelSubject,
    Skipped,
    Subject,
    dataset_check,
    differing,
    metric_check,
    model_check,
)


@model_check
@dataset_check
@metric_check
def plugin_module_imports_no_torch(subject: Subject) -> None:
    """Listing must be fast: the plugin's module names its targets as text."""
    if subject.registered is None:
        raise Skipped("not in a plugin")
    module = subject.registered.plugin.module
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, f"importing {module} loads torch: import it in the target only"


@model_check
def name_and_options_are_described(subject: ModelSubject) -> None:
    """`genkit list models` and `--help` show them."""
    if subject.registered is not None:
        assert subject.registered.entry.summary.strip(), "the model has no summary"
    refuse_shadowing(subject.trainer.Config, subject.name)
    for name, field in subject.trainer.Config.model_fields.items():
        assert field.description, f"option {name} has no description"
        assert not field.is_required(), f"option {name} has no default"
    subject.trainer.Config()


@dataset_check
def dataset_options_are_described_and_recorded(subject: DatasetSubject) -> None:
    """`--help` shows the options of a dataset, run.json holds them, and they have defaults."""
    config = config_of(subject.registered) if subject.registered is not None else None
    if config is None:
        raise Skipped("it has no options")
    for name, field in config.model_fields.items():
        assert field.description, f"option {name} has no description"
        assert not field.is_required(), f"option {name} has no default"
    again = parse(config, json.loads(config().model_dump_json()), strict=True)
    assert again == config(), "config → JSON → config is another config"


@model_check
def config_survives_json(subject: ModelSubject) -> None:
    """run.json holds it."""
    config = subject.trainer.Config()
    again = parse(subject.trainer.Config, json.loads(config.model_dump_json()), strict=True)
    assert again == config, "config → JSON → config is another config"


@model_check
def options_are_strict(subject: ModelSubject) -> None:
    """Unknown options are refused by name, strings are read by type, values out of range are
    refused.
    """
    config = subject.trainer.Config
    try:
        parse(config, {"no_such_option": 1})
    except ConfigError as error:
        refusal = str(error)
    else:
        raise AssertionError("an unknown option is accepted: derive Config from genkit.Config")
    assert "no_such_option" in refusal, "an unknown option is refused, but not by name"
    for name, field in config.model_fields.items():
        typed = field.default
        if typed is None:  # nobody can type it
            continue
        text = ",".join(str(part) for part in typed) if isinstance(typed, tuple) else str(typed)
        read = getattr(parse(config, {name: text}), name)
        assert read == typed, f"option {name}: {text!r} is read as {read!r}"
        for bad in _out_of_range(field.metadata):
            try:
                parse(config, {name: bad})
            except ConfigError:
                continue
            raise AssertionError(f"option {name} accepts {bad}, which is out of its range")


def _out_of_range(metadata: list[Any]) -> Iterator[Any]:
    for rule in metadata:
        if isinstance(rule, annotated_types.Gt):
            yield rule.gt
        elif isinstance(rule, annotated_types.Ge):
            yield rule.ge - 1  # type: ignore[operator]
        elif isinstance(rule, annotated_types.Lt):
            yield rule.lt
        elif isinstance(rule, annotated_types.Le):
            yield rule.le + 1  # type: ignore[operator]


@model_check
def every_option_changes_something(subject: ModelSubject) -> None:
    """An option that is read nowhere misleads."""

    def trained(config: Config) -> dict[str, Tensor]:
        trainer = build(subject.trainer, config, DataSpec(*SHAPE, classes=10), 0, "cpu")
        subject.training(trainer).run(4)
        return {**snapshot(trainer), "samples": trainer.sample(2, Rng(0, "check"))}

    usual = trained(subject.trainer.Config())
    unclear = []
    for name, field in subject.trainer.Config.model_fields.items():
        config = _another(
            subject.trainer.Config, name, _other_values(field.annotation, field.default)
        )
        if config is None:
            unclear.append(name)
        else:
            assert differing(usual, trained(config)), f"option {name} changes nothing"
    if unclear:
        raise Skipped(f"all but {', '.join(unclear)}, of which no other value comes to mind")


def _another(config_class: type[Config], name: str, values: Iterator[Any]) -> Config | None:
    """The defaults but for one option, which gets the first of ``values`` that it accepts."""
    for value in values:
        try:
            return parse(config_class, {name: value})
        except ConfigError:
            continue
    return None


def _other_values(annotation: Any, default: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from (value for value in get_args(annotation) if value != default)
    elif isinstance(default, bool):
        yield not default
    elif isinstance(default, int):
        yield from (default + 1, default - 1, default * 2)
    elif isinstance(default, float):
        yield from (default * 0.5, default * 2, default + 0.5) if default else (0.5, 1.0)
    elif isinstance(default, tuple):
        yield from zip(*(_other_values(type(part), part) for part in default), strict=False)
