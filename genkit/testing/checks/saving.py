"""Checks of what is saved, and of going on from it."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ...api import load, train
from ...errors import CheckpointError
from ...interfaces import DataSpec
from ...storage import checkpoint, state
from ...storage.folder import LOCK
from ...storage.state import snapshot
from ..subject import (
    SHAPE,
    ModelSubject,
    Skipped,
    differing,
    made_images,
    model_check,
    no_unpickling,
)

PLAIN = {".safetensors", ".json", ".jsonl", ".png", ".txt"}
"""What a run folder may hold."""


@model_check
def checkpoint_round_trip_is_exact(subject: ModelSubject) -> None:
    """safetensors and back, bit for bit; missing or extra names are refused."""
    trainer = subject.make()
    training = subject.training(trainer)
    training.run(3)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.write(
            Path(folder), 3, state.networks(trainer), training.state(), training.may_be_infinite
        )
        found = checkpoint.read(path)
    other = subject.training(subject.make(seed=1))
    other.restore(3, found.model, found.state)
    changed = differing(snapshot(trainer), snapshot(other.trainer))
    assert not changed, f"{changed[0]} is not what was saved"
    name = next(iter(found.model))
    for model in (
        {k: v for k, v in found.model.items() if k != name},
        {**found.model, "extra.weight": torch.ones(1)},
    ):
        try:
            subject.training(subject.make()).restore(3, model, found.state)
        except CheckpointError:
            continue
        raise AssertionError("a checkpoint with a missing or extra tensor is accepted")


@model_check
def resumed_equals_uninterrupted(subject: ModelSubject) -> None:
    """k steps, save, a new trainer, load, k steps: the bits of 2k steps."""
    whole = subject.training(subject.make())
    whole.run(10)
    half = subject.training(subject.make())
    half.run(5)
    model = {name: tensor.clone() for name, tensor in state.networks(half.trainer).items()}
    saved = {name: tensor.clone() for name, tensor in half.state().items()}
    resumed = subject.training(subject.make(seed=1))
    resumed.restore(5, model, saved)
    resumed.run(5)
    changed = differing(snapshot(whole.trainer), snapshot(resumed.trainer))
    assert not changed, (
        f"{changed[0]} differs: something that changes in step is no parameter, buffer or "
        "optimizer state"
    )
    assert whole.means() == resumed.means(), "the metrics differ after a resume"


@model_check
def resumed_in_a_new_process(subject: ModelSubject) -> None:
    """k steps, a new process, k steps: the files of 2k steps, byte for byte."""
    if subject.registered is None:
        raise Skipped("a class that is not in a plugin, which a new process would not find")
    name = subject.registered.qualified_name
    with tempfile.TemporaryDirectory() as folder:
        whole = train(name, iterations=8, out=f"{folder}/whole", **_small_run())
        half = train(name, iterations=4, out=f"{folder}/half", **_small_run())
        command = [sys.executable, "-c", _RESUME, str(half.path), "8"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (
            f"it cannot be resumed: {(done.stderr.splitlines() or ['no message'])[-1]}"
        )
        for file in (
            "metrics.jsonl",
            *(f"checkpoints/step-000000008/{part}.safetensors" for part in checkpoint.FILES),
        ):
            same = (whole.path / file).read_bytes() == (half.path / file).read_bytes()
            assert same, (
                f"{file} differs: something that changes in step is kept outside the trainer"
            )


_RESUME = """
import sys
from genkit.api import resume
from genkit.testing.checks.saving import made_images, SPEC
resume(sys.argv[1], int(sys.argv[2]), dataset=made_images(SPEC), progress=False)
"""
SPEC = DataSpec(*SHAPE, classes=10)


def _small_run() -> dict[str, Any]:
    return {
        "dataset": made_images(SPEC),
        "batch_size": 8,
        "log_interval": 3,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "progress": False,
    }


@model_check
def run_folder_is_plain_and_loads_without_unpickling(subject: ModelSubject) -> None:
    """A run may come from a stranger: safetensors, JSON, PNG and text only, and nothing is
    unpickled to use it.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = train(subject.trainer, iterations=2, out=f"{folder}/run", **_small_run())
        files = [path for path in run.path.rglob("*") if path.is_file() and path.name != LOCK]
        strange = sorted(path.name for path in files if path.suffix not in PLAIN)
        assert not strange, f"the run folder holds {strange[0]}"
        with no_unpickling():
            load(run.path, subject.trainer).sample(2)
