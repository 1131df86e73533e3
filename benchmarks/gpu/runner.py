"""Runs checks one after the other, as long as there is time and the device works."""

import time
import traceback
from collections.abc import Callable, Sequence

import torch

from .finding import Check, Context, Finding, describe_error
from .record import Record


def run_checks(
    checks: Sequence[Check],
    make_context: Callable[[Check], Context],
    record: Record,
    end: float,
    is_usable: Callable[[], bool],
) -> Sequence[Check]:
    """Run ``checks`` in order and record what they find.

    Args:
        checks: which.
        make_context: gives what a check is given.
        record: keeps the findings.
        end: no check begins whose budget goes beyond this time, by ``time.perf_counter``.
        is_usable: whether the device still works, asked after each check.

    Returns:
        The checks that are left when the device does not work any more.
    """
    for position, check in enumerate(checks, 1):
        begin = time.perf_counter()
        if end - begin < check.seconds:
            line = "not run: no time left"
            record.add(Finding(check.number, check.title, "not applicable", line), 0.0)
            continue
        record.log(f"{check.number} {check.title} begins")
        finding = run_check(check, make_context(check))
        record.add(finding, time.perf_counter() - begin)
        if not is_usable():
            return checks[position:]
    return ()


def run_check(check: Check, context: Context) -> Finding:
    """What a check finds; an error in it is a finding, too."""
    try:
        return check.run(context)
    except Exception as error:  # noqa: BLE001 (the other checks are to be run)
        context.log(f"{check.title}:\n{traceback.format_exc()}")
        return Finding(check.number, check.title, "error", describe_error(error))


def is_usable(device: str) -> bool:
    """Whether the device computes; after an illegal access a CUDA context does nothing any more."""
    if not device.startswith("cuda"):
        return True
    try:
        return torch.ones(2, device=device).sum().item() == 2
    except RuntimeError:
        return False
