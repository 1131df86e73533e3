"""Running the checks: one by one, over a model, or as a pytest parametrisation."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..errors import UsageError, first_line, nearest
from ..hookspecs import Model
from ..interfaces import Trainer
from ..registry import discover
from ..run import find_trainer
from .checks import CHECKS, Check, Skipped, Subject


@dataclass(frozen=True)
class Result:
    """What became of one check."""

    check: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""
    """What to mend, or which capability the model lacks; one line."""


def subject_of(model: str | type[Trainer]) -> Subject:
    """A registered model by name, or a Trainer class.

    Raises:
        UnknownNameError: no plugin provides the model.
    """
    if not isinstance(model, str):
        return Subject(model.__name__, model)
    registry = discover()
    return Subject(model, find_trainer(registry, model), registry.find(Model, model))


def iter_checks(model: str | type[Trainer]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and call of each check; the call raises AssertionError with what to mend."""
    subject = subject_of(model)
    for name, check in CHECKS.items():
        yield name, partial(check, subject)


def check_model(model: str | type[Trainer]) -> list[Result]:
    """Run every check on a model; nothing is raised, the results say it all."""
    subject = subject_of(model)
    return [run_check(name, check, subject) for name, check in CHECKS.items()]


def run_check(name: str, check: Check, subject: Subject) -> Result:
    """Run one check; warnings that a model causes are its own affair."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(subject)
    except Skipped as reason:
        return Result(name, "skipped", str(reason))
    except AssertionError as error:
        return Result(name, "failed", " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 (a model may raise anything: that is a failed check, with its reason)
        return Result(name, "failed", first_line(error))
    return Result(name, "passed")


def parametrize_with_checks(model: str | type[Trainer], expected_failures: Mapping[str, str] | None = None) -> Any:
    """A pytest decorator: the test is called once for each check, with the argument ``check`` to be called.

    Args:
        model: a registered model by name, or a Trainer class.
        expected_failures: name of a check → the reason why this model fails it; strict: passing is then a failure.

    Raises:
        UsageError: an expected failure that is no check.
    """
    import pytest

    expected = dict(expected_failures or {})
    for name in expected.keys() - CHECKS.keys():
        raise UsageError(f"no check is called {name!r}{nearest(name, CHECKS)}")

    def call(name: str) -> None:
        result = run_check(name, CHECKS[name], subject_of(model))
        if result.outcome == "skipped":
            pytest.skip(result.reason)
        assert result.outcome == "passed", result.reason

    parameters = [
        pytest.param(
            partial(call, name),
            id=name,
            marks=[pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else [],
        )
        for name in CHECKS
    ]
    return pytest.mark.parametrize("check", parameters)


def describe_check(name: str) -> str:
    """The first line of a check's docstring: what it is for."""
    return (inspect.getdoc(CHECKS[name]) or "").splitlines()[0]
