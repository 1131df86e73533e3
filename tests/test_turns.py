"""Turns: trainings that each want most of the cores compute one after the other; and their pace."""

import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import genkit
from genkit.training import pace, progress, turns
from genkit.training.pace import Pace, duration
from genkit.training.progress import Console
from genkit.training.turns import Turns

CPU = torch.device("cpu")


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_cores", lambda: [0, 1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def taking(folder: Path, **options: object) -> Turns:
    return Turns(CPU, pytest.fail, folder=folder, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("two_cores")
def test_who_waits_comes_before_who_has_just_computed(tmp_path: Path) -> None:
    order: list[str] = []
    first, second = taking(tmp_path), taking(tmp_path)

    def other() -> None:
        with second:
            order.append("second")

    thread = threading.Thread(target=other)
    with first:
        order.append("first")
        first.pass_on()  # the turn is not over: it goes on
        order.append("first")
        thread.start()
        # Until the other one waits in line, nothing could keep this one from overtaking it.
        while is_free(first._files[1]):
            pass
        first._ends = 0.0
        first.pass_on()
        order.append("first, later")
    thread.join()
    assert order == ["first", "first", "second", "first, later"]


def is_free(file: int) -> bool:
    try:
        turns.fcntl.flock(file, turns.fcntl.LOCK_EX | turns.fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    turns.fcntl.flock(file, turns.fcntl.LOCK_UN)
    return True


@pytest.mark.usefixtures("two_cores")
def test_of_many_none_computes_without_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the line is: each turn that is taken restarts the patience of who waits."""
    monkeypatch.setattr(turns, "SLICE_SECONDS", 0.02)
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.5)
    without: list[int] = []
    taken = [0] * 5
    end = threading.Event()

    def compute(number: int) -> None:
        with taking(tmp_path) as mine:
            while not end.is_set():
                without.extend([] if mine._has_turn else [number])
                mine._ends = 0.0
                taken[number] += 1
                mine.pass_on()

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    while min(taken) < 20:
        end.wait(0.01)
    end.set()
    for thread in threads:
        thread.join()
    assert without == []


HOLDER = """
import sys, time, torch
from pathlib import Path
from genkit.training import turns
turns._cores = lambda: [0, 1]
torch.get_num_threads = lambda: 2
with turns.Turns(torch.device("cpu"), print, folder=Path(sys.argv[1])) as mine:
    print(mine._has_turn, flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("two_cores")
def test_a_process_that_was_killed_leaves_its_turn_and_one_that_was_stopped_is_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.05)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        holder.send_signal(signal.SIGSTOP)
        with taking(tmp_path) as other:
            assert not other._has_turn
            ends = other._ends
            other.pass_on()  # it does not wait at every slice
            assert other._ends == ends
            holder.kill()
            holder.wait()
            other._ends = 0.0
            other.pass_on()
            assert other._has_turn


@pytest.mark.usefixtures("two_cores")
def test_who_is_to_stop_does_not_wait(tmp_path: Path) -> None:
    with taking(tmp_path):
        _taking_elsewhere(tmp_path)


def _taking_elsewhere(folder: Path) -> None:
    """In a thread, as one inside another training would not take turns."""
    seen: list[bool] = []

    def enter() -> None:
        with taking(folder, should_stop=lambda: True) as stopping:
            seen.append(stopping._has_turn)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.usefixtures("two_cores")
def test_a_training_inside_a_training_computes_in_its_turn(tmp_path: Path) -> None:
    with taking(tmp_path) as outer:
        with taking(tmp_path) as inner:
            assert inner._files == []
            inner.pass_on()
        assert outer._has_turn
        assert taking(tmp_path)._files == []
    with taking(tmp_path) as later:
        assert later._has_turn


def test_turns_are_taken_only_where_they_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores, threads, device, taken in (
        (2, 2, "cpu", True),
        (8, 5, "cpu", True),
        (8, 4, "cpu", False),  # two of them fit side by side
        (2, 1, "cpu", False),
        (1, 1, "cpu", False),
        (2, 2, "meta", False),
    ):
        monkeypatch.setattr(turns, "_cores", lambda cores=cores: list(range(cores)))
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with Turns(torch.device(device), pytest.fail, folder=tmp_path) as mine:
            assert mine._has_turn == taken
        assert mine._files == []
    assert len(list(tmp_path.iterdir())) == 4  # two for each set of cores


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("what", ["folder", "lock"])
def test_a_training_says_that_it_takes_no_turns_and_goes_on(
    tiny, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    heard: list[str] = []

    class Notices(genkit.Callback):
        def on_notice(self, message: str) -> None:
            heard.append(message)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    place = tmp_path / "none" if what == "folder" else tmp_path
    monkeypatch.setattr(turns, "tempfile", SimpleNamespace(gettempdir=lambda: str(place)))
    if what == "lock":
        monkeypatch.setattr(turns.fcntl, "flock", refuse)
    options = {"iterations": 2, "batch_size": 4, "device": "cpu", "progress": False}
    if what == "lock":  # of turns alone, and not of the run's folder
        with Turns(CPU, heard.append, folder=tmp_path) as mine:
            mine.pass_on()
        assert mine._files == []
    else:
        run = genkit.train(tiny, dataset=images, callbacks=[Notices()], **options)
        assert run.step == 2
    [line] = [
        line for line in heard if line.startswith("no turns with other trainings are taken: ")
    ]
    assert ("No locks" if what == "lock" else "No such file") in line


class Clock:
    """Stands for the module ``time``."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (pace, progress):
        monkeypatch.setattr(module, "time", made)
    return made


def test_the_pace_is_read_by_the_clock(clock: Clock) -> None:
    reading = Pace(100, 1000)
    assert (reading.due(), reading.read(105)) == (False, None)
    clock.now += 10
    assert reading.due()
    assert reading.read(100) is None  # no step was made yet
    now = reading.read(150)
    assert now is not None
    assert (now.step, now.iterations, now.rate, now.seconds_left) == (150, 1000, 5.0, 170.0)
    assert (reading.due(), reading.read(160)) == (False, None)
    assert [duration(s) for s in (40, 99, 720, 12_600)] == ["40 s", "99 s", "12 min", "3.5 h"]


def test_a_line_comes_after_ten_seconds_and_then_within_thirty(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console()
    for step in range(1, 10):
        clock.now += 10
        console.on_progress(step, 9, 0.1, 90 - 10 * step)
    assert capsys.readouterr().err.splitlines() == [
        "step 1 of 9: 0.1 it/s, about 80 s left",
        "step 3 of 9: 0.1 it/s, about 60 s left",
        "step 5 of 9: 0.1 it/s, about 40 s left",
        "step 7 of 9: 0.1 it/s, about 20 s left",
        "step 9 of 9: 0.1 it/s, done",
    ]
    console.on_sample(9, Path("x.png"), {"loss": 1.0})  # a line that is as good
    clock.now += 10
    console.on_progress(10, 20, 25.0, 0.4)
    assert capsys.readouterr().err == ""


def test_a_long_interval_is_left_for_the_progress_and_changes_nothing(
    tiny, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[tuple[int, int]] = []

    class Watches(genkit.Callback):
        def on_progress(self, step: int, iterations: int, rate: float, seconds_left: float) -> None:
            readings.append((step, iterations))

    options = {"iterations": 30, "batch_size": 4, "device": "cpu", "progress": False}
    undisturbed = genkit.train(tiny, dataset=images, **options)
    monkeypatch.setattr(pace, "SECONDS", 0.0)
    run = genkit.train(tiny, dataset=images, callbacks=[Watches()], **options)
    assert len(readings) > 10
    assert readings[-1] == (30, 30)
    for name in ("metrics.jsonl", "checkpoints/step-000000030/model.safetensors"):
        assert (run.path / name).read_bytes() == (undisturbed.path / name).read_bytes()
