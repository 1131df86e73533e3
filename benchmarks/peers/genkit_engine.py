"""genkit's engine as `genkit train` runs it, losses and all; without grids, checkpoints and log
files.
"""

import torch

from genkit.config import TrainOptions
from genkit.data.datasets import from_images
from genkit.engines.base import Engine
from genkit.hookspecs import Model
from genkit.models import build
from genkit.plugins.registry import discover

from ..work import AE_HIDDEN, AE_LATENT, BATCH, VAE_HIDDEN, VAE_LATENT, Made, Work, versions

OPTIONS = {
    "vae": {"hidden_dim": VAE_HIDDEN, "latent_dim": VAE_LATENT},
    "ae": {"hidden_dim": AE_HIDDEN, "latent_dim": AE_LATENT},
}


class Loop:
    def __init__(self, work: Work, engine: str, kernels: str) -> None:
        data = from_images(work.images)
        trainer = discover().find(Model, work.model).target()
        made = build(
            trainer, trainer.Config(**OPTIONS.get(work.model, {})), data.spec, 0, work.device
        )
        self.engine = Engine(
            made, data, TrainOptions(batch_size=BATCH, engine=engine, kernels=kernels)
        )

    def run(self, steps: int) -> dict[str, float]:
        goal = self.engine.step + steps
        while self.engine.step < goal:  # by windows, as the loop does
            self.engine.run(min(100 - self.engine.step % 100, goal - self.engine.step))
        return self.engine.means()


def make(work: Work, how: str = "auto") -> Made:
    """As by default, or with torch's kernels (``torch``), or by the engine eager with them."""
    if how == "torch" and work.device != "cpu":
        raise RuntimeError("on a GPU all kernels are torch's")
    torch.set_num_threads(work.threads)
    loop = Loop(work, "eager" if how == "eager" else "auto", "auto" if how == "auto" else "torch")
    return loop, versions("genkit-torch", "torch")
