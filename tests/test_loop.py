"""Training end to end: what the run folder holds, exactness, and what stops a run."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import genkit
from genkit import checkpoint
from genkit.callback import Callback
from genkit.errors import CheckpointError, GenkitError, RunError, UsageError

OPTIONS = {"batch_size": 4, "log_interval": 4, "sample_interval": 10, "checkpoint_interval": 7, "device": "cpu"}


def content(run: genkit.Run) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    found, skipped = checkpoint.newest(run.path / "checkpoints")
    assert not skipped
    return found.model, found.state, (run.path / "metrics.jsonl").read_text()


def assert_identical(first: genkit.Run, second: genkit.Run) -> None:
    for left, right in zip(content(first), content(second), strict=True):
        if isinstance(left, str):
            assert left == right
        else:
            assert left.keys() == right.keys()
            assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_class_from_a_notebook(tiny, images: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    run = genkit.train(tiny, dataset=images, iterations=25, learning_rate=0.02, **OPTIONS)
    assert run.path == Path("runs/0001-tiny-gan-images")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["10", "20", "25"]
    assert lines[-2:] == [f"samples: {run.path}/samples/000000025.png", str(run.path)]
    assert [row["step"] for row in run.metrics()] == [4, 8, 12, 16, 20, 24, 25]
    assert [path.name for path in checkpoint.steps(run.checkpoints)] == [f"step-{s:09}" for s in (25, 21, 14)]
    assert (run.path / "plots" / "curves.png").is_file()
    assert run.sample(2, seed=1).shape == (2, 1, 6, 5)
    assert torch.equal(genkit.load(run.path, tiny).sample(2, seed=1), run.sample(2, seed=1))
    assert not torch.equal(run.sample(2, seed=2), run.sample(2, seed=1))
    with pytest.raises(UsageError, match="of no plugin"):
        genkit.load(run.path).sample(1)
    info = json.loads((run.path / "run.json").read_text())
    assert info["config"] == {"learning_rate": 0.02}
    assert info["environment"]["torch"] == torch.__version__


def test_one_seed_one_run(tiny, images: Tensor) -> None:
    first, second, other = (
        genkit.train(tiny, dataset=images, iterations=10, seed=seed, callbacks=[], **OPTIONS) for seed in (0, 0, 1)
    )
    assert_identical(first, second)
    assert content(first)[2] != content(other)[2]


@pytest.mark.parametrize("k", [7, 8, 10, 13])
def test_resumed_equals_uninterrupted(tiny, images: Tensor, k: int) -> None:
    options = {"dataset": images, "callbacks": [], **OPTIONS}
    whole = genkit.train(tiny, iterations=2 * k, **options)
    half = genkit.train(tiny, iterations=k, **options)
    resumed = genkit.resume(half.path, 2 * k, trainer=tiny, dataset=images, callbacks=[])
    assert resumed.path == half.path
    assert_identical(whole, resumed)
    assert json.loads((resumed.path / "run.json").read_text())["options"]["iterations"] == 2 * k


def test_resume_after_a_damaged_newest_says_so(tiny, images: Tensor) -> None:
    class Notices(Callback):
        heard: list[str] = []  # noqa: RUF012

        def on_notice(self, message: str) -> None:
            self.heard.append(message)

    whole = genkit.train(tiny, dataset=images, iterations=20, callbacks=[], **OPTIONS)
    half = genkit.train(tiny, dataset=images, iterations=14, callbacks=[], **OPTIONS)
    (half.path / "checkpoints" / "step-000000014" / "model.safetensors").write_bytes(b"x")
    resumed = genkit.resume(half.path, 20, trainer=tiny, dataset=images, callbacks=[Notices()])
    assert "step-000000014" in Notices.heard[0]
    assert "going on from step 7" in Notices.heard[0]
    assert_identical(whole, resumed)


def test_resume_refuses_fewer_steps_and_other_options(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=8, callbacks=[], **OPTIONS)
    with pytest.raises(UsageError, match="at step 8 already"):
        genkit.resume(run.path, 8, trainer=tiny, dataset=images, callbacks=[])
    with pytest.raises(CheckpointError, match="its parameter"):
        genkit.resume(run.path, 9, trainer=tiny, dataset=torch.zeros(4, 3, 3, dtype=torch.uint8), callbacks=[])


def test_not_finite_stops_the_run(tiny, images: Tensor) -> None:
    class Explodes(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            metrics = dict(super().step(batch, rng))
            metrics["d_loss"] = metrics["d_loss"] / (self.iteration < 9)
            return metrics

    with pytest.raises(GenkitError, match=r"d_loss became .* between step 9 and 12"):
        genkit.train(Explodes, dataset=images, iterations=20, callbacks=[], **OPTIONS)
    run = genkit.load("runs/0001-explodes-images", Explodes)
    assert run.step == 7
    assert [row["step"] for row in run.metrics()] == [4, 8]


def test_out_must_be_free(tiny, images: Tensor, tmp_path: Path) -> None:
    options = {"dataset": images, "iterations": 1, "callbacks": [], "out": str(tmp_path / "here"), **OPTIONS}
    genkit.train(tiny, **options)
    with pytest.raises(RunError, match="already holds a run"):
        genkit.train(tiny, **options)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is not empty"):
        genkit.train(tiny, **{**options, "out": str(tmp_path)})
    with pytest.raises(RunError, match="cannot write"):
        genkit.train(tiny, **{**options, "out": str(tmp_path / "file" / "run")})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99}', "[" * 100_000])
def test_a_damaged_run_json_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(RunError, match="no run folder"):
        genkit.load(tmp_path / "absent")
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        genkit.load(tmp_path)


def test_the_grid_uses_the_same_latents_every_time(tiny, images: Tensor) -> None:
    class Frozen(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            return {"loss": rng.normal(1).mean()}

    run = genkit.train(Frozen, dataset=images, iterations=20, callbacks=[], **OPTIONS)
    assert len({path.read_bytes() for path in (run.path / "samples").glob("*.png")}) == 1


def test_sampling_does_not_move_training(tiny, images: Tensor) -> None:
    often, seldom = (
        genkit.train(tiny, dataset=images, iterations=12, callbacks=[], **{**OPTIONS, "sample_interval": n})
        for n in (1, 12)
    )
    assert_identical(often, seldom)
