"""Deep convolutional GAN (Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with
Deep Convolutional Generative Adversarial Networks", section 3 and figure 1)."""

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit

Fraction = Annotated[float, genkit.Field(ge=0, lt=1)]


def stages(size: int) -> list[int]:
    """Sides of the feature maps from the smallest, 4, to the image, each half the next, rounded up:
    4, 7, 14, 28.
    """
    sides = [size]
    while sides[0] > 4:
        sides.insert(0, (sides[0] + 1) // 2)
    return sides


def widths(width: int, count: int) -> list[int]:
    """Channels from the smallest map on: they halve as the map doubles, and ``width`` stands next
    to the image.
    """
    return [width * 2 ** (count - 1 - i) for i in range(count)]


def initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02), section 4; batch normalisation's gain from N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class Generator(genkit.Generator):
    """z → a small map → transposed convolutions, batch normalisation and ReLU → tanh."""

    def __init__(self, latent_dim: int, width: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        sides = stages(spec.height)
        channels = widths(width, len(sides) - 1)
        self.project = nn.Linear(latent_dim, channels[0] * sides[0] ** 2, bias=False)
        self.seed_shape = (channels[0], sides[0], sides[0])
        layers: list[nn.Module] = [nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)]
        for i, (before, after) in enumerate(pairwise(sides)):
            last = i == len(sides) - 2
            into = spec.channels if last else channels[i + 1]
            # 4x4 with stride 2 gives twice the side; one less where a side is odd.
            padding = 2 * before - after
            layers.append(
                nn.ConvTranspose2d(channels[i], into, 4 - padding, stride=2, padding=1, bias=last)
            )
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(into), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, self.latent_dim)

    def forward(self, z: Tensor) -> Tensor:
        h = self.project(z).view(len(z), *self.seed_shape)  # (B, channels, 4, 4)
        images: Tensor = self.layers(h)  # (B, C, H, W)
        return images


class Discriminator(genkit.Discriminator):
    """Strided convolutions with LeakyReLU(0.2), batch-normalised but for the first, → logit."""

    def __init__(self, width: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        sides = stages(spec.height)[::-1]
        channels = [spec.channels, *widths(width, len(sides) - 1)[::-1]]
        layers: list[nn.Module] = []
        for i, (into, out) in enumerate(pairwise(channels)):
            kernel = 3 if sides[i] % 2 else 4
            layers.append(nn.Conv2d(into, out, kernel, stride=2, padding=1, bias=i == 0))
            if i:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Linear(channels[-1] * sides[-1] ** 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.layers(images)  # (B, channels, 4, 4)
        logits: Tensor = self.logit(h.flatten(1))  # (B, 1)
        return logits.flatten()  # (B,)


class DCGAN(genkit.Trainer):
    """Non-saturating GAN; the discriminator sees real and fake as two batches, each with its own
    statistics.
    """

    class Config(genkit.Config):
        latent_dim: int = genkit.Field(100, ge=1, description="size of the latent vector z")
        width: int = genkit.Field(
            32, ge=1, description="channels of the feature maps next to the image"
        )
        learning_rate: float = genkit.Field(
            2e-4, gt=0, description="Adam's step size, for either network"
        )
        betas: tuple[Fraction, Fraction] = genkit.Field(
            (0.5, 0.999), description="Adam's decay rates"
        )

    preferred_datasets = ("mnist", "digits")
    log_format = (
        "[D loss: {discriminator_loss:f}, acc.: {accuracy:.2%}] [G loss: {generator_loss:f}]"
    )

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        if spec.height != spec.width or spec.height < 28:
            raise genkit.DataError(
                f"dcgan draws square images of 28 pixels or more, not {spec.height}x{spec.width}"
            )
        self.generator = Generator(config.latent_dim, config.width, spec)
        self.discriminator = Discriminator(config.width, spec)
        self.apply(initialise)
        for name, network in (("discriminator", self.discriminator), ("generator", self.generator)):
            self.optimizers[name] = torch.optim.Adam(
                network.parameters(), lr=config.learning_rate, betas=config.betas
            )

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        fake = self.generator(self.generator.prior(len(batch.images), rng))  # (B, C, H, W)

        # The discriminator learns real from fake.
        real_logits = self.discriminator(batch.images)  # (B,)
        fake_logits = self.discriminator(fake.detach())  # (B,)
        discriminator_loss = 0.5 * (
            F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        )
        self.update(discriminator=discriminator_loss)

        # The generator learns to pass for real, with the same fakes.
        generator_loss = F.softplus(-self.discriminator(fake)).mean()
        self.update(generator=generator_loss)

        accuracy = 0.5 * ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean())
        return {
            "discriminator_loss": discriminator_loss.detach(),
            "accuracy": accuracy,
            "generator_loss": generator_loss.detach(),
        }
