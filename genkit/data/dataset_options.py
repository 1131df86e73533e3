"""The options of datasets: which dataset a name stands for, and the Config that its entry names.
Torch-free: help shows them.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import Config, check_fields, parse
from ..errors import ConfigError, DataError, PluginError, UnknownNameError
from ..hookspecs import DatasetEntry
from ..plugins.registry import Registered, Registry


def find_dataset(registry: Registry, dataset: str) -> tuple[Registered[DatasetEntry], str]:
    """The entry of the dataset ``NAME`` or ``NAME:ARGUMENT``, and the argument.

    Raises:
        UnknownNameError: no plugin provides it; a path is answered by what to type for it.
        DataError: a name that is not UTF-8, which ``run.json`` could not hold.
    """
    check_text(dataset)
    name, _, argument = dataset.partition(":")
    try:
        return registry.find(DatasetEntry, name), argument
    except UnknownNameError:
        if _is_file(dataset):
            raise UnknownNameError(
                f"unknown dataset {dataset!r}; for a packed file type "
                f"--dataset {quote(f'packed:{dataset}')}"
            ) from None
        on_a_drive = len(name) == 1 and name.isalpha() and argument.startswith(("\\", "/"))
        if not on_a_drive and not _is_folder(dataset):
            raise
        shown = name if on_a_drive else dataset
        raise UnknownNameError(
            f"unknown dataset {shown!r}; for the images in that folder type "
            f"--dataset {quote(f'folder:{dataset}')}"
        ) from None


def _is_folder(path: str) -> bool:
    try:
        return Path(path).expanduser().is_dir()
    except (RuntimeError, OSError, ValueError):  # ~ of nobody, or no path at all
        return False


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def check_text(path: object) -> None:
    """Check that a path is text: ``run.json`` and reports are UTF-8.

    Raises:
        DataError: it is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{str(path)!r} is not UTF-8, which run.json is written in: rename it, or give a link "
            "to it whose name is"
        ) from None


def quote(text: str) -> str:
    """An argument as a shell takes it; with spaces, in double quotes, which every shell knows."""
    if re.search(r"[^\w@%+=:,./~\\-]", text):
        return '"' + "".join(f"\\{c}" if c in '"`$' else c for c in text) + '"'
    return text


def config_of(registered: Registered[DatasetEntry]) -> type[Config] | None:
    """The options that the entry of a dataset names; None: it has none.

    Raises:
        PluginError: they cannot be imported, are no :class:`genkit.Config`, or have the name of one
            of genkit's options.
    """
    if not registered.entry.config:
        return None
    config = registered.load(registered.entry.config)
    if not (isinstance(config, type) and issubclass(config, Config)):
        raise PluginError(
            f"dataset {registered.qualified_name}: its config {registered.entry.config} is no "
            "subclass of genkit.Config"
        )
    check_fields(config, registered.entry.name, "dataset")
    return config


def make_options(registered: Registered[DatasetEntry], given: Any) -> Config | None:
    """The options of a dataset, as its target gets them.

    Args:
        registered: its entry.
        given: an instance; values by name, as typed; or None for the defaults.

    Raises:
        ConfigError: it has no such option, or the value is not one that it takes.
        PluginError: see :func:`config_of`.
    """
    config, name = config_of(registered), registered.entry.name
    if config is not None and isinstance(given, config):
        return given
    values = given.model_dump(exclude_unset=True) if isinstance(given, Config) else given or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"options of {name} are values by name, not {type(given).__name__}")
    if config is not None:
        return parse(config, values, where=f"dataset {name}")
    if values:
        raise ConfigError(f"dataset {name} has no option {next(iter(values))!r}: it has none")
    return None


def fitting_options(
    registered: Registered[DatasetEntry], recorded: Mapping[str, Any], where: str
) -> Config | None:
    """Those of the options in ``run.json`` that a dataset has; the others at their defaults.

    Raises:
        ConfigError: a value is not one that it takes; ``where`` names the file.
    """
    config = config_of(registered)
    if config is None:
        return None
    values = {name: value for name, value in recorded.items() if name in config.model_fields}
    return parse(config, values, where=where, strict=True)


def title(entry: DatasetEntry) -> str:
    """A dataset as it is typed: ``folder:PATH``."""
    return f"{entry.name}:{entry.argument}" if entry.argument else entry.name


class InstalledDatasets:
    """Finds the options of datasets by name, for :func:`genkit.config.resolve` and for help.

    Args:
        registry: the installed plugins.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def of(self, dataset: str) -> type[Config] | None:
        """Those of the dataset ``NAME`` or ``NAME:ARGUMENT``; None: it has none."""
        return config_of(find_dataset(self._registry, dataset)[0])

    def title_of(self, dataset: str) -> str:
        """The dataset as it is typed: ``folder:PATH``."""
        return title(find_dataset(self._registry, dataset)[0].entry)

    def owners(self, option: str) -> list[str]:
        """The built-in datasets that have an option, each as it is typed: ``folder:PATH``."""
        return [name for name, config in self.builtin() if option in config.model_fields]

    def names(self) -> set[str]:
        """The options of all built-in datasets."""
        return {name for _, config in self.builtin() for name in config.model_fields}

    def builtin(self) -> Iterator[tuple[str, type[Config]]]:
        """The built-in datasets that have options, as they are typed, and these."""
        for registered in self._registry.builtin(DatasetEntry):
            if (config := config_of(registered)) is not None:
                yield title(registered.entry), config
