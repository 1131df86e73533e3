"""Every hook on one page, and what the hooks return. Torch-free: a plugin module imports this and
nothing heavy.

A plugin is an installed distribution with an entry point in the group ``genkit`` that names a
module. The module implements some of the hooks below::

    from genkit import ModelEntry, hookimpl

    genkit_api_version = 2

    @hookimpl
    def genkit_models():
        return [ModelEntry("my-gan", "what it is, in one line", "my_package.my_gan:MyGAN")]

A target is ``"package.module:attribute"``, imported when it is first used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import pluggy

from .errors import PluginError

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
    """A name, a one-line summary, and the target (``"package.module:attribute"``)."""

    noun: ClassVar[str] = "entry"

    name: str
    summary: str
    target: str
    aliases: tuple[str, ...] = ()
    """Other names that find it."""
    deprecated_names: tuple[str, ...] = ()
    """Former names: they still find it, with a warning."""


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A model; its target is a :class:`genkit.Trainer` subclass."""

    noun: ClassVar[str] = "model"


@dataclass(frozen=True)
class DatasetEntry(Entry):
    """A dataset; its target is called with a :class:`genkit.DataRequest` and returns
    :class:`genkit.ImageData`.

    Where the images are not found, it raises :class:`genkit.DataUnavailableError`, and the next
    dataset that the model prefers is tried.
    """

    noun: ClassVar[str] = "dataset"

    extractor: str = ""
    """Target of a function that returns the path, or the bytes, of a weights file of the
    classifier, see :mod:`genkit.evaluation.extractor`.
    """
    config: str = ""
    """Target of a :class:`genkit.Config` subclass: the options of the dataset, which are options of
    ``genkit train``. Its values are in :attr:`genkit.DataRequest.options`.
    """
    argument: str = ""
    """What follows the colon in ``--dataset NAME:ARGUMENT``, as help shows it, such as ``PATH``."""


@dataclass(frozen=True)
class ClassifierEntry(Entry):
    """A classifier; its target is a :class:`genkit.Classifier` subclass.

    Metrics of features and of class probabilities, and the alarm, use the one called ``lenet``.
    """

    noun: ClassVar[str] = "classifier"


class MetricInputs:
    """What a metric is called with: one subclass for each kind.

    How its two tensors are made is in :mod:`genkit.evaluation.inputs`.
    """


@dataclass(frozen=True)
class Samples(MetricInputs):
    """Samples of the model, and real images: ``(N, ...)`` and ``(M, ...)``.

    The metric is also measured with real images in place of the samples: the floor.
    """

    representation: Literal["pixels", "features", "probabilities"] = "pixels"
    """What stands for an image: its pixels ``(C, H, W)`` in [-1, 1]; or, by the classifier of the
    dataset, its features ``(D,)`` or the probabilities of its classes ``(K,)``.
    """
    reference: Literal["held-out", "training"] = "held-out"
    """Which real images; ``training``: all of them."""

    def __post_init__(self) -> None:
        _check_choice("representation", self.representation, _REPRESENTATIONS)
        _check_choice("reference", self.reference, _REFERENCES)


@dataclass(frozen=True)
class Reconstructions(MetricInputs):
    """Reconstructions of held-out images, and their originals, both ``(N, C, H, W)`` in [-1, 1]."""


@dataclass(frozen=True)
class Posteriors(MetricInputs):
    """Mean and log-variance of the encoder's posteriors for held-out images, both ``(N, L)``."""


@dataclass(frozen=True)
class Bounds(MetricInputs):
    """log p(x | z) and log q(z | x) - log p(z) of held-out images, in nats, both ``(N, K)``."""

    importance_samples: int = 1
    """K: codes drawn from the posterior of each image. With one, the second tensor is the exact KL
    divergence.
    """

    def __post_init__(self) -> None:
        if self.importance_samples < 1:
            raise PluginError(f"importance_samples is {self.importance_samples}, not 1 or more")


@dataclass(frozen=True)
class UnknownInputs(MetricInputs):
    """Inputs that a metric of API version 1 declares and that there are not."""

    declared: str


_REPRESENTATIONS = ("pixels", "features", "probabilities")
_REFERENCES = ("held-out", "training")


def _check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise PluginError(f"{field} is {value!r}, not one of {', '.join(choices)}")


@dataclass(frozen=True)
class MetricEntry(Entry):
    """A metric: its target is called as ``metric(first, second)`` and returns 0-d tensors by name.

    Both are float tensors on the CPU, one row for each image; ``inputs`` declares which. A pure
    function: no state, no global randomness, inputs left as they are. One that needs more images
    than it gets raises :class:`genkit.UsageError`.
    """

    noun: ClassVar[str] = "metric"

    inputs: MetricInputs = Samples()
    """What it is called with."""
    limit: int | None = None
    """Images that it gets at most, samples and held out each; for what takes long."""
    default: bool = True
    """Whether one of genkit's own is measured where the user names none."""

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, MetricInputs):
            raise PluginError(
                f"{self.name}: its inputs are {self.inputs!r}, not genkit.Samples(...)"
            )


@dataclass(frozen=True)
class CallbackEntry(Entry):
    """A callback; its target, a :class:`genkit.Callback` subclass, is called without arguments when
    a user names it.
    """

    noun: ClassVar[str] = "callback"


Model = ModelEntry
"""Deprecated name of :class:`ModelEntry`, from version 1 of the API. It gives no warning, so that
plugins of version 1 load under ``-W error`` too.
"""
Dataset = DatasetEntry
"""Deprecated name of :class:`DatasetEntry`."""


class Metric(MetricEntry):
    """A metric as a plugin of API version 1 declares it; deprecated, use :class:`MetricEntry`.

    ``compares``, ``of``, ``reference`` and ``codes`` are what ``inputs`` is made from.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        target: str,
        aliases: tuple[str, ...] = (),
        deprecated_names: tuple[str, ...] = (),
        compares: str = "samples",
        of: Any = "pixels",
        reference: Any = "held-out",
        codes: int = 1,
        limit: int | None = None,
        default: bool = True,
    ) -> None:
        kinds: dict[str, Callable[[], MetricInputs]] = {
            "samples": lambda: Samples(of, reference),
            "reconstructions": Reconstructions,
            "posterior": Posteriors,
            "bounds": lambda: Bounds(codes),
        }
        try:
            inputs = kinds[compares]()
        except (KeyError, PluginError):  # an error of this metric alone, when it is used
            inputs = UnknownInputs(f"compares={compares!r}, of={of!r}, reference={reference!r}")
        super().__init__(name, summary, target, aliases, deprecated_names, inputs, limit, default)


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
def genkit_classifiers() -> list[ClassifierEntry]:
    """The classifiers that this plugin provides."""
    raise AssertionError("a hook specification is not called")


@hookspec
def genkit_callbacks() -> list[CallbackEntry]:
    """The callbacks that this plugin provides; each acts only when the user names it."""
    raise AssertionError("a hook specification is not called")


HOOKS: dict[type[Entry], str] = {
    ModelEntry: "genkit_models",
    DatasetEntry: "genkit_datasets",
    MetricEntry: "genkit_metrics",
    ClassifierEntry: "genkit_classifiers",
    CallbackEntry: "genkit_callbacks",
}
"""Kind of entry → the hook that returns such entries."""


def current_kind(kind: type[Entry]) -> type[Entry]:
    """The kind in :data:`HOOKS` that ``kind``, which may be a deprecated name, stands for."""
    return next((known for known in HOOKS if issubclass(kind, known)), kind)
