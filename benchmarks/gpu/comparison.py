"""Whether two trainings stand at the same bits, and where they differ first."""

from typing import NamedTuple

import torch
from torch import Tensor

from genkit.storage.state import Tensors, snapshot
from genkit.training.session import Training


class Difference(NamedTuple):
    """The first tensor of two states that is not the same."""

    name: str
    largest: float
    """The largest absolute difference of two numbers in it."""

    def __str__(self) -> str:
        return f"{self.name} differs by up to {self.largest:.3g}"


def whole_state(training: Training) -> Tensors:
    """A copy of all tensors, the random stream, and the means of the metrics."""
    means = {name: torch.tensor(value) for name, value in training.means().items()}
    return {
        **snapshot(training.trainer),
        "random stream": training.rng.state().clone(),
        **{f"mean of {name}": value for name, value in means.items()},
    }


def first_difference(one: Training, other: Training) -> Difference | None:
    """The first tensor in which two trainings differ; None where all bits are equal."""
    return first_tensor_difference(whole_state(one), whole_state(other))


def first_tensor_difference(one: Tensors, other: Tensors) -> Difference | None:
    """The first of two states' tensors that is not the same, by name."""
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in one or name not in other or one[name].shape != other[name].shape:
            return Difference(name, float("inf"))
        if not same(one[name], other[name]):
            return Difference(name, largest_difference(one[name], other[name]))
    return None


def same(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are equal; NaN equals NaN."""
    return one.equal(other) or (
        one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Of two tensors of one shape, on any devices; infinite where only one is NaN."""
    apart = (one.detach().cpu().double() - other.detach().cpu().double()).abs()
    return float(apart.nan_to_num(nan=float("inf")).max()) if apart.numel() else 0.0
