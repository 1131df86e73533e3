"""Write, verify and read checkpoints: safetensors and JSON, never a pickle.

A checkpoint is a folder ``step-000001000`` with ``model.safetensors`` (the networks: what one would share),
``state.safetensors`` (optimizers, random streams, engine) and ``manifest.json`` (format, step, names, shapes, dtypes,
and SHA-256 of both files and of itself). It appears under its name only when all of it is safe on disk.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .errors import CheckpointError

FORMAT = 1
MAX_FILE_BYTES = 64 * 2**30
MAX_MANIFEST_BYTES = 64 * 2**20
FILES = ("model", "state")
_NAME = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified."""

    path: Path
    step: int
    model: dict[str, Tensor]
    state: dict[str, Tensor]


def write(folder: Path, step: int, model: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint of ``step`` below ``folder``, durably; on any error nothing of it stays.

    Raises:
        CheckpointError: a number is NaN or infinite, or the disk refused.
    """
    for name, tensor in [*model.items(), *state.items()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"step {step}: {name} has NaN or infinite values; no checkpoint was written")
    target = folder / f"step-{step:09d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_files(temporary, step, {"model": model, "state": state})
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _sync(folder)
    except OSError as error:
        raise CheckpointError(f"step {step}: cannot write {target}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write_files(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    manifest: dict[str, Any] = {"format": FORMAT, "step": step, "files": {}}
    for part, tensors in parts.items():
        # clone: tensors may share memory (tied weights, views of a ring), which safetensors refuses
        data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
        _write_synced(folder / f"{part}.safetensors", data)
        manifest["files"][part] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "tensors": {name: [_dtype(tensor), list(tensor.shape)] for name, tensor in tensors.items()},
        }
    manifest["sha256"] = _digest(manifest)
    _write_synced(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    _sync(folder)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, and what a killed process left half-written.

    Raises:
        OSError: something could not be removed.
    """
    for path in [*steps(folder)[keep:], *folder.glob(".step-*.tmp")]:
        shutil.rmtree(path)


def steps(folder: Path) -> list[Path]:
    """The checkpoint folders below ``folder``, newest first; unverified."""
    found = [
        path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that verifies, and why each newer one was skipped.

    Raises:
        CheckpointError: there is none.
    """
    skipped: list[str] = []
    for path in steps(folder):
        try:
            return read(path), skipped
        except CheckpointError as error:
            skipped.append(str(error))
    raise CheckpointError("; ".join(skipped) if skipped else f"{folder} holds no checkpoint")


def read(path: Path) -> Checkpoint:
    """Read one checkpoint; sizes, hashes, names, shapes and dtypes are checked before a tensor is used.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    manifest = _read_manifest(path / "manifest.json")
    match = _NAME.fullmatch(path.name)
    if match is None or manifest["step"] != int(match[1]):
        raise CheckpointError(f"{path}: its manifest is of step {manifest['step']}")
    parts = {part: _read_tensors(path / f"{part}.safetensors", manifest["files"][part]) for part in FILES}
    return Checkpoint(path, manifest["step"], parts["model"], parts["state"])


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read_bounded(path, MAX_MANIFEST_BYTES))
        digest = manifest.pop("sha256")
        if manifest.get("format") != FORMAT:
            raise CheckpointError(f"{path}: format {manifest.get('format')!r}; this genkit reads format {FORMAT}")
        if digest != _digest(manifest):
            raise CheckpointError(f"{path}: damaged (its SHA-256 differs)")
        step, files = manifest["step"], manifest["files"]
        if type(step) is not int or type(files) is not dict or files.keys() != set(FILES):
            raise CheckpointError(f"{path}: not a checkpoint's manifest")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__})") from None
    return dict(manifest)


def _read_tensors(path: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        expected = {name: (dtype, tuple(shape)) for name, (dtype, shape) in entry["tensors"].items()}
        size, digest = entry["bytes"], entry["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its manifest entry is damaged ({type(error).__name__})") from None
    data = _read_bounded(path, MAX_FILE_BYTES)
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path}: damaged (its size or SHA-256 differs from the manifest's)")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None
    if {name: (_dtype(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()} != expected:
        raise CheckpointError(f"{path}: its tensors are not those of the manifest")
    return tensors


def _read_bounded(path: Path, limit: int) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            raise CheckpointError(f"{path}: missing, or no plain file")
        if path.stat().st_size > limit:
            raise CheckpointError(f"{path}: larger than {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
