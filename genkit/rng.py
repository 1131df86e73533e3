"""Streams of random numbers: each a function of one seed and of what it is for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed from ``(seed, purpose)`` by SHA-256, so that streams for different purposes are
    unrelated.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Rng:
    """A stream of random numbers that owns its device and dtype.

    The first size of every draw is this process's rows. With ``world_size`` processes the stream
    draws the rows of all of them and keeps those of ``rank``, so a run's numbers do not depend on
    how many processes share it. Two streams of one (seed, purpose) give equal numbers; nothing else
    moves them.
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.rank = rank
        self.world_size = world_size
        self.generator = torch.Generator(self.device).manual_seed(derive_seed(seed, purpose))

    def normal(self, rows: int, *sizes: int) -> Tensor:
        """Standard normal numbers, ``(rows, *sizes)``."""
        shape = (rows * self.world_size, *sizes)
        return self._own(
            torch.randn(shape, generator=self.generator, device=self.device, dtype=self.dtype), rows
        )

    def uniform(self, rows: int, *sizes: int) -> Tensor:
        """Numbers from [0, 1), ``(rows, *sizes)``."""
        shape = (rows * self.world_size, *sizes)
        return self._own(
            torch.rand(shape, generator=self.generator, device=self.device, dtype=self.dtype), rows
        )

    def bernoulli(self, probability: float, rows: int, *sizes: int) -> Tensor:
        """Ones with the given probability, else zeros, ``(rows, *sizes)``."""
        return (self.uniform(rows, *sizes) < probability).to(self.dtype)

    def integers(self, high: int, rows: int, *sizes: int) -> Tensor:
        """int64 numbers from 0 to ``high - 1``, ``(rows, *sizes)``."""
        shape = (rows * self.world_size, *sizes)
        return self._own(
            torch.randint(high, shape, generator=self.generator, device=self.device), rows
        )

    def state(self) -> Tensor:
        """Where the stream stands, as uint8 on the CPU."""
        return self.generator.get_state()

    def set_state(self, state: Tensor) -> None:
        """Go on from where :meth:`state` was taken."""
        self.generator.set_state(state)

    def _own(self, drawn: Tensor, rows: int) -> Tensor:
        return drawn if self.world_size == 1 else drawn[self.rank * rows : (self.rank + 1) * rows]


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Weights drawn inside come from the stream (seed, "initialisation"); the global generator
    stays where it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "initialisation"))
        yield
