"""Write, verify and read checkpoints: safetensors and JSON, never a pickle.

A checkpoint is a folder ``step-000001000`` with ``model.safetensors`` (the networks, for sharing),
``state.safetensors`` (optimizers, random streams, engine) and ``manifest.json`` (format, step,
names, shapes, dtypes, and SHA-256 of both files and of itself). It gets its name only when all of
it is durable.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import CheckpointError, first_line
from . import atomic

FORMAT = 1
MAX_FILE_BYTES = 64 * 2**30
MAX_MANIFEST_BYTES = 2 * 2**20
MAX_HEADER_BYTES = 4 * 2**20
MAX_LENGTH, MAX_DIMENSIONS = 2**48, 64
FILES, MANIFEST = ("model", "state"), "manifest.json"
PATIENCE_SECONDS = 30.0
"""How long a reader goes on looking for a checkpoint while a training replaces them."""
_NAME = re.compile(r"step-(\d{9,})")
_ITEM_BYTES = {
    str(dtype).removeprefix("torch."): dtype.itemsize
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of tensors, by name."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been verified; tensors are on the CPU."""

    path: Path
    step: int
    model: dict[str, Tensor]
    state: dict[str, Tensor]


def write(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    may_be_infinite: Collection[str] = (),
) -> Path:
    """Write the checkpoint of ``step`` into ``folder``, durably; after an error nothing of it is
    left.

    Args:
        folder: the folder of the checkpoints; created if it does not exist.
        step: updates done.
        model: tensors of the networks, by name.
        state: all other tensors, by name.
        may_be_infinite: names of tensors that may hold NaN or infinity.

    Raises:
        CheckpointError: another tensor holds NaN or infinity, or the disk refused.
    """
    for name, tensor in [*model.items(), *state.items()]:
        if name not in may_be_infinite and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"step {step}: {name} has NaN or infinite values; no checkpoint was written"
            )
    target = folder / f"step-{step:09d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    replaced = folder / f".{target.name}.{os.getpid()}.old"
    try:
        atomic.make_folder(folder)
        for path in (temporary, replaced):
            atomic.remove(path)
        atomic.make_new_folder(temporary)
        _write_files(temporary, step, {"model": model, "state": state})
        if target.exists():
            atomic.rename(target, replaced)
        atomic.rename(temporary, target)
    except OSError as error:
        raise CheckpointError(f"step {step}: cannot write {target}: {error.strerror}") from error
    finally:
        # What cannot be removed has no checkpoint's name; prune removes it later.
        with contextlib.suppress(OSError):
            if replaced.exists() and not target.exists():
                atomic.rename(replaced, target)
            for path in (temporary, replaced):
                atomic.remove(path)
    return target


def _write_files(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    manifest: dict[str, Any] = {"format": FORMAT, "step": step, "files": {}}
    for part, tensors in parts.items():
        # safetensors refuses tensors that share memory, such as tied weights and views: clone.
        data = save(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        )
        atomic.write_new(folder / f"{part}.safetensors", data)
        header = int.from_bytes(data[:8], "little")
        if header > MAX_HEADER_BYTES or len(data) > MAX_FILE_BYTES:
            raise CheckpointError(
                f"step {step}: {part}.safetensors would have {len(data)} bytes, {header} of them "
                f"names; at most {MAX_FILE_BYTES} and {MAX_HEADER_BYTES} are read again"
            )
        manifest["files"][part] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "tensors": {
                name: [_dtype(tensor), list(tensor.shape)] for name, tensor in tensors.items()
            },
        }
    manifest["sha256"] = _digest(manifest)
    text = json.dumps(manifest).encode()
    if len(text) > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"step {step}: too many tensors for one checkpoint")
    atomic.write_new(folder / MANIFEST, text)
    atomic.sync_folder(folder)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, and unfinished ones of killed processes.

    Raises:
        OSError: something could not be removed; the rest was.
    """
    problems = []
    for path in steps(folder)[keep:]:
        try:  # renamed first: a half-removed checkpoint must not have a checkpoint's name
            atomic.rename(path, path.with_name(f".{path.name}.{os.getpid()}.tmp"))
        except OSError as error:
            problems.append(error)
    for path in (*folder.glob(".step-*.tmp"), *folder.glob(".step-*.old")):
        try:
            atomic.remove(path)
        except OSError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def set_aside(folder: Path, step: int) -> None:
    """Rename the checkpoints after ``step``, which are damaged, to ``damaged-step-000001000``.

    Raises:
        OSError: the disk refused.
    """
    for path in steps(folder):
        if int(path.name.removeprefix("step-")) > step:
            aside = path.with_name(f"damaged-{path.name}")
            atomic.remove(aside)
            atomic.rename(path, aside)


def steps(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first; not verified."""
    found = [
        path
        for path in folder.glob("step-*")
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def newest(
    folder: Path, expected: Shapes | None = None, limit: int = MAX_FILE_BYTES
) -> tuple[Checkpoint, list[str]]:
    """Read the newest valid checkpoint; also gives why each newer one was skipped.

    A training may replace checkpoints meanwhile: one that is gone is no damage, and the newer one
    is read then.

    Args:
        folder: the folder of the checkpoints.
        expected: dtype and shape of the model's tensors, by name. A checkpoint with others is
            skipped unread.
        limit: bytes. A checkpoint with a larger file is skipped unread.

    Raises:
        CheckpointError: none is valid.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        skipped: list[str] = []
        replaced = False
        for path in (found := steps(folder)):
            try:
                return read(path, expected, limit), skipped
            except CheckpointError as error:
                if path.exists():
                    skipped.append(str(error))
                else:
                    replaced = True
        replaced = replaced or steps(folder) != found
        if not replaced or time.monotonic() >= deadline:
            raise CheckpointError("; ".join(skipped) or f"{folder} holds no checkpoint")


def read(path: Path, expected: Shapes | None = None, limit: int = MAX_FILE_BYTES) -> Checkpoint:
    """Read one checkpoint; sizes, hashes, names, shapes and dtypes are verified first.

    Args:
        path: the checkpoint's folder.
        expected: see :func:`newest`.
        limit: see :func:`newest`.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    if path.is_symlink():
        raise CheckpointError(f"{path}: a symbolic link, which may lead out of the run: remove it")
    with _opened(path) as files:
        manifest = _read_manifest(files[MANIFEST])
        match = _NAME.fullmatch(path.name)
        if match is None or manifest["step"] != int(match[1]):
            raise CheckpointError(f"{path}: its manifest is of step {manifest['step']}")
        entries = {part: _entry(files[part].path, manifest["files"][part], limit) for part in FILES}
        if expected is not None:
            _compare(path, entries["model"].tensors, expected)
        parts = {part: _read_tensors(files[part], entries[part]) for part in FILES}
    return Checkpoint(path, manifest["step"], parts["model"], parts["state"])


@dataclass(frozen=True)
class _File:
    """A file of a checkpoint, open; or why it could not be opened."""

    path: Path
    opened: BinaryIO | OSError

    def read(self, limit: int) -> bytes:
        """All of it, if it has at most ``limit`` bytes.

        Raises:
            CheckpointError: it cannot be read, or is larger.
        """
        try:
            if isinstance(self.opened, OSError):
                raise self.opened
            return atomic.read_open(self.opened, limit)
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror}") from None
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from None


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[dict[str, _File]]:
    """All files of a checkpoint, opened at once: they can be read also when a training removes the
    checkpoint meanwhile.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, _File] = {}
        for name in (MANIFEST, *FILES):
            path = folder / (f"{name}.safetensors" if name in FILES else name)
            try:
                files[name] = _File(path, stack.enter_context(atomic.open_regular(path)))
            except OSError as error:
                files[name] = _File(path, error)
        yield files


def _compare(path: Path, found: Shapes, expected: Shapes) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            stored, needed = (
                " ".join(map(str, each.get(name, ("missing",)))) for each in (found, expected)
            )
            raise CheckpointError(
                f"{path}: {name!r} is {stored}, but {needed} in the model that run.json describes"
            )


@dataclass(frozen=True)
class _Entry:
    """One file of a manifest, checked to be possible."""

    size: int
    digest: str
    tensors: Shapes


def _read_manifest(file: _File) -> dict[str, Any]:
    path = file.path
    try:
        manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
        digest = manifest.pop("sha256")
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: format {manifest.get('format')!r}; this genkit reads format {FORMAT}"
            )
        if digest != _digest(manifest):
            raise CheckpointError(f"{path}: damaged (its SHA-256 differs)")
        step, files = manifest["step"], manifest["files"]
        if type(step) is not int or type(files) is not dict or files.keys() != set(FILES):
            raise CheckpointError(f"{path}: not a checkpoint's manifest")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__})") from None
    return dict(manifest)


def _entry(path: Path, entry: Any, limit: int) -> _Entry:
    """Check one file of a manifest: types, known dtypes, and sizes that add up."""
    try:
        size, digest = entry["bytes"], entry["sha256"]
        tensors = {name: (dtype, tuple(shape)) for name, (dtype, shape) in entry["tensors"].items()}
        content = 0
        for dtype, shape in tensors.values():
            possible = all(type(n) is int and 0 <= n < MAX_LENGTH for n in shape)
            if not possible or len(shape) > MAX_DIMENSIONS:
                raise ValueError("impossible shape")
            content += math.prod(shape) * _ITEM_BYTES[dtype]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its manifest entry is damaged ({type(error).__name__})"
        ) from None
    if (
        type(size) is not int
        or type(digest) is not str
        or not 0 <= size - content <= MAX_HEADER_BYTES + 8
    ):
        raise CheckpointError(f"{path}: its manifest entry is damaged (its sizes do not add up)")
    if size > limit:
        raise CheckpointError(
            f"{path}: {size} bytes, more than a checkpoint of this model can have ({limit})"
        )
    return _Entry(size, digest, tensors)


def _read_tensors(file: _File, entry: _Entry) -> dict[str, Tensor]:
    path, data = file.path, file.read(entry.size)
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.digest:
        raise CheckpointError(f"{path}: damaged (its size or SHA-256 differs from the manifest's)")
    if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: its header is larger than {MAX_HEADER_BYTES} bytes")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: damaged ({first_line(error)})") from None
    shapes = {name: (_dtype(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}
    if shapes != entry.tensors:
        raise CheckpointError(f"{path}: its tensors are not those of the manifest")
    return tensors


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
