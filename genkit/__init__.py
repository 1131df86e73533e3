"""genkit: train, sample and share small generative image models; every model, dataset and metric is a plugin.

The names below are the public ones. They are resolved when first used, so ``import genkit`` imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import (
        load as load,
        resume as resume,
        train as train,
    )
    from .callback import Callback as Callback
    from .config import (
        Config as Config,
        Field as Field,
    )
    from .data import (
        ImageData as ImageData,
        Split as Split,
    )
    from .errors import (
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        DataError as DataError,
        DataUnavailableError as DataUnavailableError,
        DeviceError as DeviceError,
        GenkitError as GenkitError,
        PluginError as PluginError,
        RunError as RunError,
        UnknownNameError as UnknownNameError,
        UsageError as UsageError,
    )
    from .hookspecs import (
        Dataset as Dataset,
        Model as Model,
        hookimpl as hookimpl,
    )
    from .interfaces import (
        Batch as Batch,
        DataSpec as DataSpec,
        Discriminator as Discriminator,
        Encoder as Encoder,
        Evaluates as Evaluates,
        Generator as Generator,
        Metrics as Metrics,
        Posterior as Posterior,
        Reconstructs as Reconstructs,
        Trainer as Trainer,
    )
    from .registry import (
        PluginWarning as PluginWarning,
        Registry as Registry,
        discover as discover,
    )
    from .rng import Rng as Rng
    from .run import Run as Run

_MODULES = {
    "api": ("load", "resume", "train"),
    "callback": ("Callback",),
    "config": ("Config", "Field"),
    "data": ("ImageData", "Split"),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DataUnavailableError",
        "DeviceError",
        "GenkitError",
        "PluginError",
        "RunError",
        "UnknownNameError",
        "UsageError",
    ),
    "hookspecs": ("Dataset", "Model", "hookimpl"),
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
