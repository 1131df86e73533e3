"""A disk that fails, a process that dies, and power that goes out: at every step of a save."""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from genkit.errors import CheckpointError, RunError
from genkit.storage import atomic, checkpoint
from genkit.storage.folder import RunFolder

CHANGES = ("open", "write", "fsync", "mkdir", "rename", "replace")
"""The system calls of a save, each of which may fail."""


def tensors(step: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Networks and state of an imaginary training."""
    return {"a.weight": torch.full((3, 5), float(step))}, {"trainer/iteration": torch.tensor(step)}


def save(folder: RunFolder, step: int, keep: int = 2) -> None:
    """Save as the training loop does."""
    folder.append("metrics.jsonl", {"step": step, "loss": 1.0 / step})
    folder.append("timing.jsonl", {"step": step, "seconds": 1.0})
    folder.sync_rows()
    checkpoint.write(folder.checkpoints, step, *tensors(step))
    checkpoint.prune(folder.checkpoints, keep)


def newest(folder: RunFolder) -> int:
    """Step of the newest valid checkpoint with all its rows; -1 if there is none."""
    try:
        found, _ = checkpoint.newest(folder.checkpoints)
    except CheckpointError:
        return -1
    rows = [row["step"] for row in folder.read_rows("metrics.jsonl") if row["step"] <= found.step]
    complete = rows == list(range(1, found.step + 1))
    intact = found.model["a.weight"].unique().tolist() == [found.step]
    return found.step if complete and intact else -1


class Os:
    """``os`` for :mod:`genkit.storage.atomic`, which calls ``before`` ahead of each change."""

    def __init__(self, before: Callable[[str, tuple[Any, ...]], None]) -> None:
        self._before = before

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def call(*arguments: Any) -> Any:
            self._before(name, arguments)
            return real(*arguments)

        return call


@contextmanager
def _patched(stand_in: Any) -> Iterator[None]:
    with mock.patch.object(atomic, "os", stand_in):
        yield


def faults(folder: Path) -> dict[str, int]:
    """ENOSPC, EIO and a kill at every system call of a save; a valid checkpoint is always left."""
    result = {
        "calls": 0,
        "faults": 0,
        "no valid checkpoint": 0,
        "left behind": 0,
        "could not go on": 0,
    }
    calls: list[str] = []
    run = _run_with_one_checkpoint(folder / "count")
    with _patched(Os(lambda name, arguments: calls.append(name))):
        save(run, 2)
    result["calls"] = len(calls)
    for number in range(result["calls"]):
        for fault in (errno.ENOSPC, errno.EIO, None):
            result["faults"] += 1
            run = _run_with_one_checkpoint(folder / f"{number}-{fault}")
            acknowledged = _save_with_fault(run, number, fault)
            found = newest(run)
            result["no valid checkpoint"] += found < (2 if acknowledged else 1)
            result["left behind"] += fault is not None and any(run.checkpoints.glob(".*"))
            run.forget_after(found, found)
            save(run, found + 1)
            result["could not go on"] += newest(run) != found + 1
            shutil.rmtree(run.path)
    return result


def _run_with_one_checkpoint(path: Path) -> RunFolder:
    path.mkdir(parents=True)
    run = RunFolder(path)
    save(run, 1)
    return run


def _save_with_fault(run: RunFolder, number: int, fault: int | None) -> bool:
    """Save step 2 with an error or a kill at system call ``number``; whether it succeeded."""
    left = [number]

    def before(name: str, arguments: tuple[Any, ...]) -> None:
        left[0] -= 1
        if left[0] == -1:
            if fault is None:
                os._exit(9)
            raise OSError(fault, os.strerror(fault))

    if fault is None:
        pid = os.fork()
        if pid == 0:
            with _patched(Os(before)):
                save(run, 2)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    try:
        with _patched(Os(before)):
            save(run, 2)
    except (CheckpointError, RunError, OSError):
        return False
    return True


# --- power cuts ---


@dataclass
class Node:
    """A file or folder: what is on disk (``safe_``), and what is only in memory."""

    folder: bool
    content: bytes = b""
    safe_content: bytes = b""
    entries: dict[str, "Node"] = field(default_factory=dict)
    safe_entries: dict[str, "Node"] = field(default_factory=dict)
    pending: list[dict[str, "Node | None"]] = field(default_factory=list)
    """Changes of names since the last fsync of the folder, in order; a rename is one change."""


@dataclass
class Disk:
    """A simulated file system that may lose in a power cut any part of what was not fsynced."""

    root: Path
    top: Node = field(default_factory=lambda: Node(folder=True))
    open_files: dict[int, Node] = field(default_factory=dict)

    def node(self, path: Path) -> Node:
        node = self.top
        for part in path.relative_to(self.root).parts:
            node = node.entries[part]
        return node

    def change(self, parent: Path, names: dict[str, Node | None]) -> None:
        folder = self.node(parent)
        for name, node in names.items():
            if node is None:
                folder.entries.pop(name, None)
            else:
                folder.entries[name] = node
        folder.pending.append(names)

    def apply(self, name: str, *arguments: Any) -> None:
        if name == "open":
            path, flags, descriptor = arguments
            if flags & os.O_CREAT and path.name not in self.node(path.parent).entries:
                self.change(path.parent, {path.name: Node(folder=False)})
            self.open_files[descriptor] = self.node(path)
        elif name == "write":
            self.open_files[arguments[0]].content += arguments[1]
        elif name == "fsync":
            node = self.open_files[arguments[0]]
            node.safe_content, node.safe_entries, node.pending = (
                node.content,
                dict(node.entries),
                [],
            )
        elif name == "mkdir":
            self.change(arguments[0].parent, {arguments[0].name: Node(folder=True)})
        elif name == "remove":
            self.change(arguments[0].parent, {arguments[0].name: None})
        else:
            old, new = arguments
            self.change(new.parent, {old.name: None, new.name: self.node(old)})

    def after_power_cut(self, rng: random.Random, target: Path) -> None:
        """Write to ``target`` what the disk may hold: all that is safe and a random part of the
        rest.
        """
        self._write(self.top, rng, target)

    def _write(self, node: Node, rng: random.Random, target: Path) -> None:
        if not node.folder:
            fresh = node.content[len(node.safe_content) :]
            kept = rng.choice((b"", fresh, fresh[: rng.randint(0, len(fresh))], b"\0" * len(fresh)))
            target.write_bytes(node.safe_content + kept)
            return
        target.mkdir()
        entries = dict(node.safe_entries)
        changes = [change for change in node.pending if rng.random() < 0.5]
        for change in changes:
            for name, child in change.items():
                if child is None:
                    entries.pop(name, None)
                else:
                    entries[name] = child
        for name, child in entries.items():
            self._write(child, rng, target / name)


class RecordingOs:
    """``os`` for :mod:`genkit.storage.atomic`, which records changes for a :class:`Disk`."""

    def __init__(self, events: list[tuple[Any, ...]]) -> None:
        self._events = events

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def call(*arguments: Any) -> Any:
            result = real(*arguments)
            if name == "open":
                self._events.append((name, Path(arguments[0]), arguments[1], result))
            elif name == "write":
                self._events.append((name, arguments[0], bytes(arguments[1][:result])))
            elif name == "fsync":
                self._events.append((name, arguments[0]))
            else:
                self._events.append((name, *map(Path, arguments)))
            return result

        return call


def power_cuts(count: int, folder: Path, seed: int = 0, steps: int = 6) -> dict[str, int]:
    """Cut the power ``count`` times during six saves; count lost checkpoints and rows."""
    events: list[tuple[Any, ...]] = []
    (folder / "recorded").mkdir(parents=True)
    run = RunFolder(folder / "recorded" / "run")
    real_remove = atomic.remove

    def remove(path: Path) -> None:
        existed = path.exists()
        real_remove(path)
        if existed:
            events.append(("remove", path))

    with _patched(RecordingOs(events)), mock.patch.object(atomic, "remove", remove):
        atomic.make_folder(run.path)
        run.write_json("run.json", {"format": 1})
        for step in range(1, steps + 1):
            save(run, step)
            events.append(("acknowledged", step))
    rng = random.Random(seed)
    result = {"power cuts": 0, "unrecoverable": 0, "run.json lost": 0}
    for number in range(count):
        disk, acknowledged = Disk(folder / "recorded"), -1
        for event in events[: rng.randint(1, len(events))]:
            if event[0] == "acknowledged":
                acknowledged = event[1]
            else:
                disk.apply(*event)
        target = folder / f"cut-{number}"
        disk.after_power_cut(rng, target)
        found = newest(RunFolder(target / "run"))
        result["power cuts"] += 1
        result["unrecoverable"] += found < acknowledged
        result["run.json lost"] += acknowledged > 0 and not (target / "run" / "run.json").exists()
        shutil.rmtree(target)
    return result
