"""--threads probe."""

import json
from pathlib import Path

import pytest
import torch

import genkit
from genkit.training import threads


def test_candidates_are_powers_of_two_and_all_cores() -> None:
    assert list(threads.candidates(1)) == [1]
    assert list(threads.candidates(2)) == [1, 2]
    assert list(threads.candidates(6)) == [1, 2, 4, 6]
    assert list(threads.candidates(8)) == [1, 2, 4, 8]


def test_more_threads_have_to_be_worth_it() -> None:
    assert threads.choose({1: 100.0, 2: 102.0}) == 1
    assert threads.choose({1: 100.0, 2: 104.0}) == 2
    assert threads.choose({1: 90.0, 2: 104.0, 4: 80.0}) == 2


def test_the_number_is_said_recorded_and_the_run_that_of_the_number(
    tiny,
    images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    before = torch.get_num_threads()
    options = {"dataset": images, "iterations": 9, "batch_size": 4, "device": "cpu"}
    try:
        run = genkit.train(tiny, **options, threads="probe", out=tmp_path / "probed")
        chosen = json.loads((run.path / "run.json").read_text())
        assert (
            chosen["options"]["threads"]
            == chosen["environment"]["threads"]
            == torch.get_num_threads()
        )
        assert f"threads: {chosen['options']['threads']} (1: " in capsys.readouterr().err
        plain = genkit.train(
            tiny, **options, threads=chosen["options"]["threads"], out=tmp_path / "plain"
        )
        assert (plain.path / "metrics.jsonl").read_bytes() == (
            run.path / "metrics.jsonl"
        ).read_bytes()
    finally:
        torch.set_num_threads(before)


def test_there_is_nothing_to_probe_on_another_device(tiny) -> None:
    with pytest.raises(genkit.UsageError, match="measures steps on a CPU, but they run on cuda"):
        threads.fastest_threads(
            lambda options: pytest.fail("built"), None, torch.device("cuda"), print
        )


@pytest.mark.parametrize("wrong", ["some", "0", "2000"])
def test_another_word_is_refused(tiny, images, wrong: str) -> None:
    with pytest.raises(genkit.ConfigError, match="threads"):
        genkit.train(tiny, dataset=images, threads=wrong)
