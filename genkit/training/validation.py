"""A trainer's measures of itself on held-out images."""

from ..data.datasets import ImageData
from ..data.loader import iterate_batches
from ..interfaces import Evaluates, Trainer, evaluating
from ..rng import Rng


def validate(trainer: Trainer, data: ImageData, batch_size: int, seed: int) -> dict[str, float]:
    """Means over the held-out images, in evaluation mode, from a stream of random numbers of their
    own.
    """
    assert isinstance(trainer, Evaluates)
    device = trainer.iteration.device
    rng = Rng(seed, "evaluation", device)
    sums: dict[str, float] = {}
    with evaluating(trainer):
        for batch in iterate_batches(data.test, batch_size, device):
            for name, mean in trainer.evaluate(batch, rng).items():
                sums[name] = sums.get(name, 0.0) + float(mean) * len(batch.images)
    return {name: total / len(data.test) for name, total in sums.items()}
