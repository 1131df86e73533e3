"""The CUDA path: what can be tested without a GPU, by stand-ins and the device ``meta``; the rest
runs where there is one.
"""

import inspect
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genkit
from genkit import updates
from genkit.config import TrainOptions
from genkit.data.in_memory import from_images
from genkit.data.loader import Streamed
from genkit.engines import _torch_internals, cuda_graph, settings
from genkit.engines.cuda_graph import CudaCapture, CudaGraphSteps
from genkit.errors import ContractError
from genkit.hookspecs import ModelEntry
from genkit.models import build, find_trainer
from genkit.plugins.registry import discover
from genkit.rng import Rng
from genkit.storage import state
from genkit.storage.state import snapshot
from genkit.testing.subject import differing
from genkit.training.session import Training
from tests.conftest import training_of
from tests.test_engine import assert_same

BUILTINS = [registered.entry.name for registered in discover().builtin(ModelEntry)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class FakeGenerator:
    """One of torch before 2.14: a failed capture leaves it capturing, but for a copied state."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(capturing=False)

    def clone_state(self) -> SimpleNamespace:
        return SimpleNamespace(capturing=False)

    def graphsafe_set_state(self, state: SimpleNamespace) -> None:
        self.state = state


class FakeCuda:
    """As much of ``torch.cuda`` as a capture uses."""

    def __init__(self) -> None:
        self.default_generators = [FakeGenerator(), FakeGenerator()]
        self.current = "the stream of before"
        self.device_index: int | None = None
        self.captured_on: list[tuple[int | None, object]] = []
        self.waited: list[int] = []
        self.recorded = 0

    def graph_pool_handle(self) -> int:
        return 1

    def Stream(self, device: torch.device) -> Any:  # noqa: N802 (as torch calls it)
        return SimpleNamespace(device=device, wait_stream=lambda other: None)

    def Event(self) -> Any:  # noqa: N802
        number, self.recorded = self.recorded, self.recorded + 1
        return SimpleNamespace(record=lambda: None, synchronize=lambda: self.waited.append(number))

    def CUDAGraph(self) -> Any:  # noqa: N802
        return SimpleNamespace(replay=lambda: None)

    def current_stream(self, device: torch.device) -> object:
        return SimpleNamespace(name=self.current, wait_stream=lambda other: None)

    def set_stream(self, stream: Any) -> None:
        self.current = stream.name

    def stream(self, stream: object) -> Any:
        return nullcontext()

    @contextmanager
    def device(self, device: torch.device) -> Any:
        before, self.device_index = self.device_index, device.index
        yield
        self.device_index = before

    @contextmanager
    def graph(self, graph: object, pool: int, stream: object, capture_error_mode: str) -> Any:
        assert capture_error_mode == "thread_local"
        self.captured_on.append((self.device_index, stream))
        try:
            yield
        except RuntimeError:
            self.current = "the stream of the capture"
            for generator in self.default_generators:
                generator.state.capturing = True
            raise RuntimeError("operation failed due to a previous error during capture") from None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(cuda_graph, "cuda", made)
    return made


def test_a_failed_capture_is_healed_and_says_what_failed_first(fake: FakeCuda) -> None:
    generators = [FakeGenerator(), FakeGenerator()]
    capture = CudaCapture(generators, torch.device("cuda:1"))  # type: ignore[arg-type]

    def step() -> None:
        for generator in generators:
            generator.state.capturing = True
        raise RuntimeError("cannot copy from pageable memory while capturing")

    with pytest.raises(ContractError, match="cannot copy from pageable memory while capturing"):
        capture.capture(step)
    assert not any(generator.state.capturing for generator in generators)
    assert not fake.default_generators[1].state.capturing
    assert fake.current == "the stream of before"


def test_torch_takes_what_a_capture_hands_it() -> None:
    """The stand-in takes anything, so the real names are looked at as far as that goes here."""
    inspect.signature(torch.cuda.graph).bind(
        object(), pool=1, stream=None, capture_error_mode="thread_local"
    )
    inspect.signature(torch.cuda.Stream.__new__).bind(torch.cuda.Stream, torch.device("cuda"))
    for name in ("graph_pool_handle", "current_stream", "set_stream", "default_generators"):
        assert hasattr(torch.cuda, name)
    for name in ("graphsafe_set_state", "clone_state", "set_state"):
        assert hasattr(torch.Generator, name)


def test_a_capture_is_made_on_the_run_s_device_and_a_stream_of_its_own(fake: FakeCuda) -> None:
    capture = CudaCapture([FakeGenerator()], torch.device("cuda:1"))  # type: ignore[arg-type]
    capture.warm_up(lambda: None)
    capture.capture(lambda: None)
    capture.capture(lambda: None)
    assert [index for index, _ in fake.captured_on] == [1, 1]
    assert len({id(stream) for _, stream in fake.captured_on}) == 1


def test_an_interrupt_is_at_most_two_replays_late(fake: FakeCuda) -> None:
    capture = CudaCapture([FakeGenerator()], torch.device("cuda:0"))  # type: ignore[arg-type]
    for _ in range(5):
        capture.keep_pace()
    assert fake.waited == [0, 1, 2]


@pytest.mark.parametrize(
    ("version", "registered"), [("2.6.0+cu124", 1), ("2.13.1", 1), ("2.14.1+cu130", 0), ("3.0", 0)]
)
def test_generators_are_registered_where_torch_needs_it(
    monkeypatch: pytest.MonkeyPatch, version: str, registered: int
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    calls: list[object] = []
    graph = SimpleNamespace(register_generator_state=calls.append)
    _torch_internals.register_generator(graph, torch.Generator())
    assert len(calls) == registered
    _torch_internals.register_generator(object(), torch.Generator())


def test_a_graph_draws_from_every_stream_of_the_steps(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, tiny, data: genkit.ImageData
) -> None:
    registered: list[object] = []
    monkeypatch.setattr(cuda_graph, "register_generator", lambda graph, g: registered.append(g))
    for flip in (False, True):
        made = build(tiny, tiny.Config(), data.spec, 0, "cpu")
        training = training_of(made, data, TrainOptions(batch_size=4, engine="eager", flip=flip))
        training.run(1)
        registered.clear()
        CudaGraphSteps(training.work, training.stepper.names, steps=1)
        assert registered == [rng.generator for rng in training.work.streams.values()]
        assert len({id(generator) for generator in registered}) == 1 + flip


class Painter(genkit.Generator):
    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.layer = nn.Linear(1, spec.size)

    def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layer(z)).unflatten(1, self.shape)


def trainer_with(make: Callable[[Any], torch.optim.Optimizer]) -> type[genkit.Trainer]:
    class Scheduled(genkit.Trainer):
        def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            self.generator = Painter(spec)
            self.register_buffer("rate", torch.tensor(0.1))
            self.optimizers = {"generator": make(self)}

        def step(self, batch: genkit.Batch, rng: Rng) -> genkit.Metrics:
            self.rate.mul_(0.5)
            z = self.generator.prior(len(batch.images), rng)
            loss = (self.generator(z) - batch.images).square().mean()
            self.update(generator=loss)
            return {"loss": loss.detach()}

    return Scheduled


def by_buffer(trainer: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(trainer.generator.parameters(), lr=trainer.rate)


def by_tensor(trainer: Any) -> torch.optim.Optimizer:
    betas = torch.tensor(0.5), torch.tensor(0.9)
    parameters = trainer.generator.parameters()
    return torch.optim.AdamW(
        parameters, lr=torch.tensor(0.1), betas=betas, foreach=False, capturable=True
    )


def test_a_rate_that_is_a_buffer_stays_one_on_the_device() -> None:
    """``meta`` moves as CUDA does: buffers are replaced."""
    spec, moved = genkit.DataSpec(1, 6, 5), torch.device("meta")
    trainer = trainer_with(by_buffer)(genkit.Config(), spec)
    group = trainer.optimizers["generator"].param_groups[0]
    assert group["lr"] is trainer.rate
    made = trainer_with(by_buffer)
    built = build(made, genkit.Config(), spec, 0, "cpu")
    buffers = {id(buffer): name for name, buffer in built.named_buffers()}
    built.to(moved)
    group = built.optimizers["generator"].param_groups[0]
    assert group["lr"] is not built.rate  # this is what moving alone does
    from genkit.models import _move_options

    _move_options(built.optimizers["generator"], built, buffers)
    assert group["lr"] is built.rate


def test_tensors_among_the_options_of_optimizers_come_along() -> None:
    built = trainer_with(by_tensor)(genkit.Config(), genkit.DataSpec(1, 6, 5)).to("meta")
    from genkit.models import _move_options

    _move_options(built.optimizers["generator"], built, {})
    group = built.optimizers["generator"].param_groups[0]
    assert {tensor.device.type for tensor in (group["lr"], *group["betas"])} == {"meta"}


def test_counts_of_steps_come_along_and_adagrad_is_fused_on_a_cpu_alone() -> None:
    for device, fused in (("cpu", True), ("meta", False)):
        parameters = [nn.Parameter(torch.zeros(3, device=device))]
        adagrad, adam = torch.optim.Adagrad(parameters), torch.optim.Adam(parameters)
        updates.prefer_fused({"adagrad": adagrad, "adam": adam})
        assert adagrad.param_groups[0]["fused"] is fused
        assert adam.param_groups[0]["fused"] is True
    adam.state[parameters[0]]["step"] = torch.tensor(0.0)  # as some make it at once
    updates.prefer_fused({"adam": adam})
    assert adam.state[parameters[0]]["step"].device.type == "meta"


def test_settings_on_which_bits_depend() -> None:
    assert settings.describe(torch.device("cpu")) == {}
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        settings.allow_tf32(True)
        assert settings.describe(torch.device("cuda"))["tf32"] == "on"
        settings.set_exact(torch.device("cpu"))  # changes nothing
        assert settings.describe(torch.device("cuda"))["tf32"] == "on"
        settings.set_exact(torch.device("cuda"))
        expected = {"cudnn_deterministic": "on", "tf32": "off"}
        assert settings.describe(torch.device("cuda")) == expected
        with torch.backends.cudnn.flags(enabled=False):  # as a double backward of an RNN needs
            pass
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
        torch.backends.cudnn.allow_tf32 = True


def on_cuda(trainer: type[genkit.Trainer], engine: str, size: int = 28, **options: Any) -> Training:
    images = torch.randint(
        0, 256, (300, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    data = from_images(images)
    made = build(trainer, trainer.Config(), data.spec, 0, "cuda")
    defaults = {"batch_size": 32, "log_interval": 1000}
    return training_of(made, data, TrainOptions(engine=engine, **{**defaults, **options}))


@needs_cuda
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", BUILTINS)
def test_cuda_graphs_compute_the_bits_of_eager(name: str, precision: str, flip: bool) -> None:
    trainer, options = find_trainer(discover(), name), {"precision": precision, "flip": flip}
    eager, graph = (on_cuda(trainer, engine, **options) for engine in ("eager", "graph"))
    for window in (1, 7, 300):
        eager.run(window)
        graph.run(window)
    assert_same(eager, graph)
    assert graph.stepper.replays > 0
    assert isinstance(graph.stepper, CudaGraphSteps)


@needs_cuda
@pytest.mark.parametrize("how", ["item", "tensor", "raises"])
def test_after_a_capture_that_failed_steps_and_draws_go_on(how: str) -> None:
    simple_gan: Any = find_trainer(discover(), "simple-gan")
    stream = torch.cuda.current_stream()

    class Fails(simple_gan):
        def step(self, batch: genkit.Batch, rng: Rng) -> genkit.Metrics:
            metrics = dict(super().step(batch, rng))
            first = next(iter(metrics))
            if how == "item":
                metrics[first].item()
            elif how == "tensor":
                metrics[first] = metrics[first] * torch.tensor(0.5, device="cuda")
            elif torch.cuda.is_current_stream_capturing():
                raise RuntimeError("not while capturing")
            return metrics

    eager, failed = (on_cuda(Fails, engine) for engine in ("eager", "graph"))
    for training in (eager, failed):
        training.run(20)
    assert failed.stepper.kind == "eager"
    assert failed.stepper.fallback_reason
    assert not differing(snapshot(eager.trainer), snapshot(failed.trainer))
    assert torch.cuda.current_stream() == stream
    assert bool(torch.isfinite(torch.randn(3, device="cuda")).all())
    other = on_cuda(simple_gan, "graph")
    other.run(20)
    assert other.stepper.kind == "graph"


@needs_cuda
def test_a_scheduled_rate_that_is_a_buffer_counts_on_cuda() -> None:
    scheduled = trainer_with(by_buffer)
    eager, graph = (on_cuda(scheduled, engine) for engine in ("eager", "graph"))
    for training in (eager, graph):
        training.run(10)
        rate = training.trainer.optimizers["generator"].param_groups[0]["lr"]
        assert float(rate) == pytest.approx(0.1 * 0.5**10)
    assert_same(eager, graph)


@needs_cuda
def test_streaming_to_cuda_changes_no_bit() -> None:
    simple_gan = find_trainer(discover(), "simple-gan")
    resident = on_cuda(simple_gan, "graph")
    data = resident.data
    trainer = build(simple_gan, simple_gan.Config(), data.spec, 0, "cuda")
    options = TrainOptions(batch_size=32, log_interval=1000, engine="graph")
    streamed = training_of(
        trainer, data, options, loader_factory=lambda *given: Streamed(*given, chunk=5)
    )
    for training in (resident, streamed):
        for window in (7, 20, 3):
            training.run(window)
    assert not differing(snapshot(resident.trainer), snapshot(streamed.trainer))


@needs_cuda
@pytest.mark.parametrize("flip", [False, True])
def test_a_restored_graph_goes_on_with_the_bits_of_eager(flip: bool) -> None:
    simple_gan = find_trainer(discover(), "simple-gan")
    eager, graph = (on_cuda(simple_gan, engine, flip=flip) for engine in ("eager", "graph"))
    for training in (eager, graph):
        training.run(37)
    model = {name: tensor.clone() for name, tensor in state.networks(eager.trainer).items()}
    saved = {name: tensor.clone() for name, tensor in eager.state().items()}
    for training in (eager, graph):
        training.run(9)
        training.restore(37, model, saved)
        training.run(30)
    assert_same(eager, graph)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_graphs_on_the_second_device() -> None:
    simple_gan = find_trainer(discover(), "simple-gan")
    images = torch.randint(0, 256, (300, 1, 28, 28), dtype=torch.uint8)
    data = from_images(images)
    made = build(simple_gan, simple_gan.Config(), data.spec, 0, "cuda:1")
    training = training_of(made, data, TrainOptions(batch_size=32, engine="graph"))
    training.run(50)
    assert training.stepper.kind == "graph"
