"""What went wrong once, by kind: what only informs ends a training, finished work is thrown away,
a traceback for a machine that is too small, bounds on reading that writing does not know, and two
processes on one run.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genkit
from genkit.callback import Callback
from genkit.cli.main import main
from genkit.config import read_file, resolve
from genkit.data import datasets
from genkit.data.datasets import NO_DATA_ROOT, cache_folder, data_root
from genkit.errors import (
    CheckpointError,
    ConfigError,
    ContractError,
    DataError,
    GenkitError,
    GenkitWarning,
    OutOfMemoryError,
    RunError,
    attribute_errors,
    memory_shortage,
)
from genkit.evaluation.extractor import load_extractor
from genkit.storage import atomic, checkpoint, lock, rows
from genkit.storage.folder import MAX_JSON_BYTES, RunFolder
from genkit.training.progress import Console
from genkit.training.terminal import Output

QUIET: dict[str, Any] = {
    "batch_size": 4,
    "log_interval": 4,
    "sample_interval": 8,
    "checkpoint_interval": 8,
    "device": "cpu",
    "progress": False,
}
OUTPUT = ["--dataset", "digits", "--iterations", "20", "--log-interval", "5"]
OUTPUT += ["--sample-interval", "5", "--hidden-dim", "4", "--device", "cpu"]


class Notices(Callback):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_notice(self, message: str) -> None:
        self.messages.append(message)


def refuse(*arguments: object) -> None:
    raise PermissionError(13, "Permission denied", str(arguments[0]))


def genkit_process(*arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "genkit", *arguments], **streams)


def steps_of(run: str) -> list[str]:
    return [path.name for path in checkpoint.steps(Path(run) / "checkpoints")]


# --- what only informs never ends a training ---


def test_a_reader_that_goes_away_ends_neither_training_nor_resuming() -> None:
    for command, total in (
        (["train", "ae", *OUTPUT, "--out", "run"], 20),
        (
            ["resume", "run", "--iterations", "30"],
            30,
        ),
    ):
        with genkit_process(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            said = process.stderr.read().decode()
        assert process.returncode == 0, said
        assert said.count("note: standard output cannot be written (Broken pipe)") == 1
        assert steps_of("run")[0] == f"step-{total:09d}"
        assert not Path("run/failure.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("full", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
def test_a_full_disk_behind_the_output_does_not_end_training(full: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as device:
        streams = {n: device if n in full else subprocess.PIPE for n in ("stdout", "stderr")}
        process = genkit_process("train", "ae", *OUTPUT, "--out", "run", **streams)
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert steps_of("run")[0] == "step-000000020"
    if "stderr" not in full:
        assert b"No space left on device" in errors
    if "stdout" not in full:
        assert out.splitlines()[-1] == b"run"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_that_is_closed_does_not_end_training() -> None:
    """With its bar, which rich draws from a thread. SIGHUP is ignored, as by nohup."""
    import pty

    ours, theirs = pty.openpty()
    command = ["env", "--ignore-signal=HUP", sys.executable, "-m", "genkit", "train", "ae"]
    process = subprocess.Popen(
        [*command, *OUTPUT, "--out", "run"], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.close(ours)
    assert process.wait() == 0
    assert steps_of("run")[0] == "step-000000020"


class Lost:
    """A stream that cannot be written."""

    encoding = "utf-8"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file")]
)
def test_the_other_stream_says_once_what_cannot_be_written(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Lost(error))
    console = Console()
    for step in (1, 2):
        console.on_sample(step, Path("x.png"), {"loss": 1.0})
    reason = getattr(error, "strerror", None) or str(error)
    expected = f"note: standard output cannot be written ({reason}); going on without\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_process_without_streams_prints_nothing(name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    output = Output(name)
    print("x", file=output, flush=True)  # type: ignore[call-overload]
    assert (output.problem, output.isatty(), output.encoding) == (None, False, "utf-8")
    console = Console()
    console.on_start(Path("run"), 0, 3, "")
    console.on_sample(1, Path("x.png"), {"loss": 1.0})
    console.on_stop(1)


def test_a_name_that_the_output_cannot_write_is_escaped(monkeypatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        Console().on_end(1, Path("花"), None)
    assert (tmp_path / "log").read_text().splitlines() == ["samples: None", r"\u82b1"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("genkit.training.recorder.images.save_grid", "the samples of step 8"),
        ("genkit.api.draw_curves", "the curves"),
        ("genkit.storage.folder.RunFolder.has_curves", "the curves"),
    ],
)
@pytest.mark.parametrize("error", [ImportError("no library"), ValueError("odd"), RunError("odd")])
def test_a_picture_that_fails_is_a_notice(
    tiny, images: Tensor, monkeypatch, target: str, says: str, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(target, fail)
    notices = Notices()
    run = genkit.train(tiny, dataset=images, iterations=8, callbacks=[notices], **QUIET)
    assert run.step == 8
    (line,) = notices.messages
    assert line.startswith(f"{says} could not be written (")
    assert str(error) in line
    assert line.endswith("; going on without")


def test_test_values_that_cannot_be_kept_are_a_notice(images: Tensor, monkeypatch) -> None:
    monkeypatch.setattr(RunFolder, "merge_json", refuse)
    notices = Notices()
    options = {**QUIET, "callbacks": [notices], "hidden_dim": 4}
    assert genkit.train("ae", dataset=images, iterations=8, **options).step == 8
    assert notices.messages == [
        "evaluation.json could not be written (Permission denied); going on without"
    ]


# --- finished work is shown, also where it cannot be kept ---


@pytest.fixture
def autoencoder(images: Tensor) -> genkit.Run:
    return genkit.train("ae", dataset=images, iterations=8, hidden_dim=4, out="run", **QUIET)


@pytest.mark.parametrize("as_json", [True, False])
def test_values_that_cannot_be_kept_are_printed(
    as_json: bool, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "ae", *OUTPUT, "--out", "run"])
    before = Path("run/evaluation.json").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(atomic, "replace", refuse)
    command = ["evaluate", "run", "--metrics", "diversity", "--count", "5"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main([*command, "--json"] if as_json else command)  # ends without an error
    out, errors = capsys.readouterr()
    if as_json:
        assert json.loads(out)["diversity"]["images"] == 5
    else:
        assert out.split()[:2] == ["metric", "figure"]
    assert errors.splitlines()[-1] == (
        "warning: run/evaluation.json was not written (Permission denied): "
        "the values are only shown"
    )
    assert Path("run/evaluation.json").read_bytes() == before


def test_values_are_given_also_where_the_file_is_damaged(
    autoencoder: genkit.Run, images: Tensor
) -> None:
    (autoencoder.path / "evaluation.json").write_text("[]")
    with pytest.warns(GenkitWarning, match="was not written .*damaged"):
        found = genkit.evaluate(autoencoder, ["diversity"], count=3, dataset=images, progress=False)
    assert found["diversity"].images == 3


def test_metrics_survive_a_model_that_cannot_test_itself(
    autoencoder: genkit.Run, images: Tensor, monkeypatch, capsys
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(autoencoder.trainer_class, "evaluate", fail)
    found = genkit.evaluate(autoencoder, ["diversity"], count=3, dataset=images)
    assert found["diversity"].images == 3
    assert "the model's own test values are left out: ae failed" in capsys.readouterr().err


def test_a_picture_is_refused_before_it_is_made_where_the_run_cannot_be_written(
    autoencoder: genkit.Run, monkeypatch
) -> None:
    assert autoencoder.folder.default_output("plots/x.png") == Path("run/plots/x.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError, match=r"run/plots cannot be written: pass --out"):
        autoencoder.folder.default_output("plots/x.png")


def test_an_error_of_a_write_names_the_file_that_the_user_knows(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file") as error:
        atomic.replace(tmp_path / "absent" / "x.png", b"x")
    assert error.value.filename == str(tmp_path / "absent" / "x.png")


# --- no home directory ---


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is not in /etc/passwd, as in ``docker run --user 12345``."""
    pwd = pytest.importorskip("pwd")

    def unknown(key: object) -> None:
        raise KeyError(key)

    for name in ("HOME", "XDG_CACHE_HOME", "GENKIT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Exit code and standard error."""
    try:
        main(list(arguments))
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.usefixtures("no_home")
def test_no_command_needs_a_home_directory_unless_it_keeps_files_there(capsys) -> None:
    assert run_command(capsys, "train", "ae", *OUTPUT, "--out", "run")[0] == 0
    assert run_command(capsys, "sample", "run")[0] == 0
    evaluate = ["evaluate", "run", "--metrics", "diversity", "--count", "5"]
    assert run_command(capsys, *evaluate)[0] == 0
    assert load_extractor(genkit.load("run"), pytest.fail) is None


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--dataset", "mnist"], "set XDG_CACHE_HOME or GENKIT_DATA, or pass --data-root"),
        (["--dataset", "digits", "--data-root", "~/x"], "~/x: there is no home directory for ~"),
    ],
)
def test_without_a_home_directory_one_line_says_what_to_set(options, says, capsys) -> None:
    code, errors = run_command(capsys, "train", "ae", *options, "--iterations", "2", "--out", "b")
    assert code == 1
    assert says in errors[-1]
    assert not Path("b").exists()


@pytest.mark.usefixtures("no_home")
def test_the_folders_of_a_user_without_a_home_directory(monkeypatch) -> None:
    assert data_root(None) == NO_DATA_ROOT
    with pytest.raises(DataError, match="no home directory to keep files in"):
        cache_folder()
    monkeypatch.setenv("GENKIT_DATA", "here")
    assert data_root(None) == Path("here")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_folder() == Path("cache/genkit")


@pytest.mark.usefixtures("no_home")
def test_the_error_of_any_dataset_that_needs_the_root_says_what_to_set(images: Tensor) -> None:
    with (
        pytest.raises(genkit.DataUnavailableError, match="set XDG_CACHE_HOME"),
        datasets._no_root_errors("mine"),
    ):
        (data_root(None) / "mine").mkdir(parents=True)


# --- a start that fails leaves nothing ---


class FailsAtOnce(Callback):
    def on_start(self, path: Path, step: int, iterations: int, log_format: str) -> None:
        raise OSError("odd")


def test_a_start_that_fails_leaves_no_run(tiny, images: Tensor, tmp_path: Path) -> None:
    Path("empty").mkdir()
    for out in ("new/run", "empty", None):
        with pytest.raises(OSError, match="odd"):
            genkit.train(
                tiny, dataset=images, iterations=8, out=out, callbacks=[FailsAtOnce()], **QUIET
            )
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert [name for name in left if not name.startswith("cache")] == ["empty", "new", "runs"]


def test_what_others_put_into_the_folder_stays(tiny, images: Tensor) -> None:
    class Writes(FailsAtOnce):
        def on_start(self, path: Path, *rest: Any) -> None:
            (path / "notes.txt").write_text("mine")
            super().on_start(path, *rest)

    with pytest.raises(OSError, match="odd"):
        genkit.train(tiny, dataset=images, out="run", callbacks=[Writes()], **QUIET)
    assert [path.name for path in Path("run").iterdir()] == ["notes.txt"]


def test_a_first_step_that_fails_leaves_nothing_and_a_later_one_leaves_the_run(
    tiny, images: Tensor
) -> None:
    class Fails(tiny):
        fails_after = 0

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            if int(self.iteration) >= self.fails_after:
                raise ValueError("odd")
            return super().step(batch, rng)

    options = {**QUIET, "out": "run", "engine": "eager"}
    with pytest.raises(ValueError, match="odd"):
        genkit.train(Fails, dataset=images, iterations=8, **options)
    assert not Path("run").exists()
    Fails.fails_after = 4
    with pytest.raises(ValueError, match="odd"):
        genkit.train(Fails, dataset=images, iterations=8, **options)
    assert json.loads(Path("run/failure.json").read_text())["step"] == 4
    with pytest.raises(ValueError, match="odd"):  # a run that has begun is not removed
        genkit.resume("run", trainer=Fails, dataset=images, progress=False)
    assert Path("run/run.json").exists()


# --- memory that there is not ---


@pytest.mark.parametrize(
    ("request_memory", "amount"),
    [
        (lambda: torch.empty(10**14), "364 TiB"),
        (lambda: torch.empty(2**62), None),
        (lambda: torch.empty(10**19), None),
        (lambda: torch.nn.Linear(10**12, 10**12), None),
        (lambda: np.empty(10**14), "728 TiB"),
        (lambda: np.empty(10**19), None),
        (lambda: np.empty(2**62), None),
        (lambda: bytearray(2**62), None),
        (lambda: [0] * 2**62, None),
        (lambda: len(range(10**20)), None),
    ],
)
def test_whatever_asks_for_too_much_memory_gets_one_line(request_memory, amount) -> None:
    with pytest.raises(OutOfMemoryError) as error, attribute_errors("model x", "to be built"):
        request_memory()
    needed = f": {amount} could not be allocated" if amount else ""
    assert str(error.value).startswith(f"model x failed to be built: not enough memory{needed}; ")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8 GiB",
        "MPS backend out of memory (MPS allocated: 1 GB). Tried to allocate 20.00 MiB",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 20971520 bytes.",
    ],
)
def test_what_devices_write_is_understood(text: str) -> None:
    line = memory_shortage(RuntimeError(text))
    assert line is not None
    assert "20.00 MiB could not" in line or "20 MiB could not" in line


def test_another_error_is_none_of_memory() -> None:
    assert memory_shortage(RuntimeError("shapes do not fit")) is None
    assert memory_shortage(OSError("out of memory")) is None


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--batch-size", "9999999999"], 1, "not enough memory: 18.6 TiB"),
        (["--batch-size", "9" * 20], 2, "batch_size 99999999999999999999: has to be at most"),
        (["--iterations", "9" * 20], 2, "iterations 99999999999999999999: has to be at most"),
        (["--keep", "9" * 20], 2, "keep 99999999999999999999: has to be at most"),
        (["--hidden-dim", "9" * 11], 1, "ae failed to be built: not enough memory"),
        (["--hidden-dim", "9" * 18], 1, "ae failed to be built: not enough memory"),
        (["--iterations", "9" * 16, "--log-interval", "9" * 16], 2, "a smaller --log-interval"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_absurd_sizes_are_one_line_and_leave_nothing(options, code, says, capsys) -> None:
    found, errors = run_command(capsys, "train", "ae", *OUTPUT, "--out", "run", *options)
    assert found == code, errors
    assert says in errors[-1]
    assert not Path("run").exists()


def test_memory_that_ends_in_a_step_of_a_users_class_is_one_line(tiny, images: Tensor) -> None:
    class Grows(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            if int(self.iteration) == 5:
                torch.empty(10**14)
            return super().step(batch, rng)

    options = {**QUIET, "out": "run", "engine": "eager"}
    with pytest.raises(GenkitError, match="not enough memory: 364 TiB"):
        genkit.train(Grows, dataset=images, iterations=8, **options)
    reason = json.loads(Path("run/failure.json").read_text())["reason"]
    assert reason.startswith("not enough memory: 364 TiB could not be allocated")


# --- bounds on reading that writing knows ---


def line_of(step: int) -> bytes:
    return rows.encode({"step": step, "loss": 0.25})


@pytest.mark.long
def test_a_run_may_have_more_than_two_million_rows(tmp_path: Path) -> None:
    count, path = 2_000_010, tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}, "loss": 0.25}}\n' for n in range(1, count + 1)))
    rows.replace_after(path, count - 10)
    assert rows.read_last(path)["step"] == count - 10
    found, damage = rows.read_thinned(path, 1000)
    assert (found[0]["step"], found[-1]["step"], damage) == (1, count - 10, "")
    assert 1000 <= len(found) <= 2001


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20, 21, 100, 1000])
def test_thinned_rows_are_at_equal_distances_and_end_with_the_last(
    tmp_path: Path, count: int
) -> None:
    (tmp_path / "rows").write_bytes(b"".join(map(line_of, range(count))))
    found, damage = rows.read_thinned(tmp_path / "rows", 10)
    steps = [row["step"] for row in found]
    assert damage == ""
    assert steps[-1:] == [count - 1][:count]
    if count <= 20:
        assert steps == list(range(count))
    else:
        assert 10 <= len(steps) <= 21
        assert len(set(np.diff(steps[:-1]).tolist())) == 1


def test_rows_are_cut_without_another_change(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"".join(map(line_of, range(1, 11))))
    rows.replace_after(path, 7)
    assert path.read_bytes() == b"".join(map(line_of, range(1, 8)))
    with pytest.raises(RunError, match="it has no row of step 9"):
        rows.replace_after(path, 9)
    with path.open("ab") as file:
        file.write(b"x\n" + line_of(9))
    with pytest.raises(RunError, match="line 8: "):
        rows.replace_after(path, 9)
    rows.replace_after(path, 7)  # the damaged end goes
    assert path.read_bytes() == b"".join(map(line_of, range(1, 8)))
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "rows").touch()
    os.truncate(tmp_path / "rows", rows.MAX_LINE_BYTES + 1)
    assert "longer than" in rows.read(tmp_path / "rows")[1]


def test_a_model_with_more_metrics_than_a_row_has_is_named(tiny, images: Tensor) -> None:
    class Talks(tiny):
        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            return {**super().step(batch, rng), **{f"m{n}": torch.ones(()) for n in range(9_000)}}

    with pytest.raises(ContractError, match="give fewer metrics"):
        genkit.train(Talks, dataset=images, iterations=4, engine="eager", **QUIET)


def test_no_json_is_written_that_could_not_be_read_again(autoencoder: genkit.Run) -> None:
    folder, before = autoencoder.folder, autoencoder.folder.read_json("evaluation.json")
    values = {"metrics": {"x": {"figures": {"y": "0" * MAX_JSON_BYTES}}}}
    with pytest.raises(RunError, match="could not be read again"):
        folder.merge_json("evaluation.json", values)
    assert folder.read_json("evaluation.json") == before


def test_the_reason_of_a_failure_has_a_bound(tiny, images: Tensor) -> None:
    class Complains(Callback):
        def on_log(self, step: int, metrics: object) -> None:
            raise GenkitError("x" * 2 * MAX_JSON_BYTES)

    with pytest.raises(GenkitError):
        genkit.train(tiny, dataset=images, out="run", callbacks=[Complains()], **QUIET)
    assert RunFolder(Path("run")).read_json("failure.json")["step"] == 4


def test_no_checkpoint_is_written_that_could_not_be_read_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_HEADER_BYTES", 100)
    with pytest.raises(CheckpointError, match="are read again"):
        checkpoint.write(tmp_path, 1, {f"w{n}": torch.ones(1) for n in range(10)}, {})
    assert list(tmp_path.iterdir()) == []


# --- two processes on one run ---


def merge(folder: str, who: str) -> None:
    for number in range(20):
        section = {"metrics": {f"{who}{number}": {"figures": {"x": number}}}}
        RunFolder(Path(folder)).merge_json("evaluation.json", section)


def test_evaluations_at_once_lose_no_value(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=merge, args=(str(tmp_path), who)) for who in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    kept = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    assert len(kept) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_without_locks_values_are_merged_with_a_warning(tmp_path: Path, monkeypatch) -> None:
    def no_locks(*arguments: object, **options: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("genkit.storage.folder.FileLock.acquire", no_locks)
    with pytest.warns(GenkitWarning, match="without a lock .*No locks available"):
        RunFolder(tmp_path).merge_json("evaluation.json", {"test": {"loss": 1.0}})
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"test": {"loss": 1.0}}


@pytest.mark.skipif(sys.platform == "win32", reason="it has other locks")
def test_a_file_system_without_locks_has_no_training_that_runs(tmp_path: Path, monkeypatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    (tmp_path / ".lock").touch()
    monkeypatch.setattr("fcntl.flock", no_locks)
    assert not lock.is_held(RunFolder(tmp_path))


def write_checkpoint(folder: Path, step: int) -> None:
    checkpoint.write(folder, step, {"w": torch.full((3,), float(step))}, {"s": torch.ones(1)})
    checkpoint.prune(folder, 1)


@pytest.mark.parametrize("opened", [0, 1, 2, 3])
def test_a_checkpoint_that_is_replaced_while_it_is_read_is_no_error(
    tmp_path: Path, monkeypatch, opened: int
) -> None:
    """The training replaces it after the reader has opened so many of its files."""
    write_checkpoint(tmp_path, 1)
    names: list[str] = []

    def open_regular(path: Path) -> Any:
        if len(names) == opened:
            write_checkpoint(tmp_path, 2)
        names.append(path.name)
        return original(path)

    original = atomic.open_regular
    monkeypatch.setattr(atomic, "open_regular", open_regular)
    found, skipped = checkpoint.newest(tmp_path)
    assert skipped == []
    assert found.step == (2 if opened < 3 else 1)
    assert found.model["w"].tolist() == [found.step] * 3


def test_readers_never_miss_the_one_checkpoint_that_is_kept(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1)
    done = threading.Event()

    def train() -> None:
        step = 1
        while not done.is_set():
            write_checkpoint(tmp_path, step := step + 1)

    writer = threading.Thread(target=train)
    writer.start()
    try:
        found = [checkpoint.newest(tmp_path)[0].step for _ in range(200)]
    finally:
        done.set()
        writer.join()
    assert found == sorted(found)
    assert found[-1] > 1


def test_a_damaged_checkpoint_is_no_replaced_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1)
    (tmp_path / "step-000000001" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: No such file"):
        checkpoint.newest(tmp_path)


# --- messages ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "be-bom"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_config_file_of_any_editor_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    text = f"# 花{end}hidden_dim = 8{end}"
    marked = {"utf-16-le-bom": ("\ufeff", "utf-16-le"), "be-bom": ("\ufeff", "utf-16-be")}
    mark, codec = marked.get(encoding, ("", encoding))
    (tmp_path / "mine.toml").write_bytes((mark + text).encode(codec))
    assert read_file(tmp_path / "mine.toml") == {"hidden_dim": 8}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("latent_dim = 8\n".encode("utf-16-le"), "save it as UTF-8"),
        ('out = "müll"\n'.encode("latin-1"), "save it as UTF-8"),
        (b"\xff\xfea", "save it as UTF-8"),
        (b"x = " + b"[" * 100_000, "mine.toml: "),
        (b"#" * 2**21, "larger than 1048576 bytes"),
        (b"seed = 99999999999999999999\n", "seed"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, data: bytes, says: str, capsys
) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    code, errors = run_command(
        capsys, "train", "ae", "--config", str(tmp_path / "mine.toml"), "--print-config"
    )
    assert (code, len(errors)) == (2, 1)
    assert says in errors[0]


def test_no_runs_yet_says_where_and_what_makes_one(tmp_path: Path, capsys) -> None:
    main(["runs"])
    assert capsys.readouterr().out == (
        f"no runs in {tmp_path / 'runs'}: genkit train MODEL makes one in runs/, "
        "and genkit runs DIR lists those of another folder\n"
    )
    main(["runs", "--json"])
    assert json.loads(capsys.readouterr().out) == []
    assert run_command(capsys, "runs", "elsewhere") == (
        1,
        ["error: elsewhere: No such file or directory"],
    )


def test_a_run_in_the_place_of_their_folder_is_named(autoencoder: genkit.Run, capsys) -> None:
    main(["runs", str(autoencoder.path)])
    assert capsys.readouterr().out.startswith("run is a run itself: ")


def test_values_of_a_wrong_kind_are_explained_in_words() -> None:
    class Options(genkit.Config):
        size: int = 1
        rate: float = 1.0
        on: bool = False

    for given, says in (
        ({"size": "20,100"}, "size '20,100': has to be a whole number"),
        ({"rate": "x"}, "rate 'x': has to be a number"),
        ({"on": "x"}, "on 'x': has to be true or false"),
        ({"precision": "fp16"}, "precision 'fp16': has to be one of fp32, bf16"),
        ({"threads": "x"}, "threads 'x': has to be a whole number or probe"),
    ):
        with pytest.raises(ConfigError) as error:
            resolve(Options, "mine", given)
        assert str(error.value) == says
