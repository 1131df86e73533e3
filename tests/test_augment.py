"""Augmentation: training batches are changed on the device, inside captured steps, from a random
stream of their own.
"""

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genkit
from genkit.config import TrainOptions
from genkit.data.datasets import DataRequest, ImageData, Split
from genkit.data.images import from_uint8
from genkit.data.in_memory import from_images
from genkit.engines.augmentation import flip_half
from genkit.engines.base import AUGMENTATION_STREAM, TRAINING_STREAM
from genkit.engines.verify import MakeCaptured
from genkit.errors import CheckpointError, ContractError, PluginError
from genkit.hookspecs import DatasetEntry, ModelEntry
from genkit.models import build, find_trainer
from genkit.plugins.registry import discover
from genkit.rng import Rng
from genkit.storage import checkpoint, state
from genkit.testing import CHECKS, check_dataset
from genkit.training.collapse import Alarm
from genkit.training.session import Training
from genkit.training.validation import validate
from tests.conftest import call, training_of
from tests.test_engine import assert_same, graphs_of

BUILTINS = [registered.entry.name for registered in discover().builtin(ModelEntry)]
FLIP = {"batch_size": 4, "log_interval": 50, "flip": True}
QUIET: dict[str, Any] = {"batch_size": 4, "device": "cpu", "progress": False}


def darken(images: Tensor, rng: Rng) -> Tensor:
    """Each image by an amount of its own."""
    return images - (images + 1) * rng.uniform(len(images), 1, 1, 1)


def trained(
    trainer: type[genkit.Trainer],
    data: ImageData,
    make_captured: MakeCaptured | None = None,
    **options: Any,
) -> Training:
    """A training of a new trainer; with FLIP and the engine eager, unless ``options`` say else."""
    made = build(trainer, trainer.Config(), data.spec, 0, "cpu")
    options = {**FLIP, "engine": "eager", **options}
    return training_of(made, data, TrainOptions(**options), make_captured=make_captured)


def state_of(training: Training) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in training.state().items()}


def restore(training: Training, other: Training) -> None:
    """Restore what the other one would save now."""
    networks = {n: tensor.clone() for n, tensor in state.networks(other.trainer).items()}
    training.restore(other.step, networks, state_of(other))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_half_of_the_images_are_mirrored_and_others_the_next_time(layout) -> None:
    images = torch.rand(2000, 3, 4, 5).contiguous(memory_format=layout)
    before, rng = images.clone(), Rng(0, "augmentation")
    masks = []
    for _ in range(2):
        flipped = flip_half(images, rng)
        mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
        as_it_was = (flipped == images).flatten(1).all(1)
        assert bool((mirrored ^ as_it_was).all())
        assert 900 < int(mirrored.sum()) < 1100  # four and a half standard deviations
        assert (flipped.dtype, flipped.stride()) == (images.dtype, images.stride())
        masks.append(mirrored)
    assert images.equal(before)
    assert 900 < int((masks[0] ^ masks[1]).sum()) < 1100


def test_two_processes_mirror_the_images_that_one_would() -> None:
    images = torch.rand(8, 1, 4, 5)
    whole = flip_half(images, Rng(0, "augmentation"))
    parts = [
        flip_half(images[4 * rank : 4 * rank + 4], Rng(0, "augmentation", rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert torch.cat(parts).equal(whole)


def recording(trainer: type[genkit.Trainer], seen: list[tuple[Tensor, Tensor]]) -> Any:
    """The trainer, with what it is called with in each step: images, and the next random numbers
    after the step.
    """

    class Records(trainer):
        def step(self, batch: genkit.Batch, rng: Rng) -> genkit.Metrics:
            metrics = super().step(batch, rng)
            seen.append((batch.images.clone(), rng.normal(5)))
            return metrics

    return Records


@pytest.mark.parametrize("name", ["simple-gan", "vae"])
def test_flipping_changes_neither_latents_nor_the_order_of_images(name: str, images) -> None:
    trainer, data = find_trainer(discover(), name), from_images(images)
    seen: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    for flip in seen:
        trained(recording(trainer, seen[flip]), data, flip=flip).run(10)
    mirrored = 0
    for (straight, numbers), (flipped, same_numbers) in zip(*seen.values(), strict=True):
        assert numbers.equal(same_numbers)
        other = (straight != flipped).flatten(1).any(1)
        mirrored += int(other.sum())
        assert flipped[other].equal(straight[other].flip(-1))
    assert 8 < mirrored < 32


def test_the_dataset_augments_before_images_are_flipped_and_both_draw_from_their_own_stream(
    tiny, data: ImageData
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    training, rng = (
        trained(recording(tiny, seen), replace(data, augment=darken)),
        Rng(0, "augmentation"),
    )
    training.run(3)
    for (given, _), index in zip(
        seen, torch.cat(list(training.work.loader.windows(0, 3))), strict=True
    ):
        raw = from_uint8(data.train.images[index])
        assert given.equal(flip_half(darken(raw, rng), rng))


def test_all_batches_of_a_step_are_flipped(tiny, data: ImageData) -> None:
    class Three(tiny):
        batches_per_step = 3

    seen: list[tuple[Tensor, Tensor]] = []
    training = trained(recording(Three, seen), data)
    training.run(8)
    order = torch.cat(list(training.work.loader.windows(0, 8)))  # (8, 12)
    mirrored = []
    for (given, _), index in zip(seen, order, strict=True):
        raw = from_uint8(data.train.images[index])
        other = (given != raw).flatten(1).any(1)  # (12,)
        assert given[other].equal(raw[other].flip(-1))
        mirrored.append(other)
    for batch in torch.stack(mirrored).split(4, 1):
        assert 6 < int(batch.sum()) < 26  # of 32


@pytest.mark.parametrize("augment", [None, darken], ids=["flip", "augment and flip"])
@pytest.mark.parametrize("make", [None, graphs_of(1), graphs_of(4)], ids=["plan", "one", "four"])
@pytest.mark.parametrize("name", BUILTINS)
def test_graphs_compute_the_bits_of_eager(name: str, make, augment) -> None:
    numbers = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=numbers)
    data, trainer = replace(from_images(images), augment=augment), find_trainer(discover(), name)
    eager = trained(trainer, data)
    graph = trained(trainer, data, make, engine="graph")
    for window in (1, 7, 12, 3):
        eager.run(window)
        graph.run(window)
        assert_same(eager, graph)
    assert graph.stepper.replays > 4
    assert AUGMENTATION_STREAM in graph.state()  # assert_same compares it


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_keep_their_memory_format_and_are_float32(tiny, images, precision: str) -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    class Looks(tiny):
        def step(self, batch: genkit.Batch, rng: Rng) -> genkit.Metrics:
            last = batch.images.is_contiguous(memory_format=torch.channels_last)
            seen.append((batch.images.dtype, last))
            return super().step(batch, rng)

    data = from_images(images.expand(-1, 3, -1, -1))
    for augment in (None, lambda images, rng: darken(images, rng).contiguous()):
        augmented = replace(data, augment=augment)
        trained(Looks, augmented, channels_last=True, precision=precision).run(2)
    assert seen == [(torch.float32, True)] * 4


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 8])
def test_resuming_at_any_step_is_bit_exact(tiny, data: ImageData, engine: str, step: int) -> None:
    data = replace(data, augment=darken)
    whole, half, resumed = (trained(tiny, data, engine=engine) for _ in range(3))
    whole.run(9)
    half.run(step)
    restore(resumed, half)
    resumed.run(9 - step)
    assert not differing_states(whole, resumed)


def differing_states(one: Training, other: Training) -> set[str]:
    tensors = [state_of(each) | state.networks(each.trainer) for each in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    return {name for name, tensor in tensors[0].items() if not tensor.equal(tensors[1][name])}


def content(run: Path, step: int) -> list[bytes]:
    folder = run / "checkpoints" / f"step-{step:09d}"
    files = [folder / "model.safetensors", folder / "state.safetensors", run / "metrics.jsonl"]
    return [path.read_bytes() for path in files]


@pytest.mark.long
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_resuming_a_flipped_run_in_a_new_process_is_bit_exact(tmp_path: Path, engine: str) -> None:
    genkit_command = [sys.executable, "-m", "genkit"]
    options = ["--dataset", "digits", "--flip", "--batch-size", "8", "--engine", engine]
    train = [*genkit_command, "train", "ae", *options, "--device", "cpu", "--log-interval", "3"]
    call(*train, "--iterations", "11", "--out", tmp_path / "whole")
    call(*train, "--iterations", "5", "--out", tmp_path / "half")
    call(*genkit_command, "resume", tmp_path / "half", "--iterations", "11")
    assert content(tmp_path / "whole", 11) == content(tmp_path / "half", 11)
    environment = json.loads((tmp_path / "half" / "run.json").read_text())["environment"]
    assert (environment["engine"], environment["fallback_reason"]) == (engine, "")


def test_the_stream_is_in_checkpoints_where_there_is_something_to_augment(
    tiny, images: Tensor
) -> None:
    data = from_images(images)
    for flip, augment in ((False, None), (True, None), (False, darken)):
        dataset = replace(data, augment=augment)
        run = genkit.train(tiny, dataset=dataset, flip=flip, iterations=3, **QUIET)
        saved = checkpoint.newest(run.folder.checkpoints)[0].state
        assert TRAINING_STREAM in saved
        assert (AUGMENTATION_STREAM in saved) is (flip or augment is not None)
        assert run.info.options.flip is flip


def test_resuming_keeps_the_option(tiny, images: Tensor) -> None:
    options = {"dataset": images, **QUIET}
    whole = genkit.train(tiny, flip=True, iterations=6, **options)
    half = genkit.train(tiny, flip=True, iterations=3, **options)
    with pytest.raises(TypeError, match="flip"):
        genkit.resume(half.path, 6, trainer=tiny, dataset=images, flip=False)
    genkit.resume(half.path, 6, trainer=tiny, dataset=images, progress=False)
    assert content(whole.path, 6) == content(half.path, 6)


def test_a_run_of_before_there_was_augmentation_goes_on(tiny, data: ImageData) -> None:
    old = trained(tiny, data, flip=False)
    old.run(4)
    assert AUGMENTATION_STREAM not in old.state()
    resumed = trained(tiny, data, flip=False)
    restore(resumed, old)
    for training in (old, resumed):
        training.run(3)
    assert not differing_states(old, resumed)


def test_a_dataset_that_augments_only_before_or_only_after_resuming_is_said(
    tiny, data: ImageData
) -> None:
    straight = trained(tiny, data, flip=False)
    augmented = trained(tiny, replace(data, augment=darken), flip=False)
    for training in (straight, augmented):
        training.run(2)
    states = [(t.step, dict(state.networks(t.trainer)), state_of(t)) for t in (straight, augmented)]
    with pytest.warns(genkit.GenkitWarning, match="were not augmented up to step 2, and are from"):
        augmented.restore(*states[0])
    begins_anew = Rng(0, "augmentation from step 2").state()
    assert augmented.state()[AUGMENTATION_STREAM].equal(begins_anew)
    with pytest.warns(genkit.GenkitWarning, match="were augmented up to step 2, and are not from"):
        straight.restore(*states[1])
    for training in (straight, augmented):
        training.run(2)


def test_streams_of_another_kind_of_device_begin_anew(tiny, data: ImageData) -> None:
    training = trained(tiny, data)
    training.run(2)
    networks, saved = dict(state.networks(training.trainer)), state_of(training)
    other = {name: torch.zeros(16, dtype=torch.uint8) for name in training.work.streams}
    with pytest.warns(genkit.GenkitWarning, match="another kind of device: a new one") as heard:
        training.restore(2, networks, {**saved, **other})
    assert len(heard) == 1
    for name, purpose in ((TRAINING_STREAM, "training"), (AUGMENTATION_STREAM, "augmentation")):
        assert training.state()[name].equal(Rng(0, f"{purpose} from step 2").state())
    for wrong, message in (
        (torch.zeros_like(saved[AUGMENTATION_STREAM]), "the checkpoint's random stream is damaged"),
        (torch.zeros(3), "lacks the state of the random stream"),
    ):
        with pytest.raises(CheckpointError, match=message):
            training.restore(2, networks, {**saved, AUGMENTATION_STREAM: wrong})


def fails(images: Tensor, rng: Rng) -> Tensor:
    raise IndexError("list index out of range")


def in_place(images: Tensor, rng: Rng) -> Tensor:
    return images[:2].mul_(0.5).repeat(2, 1, 1, 1)


WRONG: list[tuple[Callable[[Tensor, Rng], Any], type[Exception], str]] = [
    (fails, PluginError, "failed to augment a batch: IndexError: list index out of range"),
    (in_place, ContractError, ": its augment changes its input in place; it has to return other"),
    (lambda images, rng: images[:3], ContractError, "with float32 (4, 1, 6, 5) on cpu and gave fl"),
    (lambda images, rng: images.double(), ContractError, "on cpu and gave float64 (4, 1, 6, 5) on"),
    (lambda images, rng: images.numpy(), ContractError, "on cpu and gave ndarray, not the same"),
    (lambda images, rng: 3 * images.abs(), ContractError, "images have to be in [-1, 1]"),
    (lambda images, rng: (images / 0).fmod(1), ContractError, "its augment gave NaN; images have"),
]


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize(("augment", "kind", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_what_is_wrong_with_an_augment_is_said_of_the_dataset(
    tiny, data: ImageData, engine: str, augment, kind, message: str
) -> None:
    training = Training.prepare(
        lambda device: build(tiny, tiny.Config(), data.spec, 0, "cpu"),
        replace(data, augment=augment),
        TrainOptions(dataset="pictures", batch_size=4, engine=engine),
        owner="the model",
    )
    with pytest.raises(kind) as caught:
        training.run(1)
    assert str(caught.value).startswith("dataset pictures")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rounding_beyond_the_range_is_no_error(tiny, data: ImageData) -> None:
    trained(tiny, replace(data, augment=lambda images, rng: images * 1.00001)).run(1)


def test_an_augment_that_cannot_be_captured_leaves_the_steps_to_python(
    tiny, data: ImageData
) -> None:
    counts = itertools.count()
    for augment, why in (
        (lambda images, rng: images * rng.uniform(1).item(), "Tensor.item (test_augment.py:"),
        (lambda images, rng: images / (1 + next(counts)), "in other bits each time it is run"),
    ):
        training = trained(tiny, replace(data, augment=augment), engine="graph")
        training.run(5)
        assert training.stepper.kind == "eager"
        assert why in training.stepper.fallback_reason


def test_held_out_images_and_those_of_the_alarm_are_not_augmented(tiny, data: ImageData) -> None:
    class Evaluates(tiny):
        def evaluate(self, batch: genkit.Batch, rng: Rng) -> genkit.Metrics:
            return {"brightness": batch.images.mean()}

    readings = []
    for augment in (None, lambda images, rng: -torch.ones_like(images)):
        training = trained(Evaluates, replace(data, augment=augment), flip=augment is not None)
        alarm = Alarm(training.trainer, training.data, 4, 0, None, [], pytest.fail)
        readings.append((validate(training), alarm.read(0)))
    assert readings[0] == readings[1]
    assert {"gradient_norm_generator", "certainty"} <= readings[0][1].keys()


def pictures(augment: Callable[[Tensor, Rng], Any] | None) -> Callable[[DataRequest], ImageData]:
    """A dataset as a plugin's target would give it."""
    numbers = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8, generator=numbers)
    data = ImageData(Split(images[:30]), Split(images[30:]), "made in the test", augment=augment)
    return lambda request: data


def draws_globally(images: Tensor, rng: Rng) -> Tensor:
    return images * torch.rand(len(images), 1, 1, 1)


def reads(images: Tensor, rng: Rng) -> Tensor:
    return images if rng.uniform(1).item() < 0.5 else images.flip(-1)


def brightens_in_place(images: Tensor, rng: Rng) -> Tensor:
    return images.add_(0.1).clamp_(-1, 1)


def sometimes_too_bright(images: Tensor, rng: Rng) -> Tensor:
    return images + 0.1 * rng.uniform(len(images), 1, 1, 1)


AUGMENT_CHECKS = {name for name in CHECKS[DatasetEntry] if name.startswith("augment")}


@pytest.mark.parametrize(
    ("augment", "failing"),
    [
        (None, set()),
        (darken, set()),
        (flip_half, set()),
        (lambda images, rng: images, set()),
        (fails, AUGMENT_CHECKS),
        (lambda images, rng: images[:3], {"augment_gives_images"}),
        (sometimes_too_bright, {"augment_gives_images"}),
        (brightens_in_place, {"augment_gives_images"}),
        (draws_globally, {"augment_draws_from_rng_alone", "augment_is_capturable"}),
        (reads, {"augment_is_capturable"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_checks_of_datasets_find_what_is_wrong_with_an_augment(augment, failing: set[str]) -> None:
    results = {
        result.check: result
        for result in check_dataset(pictures(augment))
        if result.check in AUGMENT_CHECKS
    }
    assert {n for n, result in results.items() if result.outcome == "failed"} == failing
    assert len(results) == 3
    skipped = {result.reason for result in results.values() if result.outcome == "skipped"}
    assert skipped == (set() if augment else {"it augments nothing"})
