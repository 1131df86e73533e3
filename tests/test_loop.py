"""Training end to end: what the run folder holds, exactness, and what stops a run."""

import json
import traceback
from pathlib import Path

import pytest
import torch
from torch import Tensor

import genkit
from genkit.callback import Callback
from genkit.errors import DataError, GenkitError, RunError, UsageError
from genkit.report.plotting import draw_curves
from genkit.storage import checkpoint, lock

OPTIONS = {
    "batch_size": 4,
    "log_interval": 4,
    "sample_interval": 10,
    "checkpoint_interval": 7,
    "device": "cpu",
}


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
    assert [path.name for path in checkpoint.steps(run.folder.checkpoints)] == [
        f"step-{s:09}" for s in (25, 21, 14)
    ]
    assert (run.path / "plots" / "curves.png").is_file()
    assert run.sample(2, seed=1).shape == (2, 1, 6, 5)
    assert torch.equal(genkit.load(run.path, tiny).sample(2, seed=1), run.sample(2, seed=1))
    assert not torch.equal(run.sample(2, seed=2), run.sample(2, seed=1))
    with pytest.raises(UsageError, match="not in a plugin"):
        genkit.load(run.path).sample(1)
    info = json.loads((run.path / "run.json").read_text())
    assert info["config"] == {"learning_rate": 0.02}
    assert info["environment"]["torch"] == torch.__version__


def test_one_seed_one_run(tiny, images: Tensor) -> None:
    first, second, other = (
        genkit.train(tiny, dataset=images, iterations=10, seed=seed, progress=False, **OPTIONS)
        for seed in (0, 0, 1)
    )
    assert_identical(first, second)
    assert content(first)[2] != content(other)[2]


@pytest.mark.parametrize("k", [7, 8, 10, 13])
def test_resumed_equals_uninterrupted(tiny, images: Tensor, k: int) -> None:
    options = {"dataset": images, "progress": False, **OPTIONS}
    whole = genkit.train(tiny, iterations=2 * k, **options)
    half = genkit.train(tiny, iterations=k, **options)
    resumed = genkit.resume(half.path, 2 * k, trainer=tiny, dataset=images, progress=False)
    assert resumed.path == half.path
    assert_identical(whole, resumed)
    assert json.loads((resumed.path / "run.json").read_text())["options"]["iterations"] == 2 * k


def test_resume_after_a_damaged_newest_says_so(tiny, images: Tensor) -> None:
    class Notices(Callback):
        heard: list[str] = []  # noqa: RUF012

        def on_notice(self, message: str) -> None:
            self.heard.append(message)

    whole = genkit.train(tiny, dataset=images, iterations=20, progress=False, **OPTIONS)
    half = genkit.train(tiny, dataset=images, iterations=14, progress=False, **OPTIONS)
    (half.path / "checkpoints" / "step-000000014" / "model.safetensors").write_bytes(b"x")
    resumed = genkit.resume(half.path, 20, trainer=tiny, dataset=images, callbacks=[Notices()])
    assert "step-000000014" in Notices.heard[0]
    assert "going on from step 7" in Notices.heard[0]
    assert_identical(whole, resumed)


def test_resume_refuses_fewer_steps(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=8, progress=False, **OPTIONS)
    for total in (7, 8):
        with pytest.raises(UsageError, match="at step 8 already"):
            genkit.resume(run.path, total, trainer=tiny, dataset=images, progress=False)


def test_not_finite_stops_the_run(tiny, images: Tensor) -> None:
    class Explodes(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            metrics = dict(super().step(batch, rng))
            metrics["d_loss"] = metrics["d_loss"] / (self.iteration < 9)
            return metrics

    with pytest.raises(
        GenkitError, match=r"d_loss became (inf|-inf|nan) at step 10: training stopped"
    ):
        genkit.train(Explodes, dataset=images, iterations=20, progress=False, **OPTIONS)
    run = genkit.load("runs/0001-explodes-images", Explodes)
    assert run.step == 7
    assert [row["step"] for row in run.metrics()] == [4, 8]


def test_out_must_be_free(tiny, images: Tensor, tmp_path: Path) -> None:
    options = {
        "dataset": images,
        "iterations": 1,
        "progress": False,
        "out": str(tmp_path / "here"),
        **OPTIONS,
    }
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
    with pytest.raises(RunError, match="not a run folder"):
        genkit.load(tmp_path / "absent")
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        genkit.load(tmp_path)


@pytest.mark.parametrize("part", ["options", "dataset", "model"])
def test_a_part_of_run_json_that_is_damaged_is_named(tiny, images: Tensor, part: str) -> None:
    path = (
        genkit.train(tiny, dataset=images, iterations=1, progress=False, **OPTIONS).path
        / "run.json"
    )
    path.write_text(json.dumps({**json.loads(path.read_text()), part: {"seed": "x"}}))
    with pytest.raises(RunError, match=rf"run\.json: {part}"):
        genkit.load(path.parent, tiny)


def test_a_skipped_checkpoint_is_said_on_loading_too(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=14, progress=False, **OPTIONS)
    (run.folder.checkpoints / "step-000000014" / "model.safetensors").write_bytes(b"x")
    with pytest.warns(genkit.GenkitWarning, match="step-000000014.*using step 7"):
        assert genkit.load(run.path, tiny).step == 7


def test_resume_refuses_other_images(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=4, progress=False, **OPTIONS)
    for other in (255 - images, "digits"):
        with pytest.raises(DataError):
            genkit.resume(run.path, 8, trainer=tiny, dataset=other, progress=False)


def test_resume_finishes_what_follows_the_last_step(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=10, progress=False, **OPTIONS)
    before = content(run)[2]
    (run.path / "plots" / "curves.png").unlink()
    genkit.resume(run.path, trainer=tiny, dataset=images, progress=False)
    assert (run.path / "plots" / "curves.png").exists()
    assert content(run)[2] == before


def test_resume_with_another_kind_of_random_stream_says_so(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=4, progress=False, **OPTIONS)
    found, _ = checkpoint.newest(run.folder.checkpoints)
    state = {**found.state, "rng/training": torch.zeros(16, dtype=torch.uint8)}
    checkpoint.write(run.folder.checkpoints, 4, found.model, state)
    with pytest.warns(genkit.GenkitWarning, match="random stream is of another kind of device"):
        genkit.resume(run.path, 8, trainer=tiny, dataset=images, progress=False)


def test_non_persistent_buffers_are_state_too(tiny, images: Tensor) -> None:
    class Counts(tiny):
        def __init__(self, config, spec) -> None:
            super().__init__(config, spec)
            self.generator.register_buffer("seen", torch.zeros(()), persistent=False)

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            self.generator.seen.add_(1)
            return {**super().step(batch, rng), "seen": self.generator.seen.clone()}

    options = {"dataset": images, "progress": False, **OPTIONS}
    whole = genkit.train(Counts, iterations=14, **options)
    half = genkit.train(Counts, iterations=7, **options)
    assert_identical(
        whole, genkit.resume(half.path, 14, trainer=Counts, dataset=images, progress=False)
    )


@pytest.mark.parametrize(
    "metrics", [{}, {"step": torch.zeros(())}, {"loss": torch.zeros(2)}, {"loss": "grad"}], ids=str
)
def test_wrong_metrics_are_refused(tiny, images: Tensor, metrics: dict[str, Tensor]) -> None:
    class Wrong(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            grad = self.generator.layer.weight.sum()
            return {name: grad if value == "grad" else value for name, value in metrics.items()}

    with pytest.raises(genkit.ContractError, match="step gave"):
        genkit.train(Wrong, dataset=images, iterations=2, progress=False, **OPTIONS)


def test_automatic_folders_never_collide(tiny, images: Tensor) -> None:
    with (
        lock.claim(None, "a") as first,
        lock.claim(None, "a") as second,
        lock.claim(None, "b") as third,
    ):
        assert first.path != second.path
        assert third.path.name == "0003-b"


def test_the_grid_uses_the_same_latents_every_time(tiny, images: Tensor) -> None:
    class Frozen(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            return {"loss": rng.normal(1).mean()}

    run = genkit.train(Frozen, dataset=images, iterations=20, progress=False, **OPTIONS)
    assert len({path.read_bytes() for path in (run.path / "samples").glob("*.png")}) == 1


def test_sampling_does_not_move_training(tiny, images: Tensor) -> None:
    often, seldom = (
        genkit.train(
            tiny, dataset=images, iterations=12, progress=False, **{**OPTIONS, "sample_interval": n}
        )
        for n in (1, 12)
    )
    assert_identical(often, seldom)


def test_one_row_is_no_curve(tiny, images: torch.Tensor, tmp_path: Path) -> None:
    """There would be nothing in the picture, and drawing nothing takes a third of a second to
    begin.
    """
    run = genkit.train(
        tiny, dataset=images, iterations=1, batch_size=4, device="cpu", out=tmp_path / "run"
    )
    assert not (run.path / "plots").exists()
    assert run.folder.is_complete(1)
    with pytest.raises(
        genkit.RunError, match=r"metrics\.jsonl has one row yet, and a curve needs 2"
    ):
        draw_curves(run)
    genkit.resume(run, 200, trainer=tiny, dataset=images)
    assert (run.path / "plots" / "curves.png").exists()


def test_from_train_to_a_step_are_at_most_five_frames(tiny, images: Tensor) -> None:
    depths: list[list[str]] = []

    class Counts(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            stack = traceback.extract_stack()[:-1]
            package = Path(genkit.__file__).parent
            frames = [f.name for f in stack if package in Path(f.filename).parents]
            depths.append(frames[frames.index("train") :])
            return super().step(batch, rng)

    options = {"iterations": 4, "batch_size": 4, "device": "cpu", "progress": False}
    genkit.train(Counts, dataset=images, engine="eager", **options)
    assert depths[2] == ["train", "fit", "run", "steps", "advance"]
