"""Checks of what a step does, and of what it leaves alone."""

import copy
from typing import Any

import torch
from torch import Tensor

from ...engines.recording import record
from ...interfaces import Trainer
from ...rng import Rng
from ..subject import (
    ModelSubject,
    Skipped,
    differing,
    model_check,
    parameters_of,
    tensors,
    untouched_global_randomness,
)


@model_check
def metrics_are_named_finite_scalars(subject: ModelSubject) -> None:
    """The same names each time, detached, 0-d; they fit the log format."""
    trainer = subject.make()
    rng = Rng(0, "check")
    first, second = (trainer.step(subject.batch(trainer), rng) for _ in range(2))
    assert first, "step returns no metrics"
    assert tuple(first) == tuple(second), "the names of the metrics change"
    for name, value in first.items():
        assert isinstance(value, Tensor), f"{name} is {type(value).__name__}, not a tensor"
        assert value.dim() == 0, f"{name} has shape {tuple(value.shape)}, not ()"
        assert not value.requires_grad, f"{name} is not detached"
        assert bool(torch.isfinite(value)), f"{name} is {float(value)}"
    trainer.log_format.format(**{name: float(value) for name, value in first.items()})


@model_check
def step_leaves_global_randomness_alone(subject: ModelSubject) -> None:
    """Otherwise sampling, or another library, would change what is learned."""
    trainer = subject.make()
    batch = subject.batch(trainer)
    with untouched_global_randomness("step"):
        trainer.step(batch, Rng(0, "check"))


@model_check
def each_update_moves_its_own_parameters_only(subject: ModelSubject) -> None:
    """Bit for bit, in every phase of a step."""
    trainer = subject.make()
    owned = {name: parameters_of(optimizer) for name, optimizer in trainer.optimizers.items()}
    problems: list[str] = []
    update = trainer.update

    def watched(**losses: Tensor) -> None:
        before = {
            name: [p.detach().clone() for p in ps]
            for name, ps in owned.items()
            if name not in losses
        }
        update(**losses)
        for name, copies in before.items():
            if not all(torch.equal(a, b) for a, b in zip(copies, owned[name], strict=True)):
                problems.append(f"update({', '.join(losses)}) moves parameters of {name}")

    trainer.__dict__["update"] = watched
    phase_end = [p.detach().clone() for ps in owned.values() for p in ps]
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    del trainer.__dict__["update"]
    assert not problems, problems[0]
    moved = [
        not torch.equal(a, b)
        for a, b in zip(phase_end, (p for ps in owned.values() for p in ps), strict=True)
    ]
    assert any(moved), "a step moves no parameter"


@model_check
def fused_optimizers_compute_the_same(subject: ModelSubject) -> None:
    """In each update of a step, a fused optimizer moves parameters as its unfused form does."""
    trainer = subject.make()
    subject.engine(trainer)  # has its optimizers fused where they can be
    update = trainer.update
    problems: list[str] = []

    def watched(**losses: Tensor) -> None:
        expected = {name: _unfused(trainer.optimizers[name], loss) for name, loss in losses.items()}
        update(**losses)
        for name, parameters in expected.items():
            pairs = zip(parameters_of(trainer.optimizers[name]), parameters, strict=True)
            if not all(
                torch.allclose(moved, right, rtol=1e-4, atol=1e-6) for moved, right in pairs
            ):
                problems.append(name)

    trainer.__dict__["update"] = watched
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    del trainer.__dict__["update"]
    assert not problems, (
        f"the fused optimizer {problems[0]} moves parameters otherwise than unfused: a parameter that is a strided "
        "view of a larger tensor has to be .contiguous(), or the optimizer made with fused=False"
    )


def _unfused(optimizer: torch.optim.Optimizer, loss: Tensor) -> list[Tensor]:
    """Where the optimizer, were it not fused, would move its parameters down the gradient of
    ``loss``.
    """
    parameters = parameters_of(optimizer)
    gradients = torch.autograd.grad(
        loss, [p for p in parameters if p.requires_grad], retain_graph=True, allow_unused=True
    )
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        group.update({key: False for key in ("fused", "foreach") if key in group})
    moved = parameters_of(twin)
    for parameter, gradient in zip((p for p in moved if p.requires_grad), gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.contiguous()
    twin.step()
    return moved


@model_check
def parameters_move_in_updates_only(subject: ModelSubject) -> None:
    """A parameter that moves outside update() escapes clipping, averaging and the rule above."""
    trainer = subject.make()
    trainer.__dict__["update"] = lambda **losses: None
    owned = {
        id(p)
        for o in trainer.optimizers.values()
        for group in o.param_groups
        for p in group["params"]
    }
    before = {name: p.detach().clone() for name, p in trainer.named_parameters() if id(p) in owned}
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    moved = [
        name
        for name, p in trainer.named_parameters()
        if id(p) in owned and not torch.equal(p, before[name])
    ]
    assert not moved, f"{moved[0]} moves outside update(): call self.update, never optimizer.step()"


@model_check
def every_parameter_learns(subject: ModelSubject) -> None:
    """Each trainable parameter gets a gradient in some phase."""
    trainer = subject.make()
    before = {name: p.detach().clone() for name, p in trainer.named_parameters() if p.requires_grad}
    subject.engine(trainer).run(5)
    still = [
        name
        for name, p in trainer.named_parameters()
        if name in before and torch.equal(p, before[name])
    ]
    assert not still, (
        f"{still[0]} does not move in five steps: no loss reaches it, or its gradient is always zero"
    )


@model_check
def step_is_capturable(subject: ModelSubject) -> None:
    """Twenty replays of one recorded step equal twenty steps, bit for bit: nothing but tensors
    changes in a step.
    """
    eager, replayed = subject.make(), subject.make()
    for trainer in (eager, replayed):
        engine = subject.engine(trainer)
        engine.run(3)  # optimizers make their state in the first step
    streams = [Rng(0, "check"), Rng(0, "check")]
    batch = subject.batch(eager)

    def step(trainer: Trainer, rng: Rng) -> Any:
        metrics = trainer.step(batch, rng)
        trainer.iteration.add_(1)
        return metrics

    for _ in range(21):
        step(eager, streams[0])
    _, recording = record(lambda: step(replayed, streams[1]))
    if recording.optimizer_reads:
        which = ", ".join(
            sorted({type(optimizer).__name__ for optimizer in replayed.optimizers.values()})
        )
        raise Skipped(
            f"{which} reads its own state on the host when on a CPU; there its step cannot be replayed"
        )
    reads = ", ".join(sorted(set(recording.host_reads)))
    assert not reads, f"step waits for the device or has shapes that depend on data: {reads}"
    for _ in range(20):
        recording.replay()
    changed = differing(tensors(eager), tensors(replayed))
    assert not changed, (
        f"{changed[0]} differs between 20 steps and 20 replays of one: something but a tensor changes in step "
        "(a Python counter, a tensor replaced instead of changed in place)"
    )
