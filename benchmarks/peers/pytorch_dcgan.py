"""The DCGAN of the plugin genkit-dcgan in a loop written by hand around its networks: fused Adam,
no loader.
"""

import torch
import torch.nn.functional as F
from genkit_dcgan.model import Discriminator, Generator, initialise

import genkit

from ..work import BATCH, Made, Work, versions
from .pytorch_careful import wait

LATENT, WIDTH = 100, 32


class Loop:
    def __init__(self, work: Work) -> None:
        torch.manual_seed(0)
        spec = genkit.DataSpec(1, 28, 28)
        self.device = work.device
        self.images = torch.from_numpy(work.images)[:, None].to(work.device)
        self.generator = Generator(LATENT, WIDTH, spec).apply(initialise).to(work.device)
        self.discriminator = Discriminator(WIDTH, spec).apply(initialise).to(work.device)
        options = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}
        self.parameters = [
            list(network.parameters()) for network in (self.generator, self.discriminator)
        ]
        self.g_adam, self.d_adam = (
            torch.optim.Adam(parameters, **options) for parameters in self.parameters
        )

    def run(self, steps: int) -> dict[str, float]:
        for _ in range(steps):
            index = torch.randint(len(self.images), (BATCH,), device=self.device)
            real = self.images.index_select(0, index).float().div_(127.5).sub_(1.0)
            fake = self.generator(torch.randn(BATCH, LATENT, device=self.device))
            d_loss = 0.5 * F.softplus(-self.discriminator(real)).mean()
            d_loss = d_loss + 0.5 * F.softplus(self.discriminator(fake.detach())).mean()
            self._descend(d_loss, 1, self.d_adam)
            g_loss = F.softplus(-self.discriminator(fake)).mean()
            self._descend(g_loss, 0, self.g_adam)
        wait(self.device)
        return {"discriminator_loss": float(d_loss), "generator_loss": float(g_loss)}

    def _descend(self, loss: torch.Tensor, number: int, adam: torch.optim.Adam) -> None:
        parameters = self.parameters[number]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        adam.step()


def make(work: Work) -> Made:
    torch.set_num_threads(work.threads)
    return Loop(work), versions("genkit-dcgan", "torch")
