"""The extractor: a small classifier of a dataset's labels, whose inner features stand in for
Inception's.

Distances between images mean more in the features of a network that knows the dataset than between
pixels; figures in one network's features cannot be compared with those in another's, so its SHA-256
goes beside each of them.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor, nn

from ..data.datasets import ImageData, Notify, Split, cache_folder
from ..data.loader import Order, Resident, iterate_batches
from ..errors import DataError, PluginError, UsageError, attribute_errors
from ..hookspecs import Dataset
from ..interfaces import Batch, DataSpec
from ..plugins.plugin import OWN_DISTRIBUTION
from ..plugins.registry import Registered
from ..rng import Rng, seeded_initialisation
from ..storage import atomic

FEATURES = 64
"""Numbers in a row of features."""
SMALLEST = 8
"""Pixels that each side of an image needs."""
MAX_BYTES = 2**26
KEY = "extractor"
"""Under it the metadata of a weights file lies, as JSON: safetensors does not keep the order of
several keys.
"""
TRAIN_IMAGES, TRAIN_STEPS, EPOCHS, BATCH = 20_000, 1200, 12, 128
CHUNK = 500


class Rows(NamedTuple):
    """What an extractor makes of images."""

    features: Tensor
    """``(N, 64)``, at least 0."""
    probabilities: Tensor
    """Of each class, ``(N, K)``; without meaning where the features are random."""


@dataclass(frozen=True)
class ExtractorInfo:
    """Which extractor, so that figures in its features can be told from those of another."""

    name: str
    """What it was trained on, or ``random features``."""
    sha256: str
    """Of its weights file; of its weights, where they are random."""
    accuracy: float | None
    """Share of held-out images that it classifies rightly; None: it is random."""


class Network(nn.Module):
    """Three convolutions and two dense layers, after LeNet-5 (LeCun et al. 1998), with dropout
    while it is trained.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 16, 5, padding=2)
        self.second = nn.Conv2d(16, 32, 5, padding=2)
        self.third = nn.Conv2d(32, 64, 3, padding=1)
        self.dense = nn.Linear(64 * 4 * 4, FEATURES)
        self.classes = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` in [-1, 1] → features ``(B, 64)`` and logits ``(B, K)``."""
        h = F.relu(F.max_pool2d(self.first(images), 2))  # (B, 16, H/2, W/2)
        h = F.relu(F.max_pool2d(self.second(h), 2))  # (B, 32, H/4, W/4)
        h = F.adaptive_avg_pool2d(F.relu(self.third(h)), 4).flatten(
            1
        )  # (B, 64 * 4 * 4), whatever H and W are
        features = F.relu(self.dense(F.dropout(h, 0.5, self.training)))  # (B, 64)
        return features, self.classes(F.dropout(features, 0.2, self.training))  # (B, 64), (B, K)


class Extractor:
    """A network in evaluation mode, for good, and what is known of it."""

    def __init__(self, network: Network, info: ExtractorInfo, about: Mapping[str, Any]) -> None:
        # Channels last: convolution and pooling take half the time on a CPU.
        self._network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.info = info
        self.about = about
        """The metadata of its weights file; empty where it is random."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Rows:
        """Images ``(N, C, H, W)`` in [-1, 1], of any size from 8x8 → their rows.

        Raises:
            UsageError: they are smaller, or of another number of channels than the extractor knows.
        """
        channels = self._network.first.in_channels
        if min(images.shape[2:]) < SMALLEST or images.shape[1] != channels:
            given = "x".join(map(str, images.shape[1:]))
            raise UsageError(
                f"the extractor takes images of {channels} channels and {SMALLEST}x{SMALLEST} or more, not {given}"
            )
        parts = [self._network(part) for part in torch.split(images, CHUNK)]
        features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        return Rows(features, logits.softmax(1))


def find(
    registered: Registered[Dataset] | None,
    data: ImageData,
    name: str,
    fingerprint: str,
    notify: Notify,
) -> Extractor:
    """The extractor for a dataset: shipped with it, else cached, else trained on its labels now,
    else random.

    Args:
        registered: the dataset's entry; None for images in memory.
        data: its images.
        name: what to call it.
        fingerprint: of its training images: only weights that were made from them are taken.
        notify: told what is done, where that is not the shipped one.

    Raises:
        PluginError: the shipped weights cannot be read.
        UsageError: the images are too small.
    """
    if min(data.spec.height, data.spec.width) < SMALLEST:
        size = f"{data.spec.height}x{data.spec.width}"
        raise UsageError(
            f"the extractor takes images of {SMALLEST}x{SMALLEST} or more, and those of {name} are {size}"
        )
    if (made := known(registered, fingerprint, notify)) is not None:
        return made
    if data.classes is None or data.classes < 2:
        notify(f"{name} has no labels: features are those of a random network")
        return random_features(data.spec)
    path = _cached(fingerprint)
    notify(f"training an extractor on the labels of {name}, once (a minute or so)")
    weights = to_bytes(*train(data, name, fingerprint, notify=notify))
    try:
        atomic.make_folder(path.parent)
        atomic.replace(path, weights)
    except OSError as error:
        notify(f"the extractor is not cached: {path}: {error.strerror}")
    return from_bytes(weights, str(path), fingerprint)


def known(
    registered: Registered[Dataset] | None, fingerprint: str, notify: Notify
) -> Extractor | None:
    """The extractor that is shipped with a dataset, or cached for these very images; None where
    there is neither.

    Raises:
        PluginError: the shipped weights cannot be read.
    """
    if registered is not None and registered.entry.extractor:
        shipped = _shipped(registered)
        if shipped.about.get("fingerprint") == fingerprint:
            return shipped
        notify(
            f"the extractor shipped with {registered.entry.name} was trained on other images: it is not used"
        )
    path = _cached(fingerprint)
    try:
        return from_bytes(atomic.read(path, MAX_BYTES), str(path), fingerprint)
    except FileNotFoundError:
        return None
    except (DataError, OSError, ValueError) as error:
        notify(f"the cached extractor cannot be used: {error}")
        return None


def _cached(fingerprint: str) -> Path:
    return cache_folder() / "extractors" / f"{fingerprint}.safetensors"


def train(
    data: ImageData,
    name: str,
    fingerprint: str,
    *,
    images: int = TRAIN_IMAGES,
    steps: int = TRAIN_STEPS,
    seed: int = 0,
    notify: Notify = lambda line: None,
) -> tuple[Network, dict[str, Any]]:
    """A network trained to tell the labels of ``data``, and what there is to say of it.

    At most ``steps`` batches of 128 from ``images`` of the images, slightly turned, scaled and
    shifted; twelve epochs for a small dataset. A function of the images, the seed, the build of
    torch and its threads.
    """
    assert data.train.labels is not None, "an extractor is trained on labels"
    split = Split(data.train.images, data.train.labels)
    if images < len(split):  # drawn, because datasets are often sorted by class
        some = torch.randperm(len(split), generator=Rng(seed, "extractor images").generator)[
            :images
        ]
        split = Split(data.train.images[some], data.train.labels[some])
    steps = min(steps, max(100, EPOCHS * len(split) // BATCH))
    batch_size = min(BATCH, len(split))
    rng = Rng(seed, "augmentation")
    with seeded_initialisation(seed):  # dropout draws from the same stream
        network = Network(data.spec.channels, data.classes or 1)
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, total_steps=steps)
        order = Order(len(split), batch_size, seed)
        loader = Resident(split, order, "cpu")
        for step, index in enumerate(next(loader.windows(0, steps))):
            batch = loader.batch(index)
            adam.zero_grad()
            loss = F.cross_entropy(network(_moved(batch.images, rng))[1], _labels(batch))
            torch.autograd.backward(loss)
            adam.step()
            schedule.step()
            if (step + 1) % 500 == 0:
                notify(f"extractor: {step + 1} of {steps} steps, loss {float(loss.detach()):.3f}")
    _normalise(network.eval(), split)
    accuracy = _accuracy(network, data.test if len(data.test) else split)
    notify(
        f"extractor: accuracy {accuracy:.4f} on {'held-out' if len(data.test) else 'training'} images"
    )
    return network, {
        "format": 1,
        "dataset": name,
        "fingerprint": fingerprint,
        "accuracy": accuracy,
        "channels": data.spec.channels,
        "classes": data.classes,
        "steps": steps,
        "seed": seed,
        "genkit": version(OWN_DISTRIBUTION),
        "torch": torch.__version__,
    }


def random_features(spec: DataSpec) -> Extractor:
    """A network with random weights, the same every time: better than pixels, and all there is
    without labels.

    Random convolutional features separate images surprisingly well (Jarrett et al. 2009).
    """
    with seeded_initialisation(0):
        network = Network(spec.channels, 2)
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return Extractor(network, ExtractorInfo("random features", digest.hexdigest(), None), {})


def to_bytes(network: Network, about: Mapping[str, Any]) -> bytes:
    """A weights file; the same network and metadata give the same bytes."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    return save_tensors(tensors, {KEY: json.dumps(about, sort_keys=True)})


def from_bytes(weights: bytes, where: str, fingerprint: str | None = None) -> Extractor:
    """The extractor in a weights file.

    Raises:
        DataError: it is damaged, or was made from other images than those of ``fingerprint``.
    """
    try:
        (size,) = struct.unpack("<Q", weights[:8])
        about = json.loads(json.loads(weights[8 : 8 + size])["__metadata__"][KEY])
        accuracy = float(about["accuracy"])
        if about["format"] != 1 or not 0 <= accuracy <= 1:
            raise ValueError("of another format")
        info = ExtractorInfo(str(about["dataset"]), hashlib.sha256(weights).hexdigest(), accuracy)
        tensors = load_tensors(weights)
        channels, classes = tensors["first.weight"].shape[1], len(tensors["classes.bias"])
        with torch.device(
            "meta"
        ):  # nothing of the size that a file claims is made, and nothing is drawn
            network = Network(channels, classes)
        network.load_state_dict(tensors, assign=True)
        if not all(
            t.dtype == torch.float32 and bool(torch.isfinite(t).all()) for t in tensors.values()
        ):
            raise ValueError("a weight is not finite, or not in single precision")
        if fingerprint is not None and about["fingerprint"] != fingerprint:
            raise ValueError("made from other images")
    except (
        SafetensorError,
        struct.error,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise DataError(f"{where} is damaged ({type(error).__name__})") from None
    return Extractor(network, info, about)


def _shipped(registered: Registered[Dataset]) -> Extractor:
    """The weights that a dataset's entry points to: its function gives their path, or their bytes."""
    give = registered.load(registered.entry.extractor)
    with attribute_errors(f"dataset {registered.qualified_name}", "to give its extractor"):
        given = give()
        weights = given if isinstance(given, bytes) else atomic.read(Path(given), MAX_BYTES)
    try:
        return from_bytes(weights, f"the extractor of {registered.qualified_name}")
    except DataError as error:
        raise PluginError(str(error)) from None


@torch.no_grad()
def _normalise(network: Network, split: Split) -> None:
    """Scale the features to a mean square of 1, and leave the logits: distances are then in
    readable units.
    """
    squares = [
        network(batch.images)[0].square().mean(1) for batch in iterate_batches(split, CHUNK, "cpu")
    ]
    scale = torch.cat(squares).mean().sqrt().clamp_min(1e-6)
    network.dense.weight.div_(scale)
    network.dense.bias.div_(scale)
    network.classes.weight.mul_(scale)


@torch.no_grad()
def _accuracy(network: Network, split: Split) -> float:
    hits = 0
    for batch in iterate_batches(split, CHUNK, "cpu"):
        hits += int((network(batch.images)[1].argmax(1) == _labels(batch)).sum())
    return hits / len(split)


def _labels(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels


def _moved(images: Tensor, rng: Rng) -> Tensor:
    """Images turned by up to 10 degrees, scaled by up to a tenth and shifted by up to a fourteenth
    of their side.
    """
    turn, scale, right, down = (2 * rng.uniform(len(images), 4) - 1).unbind(1)  # (B,) each
    angle, factor = turn * math.radians(10), 1 + 0.1 * scale
    rows = (
        torch.stack([factor * angle.cos(), -factor * angle.sin(), right / 7], 1),
        torch.stack([factor * angle.sin(), factor * angle.cos(), down / 7], 1),
    )
    where = F.affine_grid(
        torch.stack(rows, 1), list(images.shape), align_corners=False
    )  # (B, H, W, 2)
    return F.grid_sample(images, where, padding_mode="border", align_corners=False)
