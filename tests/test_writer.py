"""Checkpoints and grids written in a thread, as on a GPU: the same run, and nothing lost."""

import os
import signal
from pathlib import Path

import pytest
import torch

import genkit
from genkit.errors import CheckpointError, Interrupted
from genkit.storage import checkpoint
from genkit.storage.state import copy_to_host
from genkit.training import recorder
from genkit.training.writer import Writer

OPTIONS = {
    "batch_size": 4,
    "device": "cpu",
    "progress": False,
    "log_interval": 2,
    "sample_interval": 4,
    "checkpoint_interval": 4,
}


def contents(run: Path) -> dict[str, bytes]:
    """Of all files that do not tell the time."""
    files = (path for path in run.rglob("*") if path.is_file())
    timed = {"timing.jsonl", "curves.png", "run.json", "lock", "manifest.json"}
    return {
        str(path.relative_to(run)): path.read_bytes() for path in files if path.name not in timed
    }


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "THREADED_DEVICES", {"cpu"})


def test_a_run_is_the_same_whoever_writes_it(tiny, images, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[list[str]] = []

    class Watches(genkit.Callback):
        def __init__(self) -> None:
            events.append([])

        def on_checkpoint(self, step: int, path: Path) -> None:
            assert path.is_dir()
            events[-1].append(f"checkpoint {step}")

        def on_sample(self, step: int, path: Path, metrics: object) -> None:
            assert path.is_file()
            events[-1].append(f"sample {step}")

    runs = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(recorder, "THREADED_DEVICES", devices)
        run = genkit.train(tiny, dataset=images, iterations=10, callbacks=[Watches()], **OPTIONS)
        runs.append(
            genkit.resume(
                run.path,
                trainer=tiny,
                dataset=images,
                iterations=16,
                progress=False,
                callbacks=[Watches()],
            )
        )
    assert contents(runs[0].path) == contents(runs[1].path)
    assert len(contents(runs[0].path)) > 8
    assert events[:2] == events[2:]


@pytest.mark.usefixtures("threaded")
def test_a_disk_that_refuses_ends_a_training_with_what_it_refused(
    tiny, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write

    def refuse(folder: Path, step: int, *tensors: object) -> Path:
        if step == 8:
            raise CheckpointError("step 8: cannot write: No space left on device")
        return write(folder, step, *tensors)

    monkeypatch.setattr(checkpoint, "write", refuse)
    with pytest.raises(CheckpointError, match="step 8: cannot write"):
        genkit.train(tiny, dataset=images, iterations=16, out=Path("run"), **OPTIONS)
    kept = [path.name for path in checkpoint.steps(Path("run/checkpoints"))]
    assert kept == ["step-000000004", "step-000000000"]


@pytest.mark.usefixtures("threaded")
def test_an_interrupt_waits_for_its_checkpoint(tiny, images) -> None:
    class Stops(genkit.Callback):
        def on_log(self, step: int, metrics: object) -> None:
            if step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"the checkpoint of step \d+ is safe"):
        genkit.train(
            tiny, dataset=images, iterations=99, out=Path("run"), callbacks=[Stops()], **OPTIONS
        )
    assert checkpoint.steps(Path("run/checkpoints"))[0].name >= "step-000000006"


def test_writes_are_done_in_order_and_their_errors_reach_the_caller() -> None:
    for in_thread in (False, True):
        writer, done = Writer(in_thread), []
        writer.submit(lambda: 1, done.append)
        writer.submit(lambda: 2, done.append)
        writer.settle()
        assert done == [1, 2]
        writer.close()
    writer = Writer(in_thread=True)
    writer.submit(lambda: 1 / 0, done.append)
    writer.submit(lambda: 3, done.append)
    with pytest.raises(ZeroDivisionError):
        writer.settle()
    assert done[-1] == 3  # what was written after it counts
    writer.close()


def test_a_copy_on_the_host_does_not_change_with_the_original() -> None:
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    copied = copy_to_host({"x": tensor})["x"]
    assert copied.equal(tensor)
    assert copied.stride() == tensor.stride()
    tensor.add_(1)
    assert not copied.equal(tensor)
