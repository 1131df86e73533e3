"""Distances between two distributions of images, seen through a network's features."""

import hashlib
import inspect
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import genkit

SUBSETS, SUBSET_IMAGES = 100, 1000
"""Subsets that KID draws, and images in each (Binkowski et al. 2018)."""
BATCH = 50
"""Images that Inception sees at a time."""
WEIGHTS = "GENKIT_INCEPTION_WEIGHTS"
"""Environment variable with the path of Inception's weights."""
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of ``weights-inception-2015-12-05-6726825d.pth``, as torch-fidelity publishes it."""


class _Identity(nn.Module):
    """Takes the place of torchmetrics' network: returns the features that it is given."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid_lenet(samples: Tensor, real: Tensor) -> genkit.Metrics:
    """Frechet distance between Gaussians fitted to features ``(N, D)`` and ``(M, D)`` (Heusel et
    al. 2017).

    Not the FID of the literature, which is in Inception's features. It falls with N: compare equal
    N only.

    Raises:
        UsageError: not more images than features, so that no covariance can be fitted.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    dimensions = samples.shape[1]
    if min(len(samples), len(real)) <= dimensions:
        fewest = min(len(samples), len(real))
        raise genkit.UsageError(
            f"fid-lenet needs more images than the {dimensions} features, and there are {fewest}"
        )
    distance = FrechetInceptionDistance(feature=_Identity(dimensions))
    distance.update(real, real=True)
    distance.update(samples, real=False)
    return {"distance": distance.compute()}


def kid_lenet(samples: Tensor, real: Tensor) -> genkit.Metrics:
    """Squared MMD with a cubic kernel between features ``(N, D)`` and ``(M, D)`` (Binkowski et al.
    2018).

    The mean over 100 draws of 1,000 images, or all where there are fewer; near 0, and below it too,
    for real images.

    Raises:
        UsageError: fewer than two images.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    fewest = min(len(samples), len(real))
    if fewest < 2:
        raise genkit.UsageError("kid-lenet is of two images or more")
    subsets = SUBSETS if fewest > SUBSET_IMAGES else 1
    with warnings.catch_warnings():  # on keeping all features in memory: they are few
        warnings.simplefilter("ignore")
        network, size = _Identity(samples.shape[1]), min(SUBSET_IMAGES, fewest)
        distance = KernelInceptionDistance(network, subsets=subsets, subset_size=size)
    distance.update(_sort_rows(real), real=True)
    distance.update(_sort_rows(samples), real=False)
    with torch.random.fork_rng(devices=[]):  # it draws from the global generator
        torch.default_generator.manual_seed(0)
        mean, _ = distance.compute()
    return {"distance": mean}


def fid(samples: Tensor, real: Tensor) -> genkit.Metrics:
    """The FID of the literature (Heusel et al. 2017): Inception's 2,048 features of images ``(N, C,
    H, W)``.

    By torchmetrics, with torch-fidelity's port of the original weights. They are downloaded, unless
    the environment variable ``GENKIT_INCEPTION_WEIGHTS`` names their file; torch-fidelity unpickles
    it, so no other is taken. Images are enlarged to 299x299, grey ones shown on three channels.
    10,000 images are the custom; fewer than 2,049 are refused, as no covariance can be fitted.

    Raises:
        UsageError: too few images, neither one channel nor three, or the network or its weights
            cannot be loaded.
    """
    if min(len(samples), len(real)) <= 2048:
        fewest = min(len(samples), len(real))
        raise genkit.UsageError(
            f"fid needs more images than Inception's 2048 features, and there are {fewest}"
        )
    if samples.shape[1] not in (1, 3):
        raise genkit.UsageError(
            f"fid is of images of one or three channels, not {samples.shape[1]}"
        )
    distance = _inception()
    with torch.no_grad():
        for images, is_real in ((real, True), (samples, False)):
            for part in torch.split(images, BATCH):
                # uint8, rounded: torchmetrics itself would cut off, and make real images darker
                # than they are.
                grey = (127.5 * (part + 1.0)).round().clamp(0, 255).to(torch.uint8)
                rgb = grey.expand(-1, 3, -1, -1)  # (B, 3, H, W)
                distance.update(rgb, real=is_real)
    return {"distance": distance.compute()}


def _inception() -> Any:
    """torchmetrics' FID, with its network."""
    options: dict[str, Any] = {"feature": 2048, "normalize": False}
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        if path := os.environ.get(WEIGHTS):
            option = "feature_extractor_weights_path"
            if option not in inspect.signature(FrechetInceptionDistance).parameters:
                raise genkit.UsageError(
                    f"{WEIGHTS} needs a newer torchmetrics: pip install --upgrade torchmetrics"
                )
            options[option] = _verify_weights(Path(path))
        return FrechetInceptionDistance(**options)
    except ModuleNotFoundError:
        raise genkit.UsageError("fid needs torch-fidelity: pip install torch-fidelity") from None
    except OSError as error:  # also where the network cannot be reached
        raise genkit.UsageError(
            f"Inception's weights cannot be loaded ({error}): "
            f"set {WEIGHTS} to the path of their file, or use fid-lenet"
        ) from None


def _verify_weights(path: Path) -> str:
    """``path``, where it holds the published weights: torch-fidelity unpickles the file, so no
    other is accepted.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise genkit.UsageError(
            f"{WEIGHTS}: {path} is not torch-fidelity's file (its SHA-256 is {digest[:12]}…)"
        )
    return str(path)


def _sort_rows(features: Tensor) -> Tensor:
    """Features ``(N, D)`` sorted by a weighted sum, so that the subsets drawn from them do not
    depend on the order of the images.
    """
    weights = torch.arange(1, features.shape[1] + 1, dtype=torch.float64).sqrt()
    return features[torch.argsort(features.double() @ weights, stable=True)]
