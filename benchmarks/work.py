"""The work that everyone here does: which images, which sizes, which optimizer."""

import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

BATCH = int(os.environ.get("BENCH_BATCH", "128"))
"""Images a batch; ``python -m benchmarks --batch`` hands it to the contenders this way."""
LATENT = 100
HIDDEN = 128
LEARNING_RATE = 1e-3
EPSILON = 1e-7
SLOPE = 0.01
VAE_HIDDEN, VAE_LATENT = 512, 20
AE_HIDDEN, AE_LATENT = 512, 32
GRAPH_STEPS = 32
"""Steps in a CUDA graph of a peer; all but the first steps are asked for in multiples of it."""
LOG_INTERVAL = 100
"""Steps after which genkit reads losses, by default."""


@dataclass(frozen=True)
class Work:
    """What a contender is given."""

    model: str
    """``simple-gan`` (the article's, three Adam updates an iteration), ``ae``, ``vae`` or
    ``dcgan``.
    """
    images: np.ndarray
    """uint8 ``(N, 28, 28)``."""
    device: str
    threads: int


class Loop(Protocol):
    """A training that can be continued."""

    def run(self, steps: int) -> dict[str, float]:
        """Make ``steps`` iterations and wait until they are done; the losses of the last one, to
        see that it trains.
        """


def versions(*distributions: str) -> dict[str, str]:
    """The installed versions of what a contender is made of."""
    return {name: importlib.metadata.version(name) for name in distributions}


Made = tuple[Any, dict[str, str]]
"""A :class:`Loop`, and the versions of what it is made of."""
