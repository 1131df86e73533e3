"""The contract as checks that any plugin can run: ``genkit check NAME``, or three lines of pytest::

from genkit.testing import parametrize_with_checks

@parametrize_with_checks("my-gan")
def test_contract(check):
    check()
"""

from ..engines.recording import Recording, record
from .runner import (
    Result,
    check_dataset,
    check_metric,
    check_model,
    iter_checks,
    parametrize_with_checks,
)
from .subject import CHECKS, Check, Subject

__all__ = [
    "CHECKS",
    "Check",
    "Recording",
    "Result",
    "Subject",
    "check_dataset",
    "check_metric",
    "check_model",
    "iter_checks",
    "parametrize_with_checks",
    "record",
]
