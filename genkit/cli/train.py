"""genkit train MODEL: one subcommand a model, with the core's options and the model's own."""

from pathlib import Path
from typing import Any

import click

from ..hookspecs import Model
from ..plugins.registry import discover
from .options import given, options_of


class _Models(click.Group):
    """The registered models, as commands; a model is imported when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [registered.entry.name for registered in discover().all(Model)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from ..config import TrainOptions, check_fields
        from ..models import find_trainer

        registry = discover()
        trainer = find_trainer(registry, name)
        check_fields(trainer.Config, name)
        summary = registry.find(Model, name).entry.summary
        board = click.Option(
            ["--tensorboard"], is_flag=True, help="The same as --callbacks tensorboard."
        )
        own = click.Option(
            ["--config", "config"],
            metavar="FILE",
            help="TOML file of options; those typed here count more",
        )
        show = click.Option(
            ["--print-config"],
            is_flag=True,
            help="Print the options as --config reads them, and stop.",
        )
        return _ModelCommand(
            name,
            params=[*options_of(TrainOptions), board, own, show, *options_of(trainer.Config)],
            callback=_callback(name),
            help=f"Train {name}: {summary}.",
            own=list(trainer.Config.model_fields),
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            raise click.UsageError(
                f"options stand behind the model: genkit train MODEL {args[0]} …", ctx
            )
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Models (genkit train MODEL --help shows the options)"):
            formatter.write_dl([(r.entry.name, r.entry.summary) for r in discover().all(Model)])


class _ModelCommand(click.Command):
    """A model's command; its help keeps the model's own options apart from the core's."""

    def __init__(self, *args: Any, own: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = own

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, mine in ((f"Options of {self.name}", True), ("Options of every model", False)):
            records = [
                p.get_help_record(ctx)
                for p in self.get_params(ctx)
                if (p.name in self._own) == mine
            ]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


def _callback(model: str) -> Any:
    def run(config: str | None, print_config: bool, tensorboard: bool, **values: Any) -> None:
        if tensorboard:
            values["callbacks"] = ",".join(filter(None, (values["callbacks"], "tensorboard")))
        file = Path(config) if config else None
        if print_config:
            click.echo(_resolved(model, given(values), file), nl=False)
            return
        from ..api import train

        train(model, config=file, **given(values))

    return run


def _resolved(model: str, values: dict[str, Any], file: Path | None) -> str:
    from ..config import resolve, to_toml
    from ..models import find_trainer

    return f"# genkit train {model} --config THIS_FILE\n" + to_toml(
        *resolve(find_trainer(discover(), model).Config, model, values, file)
    )


@click.command(
    cls=_Models,
    options_metavar="",
    subcommand_metavar="MODEL [OPTIONS]",
    help="Train a model. The last line printed is the run's folder, the one before says where the latest samples are.",
)
def train() -> None:
    pass
