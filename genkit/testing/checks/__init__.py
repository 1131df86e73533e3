"""One function per rule of the contract.

Each raises AssertionError with what to fix, or Skipped with the capability that the subject lacks.
Importing this package registers them in :data:`genkit.testing.subject.CHECKS`, in the order in
which they are run.
"""

# ruff: noqa: F401, I001
from . import options, building, sampling, training, generality, encoding, saving, datasets, metrics
