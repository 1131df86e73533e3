"""The checks for a GPU: the runner with checks made here, and some of the real ones on a CPU."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import __main__ as gpu, cost, layout, observation, refusals
from benchmarks.gpu.exactness import Setting, compare_engines
from benchmarks.gpu.finding import Check, Context, Finding, Part, Parts
from benchmarks.gpu.record import Record, tabulate
from benchmarks.gpu.runner import run_checks


def passes(context: Context) -> Finding:
    parts = Parts(context)
    parts.run("a part", lambda part, context: part.details.update(answer=42))
    return parts.finding("all is well")


def fails(context: Context) -> Finding:
    parts = Parts(context)

    def compute(part: Part, context: Context) -> None:
        part.require(1 + 1 == 3, "1 + 1 is 2")

    def crash(part: Part, context: Context) -> None:
        raise ValueError("no such thing\nwith details")

    parts.run("sum", compute)
    parts.run("crash", crash)
    return parts.finding("")


def raises(context: Context) -> Finding:
    raise RuntimeError("CUDA error: an illegal access\nfor debugging consider this")


CHECKS = (
    Check(1, "good", 5, passes),
    Check(2, "bad", 5, fails),
    Check(3, "broken", 5, raises),
    Check(4, "long", 500, passes),
)


def context_of(check: Check, folder: Path, log: Callable[[str], None] = print) -> Context:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    end = time.perf_counter() + 60
    return Context(check, "cpu", images, quick=True, scratch=folder, log=log, end=end)


def run(checks: tuple[Check, ...], record: Record, folder: Path, usable: bool = True) -> Any:
    end = time.perf_counter() + 60
    return run_checks(
        checks, lambda check: context_of(check, folder, record.log), record, end, lambda: usable
    )


def test_each_check_is_recorded_as_soon_as_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record(tmp_path / "out", {"device": "cpu"})
    assert not run(CHECKS[:1], record, tmp_path)
    assert record.good
    assert not run(CHECKS[1:], record, tmp_path)
    assert not record.good
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 good: passed (0.0 s): all is well")
    assert "bad: failed" in lines[1]
    assert "sum: 1 + 1 is 2; crash: ValueError: no such thing" in lines[1]
    assert "broken: error" in lines[2]
    assert lines[2].endswith("RuntimeError: CUDA error: an illegal access")
    assert "long: not applicable (0.0 s): not run: no time left" in lines[3]
    written = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert written["device"] == "cpu"
    assert [row["status"] for row in written["findings"]] == [
        "passed",
        "failed",
        "error",
        "not applicable",
    ]
    assert written["findings"][0]["details"] == {"a part": {"answer": 42}}
    log = (tmp_path / "out" / "gpu.log").read_text()
    assert "for debugging consider this" in log  # the whole traceback
    assert "with details" in log
    table = tabulate(record.rows).splitlines()
    assert len(table) == 2 + len(CHECKS)


def test_checks_are_left_when_the_device_works_no_more(tmp_path: Path) -> None:
    record = Record(tmp_path / "out", {})
    assert run(CHECKS, record, tmp_path, usable=False) == CHECKS[1:]
    assert len(record.rows) == 1


def test_the_exit_status_says_whether_a_check_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "CHECKS", CHECKS)
    monkeypatch.setattr(
        gpu, "load_images", lambda root: (np.zeros((20, 28, 28), np.uint8), "nothing")
    )
    monkeypatch.setattr(gpu, "watch", lambda *_: None)  # pytest has a watch of its own

    def main(*options: str) -> int:
        command = ["gpu", "--device", "cpu", "--out", str(tmp_path / "out"), *options]
        monkeypatch.setattr(sys, "argv", command)
        return gpu.main()

    assert main("--only", "1") == 0
    assert main("--only", "1,2") == 1
    assert main("--only", "3") == 1
    assert main("--device", "meta") == 0
    assert "nothing runs on the device meta" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main("--only", "13")
    with pytest.raises(SystemExit):
        main("--device", "cuda:99")


def test_gradients_are_brought_into_their_parameters_layout(tmp_path: Path) -> None:
    finding = layout.check_layouts(context_of(Check(2, "layout", 20, passes), tmp_path))
    assert finding.status == "passed", finding.line
    transposed = finding.details["p.t(), Adam"]
    assert transposed["gradient's strides"] != transposed["parameter's strides"]


def test_engines_are_compared_bit_for_bit(tmp_path: Path) -> None:
    part = Part("vae")
    compare_engines(part, context_of(Check(3, "bits", 20, passes), tmp_path), Setting("vae"))
    assert not part.failures
    assert part.details["graph"] == part.details["python again"] == "equal"
    assert part.details["replays"] > 0


def test_what_observes_a_training_changes_nothing(tmp_path: Path) -> None:
    finding = observation.check_observation(context_of(Check(7, "o", 20, passes), tmp_path))
    assert finding.status == "passed", finding.line
    assert finding.details["dropout"]["moved"] == []


def test_a_step_that_reads_on_the_host_is_run_by_python_and_all_else_works(tmp_path: Path) -> None:
    context = context_of(Check(4, "r", 20, passes), tmp_path)
    arguments = {"case": "reads .item()", "device": "cpu", "images": context.images_path}
    found = refusals.try_case(arguments)
    assert str(found["engine"]).startswith("eager (the step cannot be captured: it waits for the")
    assert set(found["afterwards"].values()) == {"good"}


def test_pauses_of_a_device_are_found_between_what_ran() -> None:
    found = cost.describe_intervals([(5, 6), (0, 2), (1, 3), (10, 12)], 2)
    assert found == {"busy (%)": 50.0, "span (us)": 12, "largest gaps (us)": [4, 2]}
