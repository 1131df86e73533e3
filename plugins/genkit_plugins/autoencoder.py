"""The article's autoencoder: MLP encoder and decoder, trained on the mean absolute error between
pixels.

An autoencoder has no prior over its codes. To sample it, the decoder keeps a running mean and
covariance of the codes it is trained on, and draws from that Gaussian (the simplest of the ex-post
densities of Ghosh et al. 2020).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit

NEGATIVE_SLOPE = 0.2
"""ReLU units die under the absolute error, whose early gradient pulls every pixel to black."""


class Encoder(genkit.Encoder):
    """Image → one hidden layer → code."""

    def __init__(self, latent_dim: int, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.hidden = nn.Linear(spec.size, hidden_dim)
        self.code = nn.Linear(hidden_dim, latent_dim)

    def forward(self, images: Tensor) -> Tensor:
        h = F.leaky_relu(self.hidden(images.flatten(1)), NEGATIVE_SLOPE)  # (B, hidden_dim)
        code: Tensor = self.code(h)  # (B, latent_dim)
        return code


class Decoder(genkit.Generator):
    """Code → one hidden layer → image; knows the Gaussian that its codes came from."""

    code_mean: Tensor
    code_covariance: Tensor

    def __init__(self, latent_dim: int, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.hidden = nn.Linear(latent_dim, hidden_dim)
        self.pixels = nn.Linear(hidden_dim, spec.size)
        self.register_buffer("code_mean", torch.zeros(latent_dim))
        self.register_buffer("code_covariance", torch.eye(latent_dim))

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        # Eigenvalues rather than Cholesky: a dead latent has variance 0, and rounding may take it
        # below.
        # On the CPU, where the signs of the axes are the same whatever the device.
        factors = torch.linalg.eigh(self.code_covariance.cpu())
        variances, axes = (f.to(self.code_covariance.device) for f in factors)  # (L,), (L, L)
        scaled = rng.normal(n, len(self.code_mean)) * variances.clamp_min(0).sqrt()  # (n, L)
        codes: Tensor = self.code_mean + scaled @ axes.T  # (n, L)
        return codes

    def forward(self, z: Tensor) -> Tensor:
        h = F.leaky_relu(self.hidden(z), NEGATIVE_SLOPE)  # (B, hidden_dim)
        return torch.tanh(self.pixels(h)).view(len(z), *self.shape)  # (B, C, H, W)


class Autoencoder(genkit.Trainer):
    """Minimises the mean absolute error, in pixels of [0, 1]."""

    class Config(genkit.Config):
        latent_dim: int = genkit.Field(32, ge=1, description="size of the code")
        hidden_dim: int = genkit.Field(
            128, ge=1, description="width of the hidden layer of encoder and decoder"
        )
        learning_rate: float = genkit.Field(1e-3, gt=0, description="Adam's step size")
        code_momentum: float = genkit.Field(
            0.01,
            gt=0,
            le=1,
            description="weight of a batch in the running mean and covariance of the codes",
        )

    encoder: Encoder
    generator: Decoder

    preferred_datasets = ("mnist", "digits")
    log_format = "[mean absolute error: {loss:.4f}]"

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.code_momentum = config.code_momentum
        self.encoder = Encoder(config.latent_dim, config.hidden_dim, spec)
        self.generator = Decoder(config.latent_dim, config.hidden_dim, spec)
        parameters = [*self.encoder.parameters(), *self.generator.parameters()]
        self.optimizers = {"autoencoder": torch.optim.Adam(parameters, lr=config.learning_rate)}

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        codes = self.encoder(batch.images)  # (B, L)
        loss = _absolute_error(self.generator(codes), batch.images)
        self.update(autoencoder=loss)
        with torch.autocast(codes.device.type, enabled=False):
            self._follow(codes.detach().to(self.generator.code_mean.dtype))
        return {"loss": loss.detach()}

    def _follow(self, codes: Tensor) -> None:
        """Move the running mean and covariance towards those of ``codes`` ``(B, L)``."""
        mean = self.mean_over_processes(codes.mean(0))  # (L,)
        self.generator.code_mean.lerp_(mean, self.code_momentum)
        centred = codes - self.generator.code_mean  # (B, L)
        covariance = self.mean_over_processes(centred.T @ centred / len(codes))  # (L, L)
        self.generator.code_covariance.lerp_(covariance, self.code_momentum)

    def evaluate(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        return {"loss": _absolute_error(self.reconstruct(batch.images), batch.images)}

    def reconstruct(self, images: Tensor) -> Tensor:
        reconstruction: Tensor = self.generator(self.encoder(images))
        return reconstruction


def _absolute_error(images: Tensor, targets: Tensor) -> Tensor:
    """Mean over all pixels, in units of [0, 1], half those of [-1, 1]."""
    return 0.5 * F.l1_loss(images, targets)
