"""Decoding many pictures: files by worker processes, in order; a file that ends its worker is one
that cannot be read.
"""

import json
import math
import os
import queue
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...errors import GenkitWarning, first_line
from .decoder import PIPE_BYTES, READY, Decoded, decode, decode_answer, encode_job
from .reading import Pictures, Target

FILES_PER_JOB = 32
JOB_BYTES = 2**24
"""Pixels that a job gives at most, if it is of more than one file."""
MIN_FILES = 256
"""Fewer files are decoded in this process: starting workers would take longer."""
STOP_SECONDS = 2.0
"""A worker that has not ended by itself after this time is killed."""
AHEAD = 3
"""Jobs for each worker that are under way or wait to be taken."""
WAITING_BYTES = 2**28
"""Pixels that wait to be taken at most, if they are of more than one job."""
ENDED = "undecodable"
"""The kind of a picture whose worker ended, as by a lack of memory."""

WORKER_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from genkit.data.files.decoder import work; work()"
)
"""What a worker runs; its argument is where this very genkit is."""

Content = Path | bytes | Callable[[], Pictures]
"""A file, its bytes, or what gives a picture when it is called."""


def decode_all(
    contents: Sequence[Content], target: Target | None
) -> Generator[Decoded, None, None]:
    """Read headers and, for a ``target``, pixels; one result for each, in order.

    Files are read by a worker process for each CPU; anything else in this process. Close the
    iterator (:func:`contextlib.closing`) to end the workers if it is not used up.
    """
    paths = [content for content in contents if isinstance(content, Path)]
    if MIN_FILES <= len(paths) == len(contents):
        try:
            workers = _Workers(min(count_cpus(), len(paths) // FILES_PER_JOB + 1))
        except (OSError, EOFError) as error:
            warnings.warn(
                f"pictures are decoded in this process: no worker starts ({first_line(error)})",
                GenkitWarning,
                stacklevel=2,
            )
        else:
            with workers:
                yield from workers.decode(paths, target)
            return
    yield from (decode(_content(content), target) for content in contents)


def _content(content: Content) -> Pictures:
    return content() if callable(content) else content


def count_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Workers:
    """Worker processes, and a thread for each that talks to it.

    Raises:
        OSError, EOFError: no process can be started, or what is started is not this Python.
    """

    def __init__(self, count: int) -> None:
        self._closing = False
        self._all: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        try:
            self._all += [_Worker() for _ in range(count)]  # all at once, as each takes a moment
            for worker in self._all:
                worker.wait_until_ready()
                self._idle.put(worker)
        except (OSError, EOFError):
            self._end()
            raise
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="genkit-decode")

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for worker in list(self._all):  # a thread that waits for one finds that it has ended
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        self._end()

    def _end(self) -> None:
        for worker in self._all:
            worker.end()

    def decode(self, paths: Sequence[Path], target: Target | None) -> Iterator[Decoded]:
        """One result for each file, in order."""
        size, most_waiting = FILES_PER_JOB, AHEAD * len(self._all)
        if target is not None:
            image_bytes = target.channels * target.height * target.width
            size = min(size, max(1, JOB_BYTES // image_bytes))
            most_waiting = min(most_waiting, max(1, WAITING_BYTES // (size * image_bytes)))
        waiting: deque[Future[list[Decoded]]] = deque()
        for start in range(0, len(paths), size):
            waiting.append(self._threads.submit(self._run, paths[start : start + size], target))
            if len(waiting) > most_waiting:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def _run(self, paths: Sequence[Path], target: Target | None) -> list[Decoded]:
        worker = self._idle.get()
        try:
            found = worker.run(paths, target)
        except (OSError, EOFError, ValueError):
            status = worker.end()
            try:
                if self._closing:
                    raise
                self._replace(worker)
            except (OSError, EOFError, ValueError):
                self._idle.put(worker)  # for a thread that waits, which then ends the same way
                raise
            if len(paths) == 1:
                ended = f"signal {-status}" if status < 0 else f"exit code {status}"
                return [Decoded(kind=ENDED, reason=f"it ended the decoder ({ended})")]
            return [self._run([path], target)[0] for path in paths]
        self._idle.put(worker)
        return found

    def _replace(self, ended: "_Worker") -> None:
        worker = _Worker()
        self._all[self._all.index(ended)] = worker
        if self._closing:
            worker.kill()
        worker.wait_until_ready()
        self._idle.put(worker)


class _Worker:
    """A process that decodes files.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[3])
        # -P: without the working directory, whose modules would be taken for Python's own.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER_CODE, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=PIPE_BYTES,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._of = self._process.stdin, self._process.stdout

    def wait_until_ready(self) -> None:
        """Wait until it has started.

        Raises:
            EOFError: it is something else.
        """
        if self._of.readline() != READY:
            raise EOFError(f"{sys.executable} did not start genkit's decoder")

    def run(self, paths: Sequence[Path], target: Target | None) -> list[Decoded]:
        """Decode these files.

        Raises:
            OSError, EOFError, ValueError: the process ended.
        """
        self._to.write(encode_job(paths, target))
        self._to.flush()
        return [self._read_answer(target) for _ in paths]

    def _read_answer(self, target: Target | None) -> Decoded:
        line = self._of.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        if target is None or answer["kind"]:
            return decode_answer(answer, None)
        shape = target.channels, target.height, target.width
        found = self._of.read(math.prod(shape))
        if len(found) < math.prod(shape):
            raise EOFError
        return decode_answer(answer, np.frombuffer(found, np.uint8).reshape(shape))

    def kill(self) -> None:
        """Stop it at once; a thread that reads from it gets an error."""
        self._process.kill()

    def end(self) -> int:
        """End it, if it has not ended; nobody may be reading from it. Its exit code."""
        for pipe in (self._to, self._of):
            with suppress(OSError):  # what was not sent yet has nobody to read it
                pipe.close()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
