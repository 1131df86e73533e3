"""Checks of datasets."""

import socket
import tempfile
from pathlib import Path
from unittest import mock

from ...data.datasets import DataRequest, ImageData
from ...errors import DataUnavailableError, GenkitError, first_line
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
        "loading twice gives other training images, or another order"
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
            subject.load(DataRequest(Path(folder), subject.request.argument))
        except DataUnavailableError:
            return
        except (GenkitError, OSError) as error:
            raise AssertionError(
                "without images and without network it raises "
                f"{first_line(error)}, not DataUnavailableError"
            ) from None
