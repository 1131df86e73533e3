"""Command-line options generated from the fields of a config, so that each is declared once."""

from typing import Any

import annotated_types
import click
from pydantic_core import PydanticUndefined

from ..config import MAX_SEED, Config, type_name


def options_of(config: type[Config]) -> list[click.Option]:
    """One option for each field, with its type, range, default and help; all hand on the string
    that was typed.
    """
    return [_option(name, config) for name in config.model_fields]


def _option(name: str, config: type[Config]) -> click.Option:
    field = config.model_fields[name]
    flag = "--" + name.replace("_", "-")
    note = _note(field.default, field.metadata)
    help_text = f"{field.description or ''}{note}"
    if field.annotation is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=help_text)
    return click.Option([flag, name], metavar=type_name(field.annotation), help=help_text)


def _note(default: Any, metadata: list[Any]) -> str:
    bounds = []
    for rule in metadata:
        if isinstance(rule, annotated_types.Ge):
            bounds.append(f"at least {rule.ge}")
        elif isinstance(rule, annotated_types.Gt):
            bounds.append(f"above {rule.gt}")
        elif isinstance(rule, annotated_types.Le) and rule.le != MAX_SEED:
            bounds.append(f"at most {rule.le}")
        elif isinstance(rule, annotated_types.Lt):
            bounds.append(f"below {rule.lt}")
    if default is not None and default is not PydanticUndefined and not isinstance(default, bool):
        shown = (
            ",".join(str(part) for part in default) if isinstance(default, tuple) else str(default)
        )
        if shown:
            bounds.insert(0, f"default: {shown}")
    return f"  [{'; '.join(bounds)}]" if bounds else ""


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed."""
    return {name: value for name, value in values.items() if value is not None}


def whole_numbers(text: str, option: str) -> list[int]:
    """The numbers of ``3,1,4``.

    Raises:
        click.BadParameter: it is no such list.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no list of whole numbers such as 3,1,4", param_hint=option
        ) from None
