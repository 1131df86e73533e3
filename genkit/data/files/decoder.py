"""Decodes one picture after the other: in this process, or as a worker process that is given paths
on standard input and answers on standard output. Torch-free, so that workers start fast.

A message is a line of JSON; pixels follow it as bytes. Nothing is pickled, and a worker never
imports the program of its user, as those of multiprocessing do.
"""

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .reading import Header, Pictures, Target, Unreadable, read_header, read_picture


@dataclass(frozen=True)
class Decoded:
    """What was found in a picture: a header and, if asked for, pixels; or why there is none."""

    header: Header | None = None
    pixels: np.ndarray | None = None
    """uint8 ``(C, H, W)``."""
    kind: str = ""
    """Of the problem, in a word or two; see :class:`genkit.data.files.reading.Unreadable`."""
    reason: str = ""


def decode(source: Pictures, target: Target | None) -> Decoded:
    """Read the header of a picture and, for a ``target``, its pixels."""
    try:
        if target is None:
            return Decoded(read_header(source))
        return Decoded(*read_picture(source, target))
    except Unreadable as error:
        return Decoded(kind=error.kind, reason=str(error))
    except MemoryError:
        return Decoded(kind="too large", reason="its pixels do not fit in memory")


def encode_job(paths: Sequence[Path], target: Target | None) -> bytes:
    """The message that gives a worker these files."""
    job = {"paths": [str(path) for path in paths], "target": target and asdict(target)}
    return json.dumps(job).encode() + b"\n"  # ASCII: a name that is not UTF-8 keeps its bytes


def decode_answer(line: bytes, pixels: np.ndarray) -> list[Decoded]:
    """What a worker answered; ``pixels`` ``(n, C, H, W)`` are those of the files that have some."""
    rows = iter(pixels)
    return [_from_json(answer, rows) for answer in json.loads(line)]


def _from_json(answer: dict[str, Any], rows: Any) -> Decoded:
    if answer["kind"]:
        return Decoded(kind=answer["kind"], reason=answer["reason"])
    return Decoded(Header(**answer["header"]), next(rows, None))


def count_usable(line: bytes) -> int:
    """Files of an answer that were read."""
    return sum(not answer["kind"] for answer in json.loads(line))


def work() -> None:
    """Answer jobs until standard input ends: the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this
    for line in sys.stdin.buffer:
        job = json.loads(line)
        target = job["target"] and Target(**job["target"])
        found = [decode(Path(path), target) for path in job["paths"]]
        answer = [
            {"header": d.header and asdict(d.header), "kind": d.kind, "reason": d.reason}
            for d in found
        ]
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        for decoded in found:
            if decoded.pixels is not None:
                sys.stdout.buffer.write(decoded.pixels.data)
        sys.stdout.buffer.flush()
