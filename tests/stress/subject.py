"""The small runs of the trials, the processes that train them, and how two are compared."""

import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import genkit
from genkit.callback import Callback
from genkit.data.in_memory import from_images
from genkit.errors import Interrupted
from genkit.storage import checkpoint

MODELS: dict[str, dict[str, Any]] = {
    "simple-gan": {"hidden_dim": 8, "latent_dim": 4},
    "ae": {"hidden_dim": 8, "latent_dim": 4},
    "vae": {"hidden_dim": 8, "latent_dim": 4},
}
"""The built-in models, with options that make them small."""
INTERVALS = {"log_interval": 4, "sample_interval": 25, "checkpoint_interval": 5, "keep": 2}
OPTIONS: dict[str, Any] = {
    "batch_size": 8,
    "device": "cpu",
    "threads": 1,
    "progress": False,
    **INTERVALS,
}


def images() -> genkit.ImageData:
    """40 grey images of 8x8 pixels."""
    generator = torch.Generator().manual_seed(1)
    return from_images(torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=generator))


def train(
    model: str, out: Path, iterations: int, callbacks: tuple[Callback, ...] = ()
) -> genkit.Run:
    """Train a new run in ``out``, or resume the one there, as a user does after a crash."""
    data = images()
    if (out / "run.json").exists():
        return genkit.resume(out, iterations, dataset=data, callbacks=callbacks, progress=False)
    options = {**OPTIONS, **MODELS[model]}
    return genkit.train(
        model, dataset=data, iterations=iterations, out=str(out), callbacks=callbacks, **options
    )


def digest(out: Path) -> str:
    """SHA-256 of weights, optimizer, random stream and metrics of a finished run."""
    found, skipped = checkpoint.newest(out / "checkpoints")
    assert not skipped, skipped
    total = hashlib.sha256((out / "metrics.jsonl").read_bytes())
    for part in checkpoint.FILES:
        total.update((found.path / f"{part}.safetensors").read_bytes())
    return total.hexdigest()


def warm_up() -> None:
    """Import and initialise by discarded runs what every child needs; children are forks of this
    process.
    """
    torch.set_num_threads(1)  # a fork has one thread
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            train(model, Path(folder) / model, 1)


class Acknowledge(Callback):
    """Writes the step of each acknowledged checkpoint to a pipe, which outlives the process."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_checkpoint(self, step: int, path: Path) -> None:
        os.write(self.pipe, f"{step}\n".encode())


class Child:
    """A forked process that trains; its memory starts without any training."""

    def __init__(self, work: Callable[[tuple[Callback, ...]], Any]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(reading)
                work((Acknowledge(writing),))
                code = 0
            except Interrupted as stop:
                code = stop.exit_code
            except genkit.GenkitError as error:
                code = error.exit_code
                traceback.print_exc()
            except BaseException:  # noqa: BLE001 (a fork must not return)
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        self.pipe = reading

    def wait_for_checkpoint(self) -> None:
        """Wait for the first acknowledged checkpoint."""
        self.acknowledged = os.read(self.pipe, 64)

    def end(self) -> tuple[int, list[int]]:
        """Wait for its exit code (negative: the signal that killed it) and acknowledged steps."""
        steps = getattr(self, "acknowledged", b"")
        while part := os.read(self.pipe, 4096):
            steps += part
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), [int(step) for step in steps.split()]

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> bool:
        """Send a signal after ``seconds`` if the process still runs; returns whether it did."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return False
            time.sleep(0.0005)
        os.kill(self.pid, number)
        return True
