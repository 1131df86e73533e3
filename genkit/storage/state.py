"""What a training is at one moment, as named tensors.

:func:`slots` says where each tensor is. Saving, restoring, taking a snapshot and forgetting are
folds over it.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import nullcontext
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import CheckpointError
from ..interfaces import Trainer

Tensors = dict[str, Tensor]


class Slot(NamedTuple):
    """A tensor that training changes, and where it is kept."""

    path: str
    """``generator.layer.weight``, ``trainer/iteration`` or ``optimizer/generator/0/exp_avg``."""
    holder: MutableMapping[str, Any] | None
    """The optimizer's dict that it is in; None for parameters and buffers, which are never
    replaced.
    """
    key: str
    tensor: Tensor


def slots(trainer: Trainer) -> Iterator[Slot]:
    """Every tensor that a step may change but the random stream, each under each of its names."""
    return chain(_network_slots(trainer), _trainer_slots(trainer), _optimizer_slots(trainer))


def networks(trainer: Trainer) -> Tensors:
    """Parameters and buffers of the trainer's child modules: what one would share."""
    return {slot.path: slot.tensor for slot in _network_slots(trainer)}


def training(trainer: Trainer) -> Tensors:
    """What else moves: the trainer's own parameters and buffers, and its optimizers' state."""
    moving = chain(_trainer_slots(trainer), _optimizer_slots(trainer))
    return {slot.path: slot.tensor for slot in moving}


def everything(trainer: Trainer) -> Tensors:
    """All of :func:`slots`, by path."""
    return {slot.path: slot.tensor for slot in slots(trainer)}


def snapshot(trainer: Trainer) -> Tensors:
    """A copy of :func:`everything`."""
    return {slot.path: slot.tensor.detach().clone() for slot in slots(trainer)}


def copy_to_host(tensors: Tensors) -> Tensors:
    """A copy in memory of the host that no step changes, with one wait for the device."""
    devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
    copies = {}
    for name, tensor in tensors.items():
        with torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext():
            copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            copies[name] = copy.copy_(tensor.detach(), non_blocking=True)
    for device in devices:
        torch.cuda.synchronize(device)
    return copies


def restore_snapshot(trainer: Trainer, before: Mapping[str, Tensor]) -> set[str]:
    """Set all back to a snapshot, in place; the paths of what optimizers have made since, which is
    gone.
    """
    late = set()
    for _, holder in _holders(trainer):
        if holder.parameter is None:  # an option of a group stays, whatever it is
            continue
        for key in [key for key, value in holder.values.items() if isinstance(value, Tensor)]:
            if (path := holder.prefix + key) not in before:
                late.add(path)
                del holder.values[key]
        if not holder.values:
            holder.optimizer.state.pop(holder.parameter, None)
    with torch.no_grad():
        for slot in slots(trainer):
            if slot.path in before:
                slot.tensor.copy_(before[slot.path])
    return late


def group_options(trainer: Trainer) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each group of each optimizer, and a copy of its options: ``group.update(copy)`` restores
    them.
    """
    groups = [g for optimizer in trainer.optimizers.values() for g in optimizer.param_groups]
    return [(g, {key: value for key, value in g.items() if key != "params"}) for g in groups]


def shapes(trainer: Trainer) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of each of :func:`networks`."""
    return {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in networks(trainer).items()
    }


def scalars(trainer: Trainer) -> dict[str, object]:
    """The optimizers' numbers that are no tensors, a learning rate for example; they may not
    change.
    """
    return {
        f"{key} of the optimizer {name!r}": value
        for name, optimizer in trainer.optimizers.items()
        for group in optimizer.param_groups
        for key, value in group.items()
        if isinstance(value, int | float | tuple) and not isinstance(value, bool)
    }


def restore(trainer: Trainer, model: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy saved tensors back in place, so that whatever holds a reference (a captured graph) sees
    them.

    Raises:
        CheckpointError: a tensor is missing, left over, or has another shape or dtype; nothing was
        changed then.
    """
    own = {slot.path: slot.tensor for slot in _trainer_slots(trainer)}
    saved = {path: tensor for path, tensor in state.items() if path.startswith("optimizer/")}
    _compare(own, {path: tensor for path, tensor in state.items() if path not in saved})
    holders = {holder.prefix: holder for _, holder in _holders(trainer)}
    places = [_Place.find(holders, path, tensor) for path, tensor in saved.items()]
    load_networks(trainer, model)
    with torch.no_grad():
        for path, tensor in own.items():
            tensor.copy_(state[path])
        for place, tensor in zip(places, saved.values(), strict=True):
            place.put(tensor)


def load_networks(trainer: Trainer, model: Mapping[str, Tensor]) -> None:
    """Copy saved networks in place, and nothing else: enough to sample.

    Raises:
        CheckpointError: a tensor is missing, left over, or has another shape or dtype; nothing was
        changed then.
    """
    target = networks(trainer)
    _compare(target, model)
    with torch.no_grad():
        for path, tensor in target.items():
            tensor.copy_(model[path])


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in expected.keys() - found.keys():
        raise CheckpointError(
            f"the checkpoint lacks the tensor {name!r}: it is of another model or other options"
        )
    for name in found.keys() - expected.keys():
        raise CheckpointError(f"the checkpoint has a tensor {name!r} that the model lacks")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape or tensor.dtype != found[name].dtype:
            raise CheckpointError(
                f"tensor {name!r} is {found[name].dtype} {tuple(found[name].shape)} in the "
                "checkpoint, "
                f"{tensor.dtype} {tuple(tensor.shape)} in the model"
            )


def _module_tensors(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, the non-persistent ones and each name of a shared one too;
    detached.
    """
    for name, tensor in trainer.named_parameters(remove_duplicate=False):
        yield name, tensor.detach()
    yield from trainer.named_buffers(remove_duplicate=False)


def _network_slots(trainer: Trainer) -> Iterator[Slot]:
    for name, tensor in _module_tensors(trainer):
        if "." in name:
            yield Slot(name, None, name, tensor)


def _trainer_slots(trainer: Trainer) -> Iterator[Slot]:
    for name, tensor in _module_tensors(trainer):
        if "." not in name:
            yield Slot(f"trainer/{name}", None, name, tensor)


class _Holder(NamedTuple):
    """A dict in which an optimizer keeps tensors: a group's options, or a parameter's state."""

    prefix: str
    values: MutableMapping[str, Any]
    optimizer: Optimizer
    group: Mapping[str, Any]
    parameter: Tensor | None
    """Whose state it is; None for a group's options."""


def _holders(trainer: Trainer) -> Iterator[tuple[str, _Holder]]:
    """Optimizer's name and holder; parameters are numbered here, through all groups of an
    optimizer.
    """
    for name, optimizer in trainer.optimizers.items():
        number = 0
        for g, group in enumerate(optimizer.param_groups):
            yield name, _Holder(f"optimizer/{name}/group/{g}/", group, optimizer, group, None)
            for parameter in group["params"]:
                values = optimizer.state.get(parameter, {})
                yield (
                    name,
                    _Holder(f"optimizer/{name}/{number}/", values, optimizer, group, parameter),
                )
                number += 1


def _optimizer_slots(trainer: Trainer) -> Iterator[Slot]:
    for name, holder in _holders(trainer):
        for key, value in holder.values.items():
            if isinstance(value, Tensor):  # in a group: a learning rate that is scheduled in place
                yield Slot(holder.prefix + key, holder.values, key, value)
            elif holder.parameter is not None and value is not None:
                kind = type(holder.optimizer).__name__
                raise CheckpointError(
                    f"optimizer {name!r} ({kind}) keeps {key!r} as {type(value).__name__}: "
                    "only tensors can be saved; use an optimizer that keeps tensors"
                )


class _Place(NamedTuple):
    """Where a saved tensor of an optimizer goes."""

    holder: _Holder
    key: str
    device: torch.device

    @classmethod
    def find(cls, holders: Mapping[str, _Holder], path: str, saved: Tensor) -> "_Place":
        """The place of a path.

        Raises:
            CheckpointError: there is none, or the tensor is of another kind than what can be there.
        """
        prefix, _, key = path.rpartition("/")
        if (holder := holders.get(f"{prefix}/")) is None:
            raise CheckpointError(f"the checkpoint has {path!r}, which the model's optimizers lack")
        if holder.parameter is None:
            current = holder.values.get(key)
            if not isinstance(current, Tensor) or current.shape != saved.shape:
                raise CheckpointError(
                    f"the checkpoint has {path!r}, which the model's optimizer does not schedule"
                )
            return cls(holder, key, current.device)
        parameter = holder.parameter
        if saved.dim() not in (0, parameter.dim()) or saved.numel() > max(1, parameter.numel()):
            raise CheckpointError(
                f"{path!r} has shape {tuple(saved.shape)}, its parameter {tuple(parameter.shape)}"
            )
        if saved.dtype not in (parameter.dtype, torch.float32, torch.int64):
            raise CheckpointError(f"{path!r} is {saved.dtype}, its parameter {parameter.dtype}")
        on_device = saved.dim() or holder.group.get("capturable") or holder.group.get("fused")
        return cls(holder, key, parameter.device if on_device else torch.device("cpu"))

    def put(self, saved: Tensor) -> None:
        """Copy into the tensor that is there, or make one, in its parameter's memory layout."""
        parameter, values = self.holder.parameter, self.holder.values
        if parameter is not None:
            values = self.holder.optimizer.state[parameter]
        current = values.get(self.key)
        if not isinstance(current, Tensor):
            # Fused optimizers read state and parameter as two equal runs of memory.
            alike = parameter is not None and parameter.shape == saved.shape
            layout = parameter if alike and parameter is not None else saved
            current = torch.empty_like(
                layout, dtype=saved.dtype, device=self.device, requires_grad=False
            )
            values[self.key] = current
        current.copy_(saved)
