import pytest
import torch
from torch import Tensor, nn

import genkit
from genkit.interfaces import Posterior
from genkit.models import build
from genkit.rng import Rng
from tests.conftest import TinyGAN, TinyGenerator

SPEC = genkit.DataSpec(1, 6, 5)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("phase", "other"), [("discriminator", "generator"), ("generator", "discriminator")]
)
def test_a_phase_moves_no_other_network(tiny, phase: str, other: str) -> None:
    trainer = build(tiny, tiny.Config(), SPEC, 0, "cpu")
    before, frozen = snapshot(getattr(trainer, phase)), snapshot(getattr(trainer, other))
    fake = trainer.generator(trainer.generator.prior(8, Rng(0, "x")))
    trainer.update(**{phase: trainer.discriminator(fake).mean()})  # reaches both networks
    assert not same(getattr(trainer, phase), before)
    assert same(getattr(trainer, other), frozen)
    assert all(parameter.grad is None for parameter in trainer.parameters())


def test_all_gradients_come_before_any_step(tiny) -> None:
    together, apart = (build(tiny, tiny.Config(), SPEC, 0, "cpu") for _ in range(2))

    def loss(trainer: genkit.Trainer) -> torch.Tensor:
        return trainer.discriminator(
            trainer.generator(trainer.generator.prior(8, Rng(0, "x")))
        ).mean()

    together.update(discriminator=(value := loss(together)), generator=-value)
    apart.update(generator=-loss(apart))
    assert same(
        together.generator, snapshot(apart.generator)
    )  # as if the discriminator had not moved yet


def test_a_parameter_out_of_reach_is_left_alone(tiny) -> None:
    trainer = build(tiny, tiny.Config(), SPEC, 0, "cpu")
    bias = trainer.discriminator.layer.bias.detach().clone()
    trainer.update(discriminator=trainer.discriminator.layer.weight.sum())
    assert torch.equal(trainer.discriminator.layer.bias, bias)


def test_a_frozen_parameter_is_left_alone(tiny) -> None:
    trainer = build(tiny, tiny.Config(), SPEC, 0, "cpu")
    trainer.discriminator.layer.bias.requires_grad_(False)
    bias = trainer.discriminator.layer.bias.clone()
    trainer.update(discriminator=trainer.discriminator(torch.ones(2, 1, 6, 5)).sum())
    assert torch.equal(trainer.discriminator.layer.bias, bias)
    with pytest.raises(TypeError, match="needs a loss"):
        trainer.update()


def test_an_optimizer_with_hooks_is_stepped_with_them(tiny) -> None:
    trainer = build(tiny, tiny.Config(), SPEC, 0, "cpu")
    called = []
    trainer.optimizers["generator"].register_step_post_hook(lambda *_: called.append("hook"))
    trainer.update(generator=trainer.generator.layer.weight.sum())
    assert called == ["hook"]


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW]
)
def test_update_equals_the_optimizers_own_step(tiny, optimizer) -> None:
    trainer, by_hand = (build(tiny, tiny.Config(), SPEC, 0, "cpu") for _ in range(2))
    for module in (trainer, by_hand):
        module.optimizers = {"generator": optimizer(module.generator.parameters(), lr=0.1)}
    for _ in range(3):
        trainer.update(generator=trainer.generator(torch.ones(2, 3)).square().sum())
        by_hand.optimizers["generator"].zero_grad()
        by_hand.generator(torch.ones(2, 3)).square().sum().backward()
        by_hand.optimizers["generator"].step()
    assert same(trainer.generator, snapshot(by_hand.generator))


def test_sample_restores_every_mode(tiny) -> None:
    generator = build(tiny, tiny.Config(), SPEC, 0, "cpu").generator
    generator.frozen = nn.BatchNorm1d(2).eval()
    images = generator.sample(3, Rng(0, "x"))
    assert images.shape == (3, 1, 6, 5)
    assert not images.requires_grad
    assert generator.training
    assert generator.layer.training
    assert not generator.frozen.training
    assert generator.sample(0, Rng(0, "x")).shape == (0, 1, 6, 5)


def test_weights_are_those_of_the_seed(tiny) -> None:
    first, again, other = (build(tiny, tiny.Config(), SPEC, seed, "cpu") for seed in (0, 0, 1))
    assert same(first, snapshot(again))
    assert not same(first, snapshot(other))


def test_posterior_kl_is_that_of_torch() -> None:
    mean, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0)
    ).sum(1)
    assert torch.allclose(Posterior(mean, log_variance).kl(), expected, atol=1e-5)


class Conditional(TinyGAN):
    """Its images are as bright as their label says."""

    conditional = True

    class Painter(TinyGenerator):
        def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
            assert labels is not None
            return labels[:, None].expand(n, 3).float()

        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z) * 0 + z[:, :1, None, None] / 10

    def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator.__class__ = self.Painter

    def step(self, batch: genkit.Batch, rng: Rng) -> genkit.Metrics:
        assert batch.labels is not None
        loss = self.discriminator(batch.images).mean() * batch.labels.float().mean()
        self.update(discriminator=loss)
        return {"loss": loss.detach()}


def test_a_conditional_model_is_trained_and_sampled_with_labels(images: Tensor) -> None:
    options = {"iterations": 2, "batch_size": 4, "device": "cpu", "progress": False}
    with pytest.raises(genkit.UsageError, match="learns from labels, and these images have none"):
        genkit.train(Conditional, dataset=images, **options)
    labels = torch.arange(len(images)) % 4
    split = genkit.Split(images, labels)
    run = genkit.train(Conditional, dataset=genkit.ImageData(split, split, "here", 4), **options)
    assert (10 * run.sample(5)[:, 0, 0, 0]).round().tolist() == [0, 1, 2, 3, 0]
    assert (10 * run.sample(2, labels=[3, 1])[:, 0, 0, 0]).round().tolist() == [3, 1]
    for wrong in ([4, 0], [-1, 0], [1], [0.5, 1.0], torch.zeros(2, 1)):
        with pytest.raises(
            genkit.UsageError, match="labels have to be 2 whole numbers from 0 to 3"
        ):
            run.sample(2, labels=wrong)


def test_labels_for_a_model_without_are_refused(tiny, images: Tensor) -> None:
    run = genkit.train(
        tiny, dataset=images, iterations=1, batch_size=4, device="cpu", progress=False
    )
    with pytest.raises(genkit.UsageError, match="is not conditional: it takes no labels"):
        run.sample(2, labels=[0, 1])
