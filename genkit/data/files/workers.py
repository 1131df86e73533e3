"""Decoding many pictures: files by worker processes, in order; a file that ends its worker is one
that cannot be read.
"""

import math
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from .decoder import Decoded, count_usable, decode, decode_answer, encode_job
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

WORKER_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from genkit.data.files.decoder import work; work()"
)
"""What a worker runs; its argument is where this very genkit is."""

Content = Path | bytes | Callable[[], Pictures]
"""A file, its bytes, or what gives a picture when it is called."""


def decode_all(contents: Sequence[Content], target: Target | None) -> Iterator[Decoded]:
    """Read headers and, for a ``target``, pixels; one result for each, in order.

    Files are read by a worker process for each CPU; anything else in this process.
    """
    paths = [content for content in contents if isinstance(content, Path)]
    if len(paths) < max(MIN_FILES, len(contents)) or not sys.executable:
        yield from (decode(_content(content), target) for content in contents)
        return
    size = FILES_PER_JOB
    if target is not None:
        image_bytes = target.channels * target.height * target.width
        size = min(size, max(1, JOB_BYTES // image_bytes))
    jobs = [paths[start : start + size] for start in range(0, len(paths), size)]
    with _Workers(min(count_cpus(), len(jobs))) as workers:
        for results in workers.map(jobs, target):
            yield from results


def _content(content: Content) -> Pictures:
    return content() if callable(content) else content


def count_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Workers:
    """Worker processes, and a thread for each that talks to it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="genkit-decode")
        self._all: list[_Worker] = []
        self._closing = False

    def __enter__(self) -> "_Workers":
        for _ in range(self._count):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for worker in self._all:  # before the threads, which wait for them
            worker.stop()
        self._threads.shutdown(cancel_futures=True)

    def _start(self) -> None:
        worker = _Worker()
        self._all.append(worker)
        self._idle.put(worker)

    def map(self, jobs: Sequence[Sequence[Path]], target: Target | None) -> Iterator[list[Decoded]]:
        """The results of each job, in order."""
        waiting: deque[Future[list[Decoded]]] = deque()
        for job in jobs:
            waiting.append(self._threads.submit(self._run, job, target))
            if len(waiting) > AHEAD * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _run(self, paths: Sequence[Path], target: Target | None) -> list[Decoded]:
        worker = self._idle.get()
        try:
            found = worker.run(paths, target)
        except (OSError, EOFError, ValueError):
            if self._closing:
                raise
            status = worker.stop()
            self._all.remove(worker)
            self._start()
            if len(paths) == 1:
                ended = f"signal {-status}" if status < 0 else f"exit code {status}"
                return [Decoded(kind="damaged", reason=f"it ended the decoder ({ended})")]
            return [self._run([path], target)[0] for path in paths]
        self._idle.put(worker)
        return found


class _Worker:
    """A process that decodes files."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[3])
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER_CODE, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, paths: Sequence[Path], target: Target | None) -> list[Decoded]:
        """Decode these files.

        Raises:
            OSError, EOFError, ValueError: the process ended.
        """
        to, of = self._process.stdin, self._process.stdout
        assert to is not None
        assert of is not None
        to.write(encode_job(paths, target))
        to.flush()
        line = of.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        shape = (0, 1, 1, 1)
        if target is not None:
            shape = (count_usable(line), target.channels, target.height, target.width)
        found = of.read(math.prod(shape))
        if len(found) < math.prod(shape):
            raise EOFError
        return decode_answer(line, np.frombuffer(found, np.uint8).reshape(shape))

    def stop(self) -> int:
        """End the process, which may have ended already; its exit code."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not sent yet has nobody to read it
                pipe and pipe.close()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
