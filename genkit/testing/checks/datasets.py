"""Checks of datasets."""

import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from ...data.datasets import Augment, ImageData
from ...data.images import from_uint8
from ...engines.augmentation import ROUNDING
from ...engines.recording import record
from ...errors import DataUnavailableError, GenkitError, first_line
from ...rng import Rng
from ..subject import (
    DatasetSubject,
    Skipped,
    dataset_check,
    no_unpickling,
    untouched_global_randomness,
)


def _load(subject: DatasetSubject) -> ImageData:
    try:
        return subject.load(subject.request)
    except DataUnavailableError as error:
        raise Skipped(f"the images are not available here: {error}") from None


@dataset_check
def dataset_gives_images(subject: DatasetSubject) -> None:
    """genkit.ImageData, which itself refuses what does not fit together, with a source."""
    data = _load(subject)
    assert isinstance(data, ImageData), f"it gives {type(data).__name__}, not genkit.ImageData"
    assert data.source.strip(), "it does not say where the images came from"


@dataset_check
def loading_twice_gives_the_same(subject: DatasetSubject) -> None:
    """In the same order too, on which the images of a step depend. No global random stream
    moves.
    """
    first = _load(subject)
    with untouched_global_randomness("loading"):
        second = _load(subject)
    assert first.fingerprint() == second.fingerprint(), (
        "loading twice gives other images, or another order"
    )
    assert first.test.images.equal(second.test.images), (
        "loading twice gives other held-out images, or another order"
    )


@dataset_check
def held_out_images_are_held_out(subject: DatasetSubject) -> None:
    """A value measured on training images says nothing of new ones."""
    data = _load(subject)
    if not len(data.test):
        raise Skipped("it holds out no images")
    seen = {image.tobytes() for image in data.train.images.numpy()}
    common = sum(image.tobytes() in seen for image in data.test.images.numpy())
    assert common < 0.5 * len(data.test), (
        f"{common} of {len(data.test)} held-out images are training images too"
    )


@dataset_check
def loading_unpickles_nothing(subject: DatasetSubject) -> None:
    """A file of images may come from a stranger."""
    with no_unpickling():
        _load(subject)


@dataset_check
def absent_images_are_said_to_be_unavailable(subject: DatasetSubject) -> None:
    """With an empty data root and no network, it gives the images, or raises
    genkit.DataUnavailableError.
    """

    def refuse(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(socket, "create_connection", refuse),
        mock.patch.object(socket.socket, "connect", refuse),
    ):
        try:
            subject.load(replace(subject.request, root=Path(folder), skipped=[]))
        except DataUnavailableError:
            return
        except (GenkitError, OSError) as error:
            raise AssertionError(
                "without images and without network it raises "
                f"{first_line(error)}, not DataUnavailableError"
            ) from None


AUGMENTED = 16
"""Images of a batch that is augmented."""
ROUNDS = 8


def _augmentation(subject: DatasetSubject) -> tuple[Augment, Tensor]:
    """What augments, and a batch for it, float32 ``(at most AUGMENTED, C, H, W)``."""
    data = _load(subject)
    if not isinstance(data, ImageData) or data.augment is None:
        raise Skipped("it augments nothing")
    return data.augment, from_uint8(data.train.images[:AUGMENTED])


@dataset_check
def augment_gives_images(subject: DatasetSubject) -> None:
    """As many of the same shape and dtype, in [-1, 1]; those that it was called with stay as they
    are.
    """
    augment, images = _augmentation(subject)
    rng, before = Rng(0, "check"), images.clone()
    for _ in range(ROUNDS):
        augmented = augment(images, rng)
        assert isinstance(augmented, Tensor), (
            f"augment gives {type(augmented).__name__}, not a tensor"
        )
        assert images.equal(before), "augment changes its input in place; return other images"
        given, expected = (f"{t.dtype} {tuple(t.shape)}" for t in (augmented, images))
        assert given == expected, f"augment gives {given} for {expected}"
        assert bool(torch.isfinite(augmented).all()), "augment gives NaN or infinite values"
        low, high = augmented.min().item(), augmented.max().item()
        assert max(-low, high) <= 1 + ROUNDING, (
            f"augment gives values from {low:.4g} to {high:.4g}, not in [-1, 1]"
        )


@dataset_check
def augment_draws_from_rng_alone(subject: DatasetSubject) -> None:
    """The same images and numbers give the same, bit for bit: a resumed run goes on as it would
    have.
    """
    augment, images = _augmentation(subject)
    with untouched_global_randomness("augment"):
        first, second = (augment(images.clone(), Rng(0, "check")) for _ in range(2))
    assert first.equal(second), "augment gives other images when called again with the same rng"


@dataset_check
def augment_is_capturable(subject: DatasetSubject) -> None:
    """Replays of one recorded call equal calls, bit for bit."""
    augment, images = _augmentation(subject)
    given, streams = images.clone(), [Rng(0, "check"), Rng(0, "check")]
    recorded, recording = record(lambda: augment(given, streams[0]))
    reads = ", ".join(sorted(set(recording.host_reads)))
    assert not reads, f"augment waits for the device or has shapes that depend on data: {reads}"
    streams[0].set_state(streams[1].state())
    for turn in range(ROUNDS):
        batch = images.roll(turn, 0)
        given.copy_(batch)
        replayed = recording.replay().get(id(recorded), recorded)
        assert replayed.equal(augment(batch, streams[1])), (
            "augment differs between calls and replays of one: something but a tensor changes in it"
        )
