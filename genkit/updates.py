"""One update: losses → gradients in their parameters' layout → observers → steps of the optimizers.

:meth:`genkit.Trainer.update` calls this. What has to see or change every gradient has its one place
here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from .errors import ContractError, nearest

Gradients = Mapping[str, Sequence[tuple[Tensor, Tensor | None]]]
"""Optimizer's name → its parameters that learn, each with its gradient (None: the loss does not
reach it).
"""
Observer = Callable[[Gradients], None]


@final
class Observers:
    """Who is called in every update: before the optimizers step, or after."""

    def __init__(self) -> None:
        self._before: dict[object, Observer] = {}
        self._after: dict[object, Observer] = {}
        self._suspended = False

    def add(self, observer: Observer, *, after: bool) -> Callable[[], None]:
        """Call ``observer`` from now on; what is returned removes it."""
        observers, token = self._after if after else self._before, object()
        observers[token] = observer

        def remove() -> None:
            observers.pop(token, None)

        return remove

    def update(self, optimizers: Mapping[str, Optimizer], gradients: Gradients) -> None:
        """Step the optimizers down their gradients, and call the observers before and after."""
        for observe in () if self._suspended else tuple(self._before.values()):
            observe(gradients)
        step_optimizers(optimizers, gradients)
        for observe in () if self._suspended else tuple(self._after.values()):
            observe(gradients)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """No observer is called inside."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def __deepcopy__(self, memo: dict[int, object]) -> "Observers":
        """A copy of a trainer has no observers: they watch the original."""
        return Observers()


def compute_gradients(
    losses: dict[str, Tensor],
    optimizers: Mapping[str, Optimizer],
    name_of: Callable[[Tensor], str],
) -> Gradients:
    """The gradient of each loss with respect to the parameters of the optimizer of its name.

    Args:
        losses: optimizer's name → its loss, 0-d; in the order in which the optimizers step.
        optimizers: all of the trainer's.
        name_of: gives a parameter's name, for a message.

    Raises:
        ContractError: no optimizer has this name, or a gradient is sparse.
    """
    last = next(reversed(losses))
    gradients = {}
    for name, loss in losses.items():
        if name not in optimizers:
            known = ", ".join(optimizers)
            hint = nearest(name, optimizers)
            raise ContractError(f"update({name}=...): the optimizers are {known}{hint}")
        parameters = [p for p in parameters_of(optimizers[name]) if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, retain_graph=name != last, allow_unused=True)
        gradients[name] = [
            (parameter, _align(gradient, parameter, name_of))
            for parameter, gradient in zip(parameters, found, strict=True)
        ]
    return gradients


def step_optimizers(optimizers: Mapping[str, Optimizer], gradients: Gradients) -> None:
    """Step each optimizer down its gradients, and leave none on a parameter."""
    for name, pairs in gradients.items():
        for parameter, gradient in pairs:
            parameter.grad = gradient
        optimizers[name].step()
        for parameter, _ in pairs:
            parameter.grad = None


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All that an optimizer moves, in the order of its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradient_norm(pairs: Sequence[tuple[Tensor, Tensor | None]]) -> float:
    """The Euclidean norm of all gradients of one optimizer, read on the host."""
    squares = [gradient.square().sum() for _, gradient in pairs if gradient is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


FUSED_EVERYWHERE = (Adam, AdamW, SGD)
"""Optimizers with a fused kernel on every device; that of Adagrad is for the CPU alone."""


def prefer_fused(optimizers: Mapping[str, Optimizer]) -> None:
    """Let every optimizer with a fused kernel, and no choice of its own, use it: the same update in
    one call.
    """
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            undecided = all(group.get(key, True) is None for key in ("fused", "foreach"))
            if undecided and not group.get("differentiable"):
                group["fused"] = all(_fits_fused(optimizer, p) for p in group["params"])
            if "capturable" in group and all(p.is_cuda for p in group["params"]):
                group["capturable"] = True  # for every engine, so that all compute the same bits
            if group.get("fused") or group.get("capturable"):
                _move_counts(optimizer, group["params"])


def _fits_fused(optimizer: Optimizer, parameter: Tensor) -> bool:
    there = isinstance(optimizer, FUSED_EVERYWHERE) or parameter.device.type == "cpu"
    return there and torch.is_floating_point(parameter) and _is_dense(parameter)


def _move_counts(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Bring the counts of steps to the parameters: some optimizers make them on the CPU at once,
    and kernels read them on the device.
    """
    for parameter in parameters:
        held = optimizer.state.get(parameter, {})
        if isinstance(count := held.get("step"), Tensor):
            held["step"] = count.to(parameter.device)


def _align(
    gradient: Tensor | None, parameter: Tensor, name_of: Callable[[Tensor], str]
) -> Tensor | None:
    """The gradient in its parameter's memory layout, copied only where it has another.

    ``autograd.grad`` gives the layout of whatever operation came last: stride 0 below a sum,
    transposed below a tied weight. Fused optimizers read parameter and gradient as two equal runs
    of memory.
    """
    if gradient is None:
        return None
    if gradient.layout != torch.strided:
        raise ContractError(
            f"the gradient of {name_of(parameter)} is sparse, and updates take dense ones: "
            "build the layer with sparse=False"
        )
    lazy = gradient.is_neg() or gradient.is_conj()  # marked as negated or conjugated, not computed
    if not lazy and (gradient.stride() == parameter.stride() or _same_layout(gradient, parameter)):
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


def _same_layout(gradient: Tensor, parameter: Tensor) -> bool:
    """Whether both lie in memory alike; the stride of a dimension of one number does not matter."""
    strides = zip(gradient.shape, gradient.stride(), parameter.stride(), strict=True)
    return all(size <= 1 or one == other for size, one, other in strides)


def _is_dense(tensor: Tensor) -> bool:
    """Whether its numbers fill one run of memory, in whatever order: fused kernels read a parameter
    so.
    """
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
