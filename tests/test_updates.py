"""Trainer.update: gradients reach optimizers in the memory layout of their parameters."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import genkit
from genkit.config import TrainOptions
from genkit.data.in_memory import from_images
from genkit.models import build
from tests.conftest import training_of

FUSED = {
    "Adam": (torch.optim.Adam, {}),
    "Adam, amsgrad": (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    "AdamW": (torch.optim.AdamW, {}),
    "SGD": (torch.optim.SGD, {}),
    "SGD, momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "Adagrad": (torch.optim.Adagrad, {}),
}


class Net(genkit.Generator):
    """Parameters whose gradients come in every layout that autograd gives."""

    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.expanded = nn.Parameter(torch.linspace(-1, 1, 30).view(5, 6))
        self.tied = nn.Parameter(torch.linspace(-1, 1, 30).view(5, 6))
        self.columns = nn.Parameter(torch.linspace(-1, 1, 30).view(6, 5).t())
        self.last = nn.Parameter(
            torch.linspace(-1, 1, 72).view(2, 4, 3, 3).to(memory_format=torch.channels_last)
        )
        self.first = nn.Parameter(torch.linspace(-1, 1, 72).view(2, 4, 3, 3))
        self.scalar = nn.Parameter(torch.tensor(0.5))

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, 6)

    def forward(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), *self.shape) + self.scalar.tanh()

    def loss(self) -> Tensor:
        weights = torch.linspace(0.5, 1.5, 72)
        grid = weights.view(2, 4, 3, 3)
        return (
            self.expanded.sum()  # stride 0
            + (self.tied.t() @ weights[:25].view(5, 5)).square().sum()  # transposed
            + (
                self.columns.contiguous() * weights[:30].view(5, 6)
            ).sum()  # of a transposed parameter
            + (self.last * grid).sum()  # contiguous, of a channels-last parameter
            + (self.first * grid.to(memory_format=torch.channels_last)).sum()  # the other way round
            + self.scalar
        )


class Layouts(genkit.Trainer):
    class Config(genkit.Config):
        optimizer: str = genkit.Field("Adam", description="which one")
        fused: bool | None = genkit.Field(None, description="None: where there is one")

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator = Net(spec)
        kind, options = FUSED[config.optimizer]
        self.optimizers = {
            "net": kind(self.generator.parameters(), lr=0.1, fused=config.fused, **options)
        }

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        loss = self.generator.loss()
        self.update(net=loss)
        return {"loss": loss.detach()}


def trained(engine: str, **config: object) -> Layouts:
    images = torch.zeros(10, 1, 4, 4, dtype=torch.uint8)
    trainer = Layouts(Layouts.Config(**config), genkit.DataSpec(1, 4, 4))
    options = TrainOptions(batch_size=2, iterations=8, engine=engine, kernels="torch")
    made = training_of(trainer, from_images(images), options)
    made.run(8)
    assert made.stepper.kind == engine
    return trainer


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("name", FUSED)
def test_fused_optimizers_read_gradients_of_every_layout(name: str, engine: str) -> None:
    unfused = dict(trained("eager", optimizer=name, fused=False).named_parameters())
    for parameter_name, parameter in trained(engine, optimizer=name).named_parameters():
        assert torch.allclose(parameter, unfused[parameter_name], rtol=1e-4, atol=1e-5), (
            parameter_name
        )


class Steps(Layouts):
    """Minimises one sum of a parameter, which is -0.5 everywhere after five steps of Adam at rate
    0.1.
    """

    def __init__(self, parameter: nn.Parameter, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__(self.Config(), genkit.DataSpec(1, 4, 4))
        self.generator.parameter = parameter
        self.optimizers = {"net": torch.optim.Adam([parameter], lr=0.1)}
        self.loss = loss

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        loss = self.loss(self.generator.parameter)
        self.update(net=loss)
        return {"loss": loss.detach()}


def negated(parameter: Tensor) -> Tensor:
    """Its gradient is a view that is marked as negated, and was not computed."""
    return -torch.view_as_complex(torch.stack([parameter, parameter], -1)).conj().imag.sum()


@pytest.mark.parametrize(
    ("parameter", "loss"),
    [
        (torch.zeros(1000), torch.sum),
        (torch.zeros(24)[::2], torch.sum),
        (torch.zeros(6), negated),
    ],
    ids=["a sum", "a parameter with gaps", "a gradient not yet negated"],
)
def test_every_number_of_a_parameter_moves_alike(
    parameter: Tensor, loss: Callable[[Tensor], Tensor]
) -> None:
    trainer = Steps(nn.Parameter(parameter), loss)
    images = from_images(torch.zeros(10, 1, 4, 4, dtype=torch.uint8))
    training_of(trainer, images, TrainOptions(batch_size=2, iterations=8)).run(5)
    assert torch.allclose(trainer.generator.parameter, torch.tensor(-0.5), atol=1e-5)


def test_a_gradient_in_its_parameters_layout_is_not_copied() -> None:
    trainer = Layouts(Layouts.Config(optimizer="SGD"), genkit.DataSpec(1, 4, 4))
    net, seen = trainer.generator, []
    weights = torch.linspace(0.5, 1.5, 72).view(2, 4, 3, 3)
    net.first.register_hook(seen.append)
    net.expanded.register_hook(seen.append)
    trainer.optimizers["net"].register_step_pre_hook(
        lambda *_: seen.extend([net.first.grad, net.expanded.grad])
    )
    trainer.update(net=(net.first * weights).sum() + net.expanded.sum())
    by_storage = {tensor.shape: tensor.data_ptr() for tensor in seen[:2]}
    assert seen[2].data_ptr() == by_storage[seen[2].shape]
    assert seen[3].data_ptr() != by_storage[seen[3].shape]
    assert seen[3].stride() == net.expanded.stride()


def test_a_sparse_gradient_is_refused_in_one_line() -> None:
    trainer = Layouts(Layouts.Config(optimizer="SGD"), genkit.DataSpec(1, 4, 4))
    trainer.table = nn.Embedding(4, 3, sparse=True)
    trainer.optimizers["table"] = torch.optim.SGD(trainer.table.parameters(), lr=0.1)
    before = trainer.table.weight.detach().clone()
    with pytest.raises(
        genkit.ContractError, match=r"gradient of table\.weight is sparse.*sparse=False"
    ):
        trainer.update(table=trainer.table(torch.tensor([1, 2])).sum())
    assert torch.equal(trainer.table.weight, before)


class Convolves(genkit.Trainer):
    """Weights that are channels-last in memory, where the run asks for it."""

    def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator = Net(spec)
        self.convolution = nn.Conv2d(spec.channels, 8, 3)
        self.optimizers = {"net": torch.optim.Adam(self.convolution.parameters(), lr=0.01)}

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        loss = (self.convolution(batch.images) - rng.normal(len(batch.images), 8, 1, 1)).square()
        self.update(net=loss.mean())
        return {"loss": loss.mean().detach()}


def test_a_run_with_channels_last_weights_resumes_to_the_same_bits() -> None:
    """The optimizer's state is read from the checkpoint in its parameter's memory layout."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 6, 5), dtype=torch.uint8, generator=generator)
    options = {"batch_size": 4, "channels_last": True, "device": "cpu", "progress": False}
    whole = genkit.train(Convolves, dataset=images, iterations=8, **options)
    half = genkit.train(Convolves, dataset=images, iterations=4, **options)
    genkit.resume(half, 8, dataset=images, progress=False)
    for file in ("model", "state"):
        name = f"checkpoints/step-000000008/{file}.safetensors"
        assert (whole.path / name).read_bytes() == (half.path / name).read_bytes()


def test_observers_see_gradients_before_and_weights_after_a_step(tiny) -> None:
    trainer = build(tiny, tiny.Config(), genkit.DataSpec(1, 6, 5), 0, "cpu")
    weight = trainer.generator.layer.weight
    seen: list[tuple[str, list[str], Tensor]] = []
    removes = [
        trainer.on_update(lambda g: seen.append(("before", list(g), weight.detach().clone()))),
        trainer.on_update(
            lambda g: seen.append(("after", list(g), weight.detach().clone())), after=True
        ),
    ]
    before = weight.detach().clone()
    trainer.update(generator=weight.sum())
    assert [(when, names) for when, names, _ in seen] == [
        ("before", ["generator"]),
        ("after", ["generator"]),
    ]
    assert torch.equal(seen[0][2], before)
    assert torch.equal(seen[1][2], weight)
    assert not torch.equal(seen[1][2], before)
    for remove in removes:
        remove()
    trainer.update(generator=weight.sum())
    assert len(seen) == 2


def test_observers_are_not_called_for_steps_that_are_undone_or_replayed(tiny) -> None:
    data = from_images(torch.zeros(20, 1, 6, 5, dtype=torch.uint8))
    trainer = build(tiny, tiny.Config(), data.spec, 0, "cpu")
    calls: list[object] = []
    trainer.on_update(calls.append)
    training = training_of(trainer, data, TrainOptions(batch_size=4, log_interval=50))
    training.run(20)
    assert training.stepper.kind == "graph"
    assert len(calls) == 4  # of the two steps by Python: discriminator and generator
    copied = copy.deepcopy(trainer)
    copied.update(generator=copied.generator.layer.weight.sum())
    assert len(calls) == 4


def test_an_observer_may_remove_itself(tiny) -> None:
    trainer = build(tiny, tiny.Config(), genkit.DataSpec(1, 6, 5), 0, "cpu")
    calls: list[str] = []
    remove = trainer.on_update(lambda gradients: (calls.append("once"), remove()))
    trainer.on_update(lambda gradients: calls.append("always"))
    for _ in range(2):
        trainer.update(generator=trainer.generator.layer.weight.sum())
    assert calls == ["once", "always", "always"]
    with trainer.without_observers():
        remove()
        trainer.update(generator=trainer.generator.layer.weight.sum())
    assert len(calls) == 3
