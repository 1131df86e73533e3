"""Iterations a second of genkit's loop beside a hand-written one: the article's GAN, three Adam steps an iteration.

Both run in one process with the same threads, data, batch size and optimizer kernels, in turn, so that a machine that
slows down slows both. The ratio is what counts; figures drift from day to day.

    python -m benchmarks.plain_loop --data-root DIR [--rounds 20] [--steps 300] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from genkit.config import TrainOptions
from genkit.data import DataRequest, ImageData, data_root, load_dataset
from genkit.engine import Engine
from genkit.interfaces import build
from genkit.registry import discover
from genkit_plugins.simple_gan import SimpleGAN

BATCH = 128
LATENT = 100


def genkit_loop(data: ImageData) -> Callable[[int], None]:
    """The engine as `genkit train` runs it, metrics and all; without grids, checkpoints and log files."""
    trainer = build(SimpleGAN, SimpleGAN.Config(), data.spec, 0, "cpu")
    engine = Engine(trainer, data, TrainOptions(batch_size=BATCH))

    def run(steps: int) -> None:
        goal = engine.step + steps
        while engine.step < goal:  # by windows, as the loop does
            engine.run(min(100 - engine.step % 100, goal - engine.step))

    return run


def hand_written_loop(data: ImageData) -> Callable[[int], None]:
    """What a careful person writes: gradients only where needed, fused Adam, no loader, no synchronisation."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(LATENT, 128), nn.LeakyReLU(0.01), nn.Linear(128, data.spec.size), nn.Tanh())
    discriminator = nn.Sequential(nn.Linear(data.spec.size, 128), nn.LeakyReLU(0.01), nn.Linear(128, 1))
    g_parameters, d_parameters = list(generator.parameters()), list(discriminator.parameters())
    g_adam = torch.optim.Adam(g_parameters, lr=1e-3, eps=1e-7, fused=True)
    d_adam = torch.optim.Adam(d_parameters, lr=1e-3, eps=1e-7, fused=True)
    images = data.train.images.flatten(1)
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
    loss_of = F.binary_cross_entropy_with_logits

    def descend(loss: torch.Tensor, parameters: list[nn.Parameter], adam: torch.optim.Adam) -> None:
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        adam.step()

    def run(steps: int) -> None:
        losses = torch.zeros(steps, 3)
        for i in range(steps):
            index = torch.randint(len(images), (BATCH,))
            real = images.index_select(0, index).float().div_(127.5).sub_(1.0)
            with torch.no_grad():
                fake = generator(torch.randn(BATCH, LATENT))
            real_logits = discriminator(real)
            real_loss = loss_of(real_logits, ones)
            descend(real_loss, d_parameters, d_adam)
            fake_logits = discriminator(fake)
            fake_loss = loss_of(fake_logits, zeros)
            descend(fake_loss, d_parameters, d_adam)
            g_loss = loss_of(discriminator(generator(torch.randn(BATCH, LATENT))), ones)
            descend(g_loss, g_parameters, g_adam)
            with torch.no_grad():
                losses[i, 0] = 0.5 * (real_loss + fake_loss)
                losses[i, 1] = 0.5 * ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean())
                losses[i, 2] = g_loss

    return run


def measure(makers: dict[str, Callable[[], Callable[[int], None]]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Iterations a second of each loop, round by round.

    Every round makes both anew, since where the weights happen to lie in memory moves a loop by two per cent, and
    turns their order.
    """
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds):
        loops = {name: make() for name, make in makers.items()}
        for run in loops.values():
            run(steps // 4)
        for name in list(loops) if number % 2 == 0 else list(reversed(loops)):
            start = time.perf_counter()
            loops[name](steps)
            rates[name].append(steps / (time.perf_counter() - start))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()

    data = load_dataset(discover(), arguments.dataset, DataRequest(data_root(arguments.data_root)))
    makers = {"genkit": lambda: genkit_loop(data), "hand-written": lambda: hand_written_loop(data)}
    rates = measure(makers, arguments.rounds, arguments.steps)
    ratios = [a / b for a, b in zip(rates["genkit"], rates["hand-written"], strict=True)]
    for name, values in rates.items():
        print(f"{name:12}  median {statistics.median(values):6.1f} it/s  ({min(values):.1f} to {max(values):.1f})")
    print(f"genkit / hand-written, round by round: median {statistics.median(ratios):.3f}")
    if arguments.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
        arguments.json.write_text(
            json.dumps({**about, "rates": rates, "median_ratio": statistics.median(ratios)}, indent=1)
        )


if __name__ == "__main__":
    main()
