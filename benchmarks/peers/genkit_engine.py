"""genkit's engine as `genkit train` runs it, losses and all; without grids, checkpoints and log
files.
"""

from functools import partial

from genkit.config import TrainOptions
from genkit.data.datasets import from_images
from genkit.hookspecs import ModelEntry
from genkit.models import build
from genkit.plugins.registry import discover
from genkit.training.session import Training

from ..work import AE_HIDDEN, AE_LATENT, BATCH, VAE_HIDDEN, VAE_LATENT, Made, Work, versions

OPTIONS = {
    "vae": {"hidden_dim": VAE_HIDDEN, "latent_dim": VAE_LATENT},
    "ae": {"hidden_dim": AE_HIDDEN, "latent_dim": AE_LATENT},
}


class Loop:
    def __init__(self, work: Work, engine: str, kernels: str) -> None:
        data = from_images(work.images)
        trainer = discover().find(ModelEntry, work.model).target()
        config = trainer.Config(**OPTIONS.get(work.model, {}))
        options = TrainOptions(
            batch_size=BATCH,
            engine=engine,
            kernels=kernels,
            device=work.device,
            threads=work.threads,
        )
        make_trainer = partial(build, trainer, config, data.spec, 0)
        self.training = Training.prepare(make_trainer, data, options)

    def run(self, steps: int) -> dict[str, float]:
        training = self.training
        goal = training.step + steps
        while training.step < goal:  # by windows, as the loop does
            training.run(min(100 - training.step % 100, goal - training.step))
        return training.means()


def make(work: Work, how: str = "auto") -> Made:
    """As by default, or with torch's kernels (``torch``), or by the engine eager with them."""
    if how == "torch" and work.device != "cpu":
        raise RuntimeError("on a GPU all kernels are torch's")
    loop = Loop(work, "eager" if how == "eager" else "auto", "auto" if how == "auto" else "torch")
    return loop, versions("genkit-torch", "torch")
