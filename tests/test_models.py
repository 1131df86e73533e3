"""What every built-in model must do, and their golden losses. The contract for any model is
genkit.testing.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import genkit
from genkit.config import TrainOptions
from genkit.data.datasets import from_images
from genkit.data.images import from_uint8
from genkit.hookspecs import Model
from genkit.interfaces import Reconstructs
from genkit.models import build, find_trainer
from genkit.plugins.registry import discover
from genkit.rng import Rng
from genkit.storage import checkpoint
from genkit.training.session import Training
from tests.conftest import training_of

GOLDEN = Path(__file__).parent / "golden"
NAMES = [registered.entry.name for registered in discover().all(Model) if registered.plugin.builtin]
SHAPES = [(1, 12, 12), (3, 8, 10)]


def make(
    name: str, shape: tuple[int, int, int] = (1, 12, 12), seed: int = 0, **config: object
) -> genkit.Trainer:
    trainer = find_trainer(discover(), name)
    return build(trainer, trainer.Config(**config), genkit.DataSpec(*shape), seed, "cpu")


def blobs(shape: tuple[int, int, int], count: int = 64) -> Tensor:
    """Images with something to learn: one bright row each, on black."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 30, (count, *shape), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), :, torch.arange(count) % shape[1]] = 230
    return images


def engine(trainer: genkit.Trainer, images: Tensor, batch_size: int = 8) -> Training:
    return training_of(
        trainer, from_images(images), TrainOptions(batch_size=batch_size, log_interval=10)
    )


def training_images(images: Tensor) -> Tensor:
    """Those that :func:`engine` trains on, ``(N, C, H, W)`` in [-1, 1]."""
    return from_uint8(from_images(images).train.images)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_trains_and_samples_any_shape(name: str, shape: tuple[int, int, int]) -> None:
    trainer = make(name, shape)
    for batch_size in (1, 2, 7):
        engine(trainer, blobs(shape), batch_size).run(3)
    for count in (0, 1, 5):
        images = trainer.generator.sample(count, Rng(0, "x"))
        assert images.shape == (count, *shape)
        assert images.dtype == torch.float32
        assert bool(((images >= -1) & (images <= 1)).all())
    first, again, other = (trainer.generator.sample(4, Rng(seed, "x")) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_and_global_randomness_is_untouched(name: str) -> None:
    trainer = make(name)
    before = {key: tensor.clone() for key, tensor in trainer.named_parameters()}
    owned = [
        p for o in trainer.optimizers.values() for group in o.param_groups for p in group["params"]
    ]
    assert len(owned) == len({id(p) for p in owned}) == len(before)
    state = torch.get_rng_state()
    engine(trainer, blobs((1, 12, 12))).run(5)
    assert torch.equal(state, torch.get_rng_state())
    assert [
        key for key, tensor in trainer.named_parameters() if torch.equal(tensor, before[key])
    ] == []


@pytest.mark.parametrize("name", NAMES)
def test_resume_in_a_new_process_is_exact(name: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    options = {
        "dataset": "digits",
        "progress": False,
        "device": "cpu",
        "batch_size": 8,
        "log_interval": 10,
        "threads": 1,
    }
    whole = genkit.train(name, iterations=26, out=str(tmp_path / "whole"), **options)
    half = genkit.train(name, iterations=13, out=str(tmp_path / "half"), **options)
    subprocess.run(
        [sys.executable, "-m", "genkit", "resume", str(half.path), "--iterations", "26"], check=True
    )
    left, right = (checkpoint.newest(run.folder.checkpoints)[0] for run in (whole, half))
    for mine, theirs in ((left.model, right.model), (left.state, right.state)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert (whole.path / "metrics.jsonl").read_bytes() == (half.path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_option_changes_something(name: str) -> None:
    trainer = find_trainer(discover(), name)
    other = {
        "latent_dim": 3, "hidden_dim": 5, "learning_rate": 0.1, "betas": (0.5, 0.9), "eps": 0.1,
        "d_updates": "combined", "beta": 4.0, "code_momentum": 0.5,
    }  # fmt: skip

    def trained(**config: object) -> Tensor:
        made = make(name, **config)
        engine(made, blobs((1, 12, 12))).run(5)
        return made.generator.sample(2, Rng(0, "x"))

    usual = trained()
    for option in trainer.Config.model_fields:
        assert not torch.equal(usual, trained(**{option: other[option]})), option


@pytest.mark.parametrize("name", NAMES)
def test_log_format_reads_the_metrics(name: str) -> None:
    trainer = make(name)
    run = engine(trainer, blobs((1, 12, 12)))
    run.run(2)
    assert trainer.log_format.format(**run.means())


def test_the_articles_line() -> None:
    line = find_trainer(discover(), "simple-gan").log_format
    values = {"discriminator_loss": 0.129656, "accuracy": 0.9609, "generator_loss": 3.387729}
    assert line.format(**values) == "[D loss: 0.129656, acc.: 96.09%] [G loss: 3.387729]"


@pytest.mark.parametrize("name", ["simple-gan", "ae", "vae"])
def test_golden_losses(name: str) -> None:
    """Ten steps from seed 0 give the recorded losses, to what another processor may round
    otherwise.
    """
    run = engine(make(name), blobs((1, 12, 12)))
    run.run(10)
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert run.means() == pytest.approx(golden, rel=1e-4)


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_reconstruction_overfits_one_batch(name: str) -> None:
    trainer = make(name)
    images = blobs((1, 12, 12), 9)
    run = engine(trainer, images)
    assert isinstance(trainer, Reconstructs)
    real = training_images(images)[:9]
    before = (trainer.reconstruct(real) - real).abs().mean()
    for _ in range(60):
        run.run(10)
    reconstruction = trainer.reconstruct(real)
    assert reconstruction.shape == real.shape
    assert (reconstruction - real).abs().mean() < 0.2 * before


def test_dead_latents_do_not_break_the_autoencoders_prior() -> None:
    generator = make("ae").generator
    generator.code_covariance.zero_()[0, 0] = -1e-9
    assert bool(torch.isfinite(generator.sample(4, Rng(0, "x"))).all())


def test_autoencoder_follows_its_codes() -> None:
    trainer = make("ae", latent_dim=4, code_momentum=0.1)
    images = blobs((1, 12, 12))
    run = engine(trainer, images)
    for _ in range(40):
        run.run(10)
    codes = trainer.encoder(training_images(images)[:64])
    codes = codes.detach()
    assert torch.allclose(trainer.generator.code_mean, codes.mean(0), atol=0.5 * float(codes.std()))
    assert torch.allclose(trainer.generator.code_covariance.diagonal(), codes.var(0), rtol=0.8)


def test_vae_test_loss_is_the_negative_elbo() -> None:
    """Against torch.distributions: E_q[log p(x|z) + log p(z) - log q(z|x)], averaged over many z."""
    trainer = make("vae", latent_dim=3)
    engine(trainer, blobs((1, 12, 12))).run(10)
    images, rng = training_images(blobs((1, 12, 12)))[:16], Rng(0, "x")
    with torch.no_grad():
        posterior = trainer.encoder(images)
        elbo = torch.zeros(())
        for _ in range(200):
            z = posterior.sample(rng)
            log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
            log_q = (
                torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
                .log_prob(z)
                .sum(1)
            )
            elbo += (trainer.log_likelihood(images, z) + log_prior - log_q).mean() / 200
        test_loss = trainer.evaluate(genkit.Batch(images, None), rng)["loss"]
    assert float(-elbo) == pytest.approx(float(test_loss), rel=0.02)
