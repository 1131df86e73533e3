"""Options: those that several commands share, and those generated from the fields of a config, so
that each is declared once.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import annotated_types
import click
from pydantic_core import PydanticUndefined

from ..config import MAX_SEED, Config, type_name
from ..errors import UnknownNameError, close_names

if TYPE_CHECKING:
    from ..data.dataset_options import InstalledDatasets

MAX_LABELS = 10_000
"""More pairs than this are refused when their picture is made, so no longer list is built."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
data_root_option = click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of the downloads, if they moved."
)
dataset_option = click.option(
    "--dataset",
    metavar="NAME:PLACE",
    help="Where the images of the run are now, if they moved, such as folder:NEW.",
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
    help_text = (
        f"{what} By name or number; a name with a comma in double quotes: '\"salt, pepper\",cats'"
        "  [default: all of them]"
    )
    return click.option("--labels", metavar="LABEL,LABEL", help=help_text)


def parse_labels(text: str | None, count: int) -> list[str] | None:
    """``count`` labels, as typed: those of ``dogs,cats``, repeated in turn; None for None.

    Raises:
        click.BadParameter: there is none, or a quotation mark is not closed.
    """
    if text is None:
        return None
    try:
        labels = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--labels") from None
    labels = [label.strip() for label in labels]
    if not all(labels) or not labels:
        raise click.BadParameter(
            f"{text!r} is no list of labels such as 3,1,4 or dogs,cats", param_hint="--labels"
        )
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
    extra = field.json_schema_extra
    metavar = extra.get("metavar") if isinstance(extra, dict) else None
    shown = str(metavar or type_name(field.annotation))
    return click.Option([flag, name], metavar=shown, help=help_text)


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


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were typed."""
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class OptionSection:
    """Options that help shows together."""

    title: str
    options: list[click.Option]


def dataset_sections(
    datasets: "InstalledDatasets", dataset: str | None = None
) -> list[OptionSection]:
    """The options of the built-in datasets, and of ``dataset``, which may be any plugin's.

    Options that several datasets have are in one section. Those of the one that is named come
    first.
    """
    named = datasets.of(dataset) if dataset else None
    configs = list(datasets.builtin())
    if named is not None and all(config is not named for _, config in configs):
        configs.insert(0, (datasets.title_of(dataset or ""), named))
    configs.sort(key=lambda pair: pair[1] is not named)
    owners: dict[str, tuple[type[Config], str, list[str]]] = {}
    for title, config in configs:
        for name, field in config.model_fields.items():
            owners.setdefault(f"{name} {field!r}", (config, name, []))[2].append(title)
    sections: dict[tuple[str, ...], OptionSection] = {}
    for config, name, titles in owners.values():
        section = sections.setdefault(tuple(titles), OptionSection(", ".join(titles), []))
        section.options.append(_config_option(name, config))
    return list(sections.values())


def distinct_options(
    sections: Sequence[OptionSection], taken: Iterable[str | None]
) -> list[click.Option]:
    """The options of several sections, one of each name, without those that are ``taken``."""
    options: dict[str | None, click.Option] = {}
    for section in sections:
        for option in section.options:
            options.setdefault(option.name, option)
    return [option for name, option in options.items() if name not in set(taken)]


def last_value(flag: str, args: Sequence[str]) -> str | None:
    """What an option is given in arguments that are not parsed yet."""
    value = None
    for argument, following in zip(args, [*args[1:], None], strict=True):
        if argument == flag:
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.removeprefix(f"{flag}=")
    return value


class SectionedCommand(click.Command):
    """A command whose help has sections, and whose suggestions are close to what was typed."""

    def sections(self) -> list[OptionSection]:
        """What :attr:`params` have besides arguments, as help shows it."""
        own = [option for option in self.params if isinstance(option, click.Option)]
        return [OptionSection("Options", own)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            flags = [flag for option in self.get_params(ctx) for flag in option.opts]
            close = close_names(error.option_name, flags)
            raise click.NoSuchOption(error.option_name, possibilities=close, ctx=ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = self.sections()
        for section in sections:
            options: list[click.Option] = list(section.options)
            if section is sections[-1] and (help_option := self.get_help_option(ctx)) is not None:
                options.append(help_option)
            records = [option.get_help_record(ctx) for option in options]
            with formatter.section(section.title):
                formatter.write_dl([record for record in records if record is not None])


class DatasetCommand(SectionedCommand):
    """A command whose argument ``dataset`` names a dataset, whose options it takes, too.

    Its function gets those that were typed as ``options``, values by name, which
    :attr:`genkit.DataRequest.options` accepts::

        @click.command(cls=DatasetCommand)
        @click.argument("dataset")
        def inspect(dataset: str, options: dict[str, Any]) -> None: ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = list(self.params)
        self._of_datasets: list[OptionSection] = []

    def sections(self) -> list[OptionSection]:
        """The options of the datasets, then its own."""
        of_datasets = [
            OptionSection(f"Options of {section.title}", section.options)
            for section in self._of_datasets
        ]
        own = [option for option in self._own if isinstance(option, click.Option)]
        return [*of_datasets, OptionSection("Options", own)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from ..data.dataset_options import InstalledDatasets
        from ..plugins.registry import discover

        datasets = InstalledDatasets(discover())
        self._of_datasets = dataset_sections(datasets)
        if (dataset := self._named(ctx, args)) is not None:
            try:
                self._of_datasets = dataset_sections(datasets, dataset)
            except UnknownNameError as error:  # it is an argument here, not an option
                raise UnknownNameError(str(error).replace("type --dataset ", "type ")) from None
        self.params = [*self._own, *self._options()]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        given = {name: ctx.params.pop(name) for name in self._names() if name in ctx.params}
        ctx.params["options"] = typed(given)
        return super().invoke(ctx)

    def _options(self) -> list[click.Option]:
        return distinct_options(self._of_datasets, [option.name for option in self._own])

    def _names(self) -> list[str]:
        return [option.name for option in self._options() if option.name is not None]

    def _named(self, ctx: click.Context, args: list[str]) -> str | None:
        """The dataset in arguments: the first that is neither an option nor the value of one."""
        known = [*self._own, *self._options()]
        options = [option for option in known if isinstance(option, click.Option)]
        with_value = {flag for option in options if not option.is_flag for flag in option.opts}
        previous = ""
        for argument in args:
            if not argument.startswith("-") and previous not in with_value:
                return argument
            previous = argument
        return None
