"""Malformed checkpoints, mutated from a valid one: each is refused by a GenkitError.

Most get a new SHA-256, so that they reach the checks behind it.
"""

import copy
import hashlib
import json
import math
import os
import random
import shutil
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import genkit
from genkit.models import build
from genkit.run import Run
from genkit.storage import checkpoint
from tests.conftest import training_of

from .subject import images, train, warm_up

Parts = dict[str, Any]
"""A checkpoint taken apart: ``manifest``, and the header and data of each file."""

WRONG_NUMBERS = (-1, 0, 1, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308)
WRONG_TEXTS = ("", "x", "F32", "../../x", "\0", "é" * 300)
WRONG_LISTS: tuple[list[Any], ...] = ([], [0], [-1], [2**62, 2**62], [[]], [None], ["x"])
WRONG_VALUES = (None, True, {}, {"a": 1}, *WRONG_NUMBERS, *WRONG_TEXTS, *WRONG_LISTS)


def take_apart(path: Path) -> Parts:
    """The parts of a valid checkpoint."""
    parts: Parts = {"manifest": json.loads((path / "manifest.json").read_text())}
    for part in checkpoint.FILES:
        data = (path / f"{part}.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        parts[part] = {"header": json.loads(data[8 : 8 + length]), "data": data[8 + length :]}
    return parts


def put_together(parts: Parts, path: Path, signed: bool) -> None:
    """Write a checkpoint from parts; if ``signed``, with their present sizes and SHA-256."""
    path.mkdir()
    manifest = parts["manifest"]
    for part in checkpoint.FILES:
        header = parts[part]["header"]
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        data = parts[part].get("length", struct.pack("<Q", len(text))) + text + parts[part]["data"]
        (path / f"{part}.safetensors").write_bytes(data)
        entry = manifest["files"].get(part) if isinstance(manifest.get("files"), dict) else None
        if signed and isinstance(entry, dict):
            entry.setdefault("bytes", len(data))
            if parts[part].get("resized", True):
                entry["bytes"] = len(data)
            entry["sha256"] = hashlib.sha256(data).hexdigest()
    if signed:
        manifest.pop("sha256", None)
        manifest["sha256"] = hashlib.sha256(
            json.dumps(manifest, sort_keys=True).encode()
        ).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in nested dicts and lists."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    found = []
    for key, child in children:
        found += [(*path, key), *_places(child, (*path, key))]
    return found


def _change(root: Any, rng: random.Random) -> None:
    """Replace, remove or rename a random value."""
    place = rng.choice(_places(root))
    holder = root
    for key in place[:-1]:
        holder = holder[key]
    action = rng.choice(("replace", "replace", "remove", "rename"))
    if action == "replace":
        holder[place[-1]] = copy.deepcopy(rng.choice(WRONG_VALUES))
    elif action == "remove" or isinstance(holder, list):
        del holder[place[-1]]
    else:
        holder[f"{place[-1]}{rng.choice(('x', '/', '.weight', chr(0)))}"] = holder.pop(place[-1])


def manifest_values(parts: Parts, rng: random.Random) -> bool:
    """Another value in the manifest."""
    _change(parts["manifest"], rng)
    return rng.random() < 0.8


def header_values(parts: Parts, rng: random.Random) -> bool:
    """Another value in a header: offsets, dtypes, shapes, names."""
    _change(parts[rng.choice(checkpoint.FILES)]["header"], rng)
    return True


def both_agree(parts: Parts, rng: random.Random) -> bool:
    """A tensor of another name, dtype or shape in header and manifest: only the model differs."""
    part = rng.choice(checkpoint.FILES)
    header, tensors = parts[part]["header"], parts["manifest"]["files"][part]["tensors"]
    name = rng.choice(list(tensors))
    action = rng.choice(("rename", "dtype", "flatten"))
    if action == "rename":
        other = name + rng.choice(("x", "/0", "\x1b[2J"))
        header[other], tensors[other] = header.pop(name), tensors.pop(name)
    elif action == "dtype":
        same_size = {"F32": ("I32", "int32"), "I64": ("F64", "float64"), "U8": ("I8", "int8")}
        header[name]["dtype"], tensors[name][0] = same_size[header[name]["dtype"]]
    else:
        count = 1
        for length in tensors[name][1]:
            count *= length
        header[name]["shape"], tensors[name][1] = [count, 1, 1], [count, 1, 1]
    return True


def header_bytes(parts: Parts, rng: random.Random) -> bool:
    """A header that is not JSON, is nested deeply, has a name twice, or has a wrong length."""
    part = parts[rng.choice(checkpoint.FILES)]
    text = json.dumps(part["header"]).encode()
    name = json.dumps(next(iter(part["header"]))).encode()
    part["header"] = rng.choice(
        (
            text[: rng.randrange(len(text))],
            b"[" * rng.randrange(1, 5000),
            text[:-1] + b"," + name + text[text.index(b":") :],
            bytes(rng.randrange(256) for _ in range(rng.randrange(64))),
            text.replace(b"data_offsets", b"data_offset", 1),
        )
    )
    if rng.random() < 0.5:
        part["length"] = struct.pack(
            "<Q", rng.choice((0, 1, 2**32, 2**63, 2**64 - 1, rng.randrange(2**20)))
        )
    return True


def data_bytes(parts: Parts, rng: random.Random) -> bool:
    """Data that are too short, too long, or (with the old SHA-256) have a flipped bit."""
    part = parts[rng.choice(checkpoint.FILES)]
    data = part["data"]
    action = rng.choice(("cut", "longer", "flip"))
    if action == "cut":
        part["data"] = data[: rng.randrange(len(data))]
    elif action == "longer":
        part["data"] = data + bytes(rng.randrange(1, 5000))
    else:
        at = rng.randrange(len(data))
        part["data"] = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return action != "flip" and rng.random() < 0.8


MUTATIONS: tuple[Callable[[Parts, random.Random], bool], ...] = (
    manifest_values,
    header_values,
    both_agree,
    header_bytes,
    data_bytes,
)


def damage_files(path: Path, rng: random.Random) -> None:
    """Replace a file of the checkpoint by one that is not regular, is huge or is garbage."""
    file = path / rng.choice(("manifest.json", "model.safetensors", "state.safetensors"))
    data = file.read_bytes()
    file.unlink()
    action = rng.choice(("missing", "folder", "link", "pipe", "empty", "huge", "garbage", "json"))
    if action == "folder":
        file.mkdir()
    elif action == "link":
        file.symlink_to(path.parent.parent / "run.json")
    elif action == "pipe":
        os.mkfifo(file)
    elif action == "huge":
        file.write_bytes(data)
        os.truncate(file, rng.choice((2**33, 2**40)))  # sparse: it takes no space
    elif action == "garbage":
        file.write_bytes(bytes(rng.randrange(256) for _ in range(200)))
    elif action == "json":
        file.write_text(
            rng.choice(
                ("[" * 100_000, "{}", "null", '{"format": 1}', "1" * 5000, "[1e999]", '"\\ud800"')
            )
        )
    elif action == "empty":
        file.touch()


def malformed(count: int, folder: Path, seed: int = 0) -> dict[str, float]:
    """Try ``count`` malformed checkpoints; count those accepted, and measure time and memory."""
    warm_up()
    run = train("vae", folder / "run", 6)
    (good, *_) = checkpoint.steps(run.path / "checkpoints")
    original = take_apart(good)
    before = {part: (good / f"{part}.safetensors").read_bytes() for part in checkpoint.FILES}
    shutil.move(good, folder / "good")
    shutil.rmtree(run.path / "checkpoints")
    rng, data = random.Random(seed), images()
    result: dict[str, float] = {
        "tried": 0,
        "accepted": 0,
        "harmless": 0,
        "slowest (s)": 0.0,
        "most memory (MiB)": 0.0,
    }
    for number in range(count):
        (run.path / "checkpoints").mkdir()
        target = run.path / "checkpoints" / good.name
        if number % 6 == 5:
            shutil.copytree(folder / "good", target)
            damage_files(target, rng)
        else:
            parts = copy.deepcopy(original)
            put_together(parts, target, MUTATIONS[number % 6](parts, rng))
        memory_before = _memory(reset=True)
        start = time.perf_counter()
        accepted = _use(Run.open(run.path), data)
        result["slowest (s)"] = max(result["slowest (s)"], time.perf_counter() - start)
        result["tried"] += 1
        result["most memory (MiB)"] = max(result["most memory (MiB)"], _memory() - memory_before)
        if accepted:
            same = all(
                (target / f"{part}.safetensors").read_bytes() == before[part]
                for part in checkpoint.FILES
            )
            result["harmless"] += same or _equivalent(target, folder / "good")
            result["accepted"] += not (same or _equivalent(target, folder / "good"))
        shutil.rmtree(run.path / "checkpoints")
    return result


def _memory(reset: bool = False) -> float:
    """The most memory of this process since the last reset, MiB; NaN if the system does not report
    it.
    """
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _use(run: Run, data: genkit.ImageData) -> bool:
    """Read the checkpoint, restore it and make a step, as resuming does; False if it is refused."""
    try:
        found, _ = run.newest_checkpoint()
        core = run.info.options
        trainer = build(
            run.trainer_class,
            run.trainer_class.Config(**run.info.config),
            data.spec,
            core.seed,
            "cpu",
        )
        engine = training_of(trainer, data, core)
        engine.restore(found.step, found.model, found.state)
        engine.run(1)
    except genkit.GenkitError as error:
        refusal = str(error)
    else:
        return True
    assert "\n" not in refusal, f"more than one line: {refusal}"
    return False


def _equivalent(path: Path, good: Path) -> bool:
    """Whether a mutation left every tensor as it was, such as another order of names."""
    ours = checkpoint.read(path)
    renamed = good.rename(good.with_name(path.name))
    try:
        theirs = checkpoint.read(renamed)
    finally:
        renamed.rename(good)
    pairs = ((ours.model, theirs.model), (ours.state, theirs.state))
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs
    )
