"""What is under check: a model, a dataset or a metric; and what the checks need to look at one."""

import _pickle
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from ..config import TrainOptions
from ..data.datasets import DataRequest, ImageData, Split
from ..data.loader import iterate_batches
from ..hookspecs import DatasetEntry, Entry, MetricEntry, ModelEntry
from ..interfaces import Batch, DataSpec, Metrics, Trainer
from ..models import build
from ..plugins.registry import Registered
from ..training.session import Training

SHAPE = (1, 28, 28)


class Skipped(Exception):  # noqa: N818 (an outcome, not an error)
    """The subject declares that it lacks what the check is about."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something under check and, where it came from a plugin, its entry."""

    name: str
    registered: Registered[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSubject(Subject):
    """A model under check."""

    trainer: type[Trainer]

    def make(
        self,
        shape: tuple[int, int, int] = SHAPE,
        seed: int = 0,
        device: str = "cpu",
        **options: Any,
    ) -> Trainer:
        """A new trainer for images of ``shape``."""
        return build(
            self.trainer, self.trainer.Config(**options), DataSpec(*shape, classes=10), seed, device
        )

    def training(self, trainer: Trainer, batch_size: int = 8) -> Training:
        """A training of it on small made images."""
        options = TrainOptions(
            batch_size=batch_size, log_interval=50, device=str(trainer.iteration.device)
        )
        return Training.prepare(lambda device: trainer, made_images(trainer.spec), options)

    def batch(self, trainer: Trainer, batch_size: int = 8) -> Batch:
        """Real images for one step, ``(batches_per_step * batch_size, C, H, W)``."""
        data = made_images(trainer.spec).train
        return next(
            iterate_batches(data, trainer.batches_per_step * batch_size, trainer.iteration.device)
        )


@dataclass(frozen=True, kw_only=True)
class DatasetSubject(Subject):
    """A dataset under check."""

    load: Callable[[DataRequest], ImageData]
    request: DataRequest


@dataclass(frozen=True, kw_only=True)
class MetricSubject(Subject):
    """A metric under check."""

    measure: Callable[[Tensor, Tensor], Metrics]
    entry: MetricEntry = field(
        default_factory=lambda: MetricEntry("none", "a function of samples", "none:none")
    )
    """What it declares; of a bare function: that it compares samples of pixels."""


Check = Callable[[Any], None]
CHECKS: dict[type[Entry], dict[str, Check]] = {ModelEntry: {}, DatasetEntry: {}, MetricEntry: {}}
"""The checks by kind of entry and by name."""


def model_check(check: Check) -> Check:
    """A check of models."""
    CHECKS[ModelEntry][check.__name__] = check
    return check


def dataset_check(check: Check) -> Check:
    """A check of datasets."""
    CHECKS[DatasetEntry][check.__name__] = check
    return check


def metric_check(check: Check) -> Check:
    """A check of metrics."""
    CHECKS[MetricEntry][check.__name__] = check
    return check


def made_images(spec: DataSpec, count: int = 64) -> ImageData:
    """Images with something to learn: one bright bar each, on a dark, noisy ground; labelled."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 40, (count, *spec.shape), dtype=torch.uint8, generator=generator)
    rows = torch.arange(count) % spec.height
    images[torch.arange(count), :, rows] = 220
    held_out = torch.arange(count) % 10 == 9
    train, test = (
        Split(part, torch.arange(len(part)) % 10) for part in (images[~held_out], images[held_out])
    )
    return ImageData(train, test, "made for the check", 10)


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names whose values are not the same bits."""
    return [
        name
        for name in first.keys() | second.keys()
        if not _same(first.get(name), second.get(name))
    ]


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return False
    return (
        first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    )


@contextmanager
def untouched_global_randomness(action: str) -> Iterator[None]:
    """Fails if what is done inside moves a global random stream."""
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False))
    yield
    assert torch.equal(before[0], torch.get_rng_state()), (
        f"{action} draws from torch's global generator: use rng"
    )
    assert before[1] == random.getstate(), f"{action} draws from Python's random: use rng"
    assert repr(before[2]) == repr(np.random.get_state(legacy=False)), (
        f"{action} draws from numpy's global generator: use rng"
    )


@contextmanager
def no_unpickling() -> Iterator[None]:
    """Every way to unpickle raises inside."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is unpickled")

    with ExitStack() as stack:
        for owner in (pickle, _pickle):
            for name in ("load", "loads", "Unpickler"):
                stack.enter_context(mock.patch.object(owner, name, refuse))
        stack.enter_context(mock.patch.object(torch, "load", refuse))
        yield
