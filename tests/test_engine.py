"""Engines: captured steps give the bits of steps that Python runs, or say why they cannot be
captured.

On a CPU a step is a plan (``tests/test_plan.py``). Here a stand-in for CUDA graphs records the
operations of several steps and replays them, so that windows, rings, snapshots and remainders are
tested without a GPU.
"""

import itertools
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import genkit
from genkit.callback import Callback
from genkit.config import TrainOptions
from genkit.data.in_memory import from_images
from genkit.engines.base import Work
from genkit.engines.cuda_graph import (
    TARGET_SECONDS,
    WARM_UP,
    CudaGraphSteps,
    common_window,
    steps_per_replay,
)
from genkit.engines.first_steps import choose_stepper
from genkit.engines.kernels import TORCH
from genkit.engines.verify import stream_states
from genkit.hookspecs import ModelEntry
from genkit.models import build, find_trainer
from genkit.plugins.registry import discover
from genkit.rng import Rng
from genkit.storage import state
from genkit.storage.state import snapshot
from genkit.testing import record
from genkit.testing.subject import differing
from genkit.training.session import Training
from tests.conftest import training_of

BUILTINS = [registered.entry.name for registered in discover().builtin(ModelEntry)]
OPTIONS = TrainOptions(batch_size=4, log_interval=50)
EAGER = OPTIONS.model_copy(update={"engine": "eager"})


class RecordingCapture:
    """Records the operations of the work and replays them."""

    def __init__(self, steps: float = 1e9) -> None:
        self.steps = steps

    def warm_up(self, work: Callable[[], None]) -> None:
        for _ in range(WARM_UP):
            work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        _, recording = record(work)
        return lambda: void(recording.replay())

    def seconds(self, replay: Callable[[], None]) -> float:
        replay()
        return TARGET_SECONDS / self.steps

    def keep_pace(self) -> None:
        """Replays are done when they return."""


def graphs_of(steps: float) -> Callable[[Work, tuple[str, ...]], CudaGraphSteps]:
    """What captures graphs of about ``steps`` steps."""
    return lambda work, names: CudaGraphSteps(work, names, RecordingCapture(steps))


def void(_: object) -> None:
    """Nothing of it is needed."""


def engines(
    trainer: type[genkit.Trainer], steps: float, images: Tensor, **config: object
) -> tuple[Training, Training]:
    """The same training by Python and by graphs of ``steps`` steps."""
    data = from_images(images)
    made = [build(trainer, trainer.Config(**config), data.spec, 0, "cpu") for _ in range(2)]
    return training_of(made[0], data, EAGER), training_of(
        made[1], data, OPTIONS, make_captured=graphs_of(steps)
    )


def assert_same(eager: Training, graph: Training) -> None:
    assert graph.stepper.kind == "graph"
    assert not differing(snapshot(eager.trainer), snapshot(graph.trainer))
    assert eager.means() == graph.means()
    assert not differing(stream_states(eager.work), stream_states(graph.work))


@pytest.mark.parametrize("name", BUILTINS)
@pytest.mark.parametrize("steps", [1, 4])
def test_graphs_compute_the_bits_of_eager(name: str, steps: int) -> None:
    images = torch.randint(
        0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    eager, graph = engines(
        find_trainer(discover(), name), steps, images, hidden_dim=5, latent_dim=3
    )
    for window in (1, 7, 12, 3, 27):
        eager.run(window)
        graph.run(window)
        assert_same(eager, graph)
    assert graph.stepper.replays >= 48 // steps


def test_k_is_as_many_steps_as_take_some_milliseconds(tiny, images: Tensor) -> None:
    for steps, expected in ((0.2, 1), (7, 5), (1e6, 50)):  # divisors of the log interval of 50
        _, graph = engines(tiny, steps, images)
        graph.run(3)
        assert graph.stepper.steps_per_replay == expected


def test_replays_leave_no_step_of_a_window_over() -> None:
    for most, expected in ((17, 10), (21, 20), (34, 25), (51, 50), (500, 100), (0, 1)):
        assert steps_per_replay(most, 100) == expected
    assert steps_per_replay(500, 10_000) == 125  # at most 128
    assert steps_per_replay(40, 97) == 1
    assert common_window((100, 1000, 250), 2**31) == 50
    assert common_window((1000, 1000), 256) == 250
    assert common_window((100, 1000, 1000), 6) == 5
    assert common_window((97, 97), 6) == 6  # a part of one step would be no window


def test_a_checkpoint_is_loaded_into_a_captured_graph(tiny, images: Tensor) -> None:
    """A graph reads the tensors that it was captured with: loading has to copy into them."""
    eager, graph = engines(tiny, 3, images)
    for engine in (eager, graph):
        engine.run(20)
    model = {name: tensor.clone() for name, tensor in state.networks(eager.trainer).items()}
    saved = {name: tensor.clone() for name, tensor in eager.state().items()}
    for engine in (eager, graph):
        engine.run(20)
        engine.restore(20, model, saved)
        engine.run(9)
    assert_same(eager, graph)


def wrong(tiny: type[genkit.Trainer], how: str) -> type[genkit.Trainer]:
    numbers = itertools.count()

    class Wrong(tiny):
        count = 0

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            metrics = dict(super().step(batch, rng))
            if how == "reads":
                metrics["d_loss"].item()
            elif how == "counts":
                self.count += 1
                metrics["d_loss"] = metrics["d_loss"] + self.count
            elif how == "counts where nobody looks":
                metrics["d_loss"] = metrics["d_loss"] + next(numbers)
            elif how == "replaces":
                self.iteration = self.iteration + 0
            return metrics

    return Wrong


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("reads", "it waits for the device, or has shapes that depend on data: Tensor.item (test_"),
        (
            "counts",
            "the step cannot be captured: it changes count, which is no parameter or buffer",
        ),
        (
            "counts where nobody looks",
            "the step gives metrics in other bits each time it is run",
        ),
        ("replaces", "it replaces trainer/iteration instead of changing it in place"),
    ],
)
def test_a_step_that_cannot_be_captured_is_run_by_python_and_why_is_said(
    tiny, images: Tensor, how, why
) -> None:
    eager, graph = engines(wrong(tiny, how), 4, images)
    for window in (3, 20):
        eager.run(window)
        graph.run(window)
    assert graph.stepper.kind == "eager"
    assert graph.stepper.fallback_reason.startswith("the step cannot be captured: ")
    assert why in graph.stepper.fallback_reason
    if how in ("reads", "counts"):  # what nobody noticed was counted by the attempt, too
        assert not differing(snapshot(eager.trainer), snapshot(graph.trainer))


def test_the_engine_and_why_it_is_not_the_one_asked_for_are_said_and_recorded(
    tiny, images: Tensor
) -> None:
    class Notices(Callback):
        heard: list[str] = []  # noqa: RUF012

        def on_notice(self, message: str) -> None:
            self.heard.append(message)

    options = {"iterations": 4, "batch_size": 4, "device": "cpu", "progress": False}
    run = genkit.train(
        wrong(tiny, "counts"), dataset=images, engine="graph", callbacks=[Notices()], **options
    )
    why = "the step cannot be captured: it changes count, which is no parameter or buffer"
    environment = json.loads((run.path / "run.json").read_text())["environment"]
    assert (environment["engine"], environment["fallback_reason"]) == ("eager", why)
    assert Notices.heard == [f"the engine is eager ({why})"]
    for engine, used in (("auto", "graph"), ("eager", "eager")):
        other = genkit.train(tiny, dataset=images, engine=engine, callbacks=[Notices()], **options)
        assert other.info.environment.engine == used
    assert len(Notices.heard) == 1


class AppleWork:
    device = torch.device("mps")
    kernels = TORCH


def test_where_there_are_no_graphs_they_are_asked_for_in_vain() -> None:
    why = "graphs need a CUDA device or a CPU, and this is mps"
    for option, reason in (("auto", ""), ("graph", why)):
        stepper = choose_stepper(option, AppleWork())
        assert (stepper.kind, stepper.fallback_reason) == ("eager", reason)


def test_bf16_computes_in_bf16_and_uses_the_weights_after_each_update(tiny, images: Tensor) -> None:
    """Autocast's cache would hand the second pass of a step the weights from before its first
    update.
    """
    seen: list[Tensor] = []

    class TwoUpdates(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            for _ in range(2):
                logits = self.discriminator(batch.images)
                seen.append(logits.detach().clone())
                self.update(discriminator=logits.float().square().mean())
            return {"loss": logits.float().mean().detach()}

    data = from_images(images)
    trainer = build(TwoUpdates, TwoUpdates.Config(learning_rate=0.1), data.spec, 0, "cpu")
    training_of(trainer, data, TrainOptions(batch_size=4, precision="bf16")).run(1)
    assert {logits.dtype for logits in seen} == {torch.bfloat16}
    assert not seen[0].equal(seen[1])
    assert all(p.dtype == torch.float32 for p in trainer.parameters())


def test_channels_last_reaches_images_and_weights(images: Tensor) -> None:
    class Convolves(genkit.Trainer):
        def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            self.generator = Painter(spec)
            self.convolution = nn.Conv2d(3, 4, 3)
            self.optimizers = {"all": torch.optim.SGD(self.parameters(), lr=0.1)}

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            loss = self.convolution(batch.images).square().mean()
            self.update(all=loss)
            return {"loss": loss.detach()}

    class Painter(genkit.Generator):
        def __init__(self, spec: genkit.DataSpec) -> None:
            super().__init__()
            self.layer = nn.Linear(1, spec.size)

        def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
            return rng.normal(n, 1)

        def forward(self, z: Tensor) -> Tensor:
            return torch.tanh(self.layer(z)).view(len(z), 3, 6, 5)

    options = {
        "iterations": 2,
        "batch_size": 4,
        "device": "cpu",
        "progress": False,
        "channels_last": True,
    }
    run = genkit.train(Convolves, dataset=images.expand(-1, 3, -1, -1), **options)
    assert run.step == 2


def test_a_failed_capture_restores_the_options_of_optimizers(tiny, images: Tensor) -> None:
    class Schedules(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            if int(self.iteration) == 3:  # a read on the host: it cannot be captured
                self.optimizers["generator"].param_groups[0]["lr"] = torch.tensor(5e-4)
            return super().step(batch, rng)

    data = from_images(images)
    trainer = build(Schedules, Schedules.Config(), data.spec, 0, "cpu")
    training = training_of(trainer, data, OPTIONS, make_captured=graphs_of(4))
    training.run(2)
    assert training.stepper.kind == "eager"
    assert trainer.optimizers["generator"].param_groups[0]["lr"] == 0.01
    training.run(10)
    assert float(trainer.optimizers["generator"].param_groups[0]["lr"]) == pytest.approx(5e-4)
