"""Check 1: where this runs."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from genkit.hookspecs import ModelEntry
from genkit.plugins.registry import discover

from .finding import Context, Finding, Part, Parts, describe_error
from .subjects import Small, prepare

DISTRIBUTIONS = (
    "genkit-torch",
    "genkit-dcgan",
    "torch",
    "triton",
    "jax",
    "numpy",
    "pydantic",
    "pytest",
)
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING")
CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.draw",
    "pstate",
)


def describe_place(context: Context) -> Finding:
    """Which versions, which device and which settings the other checks are about."""
    parts = Parts(context)
    software = parts.run("software", _describe_software)
    parts.run("settings before a training", _describe_settings)
    parts.run("settings in a training", _describe_settings_of_training)
    device = "a CPU"
    if parts.need_cuda("driver, cuDNN, flags of CUDA graphs"):
        device = parts.run("GPU", _describe_gpu).get("name", "a GPU")
        parts.run("generators in a graph", _register_generator)
    return parts.finding(f"torch {software.get('torch')} on {device}")


def _describe_software(part: Part, context: Context) -> None:
    part.details |= {name: _version(name) for name in DISTRIBUTIONS}
    part.details |= {
        "python": sys.version.split()[0],
        "CUDA of torch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "C compiler": shutil.which("cc") or shutil.which("gcc"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "models": [found.entry.name for found in discover().all(ModelEntry)],
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_settings(part: Part, context: Context) -> None:
    part.details |= read_settings()


def _describe_settings_of_training(part: Part, context: Context) -> None:
    training = prepare(context, Small)
    training.run(3)
    part.details |= read_settings()
    part.require(training.means()["loss"] > 0, "the loss of three steps is not above 0")


def read_settings() -> dict[str, Any]:
    """torch's switches on which bits depend; some cannot be read after others were set."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    readers: dict[str, Callable[[], Any]] = {
        "cudnn.deterministic": lambda: cudnn.deterministic,
        "cudnn.benchmark": lambda: cudnn.benchmark,
        "cudnn.allow_tf32": lambda: cudnn.allow_tf32,
        "cudnn.conv.fp32_precision": lambda: cudnn.conv.fp32_precision,
        "cuda.matmul.allow_tf32": lambda: matmul.allow_tf32,
        "cuda.matmul.fp32_precision": lambda: matmul.fp32_precision,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    }
    return {name: _read(reader) for name, reader in readers.items()}


def _read(reader: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the older switches warn when they are read
            return reader()
    except (AttributeError, RuntimeError) as error:
        return describe_error(error)


def _describe_gpu(part: Part, context: Context) -> None:
    free, total = torch.cuda.mem_get_info(context.device)
    part.details |= {
        "name": torch.cuda.get_device_name(context.device),
        "capability": torch.cuda.get_device_capability(context.device),
        "free GiB": round(free / 2**30, 1),
        "total GiB": round(total / 2**30, 1),
        "visible": torch.cuda.device_count(),
        "driver": query_gpu("driver_version"),
        "clocks": query_gpu(*CLOCKS),
    }


def _register_generator(part: Part, context: Context) -> None:
    graph = torch.cuda.CUDAGraph()
    register = getattr(graph, "register_generator_state", None)
    part.details["register_generator_state"] = register is not None
    if register is None:
        return
    with warnings.catch_warnings(record=True) as caught, captured_stderr() as printed:
        warnings.simplefilter("always")
        register(torch.Generator(context.device))
    part.details["warnings"] = [str(warning.message) for warning in caught] + printed


def query_gpu(*fields: str) -> dict[str, str] | None:
    """What nvidia-smi says of the first visible GPU; None without it."""
    if shutil.which("nvidia-smi") is None:
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = [
        "nvidia-smi",
        "-i",
        first,
        f"--query-gpu={','.join(fields)}",
        "--format=csv,noheader",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    values = done.stdout.strip().split(", ")
    return dict(zip(fields, values, strict=False)) if done.returncode == 0 else None


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Lines that are written to standard error inside, also by C++, which passes Python by."""
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().splitlines()
