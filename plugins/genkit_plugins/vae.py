"""Variational autoencoder of two MLPs of the usual sizes for MNIST (Kingma & Welling 2014, appendix
C).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit


class Encoder(genkit.Encoder):
    """Image → one hidden layer → diagonal Gaussian over z."""

    def __init__(self, latent_dim: int, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.hidden = nn.Linear(spec.size, hidden_dim)
        self.mean = nn.Linear(hidden_dim, latent_dim)
        self.log_variance = nn.Linear(hidden_dim, latent_dim)

    def forward(self, images: Tensor) -> genkit.Posterior:
        # In [0, 1], so that the black background is silent.
        pixels = 0.5 * (images.flatten(1) + 1.0)  # (B, C*H*W)
        h = F.relu(self.hidden(pixels))  # (B, hidden_dim)
        return genkit.Posterior(self.mean(h), self.log_variance(h))  # (B, latent_dim) each


class Decoder(genkit.Generator):
    """z → one hidden layer → a Bernoulli for each pixel."""

    def __init__(self, latent_dim: int, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shape = spec.shape
        self.hidden = nn.Linear(latent_dim, hidden_dim)
        self.pixels = nn.Linear(hidden_dim, spec.size)

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, self.latent_dim)

    def logits(self, z: Tensor) -> Tensor:
        """Log-odds of each pixel being white, ``(B, C, H, W)``."""
        h = F.relu(self.hidden(z))  # (B, hidden_dim)
        logits: Tensor = self.pixels(h)  # (B, C*H*W)
        return logits.view(len(z), *self.shape)  # (B, C, H, W)

    def forward(self, z: Tensor) -> Tensor:
        # The mean pixel: 2 * sigmoid(logits) - 1.
        return torch.tanh(0.5 * self.logits(z))  # (B, C, H, W)


class VAE(genkit.Trainer):
    """Minimises the negative evidence lower bound, in nats per image; beta weighs its KL term
    (Higgins et al. 2017).
    """

    class Config(genkit.Config):
        latent_dim: int = genkit.Field(20, ge=1, description="size of the latent vector z")
        hidden_dim: int = genkit.Field(
            400, ge=1, description="width of the hidden layer of encoder and decoder"
        )
        learning_rate: float = genkit.Field(1e-3, gt=0, description="Adam's step size")
        beta: float = genkit.Field(
            1.0, ge=0, description="weight of the KL term; 1 is the evidence lower bound"
        )

    encoder: Encoder
    generator: Decoder

    preferred_datasets = ("mnist", "digits")
    log_format = (
        "[loss: {loss:.2f} = reconstruction {reconstruction_loss:.2f} + KL {kl:.2f} nats per image]"
    )

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.beta = config.beta
        self.encoder = Encoder(config.latent_dim, config.hidden_dim, spec)
        self.generator = Decoder(config.latent_dim, config.hidden_dim, spec)
        parameters = [*self.encoder.parameters(), *self.generator.parameters()]
        self.optimizers = {"vae": torch.optim.Adam(parameters, lr=config.learning_rate)}

    def log_likelihood(self, images: Tensor, z: Tensor) -> Tensor:
        """log p(images | z), nats, ``(B,)``; grey levels count as the mean of a Bernoulli."""
        logits = self.generator.logits(z)  # (B, C, H, W)
        targets = 0.5 * (images + 1.0)  # [0, 1]
        nats = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return -nats.flatten(1).sum(1)  # (B,)

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        reconstruction_loss, kl = self._terms(batch, rng)
        loss = reconstruction_loss + self.beta * kl
        self.update(vae=loss)
        return {
            "loss": loss.detach(),
            "reconstruction_loss": reconstruction_loss.detach(),
            "kl": kl.detach(),
        }

    def evaluate(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        """The test loss is the negative evidence lower bound, whatever beta is."""
        reconstruction_loss, kl = self._terms(batch, rng)
        return {
            "loss": reconstruction_loss + kl,
            "reconstruction_loss": reconstruction_loss,
            "kl": kl,
        }

    def _terms(self, batch: genkit.Batch, rng: genkit.Rng) -> tuple[Tensor, Tensor]:
        posterior: genkit.Posterior = self.encoder(batch.images)
        log_likelihood = self.log_likelihood(batch.images, posterior.sample(rng))  # (B,)
        return -log_likelihood.mean(), posterior.kl().mean()

    def reconstruct(self, images: Tensor) -> Tensor:
        posterior: genkit.Posterior = self.encoder(images)
        reconstruction: Tensor = self.generator(posterior.mean)
        return reconstruction
