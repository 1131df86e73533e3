"""A name or a class → a trainer that is built."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from .config import Config
from .errors import ContractError, UsageError
from .hookspecs import ModelEntry
from .interfaces import DataSpec, Generator, Trainer
from .plugins.registry import Registered, Registry
from .rng import seeded_initialisation


class ModelInfo(Config):
    """Which model, and of which distribution; ``distribution`` is None for a class of no plugin."""

    name: str
    distribution: str | None = None
    version: str | None = None

    @property
    def plugin_name(self) -> str | None:
        """The name to attribute the model's errors to; None for a class of the user's, whose
        traceback helps.
        """
        return self.name if self.distribution else None


def resolve_model(
    registry: Registry, model: str | type[Trainer]
) -> tuple[type[Trainer], ModelInfo]:
    """The Trainer class of a registered name, or the class itself, and what ``run.json`` says of
    it.

    Raises:
        UnknownNameError: no plugin provides the name.
        ContractError: its target is no Trainer.
    """
    if not isinstance(model, str):
        return model, ModelInfo(name=_kebab(model.__name__))
    found = registry.find(ModelEntry, model)
    name, plugin = model.rpartition("/")[2], found.plugin
    info = ModelInfo(name=name, distribution=plugin.distribution, version=plugin.version)
    return _load_trainer(found), info


def find_trainer(registry: Registry, name: str) -> type[Trainer]:
    """The Trainer class of the model ``name``.

    Raises:
        UnknownNameError: no plugin provides it.
        ContractError: its target is no Trainer.
    """
    return _load_trainer(registry.find(ModelEntry, name))


def _load_trainer(found: Registered[ModelEntry]) -> type[Trainer]:
    target = found.target()
    if not (isinstance(target, type) and issubclass(target, Trainer)):
        raise ContractError(f"{found.qualified_name}: {found.entry.target} is no genkit.Trainer")
    return target


def build(
    trainer: type[Trainer], config: Config, spec: DataSpec, seed: int, device: torch.device | str
) -> Trainer:
    """A new trainer with the weights of ``seed``: made on the CPU, then moved, so all devices start
    equal.

    On the device ``meta`` it has shapes and no memory.

    Raises:
        ContractError: it has no generator or no optimizer.
        UsageError: it learns from labels, and ``spec`` has none.
    """
    if trainer.conditional and spec.classes is None:
        raise UsageError(f"{trainer.__name__} learns from labels, and these images have none")
    first = torch.device("meta" if torch.device(device).type == "meta" else "cpu")
    with seeded_initialisation(seed), first:
        built = trainer(config, spec)
    if not isinstance(getattr(built, "generator", None), Generator):
        raise ContractError(f"{trainer.__name__} has no self.generator that is a genkit.Generator")
    if not built.optimizers:
        raise ContractError(f"{trainer.__name__} has no optimizer in self.optimizers")
    buffers = {id(buffer): name for name, buffer in built.named_buffers()}
    built.to(device).train()
    for optimizer in built.optimizers.values():
        _move_options(optimizer, built, buffers)
        for parameter, values in optimizer.state.items():  # some fill it before the move
            for key, value in values.items():
                if isinstance(value, Tensor) and value.dim():
                    values[key] = value.to(parameter.device)
    return built


def _move_options(optimizer: Optimizer, trainer: Trainer, buffers: Mapping[int, str]) -> None:
    """Bring the tensors among an optimizer's options, a scheduled rate for example, to the device.

    One that was a buffer is the trainer's again: moving replaces buffers, and the optimizer would
    go on reading the old one.

    Args:
        optimizer: one of the trainer's.
        trainer: after the move.
        buffers: the names of the trainer's buffers before, by id.
    """

    def moved(value: object) -> object:
        if isinstance(value, tuple):  # betas
            return tuple(moved(part) for part in value)
        if not isinstance(value, Tensor):
            return value
        name = buffers.get(id(value))
        return trainer.get_buffer(name) if name else value.to(trainer.iteration.device)

    for group in optimizer.param_groups:
        group.update({key: moved(value) for key, value in group.items() if key != "params"})


def _kebab(name: str) -> str:
    """``MyGAN`` → ``my-gan``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
