"""Options: frozen, typed, bounded, each declared once. Defaults < file < command line or call."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError, PluginError, nearest

__all__ = ["Config", "Field", "TrainOptions", "parse", "read_file", "resolve", "to_toml"]


class Config(BaseModel):
    """Base of every set of options. Frozen; an unknown key is an error; NaN and infinity are no
    values.

    A field states its default, its range and its help once; the command line, the check, ``--help``
    and ``run.json`` all read them from here::

        class Config(genkit.Config):
            latent_dim: int = genkit.Field(100, ge=1, description="size of the latent vector z")
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


MAX_THREADS = 1024


def _known_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise ValueError("one of auto, cpu, cuda, cuda:N, mps")
    return value


class TrainOptions(Config):
    """The core's own options of a training run; those of the model are in its ``Config``."""

    dataset: str | None = Field(
        None, description="dataset by name, folder:PATH for your own; else what the model prefers"
    )
    data_root: Path | None = Field(
        None, description="folder of the datasets; else $GENKIT_DATA, else the user's cache"
    )
    iterations: int = Field(20_000, ge=1, description="updates in all")
    batch_size: int = Field(128, ge=1, description="images a batch")
    log_interval: int = Field(
        100, ge=1, description="iterations that one row of metrics.jsonl averages over"
    )
    sample_interval: int = Field(
        1_000, ge=1, description="iterations between two sample grids and log lines"
    )
    checkpoint_interval: int = Field(1_000, ge=1, description="iterations between two checkpoints")
    keep: int = Field(3, ge=1, description="checkpoints kept, the newest ones")
    keep_all: bool = Field(False, description="keep every checkpoint")
    on_bad_image: Literal["refuse", "skip"] = Field(
        "refuse",
        description="a file that is no image one can use: refuse the dataset, or skip the file and say so",
    )
    stop_on_collapse: bool = Field(
        False,
        description="end training when the alarm finds the samples collapsed; judged once diverse, or after 5,000",
    )
    callbacks: tuple[str, ...] = Field(
        (), description="registered callbacks to tell of the run, by name"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="the one number all randomness derives from")
    device: Annotated[str, AfterValidator(_known_device)] = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps; auto takes cuda, then mps, then cpu"
    )
    engine: Literal["auto", "eager", "graph"] = Field(
        "auto",
        description="how steps are executed, never what they compute; auto: graph, where the step can be captured",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the networks' arithmetic; bf16 is automatic mixed precision"
    )
    channels_last: bool = Field(
        False, description="keep images channels-last in memory, which suits convolutions"
    )
    kernels: Literal["auto", "torch", "onednn"] = Field(
        "auto",
        description="whose matrix products and tanh on a CPU; auto: oneDNN's where there is AVX-512",
    )
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | Literal["probe"] | None = Field(
        None,
        description="CPU threads, or probe for the fastest number; else torch's own; recorded in the run",
    )
    out: Path | None = Field(
        None, description="folder of the run; else the next number under runs/"
    )


ConfigT = TypeVar("ConfigT", bound=Config)


def parse(
    config_class: type[ConfigT], values: Mapping[str, Any], *, where: str = "", strict: bool = False
) -> ConfigT:
    """``values`` as a ``config_class``.

    Strings are read by the field's type (``"0.5,0.9"`` for a tuple), as a command line needs it;
    with ``strict=True``, as for files, a value must have its type already.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of range; one line.
    """
    try:
        if strict:  # by way of JSON, in which strict means strict but a list may be a tuple
            return config_class.model_validate_json(
                json.dumps(dict(values), default=str), strict=True
            )
        return config_class.model_validate(
            {key: _split(config_class, key, value) for key, value in values.items()}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            _explain(
                config_class, problem["loc"], problem["type"], _plain_words(problem), values, where
            )
        ) from None


def _plain_words(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, in the words that ``--help`` uses."""
    words = {
        "greater_than_equal": "at least",
        "greater_than": "above",
        "less_than_equal": "at most",
        "less_than": "below",
    }
    if problem["type"] in words:
        (bound,) = problem["ctx"].values()
        return f"has to be {words[problem['type']]} {bound}"
    return str(problem["msg"])


def _split(config_class: type[Config], key: str, value: Any) -> Any:
    field = config_class.model_fields.get(key)
    if (
        isinstance(value, str)
        and field is not None
        and get_origin(field.annotation) in (tuple, list)
    ):
        return [part.strip() for part in value.split(",")]
    return value


def _explain(
    config_class: type[Config],
    loc: tuple[Any, ...],
    kind: str,
    message: str,
    values: Mapping[str, Any],
    where: str,
) -> str:
    prefix = f"{where}: " if where else ""
    if not loc:
        return prefix + message
    key = str(loc[0])
    if kind == "extra_forbidden":
        return f"{prefix}unknown option {key!r}{nearest(key, config_class.model_fields)}"
    given = f" {values[key]!r}" if key in values else ""
    if kind.endswith(("_parsing", "_type")) or kind in ("missing", "too_long"):
        message = f"has to be {type_name(config_class.model_fields[key].annotation)}"
    return f"{prefix}{key}{given}: {message.removeprefix('Value error, ')}"


def read_file(path: Path) -> dict[str, Any]:
    """The options in a TOML file.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has tables.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"config file {path}: {reason}") from None
    for key, value in values.items():
        if isinstance(value, dict):
            raise ConfigError(
                f"config file {path}: options stand at the top level, without the table [{key}]"
            )
    return values


def check_fields(config_class: type[Config], model: str) -> None:
    """A model's option may not bear the name of one of the core's.

    Raises:
        PluginError: naming the field.
    """
    shadowed = sorted(set(config_class.model_fields) & (set(TrainOptions.model_fields) | RESERVED))
    if shadowed:
        raise PluginError(
            f"model {model}: its option {shadowed[0]!r} has the name of one of genkit's own; rename it"
        )


RESERVED = frozenset({"model", "config", "print_config", "progress", "help", "debug", "json"})
"""Names that the command line or the API already uses beside :class:`TrainOptions`."""


def resolve(
    config_class: type[ConfigT], model: str, given: Mapping[str, Any], file: Path | None = None
) -> tuple[TrainOptions, ConfigT]:
    """The core's options and the model's, from one flat set of names: defaults < ``file`` <
    ``given``.

    Raises:
        ConfigError: see :func:`parse` and :func:`read_file`.
        PluginError: see :func:`check_fields`.
    """
    check_fields(config_class, model)
    from_file = read_file(file) if file else {}
    merged: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for values, where, strict in ((from_file, f"config file {file}", True), (given, "", False)):
        core, own = _divide(values, config_class, model, where)
        for target, cls, part in ((merged[0], TrainOptions, core), (merged[1], config_class, own)):
            parsed = parse(cls, part, where=where, strict=strict)
            target.update({key: getattr(parsed, key) for key in parsed.model_fields_set})
    return parse(TrainOptions, merged[0]), parse(config_class, merged[1])


def _divide(
    values: Mapping[str, Any], config_class: type[Config], model: str, where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    core: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in values.items():
        if key in TrainOptions.model_fields:
            core[key] = value
        elif key in config_class.model_fields:
            own[key] = value
        else:
            hint = nearest(key, [*TrainOptions.model_fields, *config_class.model_fields])
            raise ConfigError(f"{where + ': ' if where else ''}{model} has no option {key!r}{hint}")
    return core, own


def to_toml(*configs: Config) -> str:
    """The options as TOML that ``--config`` reads; one without a value is left out, since TOML has
    no null.
    """
    lines = []
    for config in configs:
        for key, value in config.model_dump(mode="json").items():
            if value is not None:
                lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def type_name(annotation: Any) -> str:
    """How a field's type reads in help: ``INTEGER``, ``FLOAT,FLOAT``, ``separate|combined``."""
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in annotation.__args__)
    if get_origin(annotation) is Annotated:
        return type_name(annotation.__args__[0])
    if get_origin(annotation) is tuple:
        return ",".join(type_name(part) for part in annotation.__args__)
    parts = [part for part in getattr(annotation, "__args__", ()) if part is not type(None)]
    if parts:
        return "|".join(type_name(part) for part in parts)
    return {int: "INTEGER", float: "FLOAT", str: "TEXT", bool: "BOOLEAN", Path: "PATH"}.get(
        annotation, "TEXT"
    )
