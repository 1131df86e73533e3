"""Weights of extractors that come with datasets; made by ``python -m
genkit_plugins.extractors.train``.
"""

from pathlib import Path


def mnist() -> Path:
    """Of the classifier of MNIST."""
    return Path(__file__).with_name("mnist.safetensors")
