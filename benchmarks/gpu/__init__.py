"""Checks of genkit on a GPU: ``python -m benchmarks.gpu``."""
