"""The random streams of a training's steps: made, and found in a checkpoint."""

from collections.abc import Collection

import torch

from .. import processes
from ..config import TrainOptions
from ..data.datasets import ImageData
from ..engines.augmentation import Augmentation
from ..engines.base import AUGMENTATION_STREAM, STREAMS, TRAINING_STREAM
from ..errors import CheckpointError, first_line
from ..rng import Rng
from ..storage.state import Tensors

NAMES = (TRAINING_STREAM, AUGMENTATION_STREAM)


def random_stream(seed: int, name: str, device: torch.device, suffix: str = "") -> Rng:
    """One of the streams of :class:`genkit.engines.base.Work`, at its beginning."""
    purpose = f"{name.removeprefix(STREAMS)}{suffix}"
    rank, world_size = processes.RANK, processes.WORLD_SIZE
    return Rng(seed, purpose, device, rank=rank, world_size=world_size)


def make_augmentation(
    data: ImageData, options: TrainOptions, device: torch.device
) -> Augmentation | None:
    """What changes training batches; None where neither the dataset nor the user asks for it."""
    if data.augment is None and not options.flip:
        return None
    rng = random_stream(options.seed, AUGMENTATION_STREAM, device)
    owner = f"dataset {options.dataset or data.source}"
    return Augmentation(rng, data.augment, options.flip, owner)


def saved_streams(
    saved: Tensors, names: Collection[str], step: int, seed: int, device: torch.device
) -> tuple[dict[str, Rng], list[str]]:
    """The streams ``names`` as a checkpoint has them, and what is other than it was.

    A stream that cannot go on begins at ``step``.

    Args:
        saved: the checkpoint's tensors.
        names: of the streams that steps draw from now.
        step: of the checkpoint.
        seed: of the run.
        device: of the streams.

    Raises:
        CheckpointError: the training's stream is absent, or a stream is damaged.
    """
    streams: dict[str, Rng] = {}
    problems: list[str] = []
    if (AUGMENTATION_STREAM in saved) != (AUGMENTATION_STREAM in names):
        then, now = ("were", "are not") if AUGMENTATION_STREAM in saved else ("were not", "are")
        problems.append(
            f"training images {then} augmented up to step {step}, and {now} from here on: "
            "the result will not be bit-identical"
        )
    for name in names:
        streams[name] = random_stream(seed, name, device, f" from step {step}")
        state = saved.get(name)
        if state is None and name == AUGMENTATION_STREAM:
            continue
        if state is None or state.dtype != torch.uint8 or state.dim() != 1:
            raise CheckpointError("the checkpoint lacks the state of the random stream")
        if state.shape == streams[name].state().shape:
            _set_state(streams[name], state)
        else:  # streams of different kinds of device do not translate
            problems.append(
                f"the random stream is of another kind of device: a new one begins at step {step}"
            )
    return streams, list(dict.fromkeys(problems))


def _set_state(rng: Rng, saved: torch.Tensor) -> None:
    try:
        rng.set_state(saved)
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint's random stream is damaged ({first_line(error)})"
        ) from None
