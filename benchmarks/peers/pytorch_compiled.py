"""The careful loop with its three passes compiled by ``torch.compile(mode="reduce-overhead")``,
which fuses kernels and replays CUDA graphs; Adam stays fused.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..work import BATCH, LATENT, Made, Work, versions
from .pytorch_careful import Loop as CarefulLoop, named, wait

MODE = "reduce-overhead"


class Loop:
    """What a pass gives lies in a graph's memory until the next pass, so it is used up before."""

    def __init__(self, work: Work) -> None:
        self.careful = CarefulLoop(work)
        self.judge_real, self.judge_fake, self.fool = (
            self._compiled(function) for function in (self._real, self._fake, self._fool)
        )

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, mode=MODE)

    def _judge(self, images: Tensor, right: float) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of the discriminator on images that are all real, or none."""
        logits = self.careful.discriminator(images)
        loss = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, right))
        return loss, ((logits > 0) == (right > 0)).float().mean()

    def _real(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self._judge(pixels.float() / 127.5 - 1.0, 1.0)

    def _fake(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            fake = self.careful.generator(z)
        return self._judge(fake, 0.0)

    def _fool(self, z: Tensor) -> Tensor:
        return self._judge(self.careful.generator(z), 1.0)[0]

    def step(self, losses: Tensor) -> None:
        """One iteration, see :meth:`benchmarks.peers.pytorch_careful.Loop.step`."""
        careful, images = self.careful, self.careful.images
        index = torch.randint(len(images), (BATCH,), device=careful.device)
        pixels = images.index_select(0, index)
        for judge, given in ((self.judge_real, pixels), (self.judge_fake, self._latent())):
            loss, accuracy = judge(given)
            careful.descend(loss, careful.d_parameters, careful.d_adam)
            with torch.no_grad():
                losses[0].add_(loss, alpha=0.5)
                losses[1].add_(accuracy, alpha=0.5)
        loss = self.fool(self._latent())
        careful.descend(loss, careful.g_parameters, careful.g_adam)
        with torch.no_grad():
            losses[2] = loss

    def _latent(self) -> Tensor:
        return torch.randn(BATCH, LATENT, device=self.careful.device)

    def run(self, steps: int) -> dict[str, float]:
        losses = torch.zeros(steps, 3, device=self.careful.device)
        for row in losses:
            self.step(row)
        wait(self.careful.device)
        return named(losses.mean(0))


def make(work: Work) -> Made:
    if not work.device.startswith("cuda"):
        raise RuntimeError("mode='reduce-overhead' is about CUDA graphs: it needs a CUDA device")
    torch.set_num_threads(work.threads)
    return Loop(work), versions("torch")
