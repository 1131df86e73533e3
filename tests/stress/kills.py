"""SIGKILL at random moments of a run loses no acknowledged checkpoint and changes no result."""

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
    """Kill ``count`` processes; count lost checkpoints, and results unlike a whole run's."""
    warm_up()
    rng = random.Random(seed)
    result = {"kills": 0, "runs": 0, "acknowledged": 0, "lost": 0, "other ends": 0}
    reference: dict[str, tuple[str, float]] = {}
    for model in MODELS:
        start = time.monotonic()
        out = folder / f"whole-{model}"
        whole = Child(lambda callbacks, m=model, o=out: train(m, o, ITERATIONS, callbacks))
        assert whole.end()[0] == 0
        reference[model] = (digest(out), time.monotonic() - start)
    while result["kills"] < count:
        model = list(MODELS)[result["runs"] % len(MODELS)]
        expected, seconds = reference[model]
        out = folder / f"run-{result['runs']}"
        result["runs"] += 1
        safe = -1
        for _ in range(KILLS_A_RUN):
            child = Child(lambda callbacks, m=model, o=out: train(m, o, ITERATIONS, callbacks))
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
            child = Child(lambda callbacks, m=model, o=out: train(m, o, ITERATIONS, callbacks))
            code, _ = child.end()
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
    assert not skipped, f"a damaged checkpoint has the name of one: {skipped}"
    return found.step
