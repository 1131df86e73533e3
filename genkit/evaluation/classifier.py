"""The contract of classifiers, networks by which metrics see images; plugins provide them."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ..data.datasets import ImageData, Notify


class Classifier(nn.Module, abc.ABC):
    """A network that tells the classes of images, for metrics; plugins register subclasses.

    It is built as ``cls(channels, classes)``. genkit builds and trains it with torch's global
    generator seeded, keeps its ``state_dict`` (float32), and uses it in evaluation mode.
    """

    min_side: ClassVar[int] = 1
    """Pixels that the height and the width of an image need."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.channels = channels

    @abc.abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` in [-1, 1] → features ``(B, D)`` and logits ``(B, K)``."""

    @abc.abstractmethod
    def fit(self, data: ImageData, seed: int, notify: Notify) -> Mapping[str, Any]:
        """Train on ``data.train``, which has labels.

        A function of the data, the seed, the build of torch and its threads.

        Args:
            data: images and their labels.
            seed: of random numbers besides torch's global ones.
            notify: called with lines on the progress.

        Returns:
            What the weights file records of the training, as JSON values by name.
        """


class ClassifierOutput(NamedTuple):
    """What an extractor makes of images."""

    features: Tensor
    """``(N, D)``."""
    probabilities: Tensor
    """Of the classes, ``(N, K)``; without meaning where the weights are random."""
