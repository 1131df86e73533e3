"""Running the checks of a model, dataset or metric: one by one, all, or as pytest parameters."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..data.dataset_options import make_options
from ..data.datasets import DataRequest, data_root
from ..errors import UnknownNameError, UsageError, first_line, nearest
from ..hookspecs import DatasetEntry, Entry, MetricEntry, ModelEntry, current_kind
from ..interfaces import Trainer
from ..models import find_trainer
from ..plugins.registry import Registered, discover
from . import checks as checks
from .subject import CHECKS, Check, DatasetSubject, MetricSubject, ModelSubject, Skipped, Subject

Checkable = str | type[Trainer] | Callable[..., Any]
"""The name of something registered; or a Trainer class, a dataset's or a metric's function."""


@dataclass(frozen=True)
class Result:
    """The result of one check."""

    check: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""
    """What has to be fixed, or which capability the subject lacks; one line."""


def subject_of(
    what: Checkable,
    kind: type[Entry] = ModelEntry,
    options: Mapping[str, Any] | None = None,
) -> Subject:
    """The subject of checks that a name, class or function stands for.

    Args:
        what: it.
        kind: of what.
        options: of a dataset, values by name; None: its defaults.

    Raises:
        ConfigError: an option that the dataset does not have.
        UnknownNameError: no plugin provides it.
        UsageError: ``kind`` has no checks, or ``what`` is not a Trainer class where ``kind`` is
            that of models.
    """
    kind = current_kind(kind)
    if kind not in CHECKS:
        raise UsageError(f"there are no checks of a {kind.noun}")
    registered: Registered[Any] | None = None
    target: Any = what
    name, argument = getattr(what, "__name__", str(what)), ""
    if isinstance(what, str):
        name, (bare, _, argument) = what, what.partition(":")
        registered = _find(bare, kind)
        target = find_trainer(discover(), bare) if kind is ModelEntry else registered.target()
    if kind is DatasetEntry:
        chosen = None if registered is None else make_options(registered, options)
        request = DataRequest(data_root(None), argument, options=chosen)
        return DatasetSubject(name=name, registered=registered, load=target, request=request)
    if kind is MetricEntry:
        entry = {} if registered is None else {"entry": registered.entry}
        return MetricSubject(name=name, registered=registered, measure=target, **entry)
    if not (isinstance(target, type) and issubclass(target, Trainer)):
        raise UsageError(f"{name} is not a genkit.Trainer class")
    return ModelSubject(name=name, registered=registered, trainer=target)


def _find(name: str, kind: type[Entry]) -> Registered[Any]:
    registry = discover()
    try:
        return registry.find(kind, name)
    except UnknownNameError as error:
        for other in CHECKS.keys() - {kind}:
            if any(registered.answers_to(name) for registered in registry.all(other)):
                raise UnknownNameError(
                    f"{name} is a {other.noun}: pass --kind {other.noun}"
                ) from error
        raise


def iter_checks(
    what: Checkable, kind: type[Entry] = ModelEntry
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and call of each check; the call raises AssertionError with what has to be fixed."""
    subject, kind = subject_of(what, kind), current_kind(kind)
    for name, check in CHECKS[kind].items():
        yield name, partial(check, subject)


def check_model(model: str | type[Trainer]) -> list[Result]:
    """Run every check on a model; failures are in the results, and nothing is raised."""
    return list(run_checks(subject_of(model), ModelEntry))


def check_dataset(dataset: str | Callable[..., Any], **options: Any) -> list[Result]:
    """Run every check on a dataset: a name, ``name:argument``, or the function that loads it.

    ``options`` are those of the dataset that are not at their defaults: ``image_size=64``.
    """
    return list(run_checks(subject_of(dataset, DatasetEntry, options), DatasetEntry))


def check_metric(metric: str | Callable[..., Any]) -> list[Result]:
    """Run every check on a metric: a name, or the function that measures samples."""
    return list(run_checks(subject_of(metric, MetricEntry), MetricEntry))


def run_checks(subject: Subject, kind: type[Entry]) -> Iterator[Result]:
    """The checks of a kind, one after the other."""
    for name, check in CHECKS[kind].items():
        yield run_check(name, check, subject)


def run_check(name: str, check: Check, subject: Subject) -> Result:
    """Run one check; warnings of the subject are ignored."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(subject)
    except Skipped as reason:
        return Result(name, "skipped", str(reason))
    except AssertionError as error:
        return Result(name, "failed", " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 (a plugin may raise anything: a failed check)
        return Result(name, "failed", first_line(error))
    return Result(name, "passed")


def parametrize_with_checks(
    what: Checkable,
    kind: type[Entry] = ModelEntry,
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> Any:
    """A pytest decorator: the test runs once for each check, and calls its argument ``check``.

    Args:
        what: the name of something registered; or a Trainer class, or the function of a dataset
            or metric.
        kind: :class:`genkit.ModelEntry`, :class:`genkit.DatasetEntry` or
            :class:`genkit.MetricEntry`.
        expected_failures: name of a check → the reason why it fails. Strict: where the check
            passes, the test fails.

    Raises:
        UsageError: an expected failure that is not the name of a check.
    """
    import pytest

    kind = current_kind(kind)
    subject_of(what, kind)  # an unknown name is one error, not one for each check
    expected = dict(expected_failures or {})
    for name in expected.keys() - CHECKS[kind].keys():
        raise UsageError(f"no check is called {name!r}{nearest(name, CHECKS[kind])}")

    def call(name: str) -> None:
        result = run_check(name, CHECKS[kind][name], subject_of(what, kind))
        if result.outcome == "skipped":
            pytest.skip(result.reason)
        assert result.outcome == "passed", result.reason

    parameters = [
        pytest.param(
            partial(call, name),
            id=name,
            marks=[pytest.mark.xfail(reason=expected[name], strict=True)]
            if name in expected
            else [],
        )
        for name in CHECKS[kind]
    ]
    return pytest.mark.parametrize("check", parameters)
