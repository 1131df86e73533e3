"""Check 5: random streams, saving and resuming between replays."""

import hashlib
from pathlib import Path
from typing import Any

from genkit.storage import checkpoint, state
from genkit.training.session import Training

from . import apart
from .comparison import first_difference, same, whole_state
from .finding import Context, Finding, Part, Parts
from .subjects import load_data, prepare, prepare_on, run_windows

BEFORE, AFTER = 37, 30
"""Steps before a checkpoint, in the middle of a log interval, and after it."""
MODELS = ("simple-gan", "vae")


def check_randomness(context: Context) -> Finding:
    """Whether replays leave random streams where Python's steps do, and whether a training goes on
    exactly after a restore, in a new process, and beside another one.
    """
    parts = Parts(context)
    for model in MODELS:
        parts.run(f"{model}, stream after {BEFORE} steps", _compare_streams, model)
        parts.run(f"{model}, restored", _restore, model)
    parts.run("resumed in a new process", _resume_elsewhere)
    parts.run("two trainings in turn", _take_turns)
    good = len(parts.details) - len({failure.partition(":")[0] for failure in parts.failures})
    return parts.finding(f"{good} of {len(parts.details)} parts equal")


def _compare_streams(part: Part, context: Context, model: str) -> None:
    graph, eager = (prepare(context, model, engine=engine) for engine in ("graph", "eager"))
    for training in (graph, eager):
        run_windows(training, 5, BEFORE - 5)
    part.details |= _describe(graph)
    part.require(same(graph.rng.state(), eager.rng.state()), "the random streams differ")
    _require_equal(part, graph, eager)


def _restore(part: Part, context: Context, model: str) -> None:
    graph, eager = (prepare(context, model, engine=engine) for engine in ("graph", "eager"))
    graph.run(BEFORE)
    networks, rest = _copy_state(graph)
    graph.run(AFTER)
    graph.restore(BEFORE, networks, rest)
    graph.run(AFTER)
    eager.run(BEFORE + AFTER)
    part.details |= _describe(graph)
    _require_equal(part, graph, eager)


def _resume_elsewhere(part: Part, context: Context) -> None:
    training = prepare(context, "simple-gan")
    training.run(BEFORE)
    networks, rest = state.networks(training.trainer), training.state()
    path = checkpoint.write(context.scratch / "resumed", BEFORE, networks, rest)
    training.run(AFTER)
    arguments = {"checkpoint": str(path), "batch": context.batch}
    there = apart.call("randomness:resume", arguments, context)
    here = _digests(training)
    differing = [name for name, digest in here.items() if there["digests"].get(name) != digest]
    part.details |= {"engine there": there["engine"], "differing": differing}
    part.require(not differing, f"{', '.join(differing[:3])} differ")


def resume(arguments: dict[str, Any]) -> dict[str, Any]:
    """Go on from a checkpoint; called in a process of its own."""
    options = {"device": arguments["device"], "batch_size": arguments["batch"]}
    training = prepare_on(load_data(arguments), "simple-gan", **options)
    saved = checkpoint.read(Path(arguments["checkpoint"]))
    training.restore(saved.step, saved.model, saved.state)
    training.run(AFTER)
    return {"engine": training.stepper.kind, "digests": _digests(training)}


def _take_turns(part: Part, context: Context) -> None:
    together = [prepare(context, "simple-gan", seed=seed) for seed in (0, 1)]
    for _ in range(4):
        for training in together:
            training.run(AFTER // 3)
    for seed, training in enumerate(together):
        alone = prepare(context, "simple-gan", engine="eager", seed=seed)
        alone.run(training.step)
        part.details |= _describe(training)
        _require_equal(part, training, alone)


def _require_equal(part: Part, graph: Training, eager: Training) -> None:
    difference = first_difference(graph, eager)
    part.details["difference"] = str(difference or "none")
    part.require(difference is None, str(difference))


def _describe(graph: Training) -> dict[str, Any]:
    return {"engine": graph.stepper.kind, "replays": getattr(graph.stepper, "replays", 0)}


def _copy_state(training: Training) -> tuple[state.Tensors, state.Tensors]:
    networks, rest = state.networks(training.trainer), training.state()
    return tuple({n: t.clone() for n, t in each.items()} for each in (networks, rest))


def _digests(training: Training) -> dict[str, str]:
    """SHA-256 of each tensor's bytes."""
    return {
        name: hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in whole_state(training).items()
    }
