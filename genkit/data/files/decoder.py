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

PIPE_BYTES = 2**18
"""What is written to, or read from, a worker at a time."""
READY = b"ready\n"
"""What a worker says once it can work."""


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


def decode_answer(answer: dict[str, Any], pixels: np.ndarray | None) -> Decoded:
    """What a worker found of a file; ``pixels`` are what followed the message."""
    header = answer["header"] and Header(**answer["header"])
    return Decoded(header, pixels, answer["kind"], answer["reason"])


def work() -> None:
    """Answer jobs until standard input ends: the worker process. For each file there is a message,
    and its pixels.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this
    out = open(sys.stdout.fileno(), "wb", PIPE_BYTES, closefd=False)  # noqa: SIM115
    out.write(READY)
    out.flush()
    for line in sys.stdin.buffer:
        job = json.loads(line)
        target = job["target"] and Target(**job["target"])
        for path in job["paths"]:
            found = decode(Path(path), target)
            header = found.header and asdict(found.header)
            answer = {"header": header, "kind": found.kind, "reason": found.reason}
            out.write(json.dumps(answer).encode() + b"\n")
            if found.pixels is not None:
                out.write(found.pixels.data)
        out.flush()
