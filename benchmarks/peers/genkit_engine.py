"""genkit's engine as `genkit train` runs it: at the end of each log interval it reads the losses
and looks for what is not finite. Without grids, checkpoints and log files.
"""

from functools import partial

from genkit.config import TrainOptions
from genkit.data.in_memory import from_images
from genkit.engines import settings
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
        goal, means = training.step + steps, {}
        while training.step < goal:  # by windows, as the loop does; both lines below wait
            interval = training.options.log_interval
            training.run(min(interval - training.step % interval, goal - training.step))
            means = training.means()
            if bad := training.not_finite():
                raise RuntimeError(bad)
        return means


def make(work: Work, how: str = "auto") -> Made:
    """As by default; with torch's kernels (``torch``) or oneDNN's (``onednn``); the same by the
    engine eager (``eager``, ``onednn-eager``); or, on CUDA, with TF32 allowed (``tf32``).
    """
    if how in ("torch", "onednn", "onednn-eager") and work.device != "cpu":
        raise RuntimeError("on a GPU all kernels are torch's")
    if how == "tf32" and work.device == "cpu":
        raise RuntimeError("TF32 needs a CUDA device")
    kernels = "onednn" if "onednn" in how else "torch" if how in ("torch", "eager") else "auto"
    loop = Loop(work, "eager" if "eager" in how else "auto", kernels)
    if how == "tf32":  # after Training.prepare, which has settings of its own
        settings.allow_tf32(True)
    return loop, versions("genkit-torch", "torch")
