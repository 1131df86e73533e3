"""Signals, locks, full disks, numbers that are not finite, and runs from strangers: one promise in
each test.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import genkit
from genkit.callback import Callback
from genkit.cli.main import main
from genkit.data import images
from genkit.data.files import workers
from genkit.errors import CheckpointError, GenkitError, Interrupted, RunError, printable
from genkit.report.plotting import draw_curves
from genkit.storage import atomic, checkpoint, lock
from genkit.storage.folder import RunFolder
from genkit.testing.subject import no_unpickling
from genkit_plugins import datasets

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]

OPTIONS = {
    "batch_size": 4,
    "log_interval": 4,
    "sample_interval": 8,
    "checkpoint_interval": 8,
    "device": "cpu",
}
QUIET = {**OPTIONS, "progress": False}


class Notices(Callback):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_notice(self, message: str) -> None:
        self.messages.append(message)


class SendsItself(Callback):
    """A signal in the middle of training, from the log callback."""

    def __init__(self, number: signal.Signals, step: int) -> None:
        self.number, self.step = number, step

    def on_log(self, step: int, metrics: object) -> None:
        if step == self.step:
            signal.raise_signal(self.number)


# --- signals ---


@pytest.fixture(autouse=True)
def _signals_are_heeded() -> Iterator[None]:
    """Also where the tests are started by nohup or in the background, which ignore some; processes
    that the tests start inherit it.
    """
    ignored = [number for number, _ in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_ends_with_a_checkpoint_and_resuming_is_exact(
    tiny, images: Tensor, number, code: int
) -> None:
    whole = genkit.train(tiny, dataset=images, iterations=32, **QUIET)
    handlers = [signal.getsignal(n) for n, _ in SIGNALS]
    with pytest.raises(
        Interrupted, match=f"{number.name}; the checkpoint of step 12 is safe: `genkit resume"
    ) as stop:
        genkit.train(
            tiny,
            dataset=images,
            iterations=32,
            out="run",
            callbacks=[SendsItself(number, 12)],
            **QUIET,
        )
    assert stop.value.exit_code == code
    assert handlers == [signal.getsignal(n) for n, _ in SIGNALS]
    assert checkpoint.newest(Path("run/checkpoints"))[0].step == 12
    resumed = genkit.resume("run", trainer=tiny, dataset=images, progress=False)
    assert (whole.path / "metrics.jsonl").read_bytes() == (
        resumed.path / "metrics.jsonl"
    ).read_bytes()
    left, right = (checkpoint.newest(run.folder.checkpoints)[0] for run in (whole, resumed))
    assert all(left.state[name].equal(right.state[name]) for name in left.state | right.state)


def test_a_signal_at_the_last_step_lets_it_finish(tiny, images: Tensor) -> None:
    run = genkit.train(
        tiny, dataset=images, iterations=8, callbacks=[SendsItself(signal.SIGTERM, 8)], **QUIET
    )
    assert (run.path / "plots" / "curves.png").exists()


def test_a_signal_after_the_last_step_of_an_interval_is_handled_whole(tiny, images: Tensor) -> None:
    """Its checkpoint is written though none is due at this step."""

    class SendsItselfWhileSampling(SendsItself):
        def on_sample(self, step: int, path: Path, metrics: object) -> None:
            self.on_log(step, metrics)

    sender = SendsItselfWhileSampling(signal.SIGTERM, 8)
    options = {**QUIET, "log_interval": 100, "checkpoint_interval": 100}
    with pytest.raises(Interrupted, match="the checkpoint of step 8 is safe"):
        genkit.train(tiny, dataset=images, iterations=32, out="run", callbacks=[sender], **options)
    assert checkpoint.newest(Path("run/checkpoints"))[0].step == 8


def test_an_ignored_signal_stays_ignored(tiny, images: Tensor) -> None:
    """nohup, and shells for background jobs, ignore signals this way."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        run = genkit.train(
            tiny, dataset=images, iterations=12, callbacks=[SendsItself(signal.SIGTERM, 4)], **QUIET
        )
        assert run.step == 12
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_training_in_a_thread_leaves_signals_alone(tiny, images: Tensor) -> None:
    runs: list[genkit.Run] = []
    thread = threading.Thread(
        target=lambda: runs.append(
            genkit.train(tiny, dataset=images, iterations=4, threads=1, **QUIET)
        )
    )
    thread.start()
    thread.join()
    assert runs[0].step == 4


def train_without_end() -> subprocess.Popen[str]:
    """A process that trains in the folder ``run`` and has logged there."""
    Path("images").mkdir()
    for number in range(20):
        Image.new("L", (8, 8), color=number).save(f"images/{number}.png")
    options = ["--dataset", "folder:images", "--batch-size", "4", "--iterations", "1000000"]
    command = [sys.executable, "-m", "genkit", "train", "simple-gan", "--out", "run", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not Path("run/metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_command_line_names_the_command_that_resumes(number: signal.Signals, code: int) -> None:
    process = train_without_end()
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith(f"stopped by {number.name}; the checkpoint of step ")
    assert err.splitlines()[-1].endswith("`genkit resume run` goes on")
    assert "Traceback" not in err


STUCK = """
import sys, time, torch, genkit
sys.path.insert(0, sys.argv[1])
from tests.conftest import TinyGAN

class Stuck(TinyGAN):
    def step(self, batch, rng):
        print("stuck", flush=True)
        while True: time.sleep(0.01)

images = torch.zeros(20, 4, 4, dtype=torch.uint8)
genkit.train(Stuck, dataset=images, iterations=4, out="run", device="cpu", progress=False)
"""


def test_a_second_signal_leaves_at_once() -> None:
    """The step in the middle of which the first one came never ends."""
    command = [sys.executable, "-c", STUCK, str(Path(__file__).parent.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    process.stdout.close()


# --- two processes ---


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = train_without_end()
    for again in (
        lambda: genkit.resume("run", progress=False),
        lambda: genkit.train("vae", dataset="digits", out="run"),
    ):
        with pytest.raises(RunError, match="another process is training in this folder"):
            again()
    assert genkit.load("run").sample(1).shape == (1, 1, 8, 8)  # reading is free
    process.kill()
    process.communicate()
    step = genkit.load("run").step
    assert genkit.resume("run", iterations=step + 5, progress=False).step == step + 5


def test_a_run_that_died_before_its_first_checkpoint_starts_at_step_0(tiny, images: Tensor) -> None:
    whole = genkit.train(tiny, dataset=images, iterations=8, **QUIET)
    shutil.copytree(whole.path, "run")
    shutil.rmtree("run/checkpoints")
    notices = Notices()
    run = genkit.resume("run", trainer=tiny, dataset=images, callbacks=[notices], progress=False)
    assert notices.messages == ["run has no checkpoint yet: beginning at step 0"]
    assert (whole.path / "metrics.jsonl").read_bytes() == (run.path / "metrics.jsonl").read_bytes()


def test_a_folder_that_a_process_died_in_before_it_wrote_anything_is_free(
    tiny, images: Tensor
) -> None:
    Path("run").mkdir()
    Path("run/.lock").touch()
    Path("run/.run.json.123.tmp").write_text("{")
    assert genkit.train(tiny, dataset=images, iterations=1, out="run", **QUIET).step == 1


def test_damaged_checkpoints_ahead_are_set_aside(tiny, images: Tensor) -> None:
    """Otherwise they would count as the newest, and the good ones would be pruned."""
    whole = genkit.train(tiny, dataset=images, iterations=48, **QUIET)
    half = genkit.train(
        tiny, dataset=images, iterations=32, keep=1, keep_all=True, out="run", **QUIET
    )
    change(half.path, options__keep_all=False)
    for step in (24, 32):
        (half.folder.checkpoints / f"step-{step:09}" / "manifest.json").write_text("{}")
    resumed = genkit.resume("run", 48, trainer=tiny, dataset=images, progress=False)
    names = sorted(path.name for path in resumed.folder.checkpoints.iterdir())
    assert names == ["damaged-step-000000024", "damaged-step-000000032", "step-000000048"]
    assert (whole.path / "metrics.jsonl").read_bytes() == (
        resumed.path / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("k", [5, 7, 10, 15])
def test_the_grids_of_a_resumed_run_are_those_of_an_uninterrupted_one(
    tiny, images: Tensor, k: int
) -> None:
    options = {
        **QUIET,
        "log_interval": 10,
        "sample_interval": 5,
        "checkpoint_interval": 5,
        "dataset": images,
    }
    whole = genkit.train(tiny, iterations=30, **options)
    genkit.train(tiny, iterations=k, out="run", **options)
    resumed = genkit.resume("run", 30, trainer=tiny, dataset=images, progress=False)
    left, right = (
        {path.name: path.read_bytes() for path in run.folder.all_samples()}
        for run in (whole, resumed)
    )
    assert left == right
    assert whole.folder.read_rows("metrics.jsonl") == resumed.folder.read_rows("metrics.jsonl")


def test_a_last_grid_that_is_missing_is_drawn_by_resuming(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=8, **QUIET)
    grid = run.folder.samples(8)
    before = grid.read_bytes()
    grid.unlink()
    genkit.resume(run.path, trainer=tiny, dataset=images, progress=False)
    assert grid.read_bytes() == before


def test_pruning_goes_on_behind_what_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".step-000000001.1.tmp").write_text("a file, not a folder")
    (tmp_path / ".step-000000002.1.tmp").symlink_to(tmp_path)
    for step in (5, 6, 7):
        checkpoint.write(tmp_path, step, {"a.weight": torch.zeros(2)}, {})
    checkpoint.prune(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000007"]


# --- full disks ---


def refuse(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_picture_that_cannot_be_written_is_reported_and_training_goes_on(
    tiny, images: Tensor, monkeypatch
) -> None:
    notices = Notices()

    class FullDisk:
        def __getattr__(self, name: str) -> object:
            return refuse if name == "replace" else getattr(atomic, name)

    monkeypatch.setattr("genkit.data.images.atomic", FullDisk())
    run = genkit.train(tiny, dataset=images, iterations=8, callbacks=[notices], **QUIET)
    assert run.step == 8
    assert notices.messages == [
        "the samples of step 8 could not be written (No space left on device); going on without",
        "the curves could not be written (No space left on device); going on without",
    ]


@pytest.mark.parametrize("what", ["append", "write_new"])
def test_a_log_or_checkpoint_that_cannot_be_written_stops_with_one_line(
    tiny, images: Tensor, monkeypatch, what
) -> None:
    run = genkit.train(tiny, dataset=images, iterations=8, **QUIET)
    before = sorted(path for path in run.path.rglob("*"))

    says = {
        "append": r"step 12: cannot write the log in .*No space",
        "write_new": "cannot write in .*No space",
    }[what]
    with monkeypatch.context() as full:
        full.setattr(atomic, what, refuse)
        with pytest.raises(GenkitError, match=says) as error:
            genkit.resume(run.path, 16, trainer=tiny, dataset=images, progress=False)
    assert "\n" not in str(error.value)
    left = {path for path in run.path.rglob("*") if path not in before and path.suffix != ".png"}
    assert left <= {run.path / "checkpoints", run.path / "failure.json"}
    assert genkit.resume(run.path, 16, trainer=tiny, dataset=images, progress=False).step == 16


# --- numbers that are not finite ---


def test_a_parameter_that_is_not_finite_stops_the_run_within_the_window(
    tiny, images: Tensor
) -> None:
    class Breaks(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            metrics = super().step(batch, rng)
            if self.iteration == 9:
                with torch.no_grad():
                    self.generator.layer.weight[0, 0] = float("nan")
            return {name: torch.zeros(()) for name in metrics}

    with pytest.raises(
        GenkitError, match=r"generator\.layer\.weight has NaN or infinite values at step 12"
    ):
        genkit.train(Breaks, dataset=images, iterations=32, out="run", **QUIET)
    assert genkit.load("run", Breaks).step == 8
    assert [row["step"] for row in genkit.load("run").metrics()] == [4, 8]


def test_a_buffer_that_is_infinite_from_the_start_may_stay_so(tiny, images: Tensor) -> None:
    class Masked(tiny):
        def __init__(self, config, spec) -> None:
            super().__init__(config, spec)
            self.generator.register_buffer("mask", torch.full((2, 2), float("-inf")))

    run = genkit.train(Masked, dataset=images, iterations=8, **QUIET)
    assert genkit.resume(run.path, 16, trainer=Masked, dataset=images, progress=False).step == 16


@pytest.mark.parametrize("sample_interval", [1, 5, 10])
def test_a_metric_that_is_a_buffer_is_recorded_as_it_was(
    tiny, images: Tensor, sample_interval: int
) -> None:
    class Counts(tiny):
        def __init__(self, config, spec) -> None:
            super().__init__(config, spec)
            self.register_buffer("count", torch.zeros(()))

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            self.count.add_(1)
            return {**super().step(batch, rng), "count": self.count}

    options = {**QUIET, "log_interval": 10, "sample_interval": sample_interval}
    run = genkit.train(Counts, dataset=images, iterations=10, **options)
    assert run.metrics()[0]["count"] == 5.5


def test_a_schedule_that_no_checkpoint_could_hold_is_refused(tiny, images: Tensor) -> None:
    class Scheduled(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            self.optimizers["generator"].param_groups[0]["lr"] *= 0.99
            return super().step(batch, rng)

    with pytest.raises(
        genkit.ContractError,
        match=r"lr of the optimizer 'generator' went from 0\.01 to .* a tensor",
    ):
        genkit.train(Scheduled, dataset=images, iterations=16, **QUIET)


# --- runs from strangers ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {**QUIET, "log_interval": 2, "hidden_dim": 4, "latent_dim": 2}
    out = tmp_path_factory.mktemp("trained") / "run"
    return genkit.train("vae", dataset="digits", iterations=4, out=str(out), **options).path


@pytest.fixture
def stranger(trained: Path) -> Path:
    """A run that a test may spoil."""
    return Path(shutil.copytree(trained, "stranger", symlinks=True))


def change(path: Path, **values: object) -> None:
    content = json.loads((path / "run.json").read_text())
    for place, value in values.items():
        section, _, key = place.partition("__")
        content[section][key] = value
    (path / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize("size", [10**7, 10**12, 10**18])
def test_a_run_that_claims_a_huge_model_is_refused_before_it_is_made(
    stranger: Path, size: int
) -> None:
    change(stranger, config__hidden_dim=size)
    for use in (
        lambda: genkit.load(stranger).sample(1),
        lambda: genkit.resume(stranger, 8, progress=False),
    ):
        with pytest.raises(GenkitError) as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "link",
    ["checkpoints", "samples", "plots", "metrics.jsonl", "timing.jsonl", ".lock", "run.json"],
)
def test_a_link_out_of_the_run_folder_is_refused(stranger: Path, link: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "000000099.png").write_text("mine")
    (outside / "precious").write_text("mine")
    path = stranger / link
    target = outside / "precious" if path.is_file() else outside
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)
    with pytest.raises(RunError, match="leads out of the run folder"):
        genkit.resume(stranger, 8, progress=False)
    assert {file.name: file.read_text() for file in outside.iterdir()} == {
        "000000099.png": "mine",
        "precious": "mine",
    }


def test_pictures_of_a_run_go_through_no_link_either(
    stranger: Path, tmp_path: Path, capsys
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "samples-seed-0.png").write_text("mine")
    shutil.rmtree(stranger / "plots")
    (stranger / "plots").symlink_to(victim)
    for command in ("sample", "reconstruct", "plot"):
        with pytest.raises(SystemExit):
            main([command, str(stranger)])
        assert "leads out of the run folder" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [
        ("samples-seed-0.png", "mine")
    ]


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(stranger: Path) -> None:
    for name, use in (
        ("metrics.jsonl", lambda: draw_curves(genkit.load(stranger))),
        ("run.json", lambda: genkit.load(stranger)),
    ):
        (stranger / name).unlink()
        os.mkfifo(stranger / name)
        with pytest.raises(RunError, match="not a regular file"):
            use()


def test_the_data_root_of_a_run_is_only_read(stranger: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "theirs").mkdir()
    change(stranger, dataset__name="mnist", options__data_root=str(tmp_path / "theirs"))
    for use in (
        lambda: genkit.evaluate(stranger),
        lambda: genkit.resume(stranger, 8, progress=False),
    ):
        with pytest.raises(genkit.DataUnavailableError, match="pass --data-root"):
            use()
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.parametrize("threads", [-5, 0, 10**9, "many"])
def test_impossible_threads_of_a_run_are_ignored(stranger: Path, threads: object) -> None:
    change(stranger, environment__threads=threads)
    assert genkit.resume(stranger, 8, progress=False).step == 8


def test_a_callback_that_no_plugin_provides_is_left_out(stranger: Path) -> None:
    change(stranger, options__callbacks=["gone"])
    notices = Notices()
    assert genkit.resume(stranger, 8, callbacks=[notices], progress=False).step == 8
    assert notices.messages[0].startswith("unknown callback 'gone'")


def test_lines_with_other_metrics_are_drawn_with_gaps(stranger: Path) -> None:
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "other_loss": 2.0}, {"step": 3, "loss": 1e308}]
    (stranger / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert draw_curves(genkit.load(stranger)).exists()
    (stranger / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(RunError, match="have no metrics"):
        draw_curves(genkit.load(stranger))
    many = {f"m{number}": 1.0 for number in range(700)}
    (stranger / "metrics.jsonl").write_text((json.dumps({"step": 1, **many}) + "\n") * 2)
    assert draw_curves(genkit.load(stranger)).exists()


def test_a_link_in_the_place_of_a_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / f".step-000000001.{os.getpid()}.tmp").symlink_to(victim)
    path = checkpoint.write(folder, 1, {"a.weight": torch.zeros(2)}, {})
    assert not list(victim.iterdir())
    assert not path.is_symlink()


def test_a_file_that_is_too_large_is_not_read(stranger: Path) -> None:
    os.truncate(stranger / "metrics.jsonl", 2**40)  # sparse
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        draw_curves(genkit.load(stranger))
    os.truncate(stranger / "run.json", 2**40)
    with pytest.raises(RunError, match="more than the limit"):
        genkit.load(stranger)


@pytest.mark.parametrize(
    "text",
    ['{"step": "x"}', '{"step": 1, "loss": "x"}', "[]", '{"step": 1, "loss": NaN}', "1", "{"],
)
def test_damaged_lines_of_the_log_are_named(stranger: Path, text: str) -> None:
    (stranger / "metrics.jsonl").write_text(text + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged \(line 1"):
        draw_curves(genkit.load(stranger))


def test_a_line_that_a_crash_cut_short_is_no_damage(stranger: Path) -> None:
    rows = genkit.load(stranger).metrics()
    with (stranger / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    assert genkit.load(stranger).metrics() == rows


def test_names_in_a_checkpoint_import_nothing(stranger: Path) -> None:
    change(stranger, model__name="os:system", model__distribution="json.tool")
    with pytest.raises(genkit.UnknownNameError):
        genkit.load(stranger).sample(1)
    assert "json.tool" not in sys.modules


def test_printable_escapes_what_moves_the_cursor() -> None:
    assert printable("a\x1b[2Jb\rc\n\u202e\x9b\ud800é日") == r"a\x1b[2Jb\rc\n\u202e\x9b\ud800é日"


# --- images ---


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(np.full((8, 8), number * 20, np.uint8)).save(folder / f"{number:02}.png")
    whole = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(whole[:-30])  # cut short
    (folder / "05.png").write_text("no picture at all")
    Image.new("RGB", (8, 8)).save(folder / "07.png", format="JPEG")  # mislabelled
    Image.new("L", (9000, 9000)).save(folder / "08.png")  # too large
    Image.new("L", (4, 4)).save(folder / "09.png")  # of another size
    return folder


def test_bad_images_are_refused_or_skipped_by_name(tiny, pictures: Path) -> None:
    options = {"dataset": f"folder:{pictures}", "iterations": 2, **QUIET}
    with pytest.raises(
        genkit.DataError,
        match=r"05\.png: .*; repair or remove it, or skip such files",
    ):
        genkit.train(tiny, on_bad_image="refuse", **options)
    notices = Notices()
    with pytest.raises(genkit.DataError, match="images differ in size"):
        genkit.train(tiny, **options)
    run = genkit.train(tiny, image_size=8, callbacks=[notices], **options)
    reasons = {Path(line.split(": ")[0]).name: line for line in notices.messages[:-1]}
    assert sorted(reasons) == ["03.png", "05.png"]
    assert "truncated" in reasons["03.png"]
    assert "not an image" in reasons["05.png"]
    assert notices.messages[-1].startswith("10 images, ")
    assert notices.messages[-1].endswith("skipped 2 (1 not an image, 1 truncated)")
    again = genkit.resume(run.path, 4, trainer=tiny, callbacks=[notices], progress=False)
    assert again.step == 4


def test_the_shape_of_most_images_decides(tiny, tmp_path: Path) -> None:
    Path("mixed").mkdir()
    Image.new("L", (8, 8)).save("mixed/a.png")
    for number in range(11):
        Image.new("RGB", (8, 8), color=(number + 5, 0, 0)).save(f"mixed/b{number}.png")
    whole = Path("mixed/b0.png").read_bytes()
    Path("mixed/b10.png").write_bytes(whole[:-18])  # only its end is missing
    notices = Notices()
    run = genkit.train(
        tiny,
        dataset="folder:mixed",
        iterations=1,
        callbacks=[notices],
        **QUIET,
    )
    assert run.spec.shape == (3, 8, 8)
    assert notices.messages[-1].startswith("11 images, ")
    assert "1 grey image converted to RGB" in notices.messages[-1]
    assert notices.messages[-1].endswith("skipped 1 (1 truncated)")


@pytest.mark.parametrize("how", ["skip", "refuse"])
def test_a_folder_with_more_images_than_the_run_had_is_not_read_whole(
    tiny, monkeypatch, how: str
) -> None:
    """A stranger's run may name any folder, and either way to take bad images."""
    Path("few").mkdir()
    for number in range(12):
        Image.new("L", (8, 8), color=number).save(f"few/{number:02}.png")
    run = genkit.train(tiny, dataset="folder:few", iterations=2, **QUIET)
    change(run.path, options__on_bad_image=how)
    for number in range(40):
        Image.new("L", (8, 8), color=number).save(f"few/more{number:02}.png")
    read: list[Path] = []
    real = workers.decode

    def decode(path: Path, target: object) -> object:
        if target is not None:
            read.append(path)
        return real(path, target)

    monkeypatch.setattr(workers, "decode", decode)
    with pytest.raises(genkit.DataError, match="there are more than the 12 images of the run"):
        genkit.resume(run.path, 4, trainer=tiny, progress=False)
    assert len(read) == 13


def test_images_of_other_sizes_are_not_those_of_the_run(tiny) -> None:
    Path("mixed").mkdir()
    for number in range(10):
        Image.new("L", (8, 8), color=number).save(f"mixed/a{number}.png")
    run = genkit.train(tiny, dataset="folder:mixed", iterations=2, on_bad_image="skip", **QUIET)
    for number in range(20):
        Image.new("L", (9, 9)).save(f"mixed/b{number:02}.png")
    with pytest.raises(genkit.DataError, match="20 of 9x9, 10 of 8x8; those of the run are all"):
        genkit.resume(run.path, 4, trainer=tiny, progress=False)


def test_many_skipped_files_are_counted(tiny, pictures: Path) -> None:
    for number in range(20):
        (pictures / f"x{number:02}.png").write_text("a line of text")
    notices = Notices()
    dataset = f"folder:{pictures}"
    genkit.train(tiny, dataset=dataset, image_size=8, iterations=1, callbacks=[notices], **QUIET)
    assert notices.messages[10] == "skipped 12 more"
    assert "skipped 22 (" in notices.messages[11]


def test_a_folder_run_is_found_again_from_elsewhere(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("here").mkdir()
    for number in range(12):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(f"here/{number}.png")
    run = genkit.train(tiny, dataset="folder:here", iterations=2, **QUIET)
    path = run.path.absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert genkit.resume(path, 4, trainer=tiny, progress=False).step == 4


# --- pickle ---


@pytest.mark.long
def test_nothing_is_unpickled_from_training_to_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pictures").mkdir()
    for number in range(20):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(f"pictures/{number}.png")
    monkeypatch.setattr(datasets, "CIFAR_IMAGES", 20)
    cifar = tmp_path / "data" / "cifar-10-batches-bin"
    cifar.mkdir(parents=True)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (cifar / name).write_bytes(np.zeros((20, 3073), np.uint8).tobytes())
    (cifar / "data_batch_1.meta").write_bytes(pickle.dumps("bait"))
    options = {"data_root": str(tmp_path / "data"), "iterations": 3, "hidden_dim": 4, **QUIET}
    # Whatever is imported on first use is imported now.
    genkit.train("vae", dataset="cifar10", **options)
    with no_unpickling():
        for dataset in ("cifar10", "folder:pictures", "digits"):
            run = genkit.train("vae", dataset=dataset, **options)
            run = genkit.resume(run.path, 6, progress=False)
            assert len(genkit.load(run.path).sample(2)) == 2
            genkit.evaluate(run.path, count=4)


# --- formats ---

RELEASED = sorted((Path(__file__).parent / "formats").glob("*"))


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.name)
def test_runs_of_every_released_format_load(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, "run")
    run = genkit.load("run")
    assert run.step == 6
    images_now = images.to_uint8(run.sample(4, seed=0)).int()
    expected = torch.tensor(json.loads((path / "samples.json").read_text()))
    assert (images_now - expected).abs().max() <= 1  # another processor may round otherwise


def test_there_is_a_run_of_every_format() -> None:
    assert [path.name for path in RELEASED] == [
        f"format-{number}" for number in range(1, checkpoint.FORMAT + 1)
    ]


def test_a_checkpoint_too_large_for_its_manifest_is_refused_when_it_is_written(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(checkpoint, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(CheckpointError, match="too many tensors"):
        checkpoint.write(tmp_path, 1, {"a.weight": torch.zeros(2)}, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_free_again_after_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="mine"), lock.hold(folder):
        raise ValueError("mine")
    with (
        lock.hold(folder),
        pytest.raises(RunError, match="another process"),
        lock.hold(RunFolder(tmp_path)),
    ):
        pass
