"""Weights of extractors that are shipped with datasets, written by
``python -m genkit_plugins.extractors.train``.
"""

from pathlib import Path


def mnist() -> Path:
    """Path of the weights for MNIST."""
    return Path(__file__).with_name("mnist.safetensors")
