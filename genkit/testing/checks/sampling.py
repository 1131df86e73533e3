"""Checks of what is sampled, and of what sampling leaves alone."""

import torch

from ...rng import Rng
from ...storage.state import snapshot
from ..subject import SHAPE, ModelSubject, differing, model_check, untouched_global_randomness


@model_check
def samples_are_images(subject: ModelSubject) -> None:
    """Shape, dtype, range; one and none are possible."""
    trainer = subject.make()
    for count in (0, 1, 3):
        images = trainer.sample(count, Rng(0, "check"))
        assert images.shape == (count, *SHAPE), f"sample({count}) has shape {tuple(images.shape)}"
        assert images.dtype == torch.float32, f"samples are {images.dtype}"
        assert bool(torch.isfinite(images).all()), "samples are not finite"
        assert not count or (images.min() >= -1 and images.max() <= 1), "samples leave [-1, 1]"


@model_check
def one_seed_gives_the_same_samples(subject: ModelSubject) -> None:
    """All randomness of sampling comes from rng."""
    trainer = subject.make()
    subject.training(trainer).run(5)  # a last layer that begins at zero says nothing yet
    first, again, other = (trainer.sample(4, Rng(seed, "check")) for seed in (0, 0, 1))
    assert torch.equal(first, again), "one seed gives different samples"
    assert not torch.equal(first, other), "different seeds give the same samples"


@model_check
def sampling_disturbs_nothing(subject: ModelSubject) -> None:
    """Training mode, gradients, buffers, weights and global randomness are as before."""
    trainer = subject.make()
    subject.training(trainer).run(2)
    modes = [module.training for module in trainer.modules()]
    before = snapshot(trainer)
    before_gradient = {
        name: parameter.detach().clone() for name, parameter in trainer.named_parameters()
    }
    for name, parameter in trainer.named_parameters():
        parameter.grad = before_gradient[name].clone()
    with untouched_global_randomness("sampling"):
        images = trainer.sample(3, Rng(0, "check"))
    assert not images.requires_grad, "samples carry a gradient"
    assert modes == [module.training for module in trainer.modules()], (
        "sampling changes the training mode"
    )
    assert not (changed := differing(before, snapshot(trainer))), f"sampling changes {changed[0]}"
    for name, parameter in trainer.named_parameters():
        assert parameter.grad is not None, f"sampling clears the gradient of {name}"
        assert parameter.grad.equal(before_gradient[name]), (
            f"sampling changes the gradient of {name}"
        )
