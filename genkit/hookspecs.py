"""Every hook on one page, and what the hooks return. Torch-free: a plugin module imports this and
nothing heavy.

A plugin is an installed distribution with an entry point in the group ``genkit`` that names a module. The
module implements some of the hooks below::

    from genkit import ModelEntry, hookimpl

    genkit_api_version = 2

    @hookimpl
    def genkit_models():
        return [ModelEntry("my-gan", "what it is, in one line", "my_package.my_gan:MyGAN")]

A target is ``"package.module:attribute"`` and is imported when it is first used, not before.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import pluggy

GROUP = "genkit"
"""Entry-point group of plugins."""

COMMAND_GROUP = "genkit.commands"
"""Entry-point group of commands: name = "package.module:click_command"; help lists them without
importing any.
"""

API_VERSION = 2
"""What a plugin module states as ``genkit_api_version``. The core accepts this version and the one
before; a module that states none counts as one of the version before.

Version 2 is provisional: it may still change before a release states it.
"""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True)
class Entry:
    """A name, a one-line summary, and where the thing itself is (``"package.module:attribute"``)."""

    noun: ClassVar[str] = "entry"

    name: str
    summary: str
    target: str
    aliases: tuple[str, ...] = ()
    """Other names that find it."""
    deprecated_names: tuple[str, ...] = ()
    """Former names: they find it still, with a warning."""


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A model; its target is a :class:`genkit.Trainer` subclass."""

    noun: ClassVar[str] = "model"


@dataclass(frozen=True)
class DatasetEntry(Entry):
    """A dataset; its target is called with a :class:`genkit.DataRequest` and gives
    :class:`genkit.ImageData`.

    Where the images are not to be had, it raises :class:`genkit.DataUnavailableError`, and the
    model's next preferred dataset is tried.
    """

    noun: ClassVar[str] = "dataset"

    extractor: str = ""
    """Target of a function that gives the path, or the bytes, of weights for
    :mod:`genkit.evaluation.extractor`.
    """


@dataclass(frozen=True)
class MetricEntry(Entry):
    """A measure: its target is called as ``metric(first, second)`` and gives 0-d tensors by name.

    Both are float tensors on the CPU, a row for each image; ``compares`` and ``of`` say of what. A
    pure function: no state, no global randomness, inputs left as they are. One that needs more
    images than it gets raises :class:`genkit.UsageError`.

    ========================== ================================= =========================================
    ``compares``               first                             second
    ========================== ================================= =========================================
    samples of pixels          samples ``(N, C, H, W)``          real images ``(M, C, H, W)``
    samples of features        of the samples ``(N, D)``         of real images ``(M, D)``
    samples of probabilities   classes of the samples ``(N, K)`` of real images ``(M, K)``
    reconstructions            reconstructions                   their originals, both ``(N, C, H, W)``
    posterior                  mean ``(N, L)``                   log-variance ``(N, L)``
    bounds                     log p(x | z) ``(N, K)``           log q(z | x) - log p(z) ``(N, K)``, nats
    ========================== ================================= =========================================

    Images are in [-1, 1]. Features and probabilities are those of the dataset's extractor.
    """

    noun: ClassVar[str] = "metric"

    compares: Literal["samples", "reconstructions", "posterior", "bounds"] = "samples"
    """What the two tensors are; the figures of samples are shown beside those of real images, the
    floor.
    """
    of: Literal["pixels", "features", "probabilities"] = "pixels"
    """What stands for an image, of samples."""
    reference: Literal["held-out", "training"] = "held-out"
    """Which real images samples are compared with; ``training``: all of them."""
    codes: int = 1
    """K, for bounds: codes drawn from an image's posterior; with one, the second is the exact KL
    divergence.
    """
    limit: int | None = None
    """Images that it gets at most, samples and held out each; for what takes long."""
    default: bool = True
    """Whether one of genkit's own is measured where the user names none."""


@dataclass(frozen=True)
class CallbackEntry(Entry):
    """A callback; its target, a :class:`genkit.Callback` subclass, is made without arguments where
    a user names it.
    """

    noun: ClassVar[str] = "callback"


Model = ModelEntry
"""Deprecated name of :class:`ModelEntry`, from version 1 of the API. It gives no warning, so that
plugins of version 1 load under ``-W error`` too.
"""
Dataset = DatasetEntry
"""Deprecated name of :class:`DatasetEntry`."""
Metric = MetricEntry
"""Deprecated name of :class:`MetricEntry`."""

EntryT = TypeVar("EntryT", bound=Entry)


@hookspec
def genkit_models() -> list[ModelEntry]:
    """The models that this plugin provides."""
    raise AssertionError("a hook specification is not called")


@hookspec
def genkit_datasets() -> list[DatasetEntry]:
    """The datasets that this plugin provides."""
    raise AssertionError("a hook specification is not called")


@hookspec
def genkit_metrics() -> list[MetricEntry]:
    """The metrics that this plugin provides."""
    raise AssertionError("a hook specification is not called")


@hookspec
def genkit_callbacks() -> list[CallbackEntry]:
    """The callbacks that this plugin provides; one acts only when the user names it."""
    raise AssertionError("a hook specification is not called")


HOOKS: dict[type[Entry], str] = {
    ModelEntry: "genkit_models",
    DatasetEntry: "genkit_datasets",
    MetricEntry: "genkit_metrics",
    CallbackEntry: "genkit_callbacks",
}
"""Which hook gives which kind of entry."""
