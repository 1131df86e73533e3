"""Train the extractor of MNIST that is shipped, print its accuracy and SHA-256, and write its
weights.

    python -m genkit_plugins.extractors.train --data-root DIR [--out FILE]

A script for developers of genkit, not a plugin: it may use what genkit does not export.
"""

import argparse
import hashlib
from pathlib import Path

import torch

from genkit.data.datasets import DataRequest, data_root, load_dataset
from genkit.evaluation.extractor import find_classifier, train_weights
from genkit.plugins.registry import discover
from genkit.storage import atomic

from . import mnist

STEPS = 5600
"""Twelve epochs of 60,000 images in batches of 128."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--out", type=Path, default=mnist(), help="default: the file that is shipped"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # the bits depend on it
    registry = discover()
    data = load_dataset(registry, "mnist", DataRequest(data_root(arguments.data_root)))
    weights = train_weights(
        find_classifier(registry).target(),
        data,
        "mnist",
        data.train.fingerprint(),
        notify=print,
        images=len(data.train),
        steps=STEPS,
    )
    atomic.replace(arguments.out, weights)
    print(f"{arguments.out}: {len(weights):,} bytes, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
