"""The contract as checks that any plugin can run: ``genkit check MODEL``, or three lines of pytest::

from genkit.testing import parametrize_with_checks

@parametrize_with_checks("my-gan")
def test_contract(check):
    check()
"""

from .checks import CHECKS, Check, Subject
from .replay import Recording, record
from .runner import Result, check_model, iter_checks, parametrize_with_checks

__all__ = [
    "CHECKS",
    "Check",
    "Recording",
    "Result",
    "Subject",
    "check_model",
    "iter_checks",
    "parametrize_with_checks",
    "record",
]
