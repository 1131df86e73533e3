"""The alarm: what it reads of collapsed and of healthy training, and that it changes nothing."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import genkit
from genkit.data.in_memory import from_images
from genkit.models import build
from genkit.storage import state
from genkit.training import collapse
from genkit.training.collapse import Alarm, diagnose, effective_classes, pairwise_distance


def rows(**values: float) -> list[dict[str, float]]:
    return [{"step": collapse.MIN_STEPS, **values}]


def test_healthy_readings_say_nothing() -> None:
    healthy = {
        "diversity": 0.9,
        "class_diversity": 0.95,
        "certainty": 0.8,
        "gradient_norm_generator": 2.0,
    }
    assert diagnose([]) == {}
    assert diagnose(rows(**healthy) * 5) == {}


@pytest.mark.parametrize(
    ("values", "kind", "says"),
    [
        (
            {"diversity": 0.2},
            "collapse",
            "the samples have collapsed: they lie 20 % as far apart as real images",
        ),
        (
            {"diversity": 0.8, "class_diversity": 0.12},
            "collapse",
            "to few classes: 12 % of the variety",
        ),
    ],
)
def test_what_is_wrong_is_said(values: dict[str, float], kind: str, says: str) -> None:
    wrong = diagnose(rows(**values))
    assert list(wrong) == [kind]
    assert says in wrong[kind]


def test_a_discriminator_has_to_be_certain_for_a_while() -> None:
    certain = {"certainty": 0.99999}
    assert diagnose(rows(**certain) * 2) == {}
    assert "certain in 3 readings in a row" in diagnose(rows(**certain) * 3)["discriminator"]
    assert diagnose(rows(**certain) * 2 + rows(certainty=0.9)) == {}


def test_a_gradient_has_to_be_gone_for_a_while() -> None:
    """A loss that is weighed with zero in most steps has none in some."""
    gone = {"gradient_norm_generator": 0.0}
    assert diagnose(rows(**gone) * 2) == {}
    assert diagnose(rows(gradient_norm_generator=1.0) + rows(**gone) * 2) == {}
    assert diagnose(rows(**gone) * 3) == {
        "gradient_norm_generator": "no gradient reaches generator any more"
    }


def test_a_young_generator_may_be_uniform_until_it_has_been_diverse() -> None:
    young = [{"step": 100, "diversity": 0.1}]
    assert diagnose(young) == {}
    assert "collapse" in diagnose([{"step": 50, "diversity": 0.8}, *young])
    assert "collapse" in diagnose([{"step": collapse.MIN_STEPS, "diversity": 0.1}])
    # Each figure for itself: pixels may differ before classes do.
    assert diagnose([{"step": 2000, "diversity": 0.8, "class_diversity": 0.2}]) == {}
    assert diagnose(
        [
            {"step": 2000, "diversity": 0.8, "class_diversity": 0.6},
            {"step": 3000, "class_diversity": 0.2},
        ]
    )


def test_measures() -> None:
    images = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert pairwise_distance(images) == pytest.approx((2 + 2 + 0) / 3)
    assert pairwise_distance(images[:1]) == 0
    assert effective_classes(torch.eye(4)) == pytest.approx(4)
    assert effective_classes(torch.tensor([[1.0, 0.0]]).expand(9, 2)) == pytest.approx(1)


def reader(trainer: genkit.Trainer, images: Tensor) -> tuple[Alarm, list[str]]:
    notices: list[str] = []
    return Alarm(trainer, from_images(images), 4, 0, None, [], notices.append), notices


def test_looking_changes_nothing(tiny, images: Tensor) -> None:
    data = from_images(images)
    trainer = build(tiny, tiny.Config(), data.spec, 0, "cpu")
    before = {name: tensor.clone() for name, tensor in state.networks(trainer).items()}
    reading, notices = reader(trainer, images)
    global_stream = torch.get_rng_state()
    first, second = reading.read(5), reading.read(5)
    assert first == second
    assert set(first) >= {"step", "diversity"}
    assert any(name.startswith("gradient_norm_") and value > 0 for name, value in first.items())
    now = state.networks(trainer)
    assert all(tensor.equal(now[name]) for name, tensor in before.items())
    assert torch.get_rng_state().equal(global_stream)
    assert all(p.grad is None for p in trainer.parameters())
    assert notices == []


def test_a_trainer_that_cannot_be_copied_is_watched_by_its_samples(tiny, images: Tensor) -> None:
    class Uncopied(tiny):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("not me")

    class SelfReferring(tiny):
        def __init__(self, config: object, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            self.register_buffer("seen", torch.zeros(()))
            me = self
            self.count = lambda: me.seen.add_(1)

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            self.count()
            return super().step(batch, rng)

    for trainer_class, why in (
        (Uncopied, "not me"),
        (SelfReferring, "changes trainer/seen of the original"),
    ):
        trainer = build(trainer_class, tiny.Config(), from_images(images).spec, 0, "cpu")
        reading, notices = reader(trainer, images)
        assert set(reading.read(1)) == set(reading.read(2)) == {"step", "diversity"}
        assert len(notices) == 1
        assert why in notices[0]
    assert float(trainer.seen) == 0


def collapsing(tiny: type[genkit.Trainer], after: int) -> type[genkit.Trainer]:
    """From a step on its generator ignores its input."""

    class Collapsing(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            metrics = super().step(batch, rng)
            last = [layer for layer in self.generator.modules() if isinstance(layer, nn.Linear)][-1]
            with torch.no_grad():
                last.weight.mul_((self.iteration < after).float())
            return metrics

    return Collapsing


def test_a_collapse_is_flagged_within_one_sample_interval(
    tiny,
    images: Tensor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collapse, "MIN_STEPS", 10)
    options = {
        "dataset": images,
        "batch_size": 4,
        "device": "cpu",
        "sample_interval": 10,
        "iterations": 60,
    }
    healthy = genkit.train(tiny, **options, out=tmp_path / "healthy")
    assert "alarm" not in capsys.readouterr().err
    assert [row["step"] for row in healthy.folder.read_rows("alarm.jsonl")] == [
        10,
        20,
        30,
        40,
        50,
        60,
    ]

    genkit.train(collapsing(tiny, 33), **options, out=tmp_path / "collapsed")
    lines = [line for line in capsys.readouterr().err.splitlines() if "alarm" in line]
    assert (
        lines[0]
        == "alarm: step 40: the samples have collapsed: they lie 0 % as far apart as real images"
    )
    assert len([line for line in lines if "collapsed" in line]) == 1  # said once

    with pytest.raises(
        genkit.GenkitError, match=r"collapsed.*; stopped at step 40, as --stop-on-collapse asks"
    ):
        genkit.train(
            collapsing(tiny, 33), **options, stop_on_collapse=True, out=tmp_path / "stopped"
        )
    assert genkit.load(tmp_path / "stopped", tiny).step == 40


def test_a_resumed_run_has_the_readings_of_an_uninterrupted_one(
    tiny, images: Tensor, tmp_path: Path
) -> None:
    options = {
        "dataset": images,
        "batch_size": 4,
        "device": "cpu",
        "sample_interval": 10,
        "checkpoint_interval": 5,
    }
    whole = genkit.train(tiny, **options, iterations=40, out=tmp_path / "whole", progress=False)
    half = genkit.train(tiny, **options, iterations=25, out=tmp_path / "half", progress=False)
    genkit.resume(half, 40, trainer=tiny, dataset=images, progress=False)
    expected = (whole.path / "alarm.jsonl").read_text()
    assert [json.loads(line)["step"] for line in expected.splitlines()] == [10, 20, 30, 40]
    assert (half.path / "alarm.jsonl").read_text() == expected


def test_tensorboard_writes_curves_samples_and_the_alarm(
    tiny, images: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {
        "batch_size": 4,
        "device": "cpu",
        "log_interval": 5,
        "sample_interval": 10,
        "progress": False,
    }
    run = genkit.train(
        tiny,
        dataset=images,
        callbacks=["tensorboard"],
        iterations=20,
        out=tmp_path / "run",
        **options,
    )
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    rows = run.metrics()
    name = next(key for key in rows[0] if key != "step")
    assert [(e.step, e.value) for e in events.Scalars(f"training/{name}")] == [
        (row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows
    ]
    assert [e.step for e in events.Scalars("alarm/diversity")] == [10, 20]
    assert [e.step for e in events.Images("samples")] == [10, 20]


def test_real_images_are_drawn_from_the_whole_dataset(tiny) -> None:
    """One sorted by class begins with images that are much alike, and samples of one class would
    look varied.
    """
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8, generator=generator)
    data = from_images(prototypes.repeat_interleave(100, 0))
    trainer = build(tiny, tiny.Config(), data.spec, 0, "cpu")
    seen = Alarm(trainer, data, 4, 0, None, [], print)
    assert len(seen._real.unique(dim=0)) == 10


def test_an_alarm_that_cannot_look_ends_no_training(
    tiny,
    images: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {
        "dataset": images,
        "batch_size": 4,
        "device": "cpu",
        "sample_interval": 10,
        "iterations": 30,
    }
    plain = genkit.train(tiny, **options, out=tmp_path / "plain")

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(collapse, "pairwise_distance", fails)
    run = genkit.train(tiny, **options, out=tmp_path / "run")
    assert capsys.readouterr().err.count("the alarm is off: RuntimeError: out of memory") == 1
    assert not (run.path / "alarm.jsonl").exists()
    assert (run.path / "metrics.jsonl").read_bytes() == (plain.path / "metrics.jsonl").read_bytes()


def test_looking_leaves_the_global_stream_alone(tiny, images: Tensor) -> None:
    class Dropping(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            torch.rand(1)
            return super().step(batch, rng)

    trainer = build(Dropping, tiny.Config(), from_images(images).spec, 0, "cpu")
    before = torch.get_rng_state()
    assert reader(trainer, images)[0].check(1)[0]
    assert torch.get_rng_state().equal(before)


def test_a_run_that_was_stopped_can_go_on(
    tiny, images: Tensor, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(collapse, "MIN_STEPS", 10)
    broken = collapsing(tiny, 33)
    options = {
        "dataset": images,
        "batch_size": 4,
        "device": "cpu",
        "sample_interval": 10,
        "progress": False,
    }
    with pytest.raises(genkit.GenkitError, match="stopped at step 40"):
        genkit.train(broken, **options, iterations=60, stop_on_collapse=True, out=tmp_path / "run")
    run = genkit.resume(
        tmp_path / "run", trainer=broken, dataset=images, stop_on_collapse=False, progress=False
    )
    assert run.step == 60
    # A collapse that is seen at the last step stops nothing: all is done.
    with pytest.raises(genkit.GenkitError):
        genkit.train(
            broken, **options, iterations=60, stop_on_collapse=True, out=tmp_path / "early"
        )
    late = genkit.train(
        broken, **options, iterations=40, stop_on_collapse=True, out=tmp_path / "late"
    )
    assert (late.path / "samples" / "000000040.png").exists()
