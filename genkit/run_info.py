"""The content of ``run.json``: what was trained on what, with which options, and where."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, ConfigDict

from .config import MAX_THREADS, Config, TrainOptions
from .data.selection import DatasetInfo
from .models import ModelInfo
from .plugins.plugin import OWN_DISTRIBUTION

FORMAT: Literal[1] = 1


def _usable_threads(value: object) -> int:
    """A number of threads that torch can be set to; 0 for anything else that a stranger's file
    says.
    """
    return value if type(value) is int and 1 <= value <= MAX_THREADS else 0


Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""A word; older versions of genkit accepted numbers."""


class Environment(Config):
    """What bit-exactness depends on, and the engine, on which it does not. Empty: not recorded, by
    an older genkit.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    genkit: Text = ""
    model: Text = ""
    """Distribution and version of the model's plugin."""
    python: Text = ""
    torch: Text = ""
    numpy: Text = ""
    platform: Text = ""
    device: Text = ""
    cpu_capability: Text = ""
    threads: Annotated[int, BeforeValidator(_usable_threads)] = 0
    kernels: Text = "torch"
    """Older runs knew no others."""
    cudnn_deterministic: Text = ""
    """``on`` or ``off``; on a CUDA device only."""
    tf32: Text = ""
    """``on`` or ``off``; on a CUDA device only."""
    engine: Text = ""
    """``graph`` or ``eager``; an older genkit put the reason behind it, in brackets."""
    fallback_reason: Text = ""
    """Why steps are not captured, where that was tried or asked for."""

    def recorded(self) -> dict[str, str | int]:
        """What there is to show, by name."""
        return {name: value for name, value in self.model_dump().items() if value}

    def differences(self, other: "Environment") -> Iterator[tuple[str, object, object]]:
        """What exactness depends on and differs: its name, here, and in ``other``."""
        for name in type(self).model_fields:
            here, there = getattr(self, name), getattr(other, name)
            if name not in ("engine", "fallback_reason") and here != there:
                yield name, here, there


class RunInfo(Config):
    """The content of ``run.json``."""

    format: Literal[1] = FORMAT
    model: ModelInfo
    options: TrainOptions
    config: dict[str, Any]
    """The model's own options; its ``Config`` reads them."""
    dataset: DatasetInfo
    environment: Environment


def current_environment(device: torch.device, model: ModelInfo, **engine: str) -> Environment:
    """What is installed, this machine, and torch's settings now.

    Args:
        device: what is trained on.
        model: what is trained.
        engine: ``kernels``, ``engine`` and ``fallback_reason``, and the settings of CUDA.
    """
    installed = f"{model.distribution} {model.version}"
    return Environment(
        genkit=version(OWN_DISTRIBUTION),
        model=installed if model.distribution else "of no plugin",
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        platform=f"{sys.platform} {platform.machine()}",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        **engine,
    )
