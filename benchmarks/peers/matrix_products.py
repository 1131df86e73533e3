"""The matrix products of an iteration of the article's GAN and nothing else: no loop can be faster
than these.

On CUDA they are captured in a graph of 32 iterations: launched one by one, they would measure the
launches.
"""

import torch

from genkit.engines import kernels

from ..work import BATCH, GRAPH_STEPS, HIDDEN, LATENT, Made, Work, versions
from .pytorch_careful import capture, wait

Shape = tuple[int, int, int]


def products() -> list[Shape]:
    """(rows, inner, columns) of each product: forward, by weights, and by inputs where a gradient
    goes on.
    """
    first_g, second_g = (BATCH, LATENT, HIDDEN), (BATCH, HIDDEN, 784)
    first_d, second_d = (BATCH, 784, HIDDEN), (BATCH, HIDDEN, 1)

    def weights(shape: Shape) -> Shape:
        return (shape[1], shape[0], shape[2])

    def inputs(shape: Shape) -> Shape:
        return (shape[0], shape[2], shape[1])

    generate = [first_g, second_g]
    judge = [first_d, second_d]
    learn_d = [weights(second_d), inputs(second_d), weights(first_d)]
    learn_g = [
        inputs(second_d),
        inputs(first_d),
        weights(second_g),
        inputs(second_g),
        weights(first_g),
    ]
    return [*generate, *judge, *learn_d, *judge, *learn_d, *generate, *judge, *learn_g]


class Loop:
    def __init__(self, work: Work, onednn: bool) -> None:
        self.device = work.device
        self.onednn = onednn
        self.factors = [
            (
                torch.randn(rows, inner, device=work.device),
                torch.randn(inner, columns, device=work.device),
            )
            for rows, inner, columns in products()
        ]
        self.results = [
            torch.empty(len(a), b.shape[1], device=work.device) for a, b in self.factors
        ]
        self.graph = capture(self.multiply) if work.device.startswith("cuda") else None

    def run(self, steps: int) -> dict[str, float]:
        if self.graph:
            for _ in range(-(-steps // GRAPH_STEPS)):
                self.graph.replay()
        else:
            for _ in range(steps):
                self.multiply()
        wait(self.device)
        return {}

    def multiply(self) -> None:
        """Compute the products of one iteration."""
        for (a, b), result in zip(self.factors, self.results, strict=True):
            replaced = (
                kernels.kernel(torch.ops.aten.mm.default, (a, b), {}) if self.onednn else None
            )
            if replaced:
                function, given = replaced
                function(*given)
            else:
                torch.mm(a, b, out=result)


def make(work: Work, whose: str = "torch") -> Made:
    """torch's products, or those that genkit hands to ``onednn``."""
    if whose == "onednn":
        kernels.choose(whose, torch.device(work.device))
    torch.set_num_threads(work.threads)
    return Loop(work, whose == "onednn"), versions("torch")
