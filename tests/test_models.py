"""The built-in models: the contract of any model, golden losses, and what is theirs alone."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import genkit
import genkit_plugins
from genkit.data.images import from_uint8
from genkit.data.in_memory import from_images
from genkit.testing import check_model

GOLDEN = Path(__file__).parent / "golden"
NAMES = [entry.name for entry in genkit_plugins.genkit_models()]
LACKS = {
    "simple-gan": {
        "encoders_are_deterministic_and_kl_is_not_negative",
        "reconstruction_learns",
        "evaluation_disturbs_nothing",
    },
    "ae": {"discriminators_give_one_logit_an_image"},
    "vae": {"discriminators_give_one_logit_an_image"},
}
"""Name → the checks of what the model does not have."""


def blobs() -> Tensor:
    """64 images ``(N, 1, 12, 12)`` with something to learn: one bright line each, on black."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 30, (64, 1, 12, 12), dtype=torch.uint8, generator=generator)
    images[torch.arange(64), :, torch.arange(64) % 12] = 230
    return images


def training_images() -> Tensor:
    """Those of :func:`blobs` that are trained on, ``(N, 1, 12, 12)`` in [-1, 1]."""
    return from_uint8(from_images(blobs()).train.images)


def train(name: str, iterations: int, **options: object) -> genkit.Run:
    return genkit.train(
        name,
        dataset=blobs(),
        iterations=iterations,
        batch_size=8,
        log_interval=10,
        device="cpu",
        progress=False,
        **options,
    )


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_contract_holds(name: str) -> None:
    results = check_model(name)
    assert [f"{r.check}: {r.reason}" for r in results if r.outcome == "failed"] == []
    assert {r.check for r in results if r.outcome == "skipped"} == LACKS[name]


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_reconstruction_overfits_one_batch(name: str) -> None:
    few = from_uint8(blobs()[:9])
    options = {"hidden_dim": 64, "batch_size": 9, "log_interval": 100, "device": "cpu"}
    images = genkit.ImageData(genkit.Split(blobs()[:9]), genkit.Split(blobs()[:0]), "here")
    error = {}
    for steps in (1, 600):
        run = genkit.train(name, dataset=images, iterations=steps, progress=False, **options)
        error[steps] = float((run.reconstruct(few) - few).abs().mean())
    assert error[600] < 0.2 * error[1]


def test_the_articles_line() -> None:
    from genkit_plugins.simple_gan import SimpleGAN

    values = {"discriminator_loss": 0.129656, "accuracy": 0.9609, "generator_loss": 3.387729}
    line = SimpleGAN.log_format.format(**values)
    assert line == "[D loss: 0.129656, acc.: 96.09%] [G loss: 3.387729]"


@pytest.mark.parametrize("name", NAMES)
def test_golden_losses(name: str) -> None:
    """Ten steps from seed 0 give the recorded losses, but for the rounding of another processor."""
    (metrics,) = train(name, 10).metrics()
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert {key: metrics[key] for key in golden} == pytest.approx(golden, rel=1e-4)


def test_dead_latents_do_not_break_the_autoencoders_prior() -> None:
    generator = train("ae", 1).trainer.generator
    generator.code_covariance.zero_()[0, 0] = -1e-9
    assert bool(torch.isfinite(generator.sample(4, genkit.Rng(0, "x"))).all())


def test_autoencoder_follows_its_codes() -> None:
    trainer = train("ae", 400, latent_dim=4, code_momentum=0.1).trainer
    with torch.no_grad():
        codes = trainer.encoder(training_images())  # (N, 4)
    assert torch.allclose(trainer.generator.code_mean, codes.mean(0), atol=0.5 * float(codes.std()))
    assert torch.allclose(trainer.generator.code_covariance.diagonal(), codes.var(0), rtol=0.8)


def test_vae_test_loss_is_the_negative_elbo() -> None:
    """Against torch.distributions: E_q[log p(x|z) + log p(z) - log q(z|x)], averaged over many
    z.
    """
    trainer = train("vae", 10, latent_dim=3).trainer
    images, rng = training_images()[:16], genkit.Rng(0, "x")
    with torch.no_grad():
        posterior = trainer.encoder(images)
        deviation = (0.5 * posterior.log_variance).exp()
        elbo = torch.zeros(())
        for _ in range(200):
            z = posterior.sample(rng)  # (B, 3)
            log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
            log_q = torch.distributions.Normal(posterior.mean, deviation).log_prob(z).sum(1)
            elbo += (trainer.log_likelihood(images, z) + log_prior - log_q).mean() / 200
        test_loss = trainer.evaluate(genkit.Batch(images, None), rng)["loss"]
    assert float(-elbo) == pytest.approx(float(test_loss), rel=0.02)
