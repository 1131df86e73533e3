"""Every hook on one page, and what the hooks return. Torch-free: a plugin module imports this and nothing heavy.

A plugin is an installed distribution with an entry point in the group ``genkit`` that names a module. The
module implements some of the hooks below::

    from genkit import Model, hookimpl

    genkit_api_version = 1

    @hookimpl
    def genkit_models():
        return [Model("my-gan", "what it is, in one line", "my_package.my_gan:MyGAN")]

A target is ``"package.module:attribute"`` and is imported when it is first used, not before.
"""

from dataclasses import dataclass
from typing import TypeVar

import pluggy

GROUP = "genkit"
"""Entry-point group of plugins."""

API_VERSION = 1
"""What a plugin module states as ``genkit_api_version``; the core accepts this one and the one before."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True)
class Entry:
    """A name, a one-line summary, and where the thing itself is (``"package.module:attribute"``)."""

    name: str
    summary: str
    target: str
    aliases: tuple[str, ...] = ()
    """Other names that find it."""
    deprecated_names: tuple[str, ...] = ()
    """Former names: they find it still, with a warning."""


@dataclass(frozen=True)
class Model(Entry):
    """A model; its target is a :class:`genkit.Trainer` subclass."""


@dataclass(frozen=True)
class Dataset(Entry):
    """A dataset; its target is called as ``load(root, argument)`` and gives :class:`genkit.ImageData`.

    ``root`` is the data root, a :class:`pathlib.Path`; ``argument`` is what follows the colon in
    ``--dataset NAME:ARGUMENT``, else empty. Where the images are not to be had, it raises
    :class:`genkit.DataUnavailableError`, and the model's next preferred dataset is tried.
    """


EntryT = TypeVar("EntryT", bound=Entry)


@hookspec
def genkit_models() -> list[Model]:
    """The models that this plugin provides."""
    raise AssertionError("a hook specification is not called")


@hookspec
def genkit_datasets() -> list[Dataset]:
    """The datasets that this plugin provides."""
    raise AssertionError("a hook specification is not called")


HOOKS: dict[type[Entry], str] = {Model: "genkit_models", Dataset: "genkit_datasets"}
"""Which hook gives which kind of entry."""
