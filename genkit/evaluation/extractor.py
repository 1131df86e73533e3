"""The extractor of a dataset, a trained classifier: its weights file, its cache, and the choice.

Distances between images mean more in the features of a network that knows the dataset than between
pixels. Values in the features of one network cannot be compared with those of another, so the
SHA-256 of its weights is recorded beside each of them.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor

from ..data.datasets import ImageData, Notify, Split, cache_folder
from ..data.loader import iterate_batches
from ..errors import (
    ContractError,
    DataError,
    PluginError,
    UnknownNameError,
    UsageError,
    attribute_errors,
)
from ..hookspecs import ClassifierEntry, DatasetEntry
from ..plugins.plugin import OWN_DISTRIBUTION
from ..plugins.registry import Registered, Registry
from ..rng import seeded_initialisation
from ..run import Run
from ..storage import atomic
from .classifier import Classifier, ClassifierOutput

CLASSIFIER = "lenet"
"""Name of the classifier that makes extractors."""
FORMAT = 1
"""Of the weights file."""
METADATA_KEY = "extractor"
"""All metadata of a weights file is JSON under this key: safetensors keeps no order of keys."""
MAX_FILE_BYTES = 2**26
"""Of a weights file."""
BATCH = 500
"""Images that are classified at a time."""
_DAMAGE = (SafetensorError, struct.error, LookupError, TypeError, ValueError, RuntimeError)
"""What reading a damaged weights file raises."""


@dataclass(frozen=True)
class ExtractorInfo:
    """Which extractor: values in the features of two different ones cannot be compared."""

    name: str
    """The dataset that it was trained on, or ``random features``."""
    sha256: str
    """Of its weights file; of its weights, where they are random."""
    accuracy: float | None
    """Share of held-out images that it classifies correctly, in [0, 1]; None: it is random."""


class Extractor:
    """A classifier in evaluation mode, and what is recorded of it."""

    def __init__(
        self, classifier: Classifier, info: ExtractorInfo, metadata: Mapping[str, Any]
    ) -> None:
        # Channels last: convolution and pooling take half the time on a CPU.
        self._classifier = (
            classifier.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        )
        self.info = info
        self.metadata = metadata
        """Of its weights file; empty where the weights are random."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> ClassifierOutput:
        """Images ``(N, C, H, W)`` in [-1, 1] → features and class probabilities of each.

        Raises:
            UsageError: they are too small, or of another number of channels than it was made for.
        """
        channels, side = self._classifier.channels, self._classifier.min_side
        if min(images.shape[2:]) < side or images.shape[1] != channels:
            given = "x".join(map(str, images.shape[1:]))
            raise UsageError(
                f"the extractor takes images of {channels} channels and {side}x{side} or more, "
                f"not {given}"
            )
        parts = [self._classifier(part) for part in torch.split(images, BATCH)]
        features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        return ClassifierOutput(features, logits.softmax(1))  # (N, D), (N, K)


def get_extractor(run: Run, data: ImageData, notify: Notify) -> Extractor:
    """The extractor for the dataset of a run: shipped with it, else cached, else trained on its
    labels now, else random.

    Args:
        run: gives the registry, and the dataset's name, entry and fingerprint.
        data: the images of the dataset.
        notify: called with what is done, where the extractor is not the shipped one.

    Raises:
        PluginError: the shipped weights cannot be read.
        UsageError: the images are too small, or no plugin provides the classifier.
    """
    dataset, registered = run.info.dataset, find_classifier(run.registry)
    kind: type[Classifier] = registered.target()
    if min(data.spec.height, data.spec.width) < kind.min_side:
        least, size = f"{kind.min_side}x{kind.min_side}", f"{data.spec.height}x{data.spec.width}"
        raise UsageError(
            f"the extractor takes images of {least} or more, and those of {dataset.name} are {size}"
        )
    if (extractor := load_extractor(run, notify)) is not None:
        return extractor
    with attribute_errors(f"classifier {registered.qualified_name}", "to be trained"):
        if data.classes is None or data.classes < 2:
            notify(f"{dataset.name} has no labels: features are those of a random network")
            return make_random_extractor(kind, data.spec.channels)
        notify(f"training an extractor on the labels of {dataset.name}, once (a minute or so)")
        weights = train_weights(kind, data, dataset.name, dataset.of_training, notify=notify)
    _cache(weights, dataset.of_training, notify)
    return from_bytes(kind, weights, "the extractor", dataset.of_training)


def _cache(weights: bytes, fingerprint: str, notify: Notify) -> None:
    """Keep a weights file for the next time; where that cannot be, a notice says why."""
    try:
        path = _cache_path(fingerprint)
        if len(weights) > MAX_FILE_BYTES:
            raise DataError(f"{len(weights)} bytes, more than {MAX_FILE_BYTES}")
        atomic.make_folder(path.parent)
        atomic.replace(path, weights)
    except OSError as error:
        notify(f"the extractor is not cached: {path}: {error.strerror}")
    except DataError as error:
        notify(f"the extractor is not cached: {error}")


def load_extractor(run: Run, notify: Notify) -> Extractor | None:
    """The extractor for the dataset of a run where its weights exist: shipped, else cached.

    Only weights that were made from the run's own training images are used.

    Raises:
        PluginError: the shipped weights cannot be read.
        UsageError: there are weights, and no plugin provides the classifier.
    """
    dataset, fingerprint = run.dataset_entry, run.info.dataset.of_training
    if dataset is not None and dataset.entry.extractor:
        shipped = _load_shipped(dataset, find_classifier(run.registry).target())
        if shipped.metadata.get("fingerprint") == fingerprint:
            return shipped
        notify(
            f"the extractor shipped with {dataset.entry.name} was trained on other images: "
            "it is not used"
        )
    try:
        path = _cache_path(fingerprint)
    except DataError:  # there is no cache, so nothing is in it
        return None
    try:
        weights = atomic.read(path, MAX_FILE_BYTES)
        kind = find_classifier(run.registry).target()
        return from_bytes(kind, weights, str(path), fingerprint)
    except FileNotFoundError:
        return None
    except (DataError, OSError, ValueError) as error:
        notify(f"the cached extractor cannot be used: {error}")
        return None


def find_classifier(registry: Registry) -> Registered[ClassifierEntry]:
    """The registered classifier that makes extractors.

    Raises:
        UsageError: no plugin provides it.
        ContractError: its target is not a :class:`Classifier` class.
    """
    try:
        registered = registry.find(ClassifierEntry, CLASSIFIER)
    except UnknownNameError:
        raise UsageError(
            f"features and classes of images need the classifier {CLASSIFIER!r}, "
            f"which no plugin provides: reinstall {OWN_DISTRIBUTION}"
        ) from None
    target = registered.target()
    if not (isinstance(target, type) and issubclass(target, Classifier)):
        raise ContractError(
            f"classifier {registered.qualified_name} is {target!r}, not a genkit.Classifier class"
        )
    return registered


def train_weights(
    kind: type[Classifier],
    data: ImageData,
    name: str,
    fingerprint: str,
    *,
    seed: int = 0,
    notify: Notify = lambda line: None,
    **options: Any,
) -> bytes:
    """The weights file of a classifier trained on the labels of ``data``.

    The same arguments give the same bytes, on one build of torch with one number of threads. The
    dataset's ``name`` and the ``fingerprint`` of its training images are recorded; ``options`` are
    passed on to ``fit``.
    """
    with seeded_initialisation(seed):  # dropout draws from the same stream
        classifier = kind(data.spec.channels, data.classes or 1)
        training = classifier.fit(data, seed, notify, **options)
    split, images = (data.test, "held-out") if len(data.test) else (data.train, "training")
    accuracy = _measure_accuracy(classifier.eval(), split)
    notify(f"extractor: accuracy {accuracy:.4f} on {images} images")
    metadata = {
        **training,
        "format": FORMAT,
        "dataset": name,
        "fingerprint": fingerprint,
        "accuracy": accuracy,
        "channels": data.spec.channels,
        "classes": data.classes,
        "seed": seed,
        "genkit": version(OWN_DISTRIBUTION),
        "torch": torch.__version__,
    }
    return to_bytes(classifier, metadata)


def make_random_extractor(kind: type[Classifier], channels: int) -> Extractor:
    """An extractor with random weights, always the same: better than pixels where no labels are.

    Random convolutional features separate images well (Jarrett et al. 2009).
    """
    with seeded_initialisation(0):
        classifier = kind(channels, 2)
    digest = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return Extractor(classifier, ExtractorInfo("random features", digest.hexdigest(), None), {})


def to_bytes(classifier: Classifier, metadata: Mapping[str, Any]) -> bytes:
    """A weights file; the same weights and metadata give the same bytes."""
    tensors = {
        name: tensor.detach().contiguous() for name, tensor in classifier.state_dict().items()
    }
    return save_tensors(tensors, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def from_bytes(
    kind: type[Classifier], weights: bytes, where: str, fingerprint: str | None = None
) -> Extractor:
    """The extractor of a weights file; ``where`` names it in errors.

    Raises:
        DataError: it is damaged, or was made from other images than those of ``fingerprint``.
    """
    try:
        (size,) = struct.unpack("<Q", weights[:8])
        metadata = json.loads(json.loads(weights[8 : 8 + size])["__metadata__"][METADATA_KEY])
        accuracy = float(metadata["accuracy"])
        channels, classes = metadata["channels"], metadata["classes"]
        if metadata["format"] != FORMAT or not 0 <= accuracy <= 1 or min(channels, classes) < 1:
            raise ValueError("of another format")
        digest = hashlib.sha256(weights).hexdigest()
        info = ExtractorInfo(str(metadata["dataset"]), digest, accuracy)
        tensors = load_tensors(weights)
        with torch.device("meta"):  # allocates nothing, whatever sizes the file claims
            classifier = kind(channels, classes)
        classifier.load_state_dict(tensors, assign=True)
        if not all(
            t.dtype == torch.float32 and bool(torch.isfinite(t).all()) for t in tensors.values()
        ):
            raise ValueError("a weight is not finite, or not in single precision")
        if fingerprint is not None and metadata["fingerprint"] != fingerprint:
            raise ValueError("made from other images")
    except _DAMAGE as error:
        raise DataError(f"{where} is damaged ({type(error).__name__})") from None
    return Extractor(classifier, info, metadata)


def _load_shipped(registered: Registered[DatasetEntry], kind: type[Classifier]) -> Extractor:
    """The extractor that a dataset's entry points to."""
    function = registered.load(registered.entry.extractor)
    with attribute_errors(f"dataset {registered.qualified_name}", "to give its extractor"):
        given = function()
        weights = given if isinstance(given, bytes) else atomic.read(Path(given), MAX_FILE_BYTES)
    try:
        return from_bytes(kind, weights, f"the extractor of {registered.qualified_name}")
    except DataError as error:
        raise PluginError(str(error)) from None


def _cache_path(fingerprint: str) -> Path:
    """Where the weights for the images of a dataset are kept.

    Raises:
        DataError: this user has no cache.
    """
    return cache_folder() / "extractors" / f"{fingerprint}.safetensors"


@torch.no_grad()
def _measure_accuracy(classifier: Classifier, split: Split) -> float:
    correct = 0
    for batch in iterate_batches(split, BATCH, "cpu"):
        assert batch.labels is not None, "a classifier is trained on labels"
        correct += int((classifier(batch.images)[1].argmax(1) == batch.labels).sum())
    return correct / len(split)
