"""The options of every training, and the base class of a model's: each declared once.

A call or a command line overrides a config file, and a file overrides the defaults.
"""

import codecs
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError, PluginError, nearest

__all__ = ["Config", "Field", "TrainOptions", "parse", "read_file", "resolve", "to_toml"]


class Config(BaseModel):
    """Base of every set of options: frozen, without unknown keys, NaN or infinity.

    A field declares its default, range and help once. The command line, ``--help``, validation and
    ``run.json`` all read them from there::

        class Config(genkit.Config):
            latent_dim: int = genkit.Field(100, ge=1, description="size of the latent vector z")
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


MAX_THREADS = 1024
MAX_FILE_BYTES = 2**20
"""Of a file of options."""
MAX_INTEGER = 2**63 - 1
"""Of every option that is a whole number: what torch can count."""
MAX_SEED = 2**63 - 1

OnBadImage = Literal["refuse", "skip"]
"""On an image file that cannot be used: refuse the dataset, or skip the file."""


def _known_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise ValueError("one of auto, cpu, cuda, cuda:N, mps")
    return value


class TrainOptions(Config):
    """The core's options of a training run; those of the model are in its ``Config``."""

    dataset: str | None = Field(
        None, description="dataset by name, folder:PATH for your own; else what the model prefers"
    )
    data_root: Path | None = Field(
        None, description="folder of the datasets; else $GENKIT_DATA, else the user's cache"
    )
    iterations: int = Field(20_000, ge=1, description="updates in total")
    batch_size: int = Field(128, ge=1, description="images per batch")
    log_interval: int = Field(
        100, ge=1, description="iterations that one row of metrics.jsonl averages over"
    )
    sample_interval: int = Field(
        1_000, ge=1, description="iterations between two sample grids and log lines"
    )
    checkpoint_interval: int = Field(1_000, ge=1, description="iterations between two checkpoints")
    keep: int = Field(3, ge=1, description="checkpoints kept, the newest ones")
    keep_all: bool = Field(False, description="keep every checkpoint")
    on_bad_image: OnBadImage = Field(
        "skip",
        description="on an image file that cannot be used: skip the file, or refuse the dataset",
    )
    flip: bool = Field(
        False, description="mirror half of the images left to right, at random in each batch"
    )
    stop_on_collapse: bool = Field(
        False,
        description="end training when the alarm finds the samples collapsed;"
        " checked once samples were diverse, or after 5,000 iterations",
    )
    callbacks: tuple[str, ...] = Field((), description="registered callbacks to use, by name")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of all random numbers")
    device: Annotated[str, AfterValidator(_known_device)] = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps; auto takes cuda, then mps, then cpu"
    )
    engine: Literal["auto", "eager", "graph"] = Field(
        "auto",
        description="how steps are executed, never what they compute;"
        " auto: graph, if the step can be captured",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the networks' arithmetic; bf16 is automatic mixed precision"
    )
    channels_last: bool = Field(
        False, description="keep images channels-last in memory, which suits convolutions"
    )
    kernels: Literal["auto", "torch", "onednn"] = Field(
        "auto",
        description="library for matrix products and tanh on a CPU; auto: onednn in captured steps"
        " on AMD family 26 (Zen 5), else torch",
    )
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | Literal["probe"] | None = Field(
        None,
        description="CPU threads, or probe for the fastest number; else torch's default;"
        " recorded in the run",
    )
    out: Path | None = Field(
        None, description="folder of the run; else the next number under runs/"
    )


ConfigT = TypeVar("ConfigT", bound=Config)


def parse(
    config_class: type[ConfigT], values: Mapping[str, Any], *, where: str = "", strict: bool = False
) -> ConfigT:
    """Validate ``values`` as a ``config_class``.

    Args:
        config_class: the options that there are.
        values: values by name.
        where: the file they are from, for messages.
        strict: whether a value must have its field's type, as in files. Otherwise strings are
            converted, as on a command line: ``"0.5,0.9"`` to a tuple.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of range.
    """
    prefix = f"{where}: " if where else ""
    try:
        if strict:  # as JSON, where strict validation takes a list for a tuple
            parsed = config_class.model_validate_json(
                json.dumps(dict(values), default=str), strict=True
            )
        else:
            parsed = config_class.model_validate(
                {key: _split(config_class, key, value) for key, value in values.items()}
            )
    except ValidationError as error:
        message = _explain(config_class, error.errors()[0], values)
        raise ConfigError(f"{prefix}{message}") from None
    for key in config_class.model_fields:
        for value in _parts(getattr(parsed, key)):
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise ConfigError(f"{prefix}{key} {value}: has to be at most {MAX_INTEGER}")
    return parsed


def _parts(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def _explain(
    config_class: type[Config], problem: Mapping[str, Any], values: Mapping[str, Any]
) -> str:
    """One line on the first problem that pydantic found."""
    loc, kind, message = problem["loc"], problem["type"], _describe(problem)
    if not loc:
        return message
    key = str(loc[0])
    if kind == "extra_forbidden":
        return f"unknown option {key!r}{nearest(key, config_class.model_fields)}"
    given = f" {values[key]!r}" if key in values else ""
    if kind == "string_unicode":
        return f"{key}{given}: is not UTF-8; rename it, or give a link to it whose name is"
    if kind.endswith(("_parsing", "_type")) or kind in ("missing", "too_long", "literal_error"):
        message = f"has to be {_expected(config_class.model_fields[key].annotation)}"
    return f"{key}{given}: {message.removeprefix('Value error, ')}"


def _expected(annotation: Any) -> str:
    """A field's type in words: ``a whole number``, ``one of fp32, bf16``."""
    if get_origin(annotation) is Literal:
        values = [str(value) for value in annotation.__args__]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if get_origin(annotation) is Annotated:
        return _expected(annotation.__args__[0])
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    parts = [part for part in getattr(annotation, "__args__", ()) if part is not type(None)]
    if get_origin(annotation) in (tuple, list) or not parts:
        return words.get(annotation) or type_name(annotation)
    return " or ".join(_expected(part) for part in parts)


def _describe(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value; bounds read as in ``--help``."""
    bounds = {
        "greater_than_equal": "at least",
        "greater_than": "above",
        "less_than_equal": "at most",
        "less_than": "below",
    }
    if problem["type"] in bounds:
        (limit,) = problem["ctx"].values()
        return f"has to be {bounds[problem['type']]} {limit}"
    return str(problem["msg"])


def _split(config_class: type[Config], key: str, value: Any) -> Any:
    """The parts of a string with commas, for a field that is a tuple or list."""
    field = config_class.model_fields.get(key)
    is_sequence = field is not None and get_origin(field.annotation) in (tuple, list)
    if is_sequence and isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value


def read_file(path: Path) -> dict[str, Any]:
    """Read the options in a TOML file.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has tables.
    """
    try:
        values = tomllib.loads(_read_text(path))
    except UnicodeDecodeError:
        raise ConfigError(f"config file {path}: its text is not UTF-8; save it as UTF-8") from None
    except (OSError, ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"config file {path}: {reason}") from None
    for key, value in values.items():
        if isinstance(value, dict):
            raise ConfigError(
                f"config file {path}: write options at the top level, without the table [{key}]"
            )
    return values


def _read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in the encoding that its byte order mark names: editors and
    PowerShell on Windows write UTF-16.
    """
    with path.open("rb") as file:  # which may be a pipe, and is read once
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if marked else "utf-8-sig")
    if "\0" in text:
        raise ValueError("its text is not UTF-8; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


RESERVED = frozenset({"model", "config", "print_config", "progress", "help", "debug", "json"})
"""Names that the command line or the API uses besides those of :class:`TrainOptions`."""


class DatasetConfigs(Protocol):
    """Where :func:`resolve` finds the options of datasets."""

    def of(self, dataset: str) -> type[Config] | None:
        """Those of the dataset ``NAME`` or ``NAME:ARGUMENT``; None: it has none."""

    def owners(self, option: str) -> list[str]:
        """The built-in datasets that have an option, each as it is typed: ``folder:PATH``."""

    def names(self) -> set[str]:
        """The options of all built-in datasets."""


def check_fields(config_class: type[Config], name: str, noun: str = "model") -> None:
    """Check that no option of a model or dataset has the name of one of the core's.

    Raises:
        PluginError: naming the field.
    """
    shadowed = sorted(set(config_class.model_fields) & (set(TrainOptions.model_fields) | RESERVED))
    if shadowed:
        raise PluginError(
            f"{noun} {name}: its option {shadowed[0]!r} has the name of one of genkit's; rename it"
        )


def resolve(
    config_class: type[ConfigT],
    model: str,
    given: Mapping[str, Any],
    file: Path | None = None,
    datasets: DatasetConfigs | None = None,
) -> tuple[TrainOptions, ConfigT, Config | None]:
    """The core's options, the model's and the dataset's, from one flat set of names.

    Args:
        config_class: the model's options.
        model: its name, for messages.
        given: values from a call or a command line; they override those of ``file``.
        file: a TOML file, whose values override the defaults.
        datasets: where the options of the dataset are found that ``dataset`` names.

    Returns:
        Those of the dataset are None where it has none, or none is named.

    Raises:
        ConfigError: see :func:`parse` and :func:`read_file`.
        UnknownNameError: there is no such dataset.
        PluginError: see :func:`check_fields`; or the model and the dataset have an option of the
            same name.
    """
    sources = [(read_file(file), f"config file {file}", True)] if file else []
    sources.append((dict(given), "", False))
    dataset = None
    for values, _, _ in sources:
        dataset = values.get("dataset") or dataset
    names = _Names(config_class, model, dataset if isinstance(dataset, str) else None, datasets)
    found: tuple[dict[str, Any], ...] = ({}, {}, {})
    for values, where, strict in sources:
        for options, kind, part in zip(
            found, names.kinds, names.divide(values, where), strict=True
        ):
            if kind is not None:
                options.update(_typed(kind, part, where, strict))
    core, own, of_dataset = found
    return (
        parse(TrainOptions, core),
        parse(config_class, own),
        None if names.of_dataset is None else parse(names.of_dataset, of_dataset),
    )


def _typed(
    config_class: type[Config], values: Mapping[str, Any], where: str, strict: bool
) -> dict[str, Any]:
    """The values alone, without defaults, each of its field's type."""
    parsed = parse(config_class, values, where=where, strict=strict)
    return {key: getattr(parsed, key) for key in parsed.model_fields_set}


class _Names:
    """Whose option a name is: the core's, the model's or the dataset's."""

    def __init__(
        self,
        config_class: type[Config],
        model: str,
        dataset: str | None,
        datasets: DatasetConfigs | None,
    ) -> None:
        check_fields(config_class, model)
        self.model, self.datasets = model, datasets
        self.dataset = "" if dataset is None else dataset.partition(":")[0]
        self.of_dataset = datasets.of(dataset) if datasets and dataset is not None else None
        if self.of_dataset is not None:
            check_fields(self.of_dataset, self.dataset, "dataset")
            shared = sorted(set(config_class.model_fields) & set(self.of_dataset.model_fields))
            if shared:
                raise PluginError(
                    f"model {model} and dataset {self.dataset} both have an option {shared[0]!r}: "
                    "use another dataset, or rename it in one of the two"
                )
        self.kinds = (TrainOptions, config_class, self.of_dataset)

    def divide(self, values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
        """Values of the options of each of :attr:`kinds`; any other key is an error."""
        parts: tuple[dict[str, Any], ...] = ({}, {}, {})
        for key, value in values.items():
            for kind, part in zip(self.kinds, parts, strict=True):
                if kind is not None and key in kind.model_fields:
                    part[key] = value
                    break
            else:
                raise ConfigError(f"{where + ': ' if where else ''}{self._explain_unknown(key)}")
        return parts

    def _explain_unknown(self, key: str) -> str:
        owners = self.datasets.owners(key) if self.datasets else []
        if owners:
            example = f"--dataset {owners[0]}"
            if self.dataset:
                return f"{self.dataset} has no option {key!r}; for a dataset that has: {example}"
            of = [owner.partition(":")[0] for owner in owners]
            whose = f"dataset{'s' if len(of) > 1 else ''} {' and '.join(of)}"
            return f"{key} is an option of the {whose}: add {example}"
        known = [name for kind in self.kinds if kind is not None for name in kind.model_fields]
        known += self.datasets.names() if self.datasets else ()
        return f"{self.model} has no option {key!r}{nearest(key, known)}"


def to_toml(*configs: Config | None) -> str:
    """The options as TOML that ``--config`` reads; those that are None are left out."""
    lines = []
    for config in filter(None, configs):
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
    """A field's type as help shows it: ``INTEGER``, ``FLOAT,FLOAT``, ``separate|combined``."""
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
