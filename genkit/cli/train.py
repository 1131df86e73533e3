"""genkit train MODEL, a subcommand for each model with the core's options and its own; resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..hookspecs import ModelEntry
from ..plugins.registry import discover
from .options import (
    OptionSection,
    SectionedCommand,
    config_options,
    count_option,
    data_root_option,
    dataset_option,
    dataset_sections,
    distinct_options,
    last_value,
    run_argument,
    typed,
)

REPLACED = {"--tensorboard": "--callbacks tensorboard"}
"""Options of earlier versions, and what to type now."""


class _ModelGroup(click.Group):
    """The registered models as commands. A model is imported when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [registered.entry.name for registered in discover().all(ModelEntry)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from ..config import TrainOptions, check_fields
        from ..models import find_trainer

        registry = discover()
        trainer = find_trainer(registry, name)
        check_fields(trainer.Config, name)
        summary = registry.find(ModelEntry, name).entry.summary
        config = click.Option(
            ["--config", "config"],
            metavar="FILE",
            help="TOML file of options; those typed here override it",
        )
        show = click.Option(
            ["--print-config"],
            is_flag=True,
            help="Print the options as --config reads them, and stop.",
        )
        return _ModelCommand(
            name,
            [*config_options(TrainOptions), config, show],
            config_options(trainer.Config),
            callback=_callback(name),
            help=f"Train {name}: {summary}.",
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            raise click.UsageError(f"options follow the model: genkit train MODEL {args[0]} …", ctx)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Models (genkit train MODEL --help shows the options)"):
            formatter.write_dl(
                [(r.entry.name, r.entry.summary) for r in discover().all(ModelEntry)]
            )


class _ModelCommand(SectionedCommand):
    """A model's command. Its options are the model's, those of the datasets, and the core's."""

    def __init__(
        self, name: str, core: list[click.Option], of_model: list[click.Option], **kwargs: Any
    ) -> None:
        super().__init__(name, params=[*core, *of_model], **kwargs)
        self._core, self._of_model = core, of_model
        self._of_datasets: list[OptionSection] = []

    def sections(self) -> list[OptionSection]:
        """The model's options, those of datasets, and those of every model."""
        return [
            OptionSection(f"Options of {self.name}", self._of_model),
            *(
                OptionSection(f"Options of {section.title}", section.options)
                for section in self._of_datasets
            ),
            OptionSection("Options of every model", self._core),
        ]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(
            f"Datasets of plugins may have options, too: genkit train {self.name} --dataset NAME "
            "--help shows them."
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from ..data.dataset_options import InstalledDatasets

        dataset = last_value("--dataset", args) or _dataset_of_file(last_value("--config", args))
        self._of_datasets = dataset_sections(InstalledDatasets(discover()), dataset)
        own = [*self._core, *self._of_model]
        self.params = [*own, *distinct_options(self._of_datasets, [each.name for each in own])]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in REPLACED:
                hint = [REPLACED[error.option_name]]
                raise click.NoSuchOption(error.option_name, possibilities=hint, ctx=ctx) from None
            raise
        except click.UsageError as error:
            if "unexpected extra argument" not in error.message:
                raise
            how = "put a name with spaces in quotes, and --dataset before the name of a dataset"
            raise click.UsageError(f"{error.message}: {how}", ctx) from None


def _dataset_of_file(config: str | None) -> str | None:
    from ..config import read_file

    dataset = read_file(Path(config)).get("dataset") if config else None
    return dataset if isinstance(dataset, str) else None


def _callback(model: str) -> Callable[..., None]:
    def run(config: str | None, print_config: bool, **values: Any) -> None:
        file = Path(config) if config else None
        if print_config:
            click.echo(_resolve_to_toml(model, typed(values), file), nl=False)
            return
        from ..api import train

        train(model, config=file, **typed(values))

    return run


def _resolve_to_toml(model: str, values: dict[str, Any], file: Path | None) -> str:
    from ..config import resolve, to_toml
    from ..data.dataset_options import InstalledDatasets
    from ..models import find_trainer

    registry = discover()
    datasets = InstalledDatasets(registry)
    configs = resolve(find_trainer(registry, model).Config, model, values, file, datasets)
    return f"# genkit train {model} --config THIS_FILE\n" + to_toml(*configs)


@click.command(cls=_ModelGroup, options_metavar="", subcommand_metavar="MODEL [OPTIONS]")
def train() -> None:
    """Train a model: genkit train simple-gan.

    With your own pictures: genkit train simple-gan --dataset "folder:MY PICTURES" --image-size 64

    The last line printed is the run's folder, the line before it the path of the
    latest samples.
    """


@click.command()
@run_argument
@count_option(
    "The total to reach, not the number to add.  [default: the total of the run]",
    None,
    name="--iterations",
)
@dataset_option
@data_root_option
@click.option(
    "--device", metavar="TEXT", help="A device other than the one the run was started on."
)
@click.option(
    "--stop-on-collapse/--no-stop-on-collapse",
    default=None,
    help="Replaces the option that the run was started with.",
)
def resume(
    run: Path,
    iterations: int | None,
    dataset: str | None,
    data_root: Path | None,
    device: str | None,
    stop_on_collapse: bool | None,
) -> None:
    """Continue the run in the folder RUN from its newest checkpoint, to a total of --iterations."""
    from .. import api

    api.resume(
        run,
        iterations,
        dataset=dataset,
        data_root=data_root,
        device=device,
        stop_on_collapse=stop_on_collapse,
    )
