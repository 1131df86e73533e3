"""Which samples a step sees, and that streaming them changes nothing."""

import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import genkit
from genkit.config import TrainOptions
from genkit.data.datasets import Split
from genkit.data.in_memory import from_images
from genkit.data.loader import Loader, Order, Resident, Streamed, _HostBuffer, iterate_batches
from genkit.models import build
from genkit.storage import state
from genkit.storage.state import snapshot
from genkit.testing.subject import differing
from genkit.training.session import Training
from tests.conftest import training_of

from .test_engine import graphs_of

CPU = torch.device("cpu")


def test_order_is_a_function_of_seed_and_step() -> None:
    whole = Order(100, 4, seed=1).indices(0, 600)
    assert whole.shape == (600, 4)
    assert torch.equal(Order(100, 4, seed=1).indices(250, 20), whole[250:270])
    assert not torch.equal(Order(100, 4, seed=2).indices(0, 600), whole)
    counts = torch.bincount(whole.flatten(), minlength=100)
    assert counts.min() > 5
    assert counts.max() < 50


def split(count: int = 50) -> Split:
    images = torch.randint(
        0, 256, (count, 1, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Split(images, torch.arange(count))


def test_batches_gather_and_scale() -> None:
    order = Order(50, 4, seed=0)
    loader = Resident(split(), order, CPU)
    (window,) = loader.windows(5, 2)
    batch = loader.batch(window[1])
    (index,) = order.indices(6, 1)
    assert batch.labels is not None
    assert batch.labels.equal(index)
    assert torch.allclose(batch.images, split().images[index].float() / 127.5 - 1)


def test_iterate_batches_gives_all_once() -> None:
    batches = list(iterate_batches(split(5), 2, CPU))
    assert [batch.labels.tolist() for batch in batches if batch.labels is not None] == [
        [0, 1],
        [2, 3],
        [4],
    ]


def batches_of(loader: Loader, calls: list[tuple[int, int]]) -> list[genkit.Batch]:
    return [
        loader.batch(index)
        for first, steps in calls
        for window in loader.windows(first, steps)
        for index in window
    ]


def test_a_stream_gives_the_batches_of_resident_images() -> None:
    calls = [
        (0, 1),
        (1, 10),
        (11, 3),
        (14, 3),
        (17, 20),
        (5, 4),
        (9, 2),
        (300, 7),
        (307, 1),
    ]  # it also goes back
    order = [Order(50, 4, seed=3) for _ in range(2)]
    resident = batches_of(Resident(split(), order[0], CPU), calls)
    streamed = batches_of(Streamed(split(), order[1], CPU, chunk=3), calls)
    assert len(resident) == len(streamed) == sum(steps for _, steps in calls)
    for ours, theirs in zip(resident, streamed, strict=True):
        assert ours.images.equal(theirs.images)
        assert ours.labels is not None
        assert theirs.labels is not None
        assert ours.labels.equal(theirs.labels)


def test_a_stream_gathers_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the images of a window are used, those of the next one come, even past the last step
    asked for.
    """
    loader = Streamed(split(), Order(50, 4, seed=3), CPU, chunk=3)
    gathered = []
    gather = _HostBuffer.gather

    def watched(buffer: _HostBuffer, indices: Tensor) -> _HostBuffer:
        gathered.append(threading.current_thread().name)
        return gather(buffer, indices)

    monkeypatch.setattr(_HostBuffer, "gather", watched)
    for _ in range(3):
        list(loader.windows(0, 0))
    for first in (0, 6, 12):
        list(loader.windows(first, 6))
    assert (
        gathered[0] == threading.main_thread().name
    )  # nothing could know where the first would begin
    assert len(gathered) >= 6
    assert all(name.startswith("genkit-stream") for name in gathered[1:])


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_streaming_changes_no_bit(tiny: type[genkit.Trainer], images: Tensor, graph: bool) -> None:
    data = from_images(images)
    made: list[Training] = []
    factories: list[Callable[[Split, Order, torch.device], Loader]] = [
        Resident,
        partial(Streamed, chunk=5),
    ]
    for factory in factories:
        trainer = build(tiny, tiny.Config(), data.spec, 0, "cpu")
        capture = graphs_of(4) if graph else None
        options = TrainOptions(batch_size=4, log_interval=50, engine="graph" if graph else "eager")
        made.append(
            training_of(trainer, data, options, make_captured=capture, loader_factory=factory)
        )
    resident, streamed = made
    for engine in made:
        for window in (7, 20, 3, 11):
            engine.run(window)
    assert (resident.streamed, streamed.streamed) == (False, True)
    assert resident.stepper.kind == streamed.stepper.kind == ("graph" if graph else "eager")
    assert not differing(snapshot(resident.trainer), snapshot(streamed.trainer))
    assert resident.means() == streamed.means()

    model = {name: tensor.clone() for name, tensor in state.networks(resident.trainer).items()}
    saved = {name: tensor.clone() for name, tensor in resident.state().items()}
    for engine in made:
        engine.run(9)
        engine.restore(41, model, saved)
        engine.run(6)
    assert not differing(snapshot(resident.trainer), snapshot(streamed.trainer))


def test_k_is_at_most_what_a_stream_brings(tiny: type[genkit.Trainer], images: Tensor) -> None:
    data = from_images(images)
    trainer = build(tiny, tiny.Config(), data.spec, 0, "cpu")
    options = TrainOptions(batch_size=4, log_interval=50)
    engine = training_of(
        trainer,
        data,
        options,
        make_captured=graphs_of(64),
        loader_factory=partial(Streamed, chunk=6),
    )
    engine.run(7)
    engine.run(12)
    assert engine.stepper.steps_per_replay == engine.work.loader.chunk
