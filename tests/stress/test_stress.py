"""A small part of each trial; ``just stress`` runs them at full size."""

import json
import math
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from genkit.storage import atomic
from tests.stress import names as hostile
from tests.stress.disk import power_cuts
from tests.stress.malformed import malformed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    sys.platform == "win32", reason="kills forks of itself, and this system has none"
)
@pytest.mark.parametrize(
    ("module", "trial", "count", "tried", "nothing_of"),
    [
        ("kills", "kills", 6, "kills", ("lost", "other ends")),
        ("signals", "signals", 4, "signals", ("not durable", "other ends")),
        ("disk", "faults", 60, "faults", ("no valid checkpoint", "left behind", "could not go on")),
    ],
)
@pytest.mark.long
def test_processes_that_die(
    module: str, trial: str, count: int, tried: str, nothing_of: tuple[str, ...], tmp_path: Path
) -> None:
    """The trial forks, so it runs in a new process: this one may have threads."""
    arguments = "Path(sys.argv[1])" if trial == "faults" else f"{count}, Path(sys.argv[1])"
    code = (
        f"import json, sys; from pathlib import Path; from tests.stress.{module} import {trial}; "
        f"print(json.dumps({trial}({arguments})))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result[tried] >= count, result
    assert {name: result[name] for name in nothing_of} == dict.fromkeys(nothing_of, 0)


def test_power_cuts(tmp_path: Path) -> None:
    result = power_cuts(300, tmp_path)
    assert result == {"power cuts": 300, "unrecoverable": 0, "run.json lost": 0}


@pytest.mark.parametrize("forgotten", ["sync_folder", "write_new"])
def test_power_cuts_show_a_forgotten_fsync(forgotten: str, tmp_path: Path) -> None:
    """The simulation detects a missing fsync: without it, something is lost."""

    def write_unsynced(path: Path, data: bytes) -> None:
        descriptor = atomic.os.open(path, atomic.os.O_WRONLY | atomic.os.O_CREAT)
        atomic.os.write(descriptor, data)
        atomic.os.close(descriptor)

    stand_in = {"sync_folder": lambda path: None, "write_new": write_unsynced}[forgotten]
    with mock.patch.object(atomic, forgotten, stand_in):
        assert power_cuts(100, tmp_path)["unrecoverable"] > 0


def test_the_memory_of_a_malformed_checkpoint_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.stress import malformed as module

    if math.isnan(module._memory(reset=True)):
        pytest.skip("this system does not tell how much memory a process has had")
    honest = module._use
    monkeypatch.setattr(
        module, "_use", lambda run, data: bytearray(b"x" * (100 * 2**20)) and honest(run, data)
    )
    assert malformed(2, tmp_path)["most memory (MiB)"] > 64


def test_malformed_checkpoints(tmp_path: Path) -> None:
    result = malformed(300, tmp_path)
    assert result["tried"] == 300
    assert result["accepted"] == 0
    if not math.isnan(result["most memory (MiB)"]):  # where the system tells
        assert result["most memory (MiB)"] < 64


@pytest.mark.long
@pytest.mark.usefixtures("digits_extractor")
def test_hostile_names(tmp_path: Path) -> None:
    assert len(hostile.NAMES) >= 200
    folder = tmp_path / "trial"  # beside the cache, which matplotlib fills when it is first used
    folder.mkdir()
    assert hostile.names(6, folder)["tried"] >= 6 * 30
