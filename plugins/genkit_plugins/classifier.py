"""A small classifier after LeNet-5, in whose features metrics compare images."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit

FEATURES = 64
"""Numbers in the features of an image."""
MAX_IMAGES, MAX_STEPS, EPOCHS, BATCH = 20_000, 1200, 12, 128
BLOCK = 256
"""Steps whose samples are drawn together."""
CHUNK = 500
"""Images that are seen at a time after training."""


class LeNet(genkit.Classifier):
    """Three convolutions and two dense layers, after LeNet-5 (LeCun et al. 1998), with dropout in
    training.
    """

    min_side = 8

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.first = nn.Conv2d(channels, 16, 5, padding=2)
        self.second = nn.Conv2d(16, 32, 5, padding=2)
        self.third = nn.Conv2d(32, 64, 3, padding=1)
        self.dense = nn.Linear(64 * 4 * 4, FEATURES)
        self.classes = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` in [-1, 1] → features ``(B, 64)``, at least 0, and logits ``(B,
        K)``.
        """
        h = F.relu(F.max_pool2d(self.first(images), 2))  # (B, 16, H/2, W/2)
        h = F.relu(F.max_pool2d(self.second(h), 2))  # (B, 32, H/4, W/4)
        h = F.adaptive_avg_pool2d(F.relu(self.third(h)), 4)  # (B, 64, 4, 4), whatever H and W are
        h = F.dropout(h.flatten(1), 0.5, self.training)  # (B, 64 * 4 * 4)
        features = F.relu(self.dense(h))  # (B, 64)
        return features, self.classes(F.dropout(features, 0.2, self.training))  # (B, 64), (B, K)

    def fit(
        self,
        data: genkit.ImageData,
        seed: int,
        notify: Callable[[str], None],
        *,
        images: int = MAX_IMAGES,
        steps: int = MAX_STEPS,
    ) -> Mapping[str, Any]:
        """Adam (Kingma & Ba 2015) on the cross-entropy, with one cycle of the learning rate.

        At most ``steps`` batches of 128 from ``images`` of the images, slightly turned, scaled and
        shifted; twelve epochs for a small dataset.
        """
        train, labels = data.train.images, data.train.labels
        assert labels is not None, "a classifier is trained on labels"
        if images < len(train):  # drawn, because datasets are often sorted by class
            stream = genkit.Rng(seed, "extractor images").generator
            chosen = torch.randperm(len(train), generator=stream)[:images]
            train, labels = train[chosen], labels[chosen]
        steps = min(steps, max(100, EPOCHS * len(train) // BATCH))
        rng = genkit.Rng(seed, "augmentation")
        adam = torch.optim.Adam(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, total_steps=steps)
        indices = _sample_numbers(len(train), min(BATCH, len(train)), seed)
        for step, index in zip(range(steps), indices, strict=False):
            adam.zero_grad()
            logits = self(_augment(_scale(train[index]), rng))[1]  # (B, K)
            loss = F.cross_entropy(logits, labels[index])
            torch.autograd.backward(loss)
            adam.step()
            schedule.step()
            if (step + 1) % 500 == 0:
                notify(f"extractor: {step + 1} of {steps} steps, loss {float(loss.detach()):.3f}")
        self._normalise(train)
        return {"steps": steps}

    @torch.no_grad()
    def _normalise(self, images: Tensor) -> None:
        """Scale the features to a mean square of 1 over ``images``, and keep the logits: distances
        are then in readable units.
        """
        self.eval()
        parts = [self(_scale(part))[0].square().mean(1) for part in torch.split(images, CHUNK)]
        scale = torch.cat(parts).mean().sqrt().clamp_min(1e-6)
        self.dense.weight.div_(scale)
        self.dense.bias.div_(scale)
        self.classes.weight.mul_(scale)


def _sample_numbers(samples: int, batch: int, seed: int) -> Iterator[Tensor]:
    """The samples of each step, drawn with replacement as for models: int64 ``(batch,)``."""
    # Philox keyed by the stream's seed and the block: a step's samples depend on nothing before it.
    key = genkit.Rng(seed, "order").generator.initial_seed()
    for block in itertools.count():
        generator = np.random.Generator(np.random.Philox(key=[key, block]))
        yield from torch.from_numpy(generator.integers(samples, size=(BLOCK, batch)))


def _scale(images: Tensor) -> Tensor:
    """uint8 → float in [-1, 1]."""
    return (images - 127.5) / 127.5


def _augment(images: Tensor, rng: genkit.Rng) -> Tensor:
    """Images ``(B, C, H, W)`` turned by up to 10 degrees, scaled by up to a tenth and shifted by up
    to a fourteenth of their side.
    """
    turn, scale, right, down = (2 * rng.uniform(len(images), 4) - 1).unbind(1)  # (B,) each
    angle, factor = turn * math.radians(10), 1 + 0.1 * scale
    matrix = (
        torch.stack([factor * angle.cos(), -factor * angle.sin(), right / 7], 1),
        torch.stack([factor * angle.sin(), factor * angle.cos(), down / 7], 1),
    )
    theta, shape = torch.stack(matrix, 1), list(images.shape)  # (B, 2, 3)
    grid = F.affine_grid(theta, shape, align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
