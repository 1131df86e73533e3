"""Options: those that several commands share, and those generated from the fields of a config, so
that each is declared once.
"""

from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import annotated_types
import click
from pydantic_core import PydanticUndefined

from ..config import MAX_SEED, Config, type_name

MAX_LABELS = 10_000
"""More pairs than this are refused when their picture is made, so no longer list is built."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
data_root_option = click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the datasets, if they moved."
)


def out_option(what: str, default: str) -> Callable[[Decorated], Decorated]:
    """``--out``: where a command writes. ``default`` is relative to the run's folder."""
    return click.option(
        "--out", type=click.Path(path_type=Path), help=f"{what}  [default: {default} in the run]"
    )


def seed_option(what: str) -> Callable[[Decorated], Decorated]:
    """``--seed``, 0 by default."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help=what
    )


def count_option(
    what: str, default: int | None, *, least: int = 1, name: str = "--count"
) -> Callable[[Decorated], Decorated]:
    """A whole number; where ``default`` is None, ``what`` describes the default."""
    shown = default is not None
    kind = click.IntRange(min=least)
    return click.option(name, type=kind, default=default, show_default=shown, help=what)


def labels_option(what: str) -> Callable[[Decorated], Decorated]:
    """``--labels``, for :func:`parse_labels`."""
    return click.option("--labels", metavar="LABEL,LABEL", help=f"{what}  [default: all of them]")


def parse_labels(text: str | None, count: int) -> list[int] | None:
    """``count`` labels: those of ``3,1,4``, repeated in turn; None for None.

    Raises:
        click.BadParameter: it is not such a list.
    """
    if text is None:
        return None
    try:
        labels = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no list of whole numbers such as 3,1,4", param_hint="--labels"
        ) from None
    return list(islice(cycle(labels), count))


def config_options(config: type[Config]) -> list[click.Option]:
    """One option for each field, with its type, range, default and help. Each passes on the string
    that was typed.
    """
    return [_config_option(name, config) for name in config.model_fields]


def _config_option(name: str, config: type[Config]) -> click.Option:
    field = config.model_fields[name]
    flag = "--" + name.replace("_", "-")
    help_text = f"{field.description or ''}{_describe_range(field.default, field.metadata)}"
    if field.annotation is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=help_text)
    return click.Option([flag, name], metavar=type_name(field.annotation), help=help_text)


def _describe_range(default: Any, metadata: list[Any]) -> str:
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
        parts = default if isinstance(default, tuple) else (default,)
        if shown := ",".join(str(part) for part in parts):
            bounds.insert(0, f"default: {shown}")
    return f"  [{'; '.join(bounds)}]" if bounds else ""


def typed(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed."""
    return {name: value for name, value in values.items() if value is not None}
