"""SIGTERM at random moments: the step ends, its checkpoint is durable, and resuming is exact."""

import random
import signal
import time
from pathlib import Path

from genkit.storage import checkpoint

from .subject import MODELS, Child, digest, train, warm_up

ITERATIONS = 400


def signals(count: int, folder: Path, seed: int = 0) -> dict[str, float]:
    """Stop ``count`` processes; measure the slowest reaction, and count checkpoints that are not
    durable and results unlike an uninterrupted run's.
    """
    warm_up()
    rng = random.Random(seed)
    result: dict[str, float] = {
        "signals": 0,
        "runs": 0,
        "slowest answer (s)": 0.0,
        "not durable": 0,
        "other ends": 0,
    }
    reference: dict[str, str] = {}
    for model in MODELS:
        out = folder / f"whole-{model}"
        whole = Child(lambda callbacks, m=model, o=out: train(m, o, ITERATIONS, callbacks))
        assert whole.end()[0] == 0
        reference[model] = digest(out)
    while result["signals"] < count:
        model = list(MODELS)[int(result["runs"]) % len(MODELS)]
        out = folder / f"run-{int(result['runs'])}"
        result["runs"] += 1
        code = 143
        while code == 143:
            child = Child(lambda callbacks, m=model, o=out: train(m, o, ITERATIONS, callbacks))
            child.wait_for_checkpoint()  # from here on it trains
            sent = child.kill_after(rng.uniform(0, 0.25), signal.SIGTERM)
            moment = time.monotonic()
            code, steps = child.end()
            if sent and code == 143:
                result["signals"] += 1
                result["slowest answer (s)"] = max(
                    result["slowest answer (s)"], time.monotonic() - moment
                )
                found, skipped = checkpoint.newest(out / "checkpoints")
                result["not durable"] += bool(skipped) or found.step != steps[-1]
        # A signal that comes after the last step kills the process.
        assert code in (0, -signal.SIGTERM), f"it ended with {code}"
        result["other ends"] += digest(out) != reference[model]
    return result
