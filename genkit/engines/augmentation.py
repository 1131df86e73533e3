"""Training batches that are changed on the device, inside the step, so captured with it: by the
dataset's own function, and by mirroring.
"""

from typing import final

import torch
from torch import Tensor

from ..data.datasets import Augment
from ..errors import ContractError, attribute_errors
from ..rng import Rng
from ._torch_internals import version_of

ROUNDING = 1e-4
"""How far beyond [-1, 1] the values of augmented images may be, as interpolation rounds."""


@final
class Augmentation:
    """Changes training batches: the dataset's function first, then mirrors half of the images.

    Args:
        rng: the stream that both draw from, and nothing else.
        augment: the dataset's function, see :attr:`genkit.ImageData.augment`; None: it has none.
        flip: whether images are mirrored.
        owner: what fails where ``augment`` does, such as ``dataset mnist``.
    """

    def __init__(self, rng: Rng, augment: Augment | None, flip: bool, owner: str) -> None:
        self.rng = rng
        self._augment = augment
        self._flip = flip
        self._owner = owner
        self._checked = False
        """Whether the values of a batch were looked at: once, since that waits for the device."""

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 ``(B, C, H, W)`` in [-1, 1] → the same; in which memory format is left open.

        Raises:
            PluginError: the dataset's function failed.
            ContractError: it gave something else, or changed its input.
        """
        if self._augment is not None:
            images = self._by_dataset(self._augment, images)
        return flip_half(images, self.rng) if self._flip else images

    def _by_dataset(self, augment: Augment, images: Tensor) -> Tensor:
        version = version_of(images)
        with attribute_errors(self._owner, "to augment a batch"), torch.no_grad():
            augmented = augment(images, self.rng)
        if version_of(images) != version:
            raise self._error("changes its input in place; it has to return other images")
        if not isinstance(augmented, Tensor) or _kind(augmented) != _kind(images):
            given = type(augmented).__name__
            given = _kind(augmented) if isinstance(augmented, Tensor) else given
            raise self._error(f"was called with {_kind(images)} and gave {given}, not the same")
        if not self._checked:  # in the first step, which is always run by Python
            self._check_values(augmented)
            self._checked = True
        return augmented

    def _check_values(self, augmented: Tensor) -> None:
        low, high = torch.stack(torch.aminmax(augmented)).tolist()
        if not (low >= -1 - ROUNDING and high <= 1 + ROUNDING):
            values = f"values from {low:.4g} to {high:.4g}" if low <= high else "NaN"
            raise self._error(f"gave {values}; images have to be in [-1, 1]")

    def _error(self, what: str) -> ContractError:
        return ContractError(f"{self._owner}: its augment {what}")


def _kind(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)} on {images.device}"


def flip_half(images: Tensor, rng: Rng) -> Tensor:
    """Mirror each image of ``(B, C, H, W)`` left to right with a probability of one half."""
    mirrored = rng.uniform(len(images)) < 0.5  # (B,)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
