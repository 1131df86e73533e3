"""Which callbacks a run has: the progress, the user's objects, and those that options name."""

from collections.abc import Sequence

from ..callback import Callback, CallbackList
from ..config import TrainOptions
from ..data.datasets import Notify
from ..errors import ContractError, UnknownNameError, UsageError, attribute_errors, nearest
from ..hookspecs import CallbackEntry
from ..plugins.registry import Registry


def make_callbacks(
    registry: Registry,
    options: TrainOptions,
    callbacks: str | Sequence[str | Callback],
    progress: bool,
) -> CallbackList:
    """The progress where it is wanted, the caller's own callbacks, and those that the options name.

    Raises:
        UsageError: a callback is neither an object nor a name.
        ContractError: a named one is no callback, or one has a method that is never called.
    """
    named: dict[str, Callback] = {}
    for name in options.callbacks:
        target = registry.find(CallbackEntry, name).target()
        with attribute_errors(f"callback {name}", "to be made"):
            named[name] = target()
        if not isinstance(named[name], Callback):
            kind = type(named[name]).__name__
            raise ContractError(f"callback {name} is {kind}, not a genkit.Callback")
    for callback in () if isinstance(callbacks, str) else callbacks:
        if not isinstance(callback, Callback | str):
            raise UsageError(
                f"callbacks: {callback!r} is neither a genkit.Callback object nor a name"
            )
    objects = [callback for callback in callbacks if isinstance(callback, Callback)]
    if progress:
        objects.insert(0, _make_console())
    for callback in (*objects, *named.values()):
        for method in dir(callback):
            if method.startswith("on_") and not hasattr(Callback, method):
                kind, hint = type(callback).__name__, nearest(method, dir(Callback))
                raise ContractError(f"{kind}.{method} is never called{hint}")
    return CallbackList(objects, named)


def drop_missing_callbacks(
    registry: Registry, options: TrainOptions
) -> tuple[TrainOptions, list[str]]:
    """The options without callbacks that no plugin provides any more, and a line for each.

    A run does not depend on a display: it goes on without.
    """
    kept, problems = [], []
    for name in options.callbacks:
        try:
            registry.find(CallbackEntry, name)
            kept.append(name)
        except UnknownNameError as error:
            problems.append(str(error))
    return options.model_copy(update={"callbacks": tuple(kept)}), problems


def make_notify(progress: bool) -> Notify:
    """What prints a notice where the progress is wanted; else what ignores it."""
    return _make_console().on_notice if progress else lambda line: None


def _make_console() -> Callback:
    from .progress import Console  # here: it loads rich, which a quiet training does not need

    return Console()
