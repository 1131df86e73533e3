"""How sure a classifier of MNIST is of a model's samples: the mean of its top class's probability.

A convolutional classifier is trained for about five epochs, then shown the held-out digits and
samples of each run.

    python -m benchmarks.confidence --data-root DIR RUN [RUN ...]
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit
from genkit.data.datasets import DataRequest, data_root, load_dataset
from genkit.data.loader import Order, Resident, iterate_batches
from genkit.plugins.registry import discover


def classifier(data: genkit.ImageData, steps: int = 2350, batch_size: int = 128) -> nn.Module:
    """Two convolutions and two dense layers with dropout, trained for about five epochs, seed 0."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # (B, 16, 14, 14)
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # (B, 32, 7, 7)
        *(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(32 * 7 * 7, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        ),
    )
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    loader = Resident(data.train, Order(len(data.train), batch_size, seed=0), "cpu")
    for index in next(loader.windows(0, steps)):
        batch = loader.batch(index)
        adam.zero_grad()
        F.cross_entropy(network(batch.images), batch.labels).backward()
        adam.step()
        schedule.step()
    return network.eval()


def confidence(network: nn.Module, images: Tensor) -> float:
    """Mean probability of the top class."""
    with torch.no_grad():
        return float(
            torch.cat([network(part).softmax(1).max(1).values for part in images.split(500)]).mean()
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()

    data = load_dataset(discover(), "mnist", DataRequest(data_root(arguments.data_root)))
    network = classifier(data)
    (test,) = iterate_batches(data.test, len(data.test), "cpu")
    with torch.no_grad():
        accuracy = float((network(test.images).argmax(1) == test.labels).float().mean())
    print(f"classifier: test accuracy {accuracy:.4f}")
    print(f"held-out digits: mean confidence {confidence(network, test.images):.3f}")
    for path in arguments.runs:
        run = genkit.load(path)
        sure = confidence(network, run.sample(arguments.count, seed=0))
        print(f"{run.info.model.name} at step {run.step}: mean confidence {sure:.3f} ({path})")


if __name__ == "__main__":
    main()
