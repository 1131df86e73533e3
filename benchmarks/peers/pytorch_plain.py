"""The loop of a tutorial: zero_grad, backward, step, with Adam as it comes; images in memory, no
loader.
"""

import torch
from torch import nn

from ..work import BATCH, EPSILON, LATENT, LEARNING_RATE, Made, Work, versions
from .pytorch_careful import networks, wait


class Loop:
    def __init__(self, work: Work) -> None:
        self.device = work.device
        self.images = (
            torch.from_numpy(work.images).flatten(1).float().div(127.5).sub(1.0).to(work.device)
        )
        self.generator, self.discriminator = networks(work.device)
        self.g_adam = torch.optim.Adam(self.generator.parameters(), lr=LEARNING_RATE, eps=EPSILON)
        self.d_adam = torch.optim.Adam(
            self.discriminator.parameters(), lr=LEARNING_RATE, eps=EPSILON
        )
        self.loss = nn.BCEWithLogitsLoss()

    def run(self, steps: int) -> dict[str, float]:
        ones, zeros = (torch.full((BATCH, 1), value, device=self.device) for value in (1.0, 0.0))
        for _ in range(steps):
            real = self.images[torch.randint(len(self.images), (BATCH,), device=self.device)]
            fake = self.generator(torch.randn(BATCH, LATENT, device=self.device))
            self.d_adam.zero_grad()
            real_loss = self.loss(self.discriminator(real), ones)
            real_loss.backward()
            self.d_adam.step()
            self.d_adam.zero_grad()
            fake_loss = self.loss(self.discriminator(fake.detach()), zeros)
            fake_loss.backward()
            self.d_adam.step()
            self.g_adam.zero_grad()
            fake = self.generator(torch.randn(BATCH, LATENT, device=self.device))
            g_loss = self.loss(self.discriminator(fake), ones)
            g_loss.backward()
            self.g_adam.step()
        wait(self.device)
        return {
            "discriminator_loss": 0.5 * float(real_loss + fake_loss),
            "generator_loss": float(g_loss),
        }


def make(work: Work) -> Made:
    torch.set_num_threads(work.threads)
    return Loop(work), versions("torch")
