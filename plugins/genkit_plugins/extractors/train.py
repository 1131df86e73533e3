"""Make the extractor of MNIST that is shipped: train it, say its accuracy and SHA-256, and write
its weights.

    python -m genkit_plugins.extractors.train --data-root DIR [--out FILE]

A script for whoever changes genkit, not a plugin: it may use what genkit does not export.
"""

import argparse
import hashlib
from pathlib import Path

import torch

from genkit.data.datasets import DataRequest, data_root, load_dataset
from genkit.evaluation import extractor
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
    data = load_dataset(discover(), "mnist", DataRequest(data_root(arguments.data_root)))
    trained = extractor.train(
        data, "mnist", data.fingerprint(), images=len(data.train), steps=STEPS, notify=print
    )
    weights = extractor.to_bytes(*trained)
    atomic.replace(arguments.out, weights)
    print(f"{arguments.out}: {len(weights):,} bytes, SHA-256 {hashlib.sha256(weights).hexdigest()}")


if __name__ == "__main__":
    main()
