"""The benchmarks run, say what is absent, and count what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth
from benchmarks.__main__ import Contender, measure

ROOT = Path(__file__).resolve().parent.parent


def run(module: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_contenders_are_run_in_turn_and_the_absent_are_named(tmp_path: Path) -> None:
    peers = "genkit,PyTorch,empty kernels"
    options = [
        "--models",
        "simple-gan",
        "--peers",
        peers,
        "--rounds",
        "2",
        "--seconds",
        "0.05",
        "--threads",
        "1",
    ]
    out = run("benchmarks", *options, "--json", str(tmp_path / "result.json"))
    result = json.loads((tmp_path / "result.json").read_text())["models"]["simple-gan"]
    ours = {"genkit"}
    for whose in ("torch's kernels", "oneDNN's kernels"):
        ours |= {f"genkit, {whose}", f"genkit, {whose}, steps run by Python"}
    assert set(result["contenders"]) == ours | {"PyTorch, hand-written", "PyTorch, plain loop"}
    assert set(result["absent"]) == {"as many empty kernels in a CUDA graph"}
    assert "a CUDA graph needs a CUDA device" in out
    assert result["contenders"]["genkit"]["genkit is times as fast"] == 1
    for row in result["contenders"].values():
        assert len(row["rates"]) == 2
        assert 0 < row["losses"]["generator_loss"] < 100


def test_ratios_are_of_the_same_round() -> None:
    asked: list[str] = []

    class Fixed(Contender):
        def ask(self, steps: int) -> float:
            asked.append(self.name)
            return 2.0

    contenders: list[Any] = [Fixed(name, None, None, steps=10) for name in "abc"]
    measure(contenders, 3)
    assert "".join(asked) == "abcbcacab"
    assert [c.rates for c in contenders] == [[5.0] * 3] * 3


@pytest.mark.long
def test_a_profile_adds_up(tmp_path: Path) -> None:
    run(
        "benchmarks.profile",
        "--models",
        "ae",
        "--steps",
        "5",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "p.json"),
    )
    profile = json.loads((tmp_path / "p.json").read_text())
    kinds = profile["models"]["ae"]["by kind, profiled (ms)"]
    assert kinds["matrix products"] > 0
    assert kinds["Adam"] > 0
    assert all(row["torch"] > 0 and row["oneDNN"] > 0 for row in profile["products (GFLOP/s)"])


def test_growth_counts_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[int] = []

    class Clocked:
        """A hundredth of a second a step."""

        step = 0

        def run(self, steps: int) -> None:
            self.step += steps
            made.append(steps)

        def means(self) -> None:
            """Nothing is to be waited for."""

    engine = Clocked()
    monkeypatch.setattr(growth.time, "perf_counter", lambda: engine.step / 100)
    assert growth.milliseconds(engine, 25.5) == pytest.approx(10)  # type: ignore[arg-type]
    assert made == [100] * 26
    series = {"1": 1.0, "10": 2.0}
    growth.plot(
        {
            "model": "m",
            "device": "cpu",
            "threads": 1,
            "batch size": series,
            "width": series,
            "dataset": series,
        },
        tmp_path / "growth.png",
    )
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"
