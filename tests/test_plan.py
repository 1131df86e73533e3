"""Plans: a step's operations replayed on a CPU give the bits of Python's steps, whatever operations
they are.
"""

import itertools
import random
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import genkit
from genkit.config import TrainOptions
from genkit.data.in_memory import from_images
from genkit.engines import plan
from genkit.engines.plan import Plan, record_plan
from genkit.engines.recording import record
from genkit.errors import ContractError
from genkit.hookspecs import ModelEntry
from genkit.models import build
from genkit.plugins.registry import discover
from genkit.rng import Rng
from genkit.storage.state import snapshot
from genkit.testing.subject import differing
from genkit.training.recorder import describe_engine
from tests.conftest import training_of

MODELS = [registered.entry.name for registered in discover().all(ModelEntry)]
IMAGES = torch.randint(
    0, 256, (200, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
)


@pytest.mark.parametrize(
    ("chosen", "precision"), [("torch", "fp32"), ("onednn", "fp32"), ("torch", "bf16")]
)
@pytest.mark.parametrize("name", MODELS)
def test_plans_compute_the_bits_of_eager(name: str, chosen: str, precision: str) -> None:
    data = from_images(IMAGES)
    trainer = discover().find(ModelEntry, name).target()
    options = {"batch_size": 64, "log_interval": 50, "kernels": chosen, "precision": precision}
    made = [build(trainer, trainer.Config(), data.spec, 0, "cpu") for _ in range(2)]
    eager, planned = (
        training_of(each, data, TrainOptions(engine=engine, **options))
        for each, engine in zip(made, ("eager", "graph"), strict=True)
    )
    for window in (1, 4, 3):
        eager.run(window)
        planned.run(window)
    assert (eager.stepper.kind, planned.stepper.kind) == ("eager", "graph")
    assert (planned.stepper.kernels, planned.stepper.replays) == (chosen, 6)
    assert not differing(snapshot(eager.trainer), snapshot(planned.trainer))
    assert eager.means() == planned.means()
    assert eager.rng.state().equal(planned.rng.state())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW]
)
def test_plans_of_other_optimizers_and_precisions(
    tiny, images: Tensor, optimizer, precision: str
) -> None:
    class Other(tiny):
        def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            for name in self.optimizers:
                # That of RMSprop reads a rate that is a tensor on the host.
                rate = 0.01 if optimizer is torch.optim.RMSprop else torch.tensor(0.01)
                self.optimizers[name] = optimizer(getattr(self, name).parameters(), lr=rate)

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            for each in self.optimizers.values():
                each.param_groups[0]["lr"] *= 0.9 if optimizer is not torch.optim.RMSprop else 1
            return super().step(batch, rng)

    data = from_images(images)
    made = [build(Other, Other.Config(), data.spec, 0, "cpu") for _ in range(2)]
    options = {"batch_size": 4, "precision": precision}
    eager = training_of(made[0], data, TrainOptions(engine="eager", **options))
    planned = training_of(made[1], data, TrainOptions(engine="graph", **options))
    for engine in (eager, planned):
        engine.run(9)
    assert (planned.stepper.kind, planned.stepper.replays) == ("graph", 7)
    assert not differing(snapshot(eager.trainer), snapshot(planned.trainer))


def replayed(work: Callable[[], Tensor], target: Tensor) -> tuple[Tensor, Plan]:
    """``work`` done once and its result copied into ``target``; then undone, and repeated by a
    plan.
    """
    _, recording = record(lambda: target.copy_(work()))
    planned = Plan(recording.operations)
    expected = target.clone()
    target.zero_()
    planned.run()
    return expected, planned


@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_of_operations(seed: int) -> None:
    """Views, writes into views, results of several parts, and operations that cannot write into
    given memory.
    """
    choose = random.Random(seed)
    stream = torch.Generator().manual_seed(seed)
    held = [torch.randn(4, 4, generator=stream) for _ in range(2)]
    start = [tensor.clone() for tensor in held]
    names = choose.choices(sorted(OPERATIONS), k=30)
    picks = [(choose.random(), choose.random()) for _ in names]

    def work() -> Tensor:
        made = list(held)
        for name, (first, second) in zip(names, picks, strict=True):
            a, b = made[int(first * len(made))], made[int(second * len(made))]
            made.extend(OPERATIONS[name](a, b))
        return torch.stack([tensor.sum() for tensor in made])

    size = len(work())
    target = torch.zeros(size)
    for tensor, value in zip(held, start, strict=True):
        tensor.copy_(value)
    _, recording = record(lambda: target.copy_(work()))
    planned = Plan(recording.operations)
    results: list[list[Tensor]] = []
    for again in (lambda: target.copy_(work()), planned.run):
        for tensor, value in zip(held, start, strict=True):
            tensor.copy_(value)
        for _ in range(3):
            again()
        results.append([target.clone(), *(tensor.clone() for tensor in held)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(expected, got, rtol=0, atol=0, equal_nan=True)


def _into(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    a[1:3].mul_(0.5).add_(b[:2].tanh())
    return ()


OPERATIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, ...]]] = {
    "add": lambda a, b: (a + b,),
    "product": lambda a, b: (torch.tanh(a @ b),),
    "turned": lambda a, b: (a.t(), b.t().contiguous()),
    "in place": lambda a, b: (a.lerp_(b.sigmoid(), 0.3),),
    "into a part": _into,
    "several": lambda a, b: tuple(
        torch.var_mean(a, dim=1, keepdim=True)[i] + b.clamp(-1, 1) for i in range(2)
    ),
    "joined": lambda a, b: (torch.cat([a, b])[2:6], torch.stack([a, b]).mean(0)),
    "pieces": lambda a, b: (
        *(piece.reshape(2, 2).repeat(2, 2) for piece in a.clamp(-2, 2).split(1)),
        b.clone(),
    ),
    "constants": lambda a, b: (torch.ones_like(a) * b.clamp(-1, 1), torch.zeros_like(b).add_(a)),
    "convolution": lambda a, b: (
        torch.conv2d(a[None, None], b.clamp(-1, 1)[None, None, :3, :3], padding=1)[0, 0],
    ),
    "normalised": lambda a, b: (
        nn.functional.batch_norm(a, None, None, training=True),
        b.softmax(0),
    ),
}


# fmt: off
UNARY = (
    "neg", "abs", "sgn", "sign", "square", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt",
    "reciprocal", "sin", "cos", "erf", "sigmoid", "tanh", "relu", "sum", "mean",
)
# fmt: on


def named_forms(a: Tensor, b: Tensor) -> list[Callable[[], Tensor]]:
    """Operations that are called alike, each by its name."""
    f, aten, one = nn.functional, torch.ops.aten, 0.7
    compared = ("gt", "ge", "lt", "le", "eq", "ne")
    pairs = [
        (name, other)
        for name in (*compared, "mul", "div", "pow", "clamp_min", "clamp_max")
        for other in (b, one)
    ]
    pairs += [("maximum", b), ("minimum", b)]
    scalar, scaled = ("add", "sub", "mul", "div"), ("add", "sub", "rsub")
    layers = (f.leaky_relu, f.softplus, f.silu, f.gelu, f.elu)
    backward = ("sigmoid", "tanh", "silu", "gelu")
    return [
        *(lambda name=name: getattr(torch, name)(a) for name in UNARY),
        *(lambda name=name, other=other: getattr(torch, name)(a, other) for name, other in pairs),
        *(lambda name=name: getattr(aten, name).Scalar(a, one) for name in scalar),
        *(lambda name=name: getattr(torch, name)(a, b, alpha=2) for name in scaled),
        *(lambda layer=layer: layer(a - 1) for layer in layers),
        *(lambda name=name: getattr(torch, name)(a, (0,), True) for name in ("sum", "mean")),
        *(lambda n=n: getattr(torch, n)(a, a, b, value=2) for n in ("addcmul", "addcdiv")),
        *(lambda name=name: getattr(torch, name)([a, b], 1) for name in ("cat", "stack")),
        *(lambda n=f"{name}_backward": getattr(aten, n)(a, b) for name in backward),
    ]


def forms(a: Tensor, b: Tensor, rows: Tensor) -> list[Callable[[], Tensor]]:
    """Every operation that a plan lets write into given memory but the products, in each form."""
    aten = torch.ops.aten
    bounds = ((None, 1), (1, None), (a, b))
    return [
        *named_forms(a, b),
        *(lambda weight=weight: torch.lerp(a, b, weight) for weight in (0.7, a)),
        *(lambda low=low, high=high: torch.clamp(a, low, high) for low, high in bounds),
        lambda: torch.div(a, b, rounding_mode="floor"),
        lambda: torch.pow(2, a),
        lambda: torch.where(a > 1, a, b),
        lambda: torch.index_select(a, 1, rows),
        lambda: torch.gather(a, 1, rows.view(1, -1, *(1,) * (a.dim() - 2))),
        lambda: aten.threshold_backward(a, b, 1),
        lambda: aten.softplus_backward(a, b, 1, 20),
        lambda: aten.leaky_relu_backward(a, b, 0.1, False),
    ]


def products(a: Tensor, b: Tensor) -> list[Callable[[], Tensor]]:
    """The products that a plan lets write into given memory, of matrices."""
    return [
        lambda: torch.mm(a, b),
        lambda: torch.addmm(a, a, b, beta=2, alpha=3),
        lambda: torch.bmm(a[None], b[None]),
        lambda: torch.baddbmm(a[None], a[None], b[None], beta=2, alpha=3),
    ]


def layouts() -> dict[str, tuple[Tensor, Tensor]]:
    """Two tensors each, in the memory layouts that networks bring about."""
    stream = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4, 4, generator=stream) + 0.5 for _ in range(2))
    c, d = (torch.rand(2, 4, 3, 3, generator=stream) + 0.5 for _ in range(2))
    last = [x.to(memory_format=torch.channels_last) for x in (c, d)]
    return {
        "contiguous": (a, b),
        "transposed": (a.t(), b.t()),
        "one transposed": (a, b.t()),
        "part": (torch.cat([a, a], 1)[:, 2:6], b),
        "channels last": (last[0], last[1]),
        "one channels last": (last[0], d),
    }


@pytest.mark.parametrize("layout", layouts())
def test_every_operation_that_writes_into_given_memory(layout: str) -> None:
    """Each gives the bits, and the memory layout, of its plain form on numbers it has not seen."""
    a, b = layouts()[layout]
    calls = forms(a, b, torch.tensor([3, 0, 2])) + (products(a, b) if a.dim() == 2 else [])
    seen = set()
    for number, call in enumerate(calls):
        results: list[Tensor] = []

        def work(call: Callable[[], Tensor] = call, results: list[Tensor] = results) -> None:
            results.append(call())

        _, recording = record(work)
        planned = Plan(recording.operations)
        with torch.no_grad():
            for tensor in (a, b):
                tensor.mul_(1.01)
        expected = call()
        planned.run()
        assert torch.equal(results[0], expected), number
        assert results[0].stride() == expected.stride(), number
        seen |= {operation.function.overloadpacket.__name__ for operation in recording.operations}
    listed = plan._FUNCTIONS | plan._OVERLOADS
    assert seen >= (listed if a.dim() == 2 else listed - {"mm", "addmm", "bmm", "baddbmm"})


def test_an_operation_of_an_extension_is_not_taken_for_torch_s() -> None:
    library = torch.library.Library("genkit_tests", "FRAGMENT")
    for name, parts in (
        ("mul", "Tensor a, Tensor b"),
        ("ones_like", "Tensor a"),
        ("_foreach_add_", "Tensor a"),
    ):
        library.define(f"{name}({parts}) -> Tensor")
        library.define(f"{name}.out({parts}, *, Tensor(a!) out) -> Tensor(a!)")
        library.impl(name, lambda *given: sum(given) + 1, "CPU")
        library.impl(f"{name}.out", lambda *given, out: out.copy_(sum(given) + 1), "CPU")
    own, a, b, target = torch.ops.genkit_tests, torch.rand(4), torch.rand(4), torch.zeros(4)
    _, recording = record(
        lambda: target.copy_(own.mul(a, b) + own.ones_like(a) + own._foreach_add_(b))
    )
    planned = Plan(recording.operations)
    a.add_(1)
    planned.run()
    torch.testing.assert_close(target, (a + b + 1) + (a + 1) + (b + 1))


def test_constants_may_be_changed_in_place() -> None:
    x, target = torch.randn(3), torch.zeros(3)
    expected, planned = replayed(lambda: x * torch.ones_like(x), target)
    assert torch.equal(target, expected)
    expected, planned = replayed(lambda: torch.zeros_like(x).add_(x), target)
    for _ in range(2):
        planned.run()
    assert torch.equal(target, expected)


def test_what_reads_on_the_host_is_refused() -> None:
    x, counts = torch.randn(3), torch.tensor([1, 2, 0])
    for work in (
        lambda: x.sum().item(),
        lambda: x.numpy(),
        lambda: x[x > 0],
        lambda: x.tolist(),
        lambda: torch.repeat_interleave(x, counts),
    ):
        with pytest.raises(
            ContractError, match=r"waits for the device, or .* depend on data: .* \(test_plan.py:"
        ):
            record_plan(work)
    assert x.tolist() == list(x.numpy())  # and tensors are read as before
    assert "numpy" not in vars(Tensor)


def test_what_changes_a_shape_in_place_is_refused() -> None:
    works: dict[str, Callable[[], object]] = {
        "aten.t_.default": lambda: torch.zeros(2, 3).add(1).t_(),
        "aten.resize_.default": lambda: torch.zeros(2, 3).add(1).resize_(7),
        "aten.set_.source_Tensor": lambda: torch.zeros(2).set_(torch.ones(2)),
    }
    for name, work in works.items():
        with pytest.raises(ContractError, match=f"{name} changes a tensor's shape in place"):
            record_plan(work)


def test_collectives_are_refused_by_name() -> None:
    import torch.distributed as distributed
    from torch.distributed import _functional_collectives as functional

    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for work, name in (
            (lambda: distributed.all_reduce(torch.ones(2)), "c10d.allreduce_.default"),
            (
                lambda: functional.all_reduce(torch.ones(2), "sum", distributed.group.WORLD) + 1,
                "_c10d_functional.all_reduce.default",
            ),
        ):
            with pytest.raises(ContractError, match=f"{name} waits for other processes"):
                record_plan(work)
    finally:
        distributed.destroy_process_group()


def test_only_what_declares_an_alias_is_a_view() -> None:
    x = torch.arange(6.0)
    _, recording = record(
        lambda: (x.view(2, 3), x[1:], x.detach(), torch.ops.aten._unsafe_view(x, (3, 2)))
    )
    names = [op.function.overloadpacket.__name__ for op in recording.operations if op.views()]
    assert set(names) == {"view", "slice", "detach"}
    _, recording = record(lambda: (x.add_(1), x + 1, x.sum()))
    assert not [operation for operation in recording.operations if operation.views()]


def test_results_in_one_piece_of_memory_and_lists_of_one() -> None:
    qkv, bias, target = torch.randn(2, 3, 24), torch.randn(24), torch.zeros(())
    works: list[Callable[[], Tensor]] = [
        lambda: sum(
            (part * (n + 1)).sum()
            for n, part in enumerate(torch._transform_bias_rescale_qkv(qkv, bias, 2))
        ),
        lambda: torch._foreach_add([bias], [bias])[0].sum(),
        lambda: torch.linspace(bias.sum(), 3, 5).sum(),
    ]
    for work in works:
        _, recording = record(lambda work=work: target.copy_(work()))
        planned = Plan(recording.operations)
        for _ in range(2):
            bias.add_(1)
            planned.run()
            assert torch.equal(target, work())


def test_memory_that_a_step_writes_into_itself_stays_where_it_is() -> None:
    x, kept, target = torch.randn(4, 4), torch.zeros(4, 4), torch.zeros(4, 4)

    def work() -> Tensor:
        first = x + 1  # of the size of what follows, and not needed after it
        second = first * 2
        torch.add(second, x, out=kept)
        third = second.tanh()
        torch.mul(third, 2, out=third)
        return third + (kept - second).sigmoid()

    _, recording = record(lambda: target.copy_(work()))
    planned = Plan(recording.operations)
    for _ in range(3):
        x.add_(0.1)
        planned.run()
        got, inside = target.clone(), kept.clone()
        assert got.equal(work())
        assert inside.equal(kept)


def test_what_gives_nothing_is_not_forgotten() -> None:
    x = torch.ones(1)
    _, recording = record(lambda: torch._assert_async(x))
    planned = Plan(recording.operations)
    planned.run()
    x.zero_()
    with pytest.raises(RuntimeError):
        planned.run()


class Period:
    """Something that a trainer holds, with a counter of its own."""

    count = 0

    def next(self) -> float:
        self.count += 1
        return 1.0 if self.count % 10 else 2.0


class Counted(torch.optim.SGD):
    """An optimizer that counts its steps in an attribute."""

    count = 0

    def step(self, closure: None = None) -> None:
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-0.01 if self.count % 10 else -0.1)


@pytest.mark.parametrize("how", ["schedule", "list", "object", "tensor", "generator", "optimizer"])
def test_what_a_trainer_counts_in_python_is_seen_though_it_shows_late(
    tiny, images: Tensor, how: str
) -> None:
    class Counts(tiny):
        def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            held = {
                "object": Period(),
                "list": [0],
                "tensor": torch.zeros(()),
                "generator": torch.Generator(),
            }
            self.held = held.get(how)
            if how == "optimizer":
                self.optimizers["discriminator"] = Counted(self.discriminator.parameters(), lr=0.1)
            if how == "schedule":
                self.optimizers["discriminator"].param_groups[0]["lr"] = torch.tensor(0.01)
                self.schedule = torch.optim.lr_scheduler.StepLR(
                    self.optimizers["discriminator"], 10
                )

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            metrics = dict(super().step(batch, rng))
            if how == "schedule":
                self.schedule.step()
            elif how == "list":
                self.held[0] += 1
                metrics["d_loss"] = metrics["d_loss"] * (1 if self.held[0] % 10 else 2)
            elif how == "tensor":
                metrics["d_loss"] = metrics["d_loss"] * torch.where(self.held.add_(1) > 10, 2, 1)
            elif how == "generator":
                metrics["d_loss"] = metrics["d_loss"] * torch.rand((), generator=self.held)
            elif how == "object":
                metrics["d_loss"] = metrics["d_loss"] * self.held.next()
            return metrics

    data = from_images(images)
    eager, auto = (
        training_of(
            build(Counts, Counts.Config(), data.spec, 0, "cpu"),
            data,
            TrainOptions(batch_size=4, engine=engine),
        )
        for engine in ("eager", "auto")
    )
    for engine in (eager, auto):
        engine.run(25)
    assert describe_engine(auto).startswith("eager (the step cannot be captured: it changes ")
    assert not differing(snapshot(eager.trainer), snapshot(auto.trainer))
    assert eager.means() == auto.means()


@pytest.mark.parametrize("window", [1, 6])
def test_what_a_first_step_keeps_and_what_is_not_a_number_do_not_matter(
    tiny, images: Tensor, window: int
) -> None:
    class Keeps(tiny):
        size: int | None = None
        best = float("nan")

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            self.size = self.size or len(batch.images)
            self.best = self.best * 2
            return super().step(batch, rng)

    data = from_images(images)
    engine = training_of(
        build(Keeps, Keeps.Config(), data.spec, 0, "cpu"), data, TrainOptions(batch_size=4)
    )
    for _ in range(4):
        engine.run(window)
    assert engine.stepper.kind == "graph"
    assert engine.stepper.replays > 0


def test_a_stop_is_heard_between_replays(tiny, images: Tensor) -> None:
    class After:
        left = 5

        def requested(self) -> bool:
            self.left -= 1
            return self.left < 0

    data = from_images(images)
    engine = training_of(
        build(tiny, tiny.Config(), data.spec, 0, "cpu"), data, TrainOptions(batch_size=4)
    )
    engine.run(20)
    engine.run(30, After().requested)
    assert 20 < engine.step < 30


def test_random_numbers_of_a_plan_come_from_the_stream() -> None:
    rng, target = Rng(0, "x"), torch.zeros(3)
    _, recording = record(lambda: target.copy_(rng.normal(3)))
    rng.set_state(Rng(0, "x").state())
    planned = Plan(recording.operations)
    other = Rng(0, "x")
    for _ in range(3):
        planned.run()
        assert torch.equal(target, other.normal(3))


def cross_entropy(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    late = torch.where(self.iteration > 8, 1.0, 0.0)
    entropy = nn.functional.binary_cross_entropy(fake.sigmoid(), real.sigmoid())
    return (fake - real).square().mean() * (1 + late * entropy.detach())


def fresh_statistics(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    late = torch.where(self.iteration > 8, 1.0, 0.0)
    mean, variance = torch.zeros(1), torch.ones(1)
    normal = nn.functional.batch_norm(fake, mean, variance, training=True)
    return (normal - mean.view(1, -1, 1, 1) * late).square().mean()


def moving_bound(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    start = torch.where(self.iteration > 8, 1.0, 0.0)
    return (
        ((fake - real) * torch.linspace(start, torch.tensor(2.0), fake.shape[-1])).square().mean()
    )


def product(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    late = torch.where(self.iteration > 8, 1.0, 0.0)
    return (fake.flatten(1)[:, :3] * late + 2).prod(1).mean()


def dropout(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    return (nn.functional.dropout(fake) - real).square().mean()


def not_a_number(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    if not hasattr(self, "best"):
        self.register_buffer("best", torch.tensor(float("nan")))
    return (fake - real).abs().mean()


def by_mse(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    return nn.functional.mse_loss(fake, real) + nn.functional.huber_loss(fake, real)


class ReadsBackward(torch.autograd.Function):
    """Its backward pass does something else late, and asks on the host whether it is late."""

    @staticmethod
    def forward(ctx, x: Tensor, iteration: Tensor) -> Tensor:
        ctx.iteration = iteration
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * (2 if ctx.iteration.numpy() > 8 else 1), None


def read_backward(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    return (ReadsBackward.apply(fake, self.iteration) - real).square().mean()


def read_in_a_hook(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    fake.register_hook(lambda gradient: gradient * (2 if self.iteration.tolist() > 8 else 1))
    return (fake - real).square().mean()


def read_in_a_callback(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().sum(1) * (2 if self.iteration.tolist() > 8 else 1)

    return nn.functional.triplet_margin_with_distance_loss(
        fake.flatten(1), real.flatten(1), -real.flatten(1), distance_function=distance
    )


def buffer_replaced(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    if not hasattr(self, "average"):
        self.register_buffer("average", torch.zeros(()))
    self.average = torch.where(self.iteration > 8, fake.detach().mean(), self.average)
    return (fake - real).square().mean()


def parameter_replaced(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    weight = self.discriminator.layer.weight
    weight.data = weight.data * torch.where(self.iteration > 8, 0.5, 1.0)
    return (fake - real).square().mean() + weight.square().mean()


def kept_with_its_graph(self: genkit.Trainer, fake: Tensor, real: Tensor) -> Tensor:
    before = getattr(self, "before", None)
    self.before = fake
    return (fake - real).square().mean() + (0 if before is None else before.detach().mean() ** 2)


@pytest.mark.parametrize(
    ("loss", "planned"),
    [
        (cross_entropy, True),
        (fresh_statistics, True),
        (moving_bound, True),
        (by_mse, True),
        (product, False),
        (dropout, False),
        (not_a_number, True),
        (read_backward, False),
        (read_in_a_hook, False),
        (read_in_a_callback, False),
        (buffer_replaced, False),
        (parameter_replaced, False),
        (kept_with_its_graph, False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_steps_that_are_hard_to_replay(
    tiny,
    images: Tensor,
    loss: Callable[..., Tensor],
    planned: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Hard(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            value = loss(
                self, self.generator(self.generator.prior(len(batch.images), rng)), batch.images
            )
            self.update(generator=value)
            return {"loss": value.detach()}

    data = from_images(images)
    for chosen in ("torch", "onednn"):
        engines = []
        for engine in ("eager", "auto"):
            torch.manual_seed(0)
            options = TrainOptions(batch_size=4, engine=engine, kernels=chosen)
            engines.append(
                training_of(build(Hard, Hard.Config(), data.spec, 0, "cpu"), data, options)
            )
            for window in (1, 4, 20):
                engines[-1].run(window)
        eager, auto = engines
        assert describe_engine(auto).startswith(
            "graph" if planned else "eager (the step cannot be captured: "
        )
        differ = differing(snapshot(eager.trainer), snapshot(auto.trainer))
        assert [name for name in differ if name != "trainer/best"] == []
        assert eager.means() == auto.means()
    assert capfd.readouterr() == ("", "")


def test_an_optimizer_that_is_first_stepped_later(tiny, images: Tensor) -> None:
    class Late(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            loss = self.generator(self.generator.prior(len(batch.images), rng)).square().mean()
            self.update(generator=loss)
            if next(numbers) > 3:
                self.update(discriminator=self.discriminator(batch.images).square().mean())
            return {"loss": loss.detach()}

    data = from_images(images)
    numbers = itertools.count()
    engine = training_of(
        build(Late, Late.Config(), data.spec, 0, "cpu"), data, TrainOptions(batch_size=4)
    )
    engine.run(3)
    assert describe_engine(engine) == (
        "eager (the step cannot be captured: optimizer/discriminator/0/exp_avg appears "
        "after the first step)"
    )
    assert int(engine.trainer.iteration) == 3
    engine.run(4)


def test_a_step_too_large_to_be_kept_is_run_by_python(
    tiny, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MAX_RECORDED_BYTES", 1000)
    data = from_images(images)
    engine = training_of(
        build(tiny, tiny.Config(), data.spec, 0, "cpu"), data, TrainOptions(batch_size=4)
    )
    engine.run(5)
    assert re.fullmatch(
        r"eager \(the step cannot be captured: a step makes [\d.]+ MiB of tensors, [\d.]+ MiB more "
        r"than the 0.00095 MiB that are kept for replays\)",
        describe_engine(engine),
    )
