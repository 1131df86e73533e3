"""kill -9 at random moments of short runs: no acknowledged checkpoint is lost, and the end is
always the same.
"""

import random
import signal
import time
from pathlib import Path

import genkit
from genkit.storage import checkpoint

from .subject import MODELS, Child, digest, train, warm_up

ITERATIONS = 60
KILLS_A_RUN = 4


def kills(count: int, folder: Path, seed: int = 0) -> dict[str, int]:
    """Kill ``count`` processes; what was lost, what was taken though damaged, and which ends
    differed.
    """
    warm_up()
    rng = random.Random(seed)
    result = {"kills": 0, "runs": 0, "acknowledged": 0, "lost": 0, "other ends": 0}
    reference: dict[str, tuple[str, float]] = {}
    for model in MODELS:
        start = time.monotonic()
        assert (
            Child(lambda told, m=model: train(m, folder / f"whole-{m}", ITERATIONS, told)).end()[0]
            == 0
        )
        reference[model] = (digest(folder / f"whole-{model}"), time.monotonic() - start)
    while result["kills"] < count:
        model = list(MODELS)[result["runs"] % len(MODELS)]
        expected, seconds = reference[model]
        out = folder / f"run-{result['runs']}"
        result["runs"] += 1
        safe = -1
        for _ in range(KILLS_A_RUN):
            child = Child(lambda told, m=model, o=out: train(m, o, ITERATIONS, told))
            child.kill_after(rng.uniform(0, 1.1 * seconds))
            code, steps = child.end()
            killed = code == -signal.SIGKILL
            assert killed or _finished(code, out), f"it ended with {code}"
            result["kills"] += killed
            result["acknowledged"] += len(steps)
            safe = max([safe, *steps])
            result["lost"] += _newest(out) < safe
            if not killed:
                break
        else:
            code, _ = Child(lambda told, m=model, o=out: train(m, o, ITERATIONS, told)).end()
            assert _finished(code, out), f"it could not be resumed: {code}"
        result["other ends"] += digest(out) != expected
    return result


def _finished(code: int, out: Path) -> bool:
    """Whether a process finished the run, or found that the one killed before it had."""
    return code == 0 or (code == 2 and genkit.load(out).folder.is_complete(ITERATIONS))


def _newest(out: Path) -> int:
    """Step of the newest checkpoint that verifies, -1 where there is none."""
    if not checkpoint.steps(out / "checkpoints"):
        return -1
    found, skipped = checkpoint.newest(out / "checkpoints")
    assert not skipped, f"a damaged checkpoint bears a checkpoint's name: {skipped}"
    return found.step
