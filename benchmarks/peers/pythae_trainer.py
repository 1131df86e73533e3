"""pythae's own training pipeline on networks of the same sizes, as its documentation shows it;
nothing saved.
"""

import contextlib
import io
import logging
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from ..work import (
    AE_HIDDEN,
    AE_LATENT,
    BATCH,
    LEARNING_RATE,
    VAE_HIDDEN,
    VAE_LATENT,
    Made,
    Work,
    versions,
)


def build(kind: str) -> Any:
    """pythae's model of a kind, ``ae`` or ``vae``, with the networks that everyone has here."""
    from pythae.models import AE, VAE, AEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    hidden, latent = (VAE_HIDDEN, VAE_LATENT) if kind == "vae" else (AE_HIDDEN, AE_LATENT)

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(784, hidden), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

        def forward(self, x: Tensor) -> Any:
            h = self.hidden(x.flatten(1))
            if kind == "ae":
                return ModelOutput(embedding=self.mean(h))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 784), nn.Sigmoid()
            )

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z).view(-1, 1, 28, 28))

    config = {"input_dim": (1, 28, 28), "latent_dim": latent}
    if kind == "ae":
        return AE(AEConfig(**config), Encoder(), Decoder())
    return VAE(VAEConfig(**config, reconstruction_loss="bce"), Encoder(), Decoder())


def make(work: Work) -> Made:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    logging.disable(logging.CRITICAL)
    model = build(work.model)
    images = torch.from_numpy(work.images)[:, None].float() / 255

    class Loop:
        def run(self, steps: int) -> dict[str, float]:
            count = steps * BATCH
            repeats = -(-count // len(images))
            dataset = BaseDataset(images.repeat(repeats, 1, 1, 1)[:count], torch.ones(count))
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                options = BaseTrainerConfig(
                    output_dir=folder,
                    num_epochs=1,
                    learning_rate=LEARNING_RATE,
                    per_device_train_batch_size=BATCH,
                    optimizer_cls="Adam",
                    no_cuda=not work.device.startswith("cuda"),
                    steps_saving=None,
                )
                trainer = BaseTrainer(model=model, train_dataset=dataset, training_config=options)
                trainer.prepare_training()
                loss = trainer.train_step(epoch=1)
            return {"loss": float(loss)}

    return Loop(), versions("pythae", "torch")
