"""The alarm: whether samples have collapsed, or the discriminator has won for good.

At each sample interval it reads samples from a stream of random numbers of its own, and a copy of
the trainer that makes one step, so it never changes what is computed. A reading is a row of
``alarm.jsonl``.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..data.datasets import ImageData, Split
from ..data.images import from_uint8
from ..data.loader import iterate_batches
from ..engines._torch_internals import silence_capturable_warning
from ..engines.base import Precision, advance
from ..errors import first_line
from ..interfaces import Batch, Discriminator, Trainer
from ..rng import Rng
from ..storage import state
from ..updates import Gradients, gradient_norm

SAMPLES, PART = 64, 16
"""Images of a reading; as many at a time as in a sample grid, which fit."""
MIN_STEPS = 5000
"""Updates after which a generator has to be diverse; before, it counts once it has been: the
article's GAN, which ends at 0.9, is at 0.26 after 1,000."""
DIVERSE, COLLAPSED = 0.5, 0.3
"""Of the mean distance between two samples, over that between two real images; and likewise of the
classes.
"""
CERTAIN = 0.9999
IN_A_ROW = 3
"""Readings for which the discriminator has to be certain, or a gradient to be gone."""
NO_GRADIENT = 1e-12

Row = Mapping[str, float]
Classify = Callable[[Tensor], Tensor]
"""Images ``(N, C, H, W)`` in [-1, 1] → class probabilities ``(N, K)``."""


class Alarm:
    """Reads a trainer at each sample interval; :func:`diagnose` says what is wrong.

    Args:
        trainer: the one that is trained; it is not changed.
        data: what it is trained on.
        batch_size: of the run.
        seed: of the run; the latents of the samples are the same every time.
        classify: tells the classes of images; None: classes are not looked at.
        rows: the readings so far, of a run that is resumed.
        notify: called where the trainer cannot be read, wholly or in part; training goes on.
        precision: of the run's steps.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: ImageData,
        batch_size: int,
        seed: int,
        classify: Classify | None,
        rows: Sequence[Row],
        notify: Callable[[str], None],
        precision: Precision = "fp32",
    ) -> None:
        self.rows = list(rows)
        self._trainer = trainer
        self._seed = seed
        self._classify = classify
        self._notify = notify
        self._precision: Precision = precision
        self._copyable: bool | None = None
        """Whether a copy can be made that leaves the original alone; None: not tried yet."""
        self._disabled = False
        self._train = data.train
        self._batch_size = batch_size

    def check(self, step: int) -> tuple[Row, dict[str, str]]:
        """A row of ``alarm.jsonl``, and what is wrong, see :func:`diagnose`; both empty if it is
        off.
        """
        if self._disabled:
            return {}, {}
        try:
            # For what draws from the global streams, of the CPU and of the device.
            cuda = [self._device.index or 0] if self._device.type == "cuda" else []
            with torch.random.fork_rng(cuda):
                row = self.read(step)
        except Exception as error:  # noqa: BLE001 (no reason to end a training)
            self._disabled = True
            self._notify(f"the alarm is off: {first_line(error)}")
            return {}, {}
        self.rows = [*(known for known in self.rows if known["step"] < step), row]
        return row, diagnose(self.rows)

    @property
    def _device(self) -> torch.device:
        return self._trainer.iteration.device

    @cached_property
    def _real(self) -> Tensor:
        # Drawn from the whole dataset, as the batch is: one sorted by class begins with images that
        # are much alike.
        some = torch.randperm(
            len(self._train), generator=Rng(self._seed, "alarm images").generator
        )[:SAMPLES]
        return from_uint8(self._train.images[some])

    @cached_property
    def _batch(self) -> Batch:
        per_step = self._trainer.batches_per_step * self._batch_size
        index = Rng(self._seed, "alarm batch").integers(len(self._train), per_step)
        labels = None if self._train.labels is None else self._train.labels[index]
        return next(
            iterate_batches(Split(self._train.images[index], labels), len(index), self._device)
        )

    @cached_property
    def _real_distance(self) -> float:
        return pairwise_distance(self._real)

    @cached_property
    def _real_classes(self) -> float:
        return effective_classes(self._classify(self._real)) if self._classify else 0.0

    def read(self, step: int) -> dict[str, float]:
        """What the trainer is like after ``step``."""
        rng = Rng(self._seed, "alarm", self._device)
        parts = [self._trainer.sample(PART, rng).cpu() for _ in range(SAMPLES // PART)]
        samples = torch.cat(parts)  # (SAMPLES, C, H, W)
        row: dict[str, float] = {"step": step}
        if self._real_distance > 0:
            row["diversity"] = pairwise_distance(samples) / self._real_distance
        if self._classify and self._real_classes > 0:
            row["class_diversity"] = effective_classes(self._classify(samples)) / self._real_classes
        if self._copyable is None:
            self._copyable, why = self._try_copy()
            if not self._copyable:
                self._notify(
                    f"the alarm watches samples, but neither discriminator nor gradients: {why}"
                )
        if self._copyable:
            copied = copy_trainer(self._trainer)
            row |= self._certainty(copied) | self._gradients(copied)
        return {name: value for name, value in row.items() if math.isfinite(value)}

    def _try_copy(self) -> tuple[bool, str]:
        """Whether a step of a copy leaves the original as it was, which a trainer that refers to
        itself may not.
        """
        before = {name: tensor.clone() for name, tensor in state.everything(self._trainer).items()}
        try:
            copied = copy_trainer(self._trainer)
            self._certainty(copied)
            self._gradients(copied)
        except Exception as error:  # noqa: BLE001 (a trainer may hold anything)
            return False, f"no copy of the trainer makes a step ({first_line(error)})"
        now = state.everything(self._trainer)
        changed = [name for name, tensor in before.items() if not tensor.equal(now[name])]
        with torch.no_grad():
            for name in changed:
                now[name].copy_(before[name])
        return (
            not changed,
            f"a step of a copy changes {changed[0]} of the original" if changed else "",
        )

    @torch.no_grad()
    def _certainty(self, copied: Trainer) -> dict[str, float]:
        """The mean probability that the discriminator gives to what is right, real and generated
        images half each.
        """
        found = [module for module in copied.modules() if isinstance(module, Discriminator)]
        if not found:
            return {}
        fake = copied.sample(PART, Rng(self._seed, "alarm", self._device))
        right = torch.cat(
            [torch.sigmoid(found[0](self._batch.images)), torch.sigmoid(-found[0](fake))]
        )
        return {"certainty": float(right.mean())}

    def _gradients(self, copied: Trainer) -> dict[str, float]:
        """The norm of the gradient of each loss of one step; of a phase that comes twice, the
        larger.
        """
        norms: dict[str, float] = {}

        def observe(gradients: Gradients) -> None:
            for name, pairs in gradients.items():
                norms[name] = max(norms.get(name, 0.0), gradient_norm(pairs))

        copied.on_update(observe)
        stream = Rng(self._seed, "alarm", self._device)
        advance(copied, Batch(*self._batch), stream, self._precision)
        return {f"gradient_norm_{name}": norm for name, norm in norms.items()}


def copy_trainer(trainer: Trainer) -> Trainer:
    """A copy with networks, optimizers and their state of its own."""
    copied = copy.deepcopy(trainer)
    for optimizer in copied.optimizers.values():
        silence_capturable_warning(optimizer)
    return copied


def diagnose(rows: Sequence[Row]) -> dict[str, str]:
    """What is wrong at the last of ``rows``, the readings so far: kind → one line."""
    if not rows:
        return {}
    last = rows[-1]
    wrong: dict[str, str] = {}

    def collapsed(figure: str) -> bool:
        grown = last["step"] >= MIN_STEPS or any(row.get(figure, 0.0) >= DIVERSE for row in rows)
        return grown and last.get(figure, 1.0) < COLLAPSED

    if collapsed("diversity"):
        share = f"{100 * last['diversity']:.0f} %"
        wrong["collapse"] = (
            f"the samples have collapsed: they lie {share} as far apart as real images"
        )
    elif collapsed("class_diversity"):
        share = f"{100 * last['class_diversity']:.0f} %"
        wrong["collapse"] = (
            f"the samples have collapsed to few classes: {share} of the variety of real images"
        )
    recent = rows[-IN_A_ROW:]
    if len(recent) == IN_A_ROW and all(row.get("certainty", 0.0) > CERTAIN for row in recent):
        wrong["discriminator"] = (
            f"the discriminator has won: it was certain in {IN_A_ROW} readings in a row"
        )
    for name in last:
        gone = len(recent) == IN_A_ROW and all(row.get(name, 1.0) < NO_GRADIENT for row in recent)
        if name.startswith("gradient_norm_") and gone:
            wrong[name] = f"no gradient reaches {name.removeprefix('gradient_norm_')} any more"
    return wrong


def short_status(rows: Sequence[Row]) -> str:
    """The state at the last of ``rows``, in a few words."""
    if wrong := diagnose(rows):
        words = {"collapse": "samples collapsed", "discriminator": "discriminator certain"}
        return ", ".join(words.get(kind, "a gradient gone") for kind in wrong)
    diverse = any(row.get("diversity", 0.0) >= DIVERSE for row in rows)
    return "quiet" if diverse or rows[-1]["step"] >= MIN_STEPS else "too young to judge"


def pairwise_distance(images: Tensor) -> float:
    """Mean Euclidean distance between two of the images ``(N, C, H, W)``; 0 for fewer than two."""
    return float(torch.pdist(images.flatten(1).float()).mean()) if len(images) > 1 else 0.0


def effective_classes(probabilities: Tensor) -> float:
    """The exponential of the entropy of the mean of class probabilities ``(N, K)``: from 1 to K."""
    mean = probabilities.mean(0)  # (K,)
    return float(torch.special.entr(mean).sum().exp())
