"""Lightning with manual optimization, as its documentation shows a GAN; nothing logged but the last
losses.

Its loader is where most of the difference lies, so there are three: ``memory``, whole batches
gathered from memory, faster than anything its documentation shows; ``loader``, torch's DataLoader
over a TensorDataset, shuffled; and ``tutorial``, the transforms of torchvision on each image, in
half as many processes as there are cores.
"""

import logging
import os
import warnings
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from ..work import BATCH, EPSILON, LATENT, LEARNING_RATE, Made, Work, versions
from .pytorch_careful import networks, wait


class Pictures(Dataset[Tensor]):
    """One image after the other through the transforms of its GAN tutorial, as torchvision's MNIST
    does.
    """

    def __init__(self, images: np.ndarray, count: int) -> None:
        self.images, self.count = images, count
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Tensor:
        return self.transform(Image.fromarray(self.images[number % len(self.images)])).flatten()


class Batches(Dataset[Tensor]):
    """Whole batches gathered from memory, so that the loader has nothing to collate: the fastest
    there is.
    """

    def __init__(self, images: Tensor, steps: int) -> None:
        self.images, self.steps = images, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> Tensor:
        return self.images[torch.randint(len(self.images), (BATCH,))]


class GAN(lightning.LightningModule):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = networks(device)
        self.losses: dict[str, float] = {}

    def configure_optimizers(self) -> Any:
        options = {"lr": LEARNING_RATE, "eps": EPSILON, "fused": True}
        return [
            torch.optim.Adam(network.parameters(), **options)
            for network in (self.generator, self.discriminator)
        ]

    def training_step(self, batch: Any, number: int) -> None:
        real = batch[0] if isinstance(batch, list) else batch
        g_adam, d_adam = self.optimizers()
        ones = torch.ones(BATCH, 1, device=self.device)
        self.toggle_optimizer(d_adam)
        fake = self.generator(torch.randn(BATCH, LATENT, device=self.device)).detach()
        for images, target in ((real, ones), (fake, torch.zeros_like(ones))):
            d_loss = F.binary_cross_entropy_with_logits(self.discriminator(images), target)
            d_adam.zero_grad()
            self.manual_backward(d_loss)
            d_adam.step()
        self.untoggle_optimizer(d_adam)
        self.toggle_optimizer(g_adam)
        fake = self.generator(torch.randn(BATCH, LATENT, device=self.device))
        g_loss = F.binary_cross_entropy_with_logits(self.discriminator(fake), ones)
        g_adam.zero_grad()
        self.manual_backward(g_loss)
        g_adam.step()
        self.untoggle_optimizer(g_adam)
        self.last = (d_loss.detach(), g_loss.detach())


class Loop:
    def __init__(self, work: Work, how: str) -> None:
        self.how = how
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        self.work = work
        self.images = torch.from_numpy(work.images).flatten(1).float().div(127.5).sub(1.0)
        self.module = GAN(work.device)

    def loader(self, steps: int) -> DataLoader[Any]:
        count = steps * BATCH
        if self.how == "memory":
            return DataLoader(Batches(self.images, steps), batch_size=None)
        if self.how == "loader":
            repeated = self.images.repeat(-(-count // len(self.images)), 1)[:count]
            return DataLoader(TensorDataset(repeated), batch_size=BATCH, shuffle=True)
        workers = max(1, (os.cpu_count() or 2) // 2)
        return DataLoader(
            Pictures(self.work.images, count), batch_size=BATCH, shuffle=True, num_workers=workers
        )

    def run(self, steps: int) -> dict[str, float]:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="gpu" if self.work.device.startswith("cuda") else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.module, self.loader(steps))
        wait(self.work.device)
        d_loss, g_loss = self.module.last
        return {"discriminator_loss": float(d_loss), "generator_loss": float(g_loss)}


def make(work: Work, how: str) -> Made:
    torch.set_num_threads(work.threads)
    return Loop(work, how), versions("lightning", "torch")
