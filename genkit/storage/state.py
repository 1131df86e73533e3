"""What a training is at one moment, as named tensors: saving these saves the run, copying them back
restores it.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from numbers import Number

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..interfaces import Trainer

Tensors = dict[str, Tensor]


def networks(trainer: Trainer) -> Tensors:
    """Parameters and buffers of the trainer's child modules: what one would share."""
    return {name: tensor for name, tensor in _all(trainer) if "." in name}


def shapes(trainer: Trainer) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of each of :func:`networks`."""
    return {
        name: (str(t.dtype).removeprefix("torch."), tuple(t.shape))
        for name, t in networks(trainer).items()
    }


def training(trainer: Trainer) -> Tensors:
    """What else moves: the trainer's own parameters and buffers, and its optimizers."""
    return _own(trainer) | dict(_optimizer_tensors(trainer))


def forget(trainer: Trainer, known: Collection[str]) -> None:
    """Take from the optimizers the tensors that :func:`training` did not name when it gave the
    ``known`` names.
    """
    for name, optimizer in trainer.optimizers.items():
        for number, parameter in enumerate(
            p for group in optimizer.param_groups for p in group["params"]
        ):
            held = optimizer.state.get(parameter, {})
            for key in [key for key in held if f"optimizer/{name}/{number}/{key}" not in known]:
                del held[key]
            if not held:
                optimizer.state.pop(parameter, None)


def _own(trainer: Trainer) -> Tensors:
    return {f"trainer/{name}": tensor for name, tensor in _all(trainer) if "." not in name}


def _all(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, the non-persistent ones and each name of a shared one too;
    detached.
    """
    for name, tensor in trainer.named_parameters(remove_duplicate=False):
        yield name, tensor.detach()
    yield from trainer.named_buffers(remove_duplicate=False)


def _optimizer_tensors(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    for name, optimizer in trainer.optimizers.items():
        number = 0
        for g, group in enumerate(optimizer.param_groups):
            for key, value in group.items():
                if isinstance(value, Tensor):  # a learning rate that is scheduled in place, for one
                    yield f"optimizer/{name}/group/{g}/{key}", value
            for parameter in group["params"]:
                for key, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        yield f"optimizer/{name}/{number}/{key}", value
                    elif value is not None:
                        raise CheckpointError(
                            f"optimizer {name!r} ({type(optimizer).__name__}) keeps {key!r} as {type(value).__name__}: "
                            "only tensors can be saved; use an optimizer that keeps tensors"
                        )
                number += 1


def scalars(trainer: Trainer) -> dict[str, object]:
    """The numbers of the optimizers that are no tensors, a learning rate for one; they may not
    change.
    """
    return {
        f"{key} of the optimizer {name!r}": value
        for name, optimizer in trainer.optimizers.items()
        for group in optimizer.param_groups
        for key, value in group.items()
        if isinstance(value, int | float | tuple) and not isinstance(value, bool)
    }


def plain(trainer: Trainer) -> dict[str, object]:
    """What may change unseen, by name: all but parameters, buffers and optimizer state that a
    trainer keeps.

    Numbers, strings, tensors (which, and how often changed) and random streams: its own, its
    networks' and optimizers', and those of what they hold, a list or a schedule for one.
    """
    registered = (
        *trainer.parameters(),
        *trainer.buffers(),
        *(tensor for _, tensor in _optimizer_tensors(trainer)),
    )
    seen = {id(trainer), *map(id, registered)}
    holders = {
        **dict(trainer.named_modules()),
        **{f"optimizer {k}": v for k, v in trainer.optimizers.items()},
    }
    found = scalars(trainer)
    for prefix, holder in holders.items():
        inner = isinstance(
            holder, torch.optim.Optimizer
        )  # whose private names are torch's own affair
        for name, value in vars(holder).items():
            if name not in _REGISTERED and not (inner and name.startswith("_")):
                found |= _plain(f"{prefix}.{name}" if prefix else name, value, seen)
    return found


def changed(before: Mapping[str, object], now: Mapping[str, object]) -> str | None:
    """The first name of :func:`plain` whose value is another, or new; None where there is none."""
    for name, value in now.items():
        if name not in before or (
            value != before[name] and not (value != value and before[name] != before[name])
        ):
            return name
    return None


LONGEST = 1_000
"""Of a list, or the like, that is looked through for numbers."""
_REGISTERED = ("_parameters", "_buffers", "_modules", "state", "param_groups", "defaults")


def _plain(name: str, value: object, seen: set[int]) -> Iterator[tuple[str, object]]:
    if value is None or isinstance(value, Number | str | bytes):
        yield name, value
    elif isinstance(value, torch.Generator):
        yield name, value.get_state().numpy().tobytes()
    elif (
        id(value) in seen
        or isinstance(value, torch.nn.Module | torch.optim.Optimizer)
        or callable(value)
    ):
        return
    elif isinstance(value, Tensor):
        if value.grad_fn is None:  # else it was computed from parameters, as a normalised weight is
            yield name, (id(value), 0 if value.is_inference() else value._version)
    else:
        yield from _parts(name, value, seen)


def _parts(name: str, value: object, seen: set[int]) -> Iterator[tuple[str, object]]:
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts = [(str(number), part) for number, part in enumerate(value)]
    else:
        parts = list(getattr(value, "__dict__", {}).items())
    for key, part in parts if len(parts) <= LONGEST else ():
        yield from _plain(f"{name}.{key}" if name else key, part, seen)


def restore(trainer: Trainer, model: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy saved tensors back in place, so that whatever holds a reference (a captured graph) sees
    them.

    Raises:
        CheckpointError: a tensor is missing, left over, or has another shape or dtype; nothing was
        changed then.
    """
    own = _own(trainer)
    optimizer_state = {
        name: tensor for name, tensor in state.items() if name.startswith("optimizer/")
    }
    trainer_state = {
        name: tensor for name, tensor in state.items() if not name.startswith("optimizer/")
    }
    _check(own, trainer_state)
    slots = list(_optimizer_slots(trainer, optimizer_state))
    load_networks(trainer, model)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(trainer_state[name])
        for holder, key, device, tensor in slots:
            current = holder.get(key)
            if isinstance(current, Tensor):
                current.copy_(tensor)
            else:
                holder[key] = tensor.to(device, copy=True)


def load_networks(trainer: Trainer, model: Mapping[str, Tensor]) -> None:
    """Copy saved networks in place, and nothing else: enough to sample.

    Raises:
        CheckpointError: a tensor is missing, left over, or has another shape or dtype; nothing was
        changed then.
    """
    target = networks(trainer)
    _check(target, model)
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(model[name])


def _check(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in expected.keys() - found.keys():
        raise CheckpointError(
            f"the checkpoint lacks the tensor {name!r}: it is of another model or other options"
        )
    for name in found.keys() - expected.keys():
        raise CheckpointError(f"the checkpoint has a tensor {name!r} that the model lacks")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape or tensor.dtype != found[name].dtype:
            raise CheckpointError(
                f"tensor {name!r} is {found[name].dtype} {tuple(found[name].shape)} in the checkpoint, "
                f"{tensor.dtype} {tuple(tensor.shape)} in the model"
            )


def _optimizer_slots(
    trainer: Trainer, saved: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, object], str, torch.device, Tensor]]:
    """Where each saved optimizer tensor goes: the dict that holds it, its key there, and its
    device.
    """
    groups: dict[str, dict[str, object]] = {}
    states: dict[str, tuple[dict[str, object], Tensor, bool]] = {}
    for name, optimizer in trainer.optimizers.items():
        number = 0
        for g, group in enumerate(optimizer.param_groups):
            groups[f"optimizer/{name}/group/{g}"] = group
            on_device = bool(group.get("capturable") or group.get("fused"))
            for parameter in group["params"]:
                states[f"optimizer/{name}/{number}"] = (
                    optimizer.state[parameter],
                    parameter,
                    on_device,
                )
                number += 1
    for path, tensor in saved.items():
        prefix, _, key = path.rpartition("/")
        if prefix in groups:
            current = groups[prefix].get(key)
            if not isinstance(current, Tensor) or current.shape != tensor.shape:
                raise CheckpointError(
                    f"the checkpoint has {path!r}, which the model's optimizer does not schedule"
                )
            yield groups[prefix], key, current.device, tensor
        elif prefix in states:
            holder, parameter, on_device = states[prefix]
            if tensor.dim() not in (0, parameter.dim()) or tensor.numel() > max(
                1, parameter.numel()
            ):
                raise CheckpointError(
                    f"{path!r} has shape {tuple(tensor.shape)}, its parameter {tuple(parameter.shape)}"
                )
            if tensor.dtype not in (parameter.dtype, torch.float32, torch.int64):
                raise CheckpointError(
                    f"{path!r} is {tensor.dtype}, its parameter {parameter.dtype}"
                )
            yield (
                holder,
                key,
                parameter.device if on_device or tensor.dim() else torch.device("cpu"),
                tensor,
            )
        else:
            raise CheckpointError(f"the checkpoint has {path!r}, which the model's optimizers lack")
