"""The simplest GAN: two MLPs of one hidden layer each (Goodfellow et al. 2014; sizes and optimizer
after the article).

The article's code updates the discriminator twice an iteration, on a real batch and then on a fake
one. Its prose describes one combined update. ``d_updates`` chooses; the two train differently.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit

NEGATIVE_SLOPE = 0.01


def glorot(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with Glorot-uniform weights and zero biases, which is Keras's default."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Generator(genkit.Generator):
    """z → one hidden layer → image."""

    def __init__(self, latent_dim: int, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shape = spec.shape
        self.hidden = glorot(latent_dim, hidden_dim)
        self.pixels = glorot(hidden_dim, spec.size)

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, self.latent_dim)

    def forward(self, z: Tensor) -> Tensor:
        h = F.leaky_relu(self.hidden(z), NEGATIVE_SLOPE)  # (B, hidden_dim)
        return torch.tanh(self.pixels(h)).view(len(z), *self.shape)  # (B, C, H, W)


class Discriminator(genkit.Discriminator):
    """Image → one hidden layer → logit."""

    def __init__(self, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.hidden = glorot(spec.size, hidden_dim)
        self.logit = glorot(hidden_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        h = F.leaky_relu(self.hidden(images.flatten(1)), NEGATIVE_SLOPE)  # (B, hidden_dim)
        logits: Tensor = self.logit(h)  # (B, 1)
        return logits.flatten()  # (B,)


class SimpleGAN(genkit.Trainer):
    """Non-saturating GAN with binary cross-entropy (Goodfellow et al. 2014, algorithm 1, k = 1)."""

    class Config(genkit.Config):
        latent_dim: int = genkit.Field(100, ge=1, description="size of the latent vector z")
        hidden_dim: int = genkit.Field(
            128, ge=1, description="width of the hidden layer of either network"
        )
        learning_rate: float = genkit.Field(
            1e-3, gt=0, description="Adam's step size, for either network"
        )
        betas: tuple[
            Annotated[float, genkit.Field(ge=0, lt=1)], Annotated[float, genkit.Field(ge=0, lt=1)]
        ] = genkit.Field(
            (0.9, 0.999), description="Adam's decay rates of the first and second moment"
        )
        eps: float = genkit.Field(1e-7, gt=0, description="Adam's epsilon; 1e-7 is Keras's")
        d_updates: Literal["separate", "combined"] = genkit.Field(
            "separate",
            description="discriminator updates per iteration: separate (real, then fake) "
            "or combined",
        )

    preferred_datasets = ("mnist", "digits")
    log_format = (
        "[D loss: {discriminator_loss:f}, acc.: {accuracy:.2%}] [G loss: {generator_loss:f}]"
    )

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.combined = config.d_updates == "combined"
        self.generator = Generator(config.latent_dim, config.hidden_dim, spec)
        self.discriminator = Discriminator(config.hidden_dim, spec)
        for name, network in (("discriminator", self.discriminator), ("generator", self.generator)):
            self.optimizers[name] = torch.optim.Adam(
                network.parameters(), lr=config.learning_rate, betas=config.betas, eps=config.eps
            )

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        n = len(batch.images)

        # The discriminator learns real from fake; no gradient goes into the generator.
        with torch.no_grad():
            fake = self.generator(self.generator.prior(n, rng))  # (B, C, H, W)
        real_logits = self.discriminator(batch.images)  # (B,)
        real_loss = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
        if not self.combined:
            self.update(discriminator=real_loss)
        fake_logits = self.discriminator(fake)  # (B,)
        fake_loss = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
        self.update(discriminator=0.5 * (real_loss + fake_loss) if self.combined else fake_loss)

        # The generator learns to pass for real; the discriminator stays as it is.
        logits = self.discriminator(self.generator(self.generator.prior(n, rng)))  # (B,)
        generator_loss = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        self.update(generator=generator_loss)

        right = torch.cat([real_logits > 0, fake_logits <= 0])  # (2B,)
        return {
            "discriminator_loss": 0.5 * (real_loss.detach() + fake_loss.detach()),
            "accuracy": right.float().mean(),
            "generator_loss": generator_loss.detach(),
        }
