"""Tiny data and models, made here; one thread a process; and the order of the tests."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

# Before torch is imported, here and in the processes that tests start: there are as many workers as
# cores, and threads that wait for a core spin.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from filelock import FileLock
from torch import Tensor

import genkit
from genkit.cli.main import main
from genkit.config import TrainOptions
from genkit.data.in_memory import from_images
from genkit.training.session import Training


class TinyGenerator(genkit.Generator):
    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.layer = torch.nn.Linear(3, spec.size)

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, 3)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layer(z)).unflatten(1, self.shape)


class TinyDiscriminator(genkit.Discriminator):
    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(spec.size, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)).squeeze(1)


class TinyGAN(genkit.Trainer):
    """The smallest adversarial trainer; its learning rate falls with ``iteration``, as a schedule
    would.
    """

    class Config(genkit.Config):
        learning_rate: float = genkit.Field(0.01, gt=0, description="step size")

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator = TinyGenerator(spec)
        self.discriminator = TinyDiscriminator(spec)
        self.optimizers = {
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), lr=config.learning_rate
            ),
            "generator": torch.optim.SGD(
                self.generator.parameters(), lr=config.learning_rate, momentum=0.5
            ),
        }

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        fake = self.generator(self.generator.prior(len(batch.images), rng))
        d_loss = self.discriminator(fake.detach()).mean() - self.discriminator(batch.images).mean()
        self.update(discriminator=d_loss)
        g_loss = -self.discriminator(fake).mean() / (1 + self.iteration)
        self.update(generator=g_loss)
        return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, up to eight: some tests mostly wait."""
    return min(8, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def _one_thread_and_clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for name in ("GENKIT_DATA", "GENKIT_PLUGINS", "GENKIT_STRICT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images() -> Tensor:
    """40 grey images, not square."""
    return torch.randint(
        0, 256, (40, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture
def data(images: Tensor) -> genkit.ImageData:
    return from_images(images)


@pytest.fixture
def tiny() -> type[TinyGAN]:
    return TinyGAN


def training_of(
    trainer: genkit.Trainer, data: genkit.ImageData, options: TrainOptions, **how: Any
) -> Training:
    """A training of a trainer that was built already."""
    return Training.prepare(lambda device: trainer, data, options, **how)


MNIST = Path(os.environ.get("GENKIT_DATA") or "absent").resolve()


@pytest.fixture
def mnist_root() -> Path:
    """Where the real MNIST is; tests that need it skip where it is absent."""
    if not (MNIST / "MNIST" / "raw").is_dir():
        pytest.skip("needs the real MNIST: set GENKIT_DATA to a folder in torchvision's layout")
    return MNIST


@pytest.fixture(scope="session")
def extractor_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the extractor for ``digits``, which the first worker that needs it trains."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    cache = base / "extractor-cache"
    with FileLock(base / "extractor-cache.lock"), pytest.MonkeyPatch.context() as patch:
        if not (cache / "genkit" / "extractors").exists():
            patch.setenv("XDG_CACHE_HOME", str(cache))
            options = {"hidden_dim": 4, "latent_dim": 2, "device": "cpu", "progress": False}
            out = str(base / "extractor-run")
            genkit.train("vae", dataset="digits", iterations=1, out=out, **options)
            genkit.evaluate(out, metrics=["class-coverage"], count=20)
    return cache


@pytest.fixture
def digits_extractor(extractor_cache: Path) -> None:
    """The extractor for ``digits`` is cached already: evaluating need not train it."""
    shutil.copytree(extractor_cache, os.environ["XDG_CACHE_HOME"])


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection fails at once, as on a machine without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``genkit`` with arguments."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as error:
        code = int(error.code or 0)
    return code, *capsys.readouterr()


def call(*command: str | Path) -> str:
    """Standard output of a command that has to succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def fresh_python(tmp_path: Path) -> Path:
    """The Python of a new virtual environment that sees the packages of this one, as if genkit had
    been installed there.
    """
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh")
    (site,) = (tmp_path / "fresh").glob("lib/python*/site-packages")
    (site / "parent.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    python = tmp_path / "fresh" / "bin" / "python"
    for tool in ("genkit", "pip", "pytest"):
        script = python.with_name(tool)
        script.write_text(f'#!/bin/sh\nexec {python} -m {tool} "$@"\n')
        script.chmod(0o755)
    return python
