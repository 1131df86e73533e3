"""Benchmarks: run them from a checkout, `python -m benchmarks.NAME --help`."""
