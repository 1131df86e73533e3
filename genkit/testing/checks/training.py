"""Checks of what a step does, and of what it leaves alone."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ...engines._torch_internals import silence_capturable_warning
from ...engines.base import advance
from ...engines.recording import record
from ...rng import Rng
from ...storage.state import snapshot
from ...updates import Gradients, parameters_of
from ..subject import ModelSubject, Skipped, differing, model_check, untouched_global_randomness


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
    before: dict[str, list[Tensor]] = {}
    problems: list[str] = []

    def remember(gradients: Gradients) -> None:
        before.clear()
        before.update({name: _copies(owned[name]) for name in owned.keys() - gradients.keys()})

    def compare(gradients: Gradients) -> None:
        for name, copies in before.items():
            if not all(torch.equal(a, b) for a, b in zip(copies, owned[name], strict=True)):
                problems.append(f"update({', '.join(gradients)}) moves parameters of {name}")

    trainer.on_update(remember)
    trainer.on_update(compare, after=True)
    start = [parameter for name in owned for parameter in _copies(owned[name])]
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    assert not problems, problems[0]
    end = [parameter for name in owned for parameter in owned[name]]
    moved = any(not torch.equal(a, b) for a, b in zip(start, end, strict=True))
    assert moved, "a step moves no parameter"


@model_check
def fused_optimizers_compute_the_same(subject: ModelSubject) -> None:
    """In each update of a step, a fused optimizer moves parameters as its unfused form does."""
    trainer = subject.make()
    subject.training(trainer)  # has its optimizers fused where they can be
    expected: dict[str, list[Tensor]] = {}
    problems: list[str] = []

    def predict(gradients: Gradients) -> None:
        expected.clear()
        for name, pairs in gradients.items():
            if any(group.get("fused") for group in trainer.optimizers[name].param_groups):
                expected[name] = _step_unfused(trainer.optimizers[name], pairs)

    def compare(gradients: Gradients) -> None:
        for name, parameters in expected.items():
            pairs = zip(parameters_of(trainer.optimizers[name]), parameters, strict=True)
            if not all(torch.allclose(moved, p, rtol=1e-4, atol=1e-6) for moved, p in pairs):
                problems.append(name)

    trainer.on_update(predict)
    trainer.on_update(compare, after=True)
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    assert not problems, (
        f"the fused optimizer {problems[0]} moves parameters otherwise than unfused: a parameter "
        "that is a strided view of a larger tensor has to be .contiguous(), or the optimizer made "
        "with fused=False"
    )


def _step_unfused(
    optimizer: torch.optim.Optimizer, pairs: Sequence[tuple[Tensor, Tensor | None]]
) -> list[Tensor]:
    """Where the optimizer, were it not fused, would move its parameters down these gradients."""
    gradients = {id(parameter): gradient for parameter, gradient in pairs}
    copied = copy.deepcopy(optimizer)
    silence_capturable_warning(copied)
    for group in copied.param_groups:
        group.update({key: False for key in ("fused", "foreach") if key in group})
    for parameter, original in zip(parameters_of(copied), parameters_of(optimizer), strict=True):
        gradient = gradients.get(id(original))
        if gradient is not None:
            parameter.grad = gradient.clone(memory_format=torch.contiguous_format)
    copied.step()
    return parameters_of(copied)


def _copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@model_check
def parameters_move_in_updates_only(subject: ModelSubject) -> None:
    """A parameter that moves outside update() escapes clipping, averaging and the rule above."""
    trainer = subject.make()
    owned = {id(p) for o in trainer.optimizers.values() for p in parameters_of(o)}
    watched = {name: p for name, p in trainer.named_parameters() if id(p) in owned}
    last = {name: p.detach().clone() for name, p in watched.items()}
    moved: list[str] = []

    def compare(gradients: Gradients | None = None) -> None:
        moved.extend(name for name, p in watched.items() if not torch.equal(p, last[name]))

    def remember(gradients: Gradients) -> None:
        last.update({name: p.detach().clone() for name, p in watched.items()})

    trainer.on_update(compare)
    trainer.on_update(remember, after=True)
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    compare()
    assert not moved, f"{moved[0]} moves outside update(): call self.update, never optimizer.step()"


@model_check
def every_parameter_learns(subject: ModelSubject) -> None:
    """Each trainable parameter gets a gradient in some phase."""
    trainer = subject.make()
    before = {name: p.detach().clone() for name, p in trainer.named_parameters() if p.requires_grad}
    subject.training(trainer).run(5)
    still = [
        name
        for name, p in trainer.named_parameters()
        if name in before and torch.equal(p, before[name])
    ]
    assert not still, (
        f"{still[0]} does not move in five steps: no loss reaches it, or its gradient is "
        "always zero"
    )


@model_check
def step_is_capturable(subject: ModelSubject) -> None:
    """Twenty replays of one recorded step equal twenty steps, bit for bit: nothing but tensors
    changes in a step.
    """
    eager, replayed = subject.make(), subject.make()
    for trainer in (eager, replayed):
        subject.training(trainer).run(3)  # optimizers make their state in the first step
    streams = [Rng(0, "check"), Rng(0, "check")]
    batch = subject.batch(eager)
    for _ in range(21):
        advance(eager, batch, streams[0])
    _, recording = record(lambda: advance(replayed, batch, streams[1]))
    if recording.optimizer_reads:
        which = ", ".join(
            sorted({type(optimizer).__name__ for optimizer in replayed.optimizers.values()})
        )
        raise Skipped(
            f"{which} reads its state on the host when on a CPU; there its step cannot be replayed"
        )
    reads = ", ".join(sorted(set(recording.host_reads)))
    assert not reads, f"step waits for the device or has shapes that depend on data: {reads}"
    for _ in range(20):
        recording.replay()
    changed = differing(snapshot(eager), snapshot(replayed))
    assert not changed, (
        f"{changed[0]} differs between 20 steps and 20 replays of one: something but a tensor "
        "changes in step "
        "(a Python counter, a tensor replaced instead of changed in place)"
    )
