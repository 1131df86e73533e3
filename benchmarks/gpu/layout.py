"""Check 2: gradients that lie in memory in another way than their parameters."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit
from genkit.updates import prefer_fused

from .comparison import largest_difference
from .finding import Context, Finding, Part, Parts

STEPS = 5
TOLERANCE = 1e-5
"""Of fused kernels against others, which round differently: numbers here are about 1."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of a parameter and an input."""
CASES: dict[str, tuple[tuple[int, ...], Loss]] = {
    "p.sum()": ((6, 4), lambda p, x: p.sum() * x.mean()),
    "p.sum(0)": ((6, 4), lambda p, x: p.sum(0).square().sum()),
    "p.expand()": ((1, 4), lambda p, x: (p.expand(8, 4) * x[:8, :4]).square().sum()),
    "p.t()": ((6, 4), lambda p, x: F.linear(x[:, :6], p.t().contiguous()).square().mean()),
    "tied weights": ((6, 4), lambda p, x: F.linear(F.linear(x[:, :4], p), p.t()).square().mean()),
    "convolution, channels-last": (
        (5, 3, 3, 3),
        lambda p, x: F.conv2d(x[:, :147].reshape(-1, 3, 7, 7), p).square().mean(),
    ),
}
"""Shape of the parameter, and a loss whose gradient has strides of its own."""
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": lambda parameters, **how: torch.optim.Adam(parameters, lr=0.01, **how),
    "SGD": lambda parameters, **how: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, **how),
}


class OneParameter(genkit.Trainer):
    """A trainer of a single parameter, to call ``update`` of."""

    def __init__(self, parameter: nn.Parameter, optimizer: str) -> None:
        super().__init__(genkit.Config(), genkit.DataSpec(1, 1, 1))
        self.parameter = parameter
        self.optimizers = {"all": OPTIMIZERS[optimizer]([parameter])}
        self.to(parameter.device)
        prefer_fused(self.optimizers)

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        raise NotImplementedError


def check_layouts(context: Context) -> Finding:
    """Whether ``update`` gives fused optimizers gradients that they can read: the same numbers as
    without fused kernels, and the bits of ``backward()``, which brings gradients in order itself.
    """
    parts = Parts(context)
    for case in CASES:
        for optimizer in OPTIMIZERS:
            parts.run(f"{case}, {optimizer}", _check_layout, case, optimizer)
    worst = max((each["difference"] for each in parts.details.values()), default=0.0)
    return parts.finding(
        f"{len(parts.details)} cases: at most {worst:.2g} from fused=False, "
        f"{sum(each['bits of backward()'] for each in parts.details.values())} with the bits of "
        "backward()"
    )


def _check_layout(part: Part, context: Context, case: str, optimizer: str) -> None:
    _, loss = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 200, generator=generator).to(context.device)
    trained = _parameter(case, context.device)
    (gradient,) = torch.autograd.grad(loss(trained, x), [trained])
    trainer = OneParameter(trained, optimizer)
    for _ in range(STEPS):
        trainer.update(all=loss(trained, x))
    not_fused = _step_by_backward(case, optimizer, x, fused=False, foreach=False)
    how = {"fused": True, **({"capturable": True} if context.cuda and optimizer == "Adam" else {})}
    backward = _step_by_backward(case, optimizer, x, **how)
    difference = largest_difference(trained, not_fused)
    part.details |= {
        "parameter's strides": trained.stride(),
        "gradient's strides": gradient.stride(),
        "difference": difference,
        "bits of backward()": trained.equal(backward),
    }
    part.require(difference < TOLERANCE, f"{difference:.3g} away from fused=False")
    part.require(trained.equal(backward), "other bits than by backward()")


def _parameter(case: str, device: str) -> nn.Parameter:
    shape, _ = CASES[case]
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    if value.dim() == 4:
        value = value.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(value)


def _step_by_backward(case: str, optimizer: str, x: Tensor, **how: Any) -> Tensor:
    """The parameter after as many steps of ``backward()`` and an optimizer of torch."""
    _, loss = CASES[case]
    parameter = _parameter(case, str(x.device))
    stepped = OPTIMIZERS[optimizer]([parameter], **how)
    for _ in range(STEPS):
        stepped.zero_grad()
        loss(parameter, x).backward()
        stepped.step()
    return parameter.detach()
