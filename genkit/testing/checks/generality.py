"""Checks that a model is bound to no batch size, image shape, device or dtype."""

import copy

import torch
from torch import Tensor

from ...errors import GenkitError
from ...interfaces import Batch, DataSpec, Discriminator, Encoder
from ...models import build
from ...rng import Rng
from ..subject import SHAPE, ModelSubject, Skipped, model_check


@model_check
def batch_sizes_one_two_and_odd(subject: ModelSubject) -> None:
    """The last batch of a data set may have any size."""
    for size in (1, 2, 7):
        trainer = subject.make()
        metrics = trainer.step(subject.batch(trainer, size), Rng(0, "check"))
        assert all(bool(torch.isfinite(value)) for value in metrics.values()), (
            f"batch size {size} gives NaN"
        )


@model_check
def any_image_shape(subject: ModelSubject) -> None:
    """Not square, three channels; or a GenkitError that says which shapes are possible."""
    for shape in ((1, 28, 36), (3, 28, 28), (3, 32, 32)):
        try:
            trainer = subject.make(shape)
        except GenkitError:
            continue
        trainer.step(subject.batch(trainer, 4), Rng(0, "check"))
        images = trainer.sample(2, Rng(0, "check"))
        assert images.shape == (2, *shape), (
            f"images of {shape} are sampled as {tuple(images.shape)}"
        )


@model_check
def images_need_no_labels(subject: ModelSubject) -> None:
    """Most folders of images have none; a model that learns from labels declares ``conditional =
    True``.
    """
    spec = DataSpec(*SHAPE, classes=None)
    if subject.trainer.conditional:
        raise Skipped("the model is conditional")
    trainer = build(subject.trainer, subject.trainer.Config(), spec, 0, "cpu")
    trainer.step(Batch(subject.batch(trainer).images, None), Rng(0, "check"))
    trainer.sample(2, Rng(0, "check"))


@model_check
def no_hard_coded_device(subject: ModelSubject) -> None:
    """Generator and discriminator run on the meta device, where a tensor made on the CPU is an
    error; on CUDA, all.
    """
    trainer = subject.make()
    z = trainer.generator.prior(2, Rng(0, "check"), trainer.labels_for(2))
    meta = copy.deepcopy(trainer.generator).to("meta")
    assert meta(torch.empty_like(z, device="meta")).device.type == "meta", (
        "the generator leaves the device"
    )
    for network in (m for m in trainer.children() if isinstance(m, Discriminator | Encoder)):
        copy.deepcopy(network).to("meta")(torch.empty(2, *SHAPE, device="meta"))
    if torch.cuda.is_available():
        trainer = subject.make(device="cuda")
        subject.training(trainer).run(3)
        assert trainer.sample(2, Rng(0, "check", "cuda")).is_cuda, (
            "samples of a model on CUDA are not"
        )


@model_check
def no_hard_coded_dtype(subject: ModelSubject) -> None:
    """All of it in float64."""
    trainer = subject.make().double()
    batch = subject.batch(trainer)
    rng = Rng(0, "check", dtype=torch.float64)
    trainer.step(Batch(batch.images.double(), batch.labels), rng)
    assert trainer.sample(2, rng).dtype == torch.float64, (
        "samples of a float64 model are not float64"
    )


@model_check
def discriminators_give_one_logit_an_image(subject: ModelSubject) -> None:
    """``(B,)``, not ``(B, 1)``, which would broadcast silently; and not squashed by a sigmoid."""
    trainer = subject.make()
    found = [m for m in trainer.modules() if isinstance(m, Discriminator)]
    if not found:
        raise Skipped("the model has no Discriminator")
    for network in found:
        network.eval()
        for count in (1, 3):
            logits = network(subject.batch(trainer, 3).images[:count])
            assert logits.shape == (count,), (
                f"{type(network).__name__} gives {tuple(logits.shape)}, not ({count},)"
            )
        assert not _squashes(network, subject.batch(trainer, 16).images), (
            f"{type(network).__name__} never leaves [0, 1], however large its weights or inputs: "
            "logits have no sigmoid"
        )


@torch.no_grad()
def _squashes(network: Discriminator, images: Tensor) -> bool:
    """Whether all it gives lies in [0, 1], also for images and for weights of any size."""
    tried = [network(images), network(1e4 * images), network(-1e4 * images)]
    weights = {name: 100 * tensor for name, tensor in network.named_parameters()}
    tried.append(torch.func.functional_call(network, weights, (images,)))
    return all(bool(((logits >= 0) & (logits <= 1)).all()) for logits in tried)
