"""Checks of encoders, of reconstruction and of evaluation."""

import torch

from ...engines.base import advance
from ...interfaces import Encoder, Evaluates, Posterior, Reconstructs, evaluating
from ...rng import Rng
from ...storage.state import snapshot
from ..subject import ModelSubject, Skipped, differing, model_check, untouched_global_randomness


@model_check
def encoders_are_deterministic_and_kl_is_not_negative(subject: ModelSubject) -> None:
    """In evaluation mode."""
    trainer = subject.make().eval()
    encoders = [m for m in trainer.modules() if isinstance(m, Encoder)]
    if not encoders:
        raise Skipped("the model has no Encoder")
    images = subject.batch(trainer).images
    for encoder in encoders:
        first, again = encoder(images), encoder(images)
        for left, right in zip(
            *((x if isinstance(x, Posterior) else (x,)) for x in (first, again)), strict=True
        ):
            assert torch.equal(left, right), (
                f"{type(encoder).__name__} gives another code each time"
            )
            assert left.shape[0] == len(images), (
                f"{type(encoder).__name__} gives {tuple(left.shape)}"
            )
            assert left.dim() == 2, (
                f"{type(encoder).__name__} gives {tuple(left.shape)}, not (B, L)"
            )
        if isinstance(first, Posterior):
            assert bool((first.kl() >= 0).all()), "the KL divergence is negative"


@model_check
def reconstruction_learns(subject: ModelSubject) -> None:
    """It keeps the shape and overfits one batch."""
    trainer = subject.make()
    if not isinstance(trainer, Reconstructs):
        raise Skipped("the model does not reconstruct")
    batch = subject.batch(trainer, 4)
    real = batch.images[:4]
    rng = Rng(0, "check")

    def error() -> float:
        with evaluating(trainer):
            images = trainer.reconstruct(real)
        assert images.shape == real.shape, (
            f"{tuple(real.shape)} is reconstructed as {tuple(images.shape)}"
        )
        return float((images - real).abs().mean())

    before = error()
    for _ in range(300):
        advance(trainer, batch, rng)
    after = error()
    assert after < 0.5 * before, (
        f"300 steps on one batch bring the error from {before:.3f} to {after:.3f} only"
    )


@model_check
def evaluation_disturbs_nothing(subject: ModelSubject) -> None:
    """It measures, and leaves weights, buffers and global randomness alone."""
    trainer = subject.make()
    if not isinstance(trainer, Evaluates):
        raise Skipped("the model does not evaluate itself")
    before = snapshot(trainer)
    trainer.eval()
    with torch.no_grad(), untouched_global_randomness("evaluate"):
        metrics = trainer.evaluate(subject.batch(trainer), Rng(0, "check"))
    assert all(bool(torch.isfinite(value)) for value in metrics.values()), (
        "a test metric is not finite"
    )
    assert not (changed := differing(before, snapshot(trainer))), f"evaluate changes {changed[0]}"
