"""genkit: train, sample and share small generative image models; every model, dataset and metric is a plugin.

The names below are the public ones. They are resolved when first used, so ``import genkit`` imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import (
        evaluate as evaluate,
    )
    from .api import (
        load as load,
    )
    from .api import (
        resume as resume,
    )
    from .api import (
        train as train,
    )
    from .callback import Callback as Callback
    from .config import (
        Config as Config,
    )
    from .config import (
        Field as Field,
    )
    from .data import (
        DataRequest as DataRequest,
    )
    from .data import (
        ImageData as ImageData,
    )
    from .data import (
        Split as Split,
    )
    from .errors import (
        CheckpointError as CheckpointError,
    )
    from .errors import (
        ConfigError as ConfigError,
    )
    from .errors import (
        ContractError as ContractError,
    )
    from .errors import (
        DataError as DataError,
    )
    from .errors import (
        DataUnavailableError as DataUnavailableError,
    )
    from .errors import (
        DeviceError as DeviceError,
    )
    from .errors import (
        GenkitError as GenkitError,
    )
    from .errors import (
        GenkitWarning as GenkitWarning,
    )
    from .errors import (
        Interrupted as Interrupted,
    )
    from .errors import (
        PluginError as PluginError,
    )
    from .errors import (
        RunError as RunError,
    )
    from .errors import (
        UnknownNameError as UnknownNameError,
    )
    from .errors import (
        UsageError as UsageError,
    )
    from .evaluation import Measurement as Measurement
    from .hookspecs import (
        CallbackEntry as CallbackEntry,
    )
    from .hookspecs import (
        Dataset as Dataset,
    )
    from .hookspecs import (
        Metric as Metric,
    )
    from .hookspecs import (
        Model as Model,
    )
    from .hookspecs import (
        hookimpl as hookimpl,
    )
    from .interfaces import (
        Batch as Batch,
    )
    from .interfaces import (
        DataSpec as DataSpec,
    )
    from .interfaces import (
        Discriminator as Discriminator,
    )
    from .interfaces import (
        Encoder as Encoder,
    )
    from .interfaces import (
        Evaluates as Evaluates,
    )
    from .interfaces import (
        Generator as Generator,
    )
    from .interfaces import (
        Metrics as Metrics,
    )
    from .interfaces import (
        Posterior as Posterior,
    )
    from .interfaces import (
        Reconstructs as Reconstructs,
    )
    from .interfaces import (
        Trainer as Trainer,
    )
    from .registry import (
        PluginWarning as PluginWarning,
    )
    from .registry import (
        Registry as Registry,
    )
    from .registry import (
        discover as discover,
    )
    from .rng import Rng as Rng
    from .run import Run as Run

_MODULES = {
    "api": ("evaluate", "load", "resume", "train"),
    "callback": ("Callback",),
    "config": ("Config", "Field"),
    "data": ("DataRequest", "ImageData", "Split"),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "ContractError",
        "DataError",
        "DataUnavailableError",
        "DeviceError",
        "GenkitError",
        "GenkitWarning",
        "Interrupted",
        "PluginError",
        "RunError",
        "UnknownNameError",
        "UsageError",
    ),
    "evaluation": ("Measurement",),
    "hookspecs": ("CallbackEntry", "Dataset", "Metric", "Model", "hookimpl"),
    "interfaces": (
        "Batch",
        "DataSpec",
        "Discriminator",
        "Encoder",
        "Evaluates",
        "Generator",
        "Metrics",
        "Posterior",
        "Reconstructs",
        "Trainer",
    ),
    "registry": ("PluginWarning", "Registry", "discover"),
    "rng": ("Rng",),
    "run": ("Run",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
