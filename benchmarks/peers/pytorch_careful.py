"""What a careful person writes: gradients only where needed, fused Adam, no loader, no
synchronisation.

On CUDA the same steps are also captured once, 32 of them in a graph, and replayed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..work import (
    BATCH,
    EPSILON,
    GRAPH_STEPS,
    HIDDEN,
    LATENT,
    LEARNING_RATE,
    SLOPE,
    Made,
    Work,
    versions,
)

WARM_UP = 3
"""Steps before a capture, as the documentation of CUDA graphs advises."""


def networks(device: str) -> tuple[nn.Module, nn.Module]:
    """The article's generator and discriminator."""
    torch.manual_seed(0)
    generator = nn.Sequential(
        nn.Linear(LATENT, HIDDEN), nn.LeakyReLU(SLOPE), nn.Linear(HIDDEN, 784), nn.Tanh()
    )
    discriminator = nn.Sequential(nn.Linear(784, HIDDEN), nn.LeakyReLU(SLOPE), nn.Linear(HIDDEN, 1))
    for layer in (*generator, *discriminator):
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return generator.to(device), discriminator.to(device)


def wait(device: str) -> None:
    """Return when all that was asked for is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def capture(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of ``GRAPH_STEPS`` steps, warmed up on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_STEPS):
            step()
    return graph


class Loop:
    def __init__(self, work: Work, captured: bool = False) -> None:
        self.device = work.device
        self.images = torch.from_numpy(work.images).flatten(1).to(work.device)
        self.generator, self.discriminator = networks(work.device)
        options = {"lr": LEARNING_RATE, "eps": EPSILON, "fused": True, "capturable": captured}
        self.g_parameters, self.d_parameters = (
            list(self.generator.parameters()),
            list(self.discriminator.parameters()),
        )
        self.g_adam, self.d_adam = (
            torch.optim.Adam(p, **options) for p in (self.g_parameters, self.d_parameters)
        )
        self.ones, self.zeros = (
            torch.full((BATCH, 1), value, device=work.device) for value in (1.0, 0.0)
        )

    def descend(self, loss: Tensor, parameters: list[nn.Parameter], adam: torch.optim.Adam) -> None:
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        adam.step()

    def step(self, losses: Tensor) -> None:
        """One iteration; its loss, accuracy and generator's loss go to ``losses``, ``(3,)``."""
        generator, discriminator, loss_of = (
            self.generator,
            self.discriminator,
            F.binary_cross_entropy_with_logits,
        )
        index = torch.randint(len(self.images), (BATCH,), device=self.device)
        real = self.images.index_select(0, index).float().div_(127.5).sub_(1.0)
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, LATENT, device=self.device))
        real_logits = discriminator(real)
        real_loss = loss_of(real_logits, self.ones)
        self.descend(real_loss, self.d_parameters, self.d_adam)
        fake_logits = discriminator(fake)
        fake_loss = loss_of(fake_logits, self.zeros)
        self.descend(fake_loss, self.d_parameters, self.d_adam)
        g_loss = loss_of(
            discriminator(generator(torch.randn(BATCH, LATENT, device=self.device))), self.ones
        )
        self.descend(g_loss, self.g_parameters, self.g_adam)
        with torch.no_grad():
            losses[0] = 0.5 * (real_loss + fake_loss)
            losses[1] = 0.5 * ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean())
            losses[2] = g_loss

    def run(self, steps: int) -> dict[str, float]:
        losses = torch.zeros(steps, 3, device=self.device)
        for row in losses:
            self.step(row)
        wait(self.device)
        return named(losses.mean(0))


class GraphLoop:
    """The steps of :class:`Loop` in a CUDA graph; their losses are summed on the device."""

    def __init__(self, work: Work) -> None:
        self.loop = Loop(work, captured=True)
        self.losses, self.sums = (torch.zeros(3, device=work.device) for _ in range(2))
        self.graph = capture(self.step)

    def step(self) -> None:
        """One iteration."""
        self.loop.step(self.losses)
        self.sums.add_(self.losses)

    def run(self, steps: int) -> dict[str, float]:
        replays = -(-steps // GRAPH_STEPS)
        self.sums.zero_()
        for _ in range(replays):
            self.graph.replay()
        wait(self.loop.device)
        return named(self.sums / (replays * GRAPH_STEPS))


def named(losses: Tensor) -> dict[str, float]:
    """The values of ``(3,)`` by name."""
    names = ("discriminator_loss", "accuracy", "generator_loss")
    return dict(zip(names, losses.tolist(), strict=True))


def make(work: Work, how: str = "python") -> Made:
    """Steps run by Python, or (``graph``) replayed in a CUDA graph."""
    torch.set_num_threads(work.threads)
    if how == "graph" and not work.device.startswith("cuda"):
        raise RuntimeError("a CUDA graph needs a CUDA device")
    loop = GraphLoop(work) if how == "graph" else Loop(work)
    return loop, versions("torch")
