"""What a careful person writes: gradients only where needed, fused Adam, no loader, no
synchronisation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..work import BATCH, EPSILON, HIDDEN, LATENT, LEARNING_RATE, SLOPE, Made, Work, versions


def networks(device: str) -> tuple[nn.Module, nn.Module]:
    """The article's generator and discriminator."""
    torch.manual_seed(0)
    generator = nn.Sequential(
        nn.Linear(LATENT, HIDDEN), nn.LeakyReLU(SLOPE), nn.Linear(HIDDEN, 784), nn.Tanh()
    )
    discriminator = nn.Sequential(nn.Linear(784, HIDDEN), nn.LeakyReLU(SLOPE), nn.Linear(HIDDEN, 1))
    for layer in (*generator, *discriminator):
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return generator.to(device), discriminator.to(device)


def wait(device: str) -> None:
    """Return when all that was asked for is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class Loop:
    def __init__(self, work: Work) -> None:
        self.device = work.device
        self.images = torch.from_numpy(work.images).flatten(1).to(work.device)
        self.generator, self.discriminator = networks(work.device)
        options = {"lr": LEARNING_RATE, "eps": EPSILON, "fused": True}
        self.g_parameters, self.d_parameters = (
            list(self.generator.parameters()),
            list(self.discriminator.parameters()),
        )
        self.g_adam, self.d_adam = (
            torch.optim.Adam(p, **options) for p in (self.g_parameters, self.d_parameters)
        )
        self.ones, self.zeros = (
            torch.full((BATCH, 1), value, device=work.device) for value in (1.0, 0.0)
        )

    def descend(self, loss: Tensor, parameters: list[nn.Parameter], adam: torch.optim.Adam) -> None:
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        adam.step()

    def run(self, steps: int) -> dict[str, float]:
        generator, discriminator, loss_of = (
            self.generator,
            self.discriminator,
            F.binary_cross_entropy_with_logits,
        )
        losses = torch.zeros(steps, 3, device=self.device)
        for i in range(steps):
            index = torch.randint(len(self.images), (BATCH,), device=self.device)
            real = self.images.index_select(0, index).float().div_(127.5).sub_(1.0)
            with torch.no_grad():
                fake = generator(torch.randn(BATCH, LATENT, device=self.device))
            real_logits = discriminator(real)
            real_loss = loss_of(real_logits, self.ones)
            self.descend(real_loss, self.d_parameters, self.d_adam)
            fake_logits = discriminator(fake)
            fake_loss = loss_of(fake_logits, self.zeros)
            self.descend(fake_loss, self.d_parameters, self.d_adam)
            g_loss = loss_of(
                discriminator(generator(torch.randn(BATCH, LATENT, device=self.device))), self.ones
            )
            self.descend(g_loss, self.g_parameters, self.g_adam)
            with torch.no_grad():
                losses[i, 0] = 0.5 * (real_loss + fake_loss)
                losses[i, 1] = 0.5 * (
                    (real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()
                )
                losses[i, 2] = g_loss
        wait(self.device)
        d_loss, accuracy, g_loss_mean = losses.mean(0).tolist()
        return {"discriminator_loss": d_loss, "accuracy": accuracy, "generator_loss": g_loss_mean}


def make(work: Work) -> Made:
    torch.set_num_threads(work.threads)
    return Loop(work), versions("torch")
