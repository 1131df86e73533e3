"""Turns: trainings that each want most of the cores compute one after the other; and their pace."""

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


@pytest.mark.usefixtures("two_cores")
def test_who_waits_comes_before_who_has_just_computed(tmp_path: Path) -> None:
    order: list[str] = []
    first, second = Turns(CPU, tmp_path), Turns(CPU, tmp_path)
    entered = threading.Event()

    def other() -> None:
        entered.set()
        with second:
            order.append("second")

    thread = threading.Thread(target=other)
    with first:
        order.append("first")
        thread.start()
        entered.wait()
        first.pass_on()  # the turn is not over: it goes on
        order.append("first")
        # Until the other one waits in line, nothing could keep this one from overtaking it.
        following = first._files[1]
        while first._lock(following, deadline=0):
            turns.fcntl.flock(following, turns.fcntl.LOCK_UN)
        first._ends = 0.0
        first.pass_on()
        order.append("first, later")
    thread.join()
    assert order == ["first", "first", "second", "first, later"]
    assert second.waited > 0


@pytest.mark.usefixtures("two_cores")
def test_nobody_waits_long_for_one_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.01)
    stopped, other = Turns(CPU, tmp_path), Turns(CPU, tmp_path)
    with stopped, other:
        assert stopped._has_turn
        assert not other._has_turn
        waited = other.waited
        other.pass_on()  # it does not wait at every slice
        assert other.waited == waited
        stopped._release()
        other._ends = 0.0
        other.pass_on()
        assert other._has_turn


@pytest.mark.usefixtures("two_cores")
def test_a_training_inside_a_training_computes_in_its_turn(tmp_path: Path) -> None:
    with Turns(CPU, tmp_path) as outer:
        with Turns(CPU, tmp_path) as inner:
            assert inner._files == []
            inner.pass_on()
        assert outer._has_turn
        assert Turns(CPU, tmp_path)._files == []
    with Turns(CPU, tmp_path) as later:
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
        with Turns(torch.device(device), tmp_path) as taking:
            assert taking._has_turn == taken
        assert taking._files == []
    assert len(list(tmp_path.iterdir())) == 4  # two for each set of cores


@pytest.mark.usefixtures("two_cores")
def test_a_training_says_that_it_takes_no_turns_and_goes_on(
    tiny, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    class Notices(genkit.Callback):
        def on_notice(self, message: str) -> None:
            heard.append(message)

    nowhere = SimpleNamespace(gettempdir=lambda: str(tmp_path / "none"))
    monkeypatch.setattr(turns, "tempfile", nowhere)
    options = {"iterations": 2, "batch_size": 4, "device": "cpu", "progress": False}
    run = genkit.train(tiny, dataset=images, callbacks=[Notices()], **options)
    assert run.step == 2
    assert any(line.startswith("no turns with other trainings") for line in heard), heard


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
    told: list[tuple[int, int]] = []

    class Watches(genkit.Callback):
        def on_progress(self, step: int, iterations: int, rate: float, seconds_left: float) -> None:
            told.append((step, iterations))

    options = {"iterations": 30, "batch_size": 4, "device": "cpu", "progress": False}
    undisturbed = genkit.train(tiny, dataset=images, **options)
    monkeypatch.setattr(pace, "SECONDS", 0.0)
    run = genkit.train(tiny, dataset=images, callbacks=[Watches()], **options)
    assert len(told) > 10
    assert told[-1] == (30, 30)
    for name in ("metrics.jsonl", "checkpoints/step-000000030/model.safetensors"):
        assert (run.path / name).read_bytes() == (undisturbed.path / name).read_bytes()
