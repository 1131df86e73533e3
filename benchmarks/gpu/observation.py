"""Check 7: what looks at a training between its captured steps."""

import warnings

import torch

from genkit.rng import Rng
from genkit.storage import checkpoint, state
from genkit.training.collapse import Alarm
from genkit.training.loop import GRID
from genkit.training.session import Training

from .comparison import first_difference
from .finding import Context, Finding, Part, Parts
from .subjects import Small, describe_engine, prepare

MODELS = ("simple-gan", "vae")


def check_observation(context: Context) -> Finding:
    """Whether the alarm, a checkpoint and a sample grid change nothing of a captured training, and
    draw nothing from torch's global streams; and whether anything warns meanwhile.
    """
    parts = Parts(context)
    for model in MODELS:
        parts.run(model, _compare, model)
    parts.run("dropout", _check_global_streams)
    warned = sum(len(each["warnings"]) for each in parts.details.values())
    return parts.finding(f"{len(parts.details)} models observed, {warned} warnings")


def _compare(part: Part, context: Context, model: str) -> None:
    before, after = context.pick((100, 100), (10, 10))
    observed, alone = prepare(context, model), prepare(context, model)
    observed.run(before)
    messages, warned = _observe(context, observed)
    observed.run(after)
    alone.run(before + after)
    difference = first_difference(observed, alone)
    part.details |= {
        "engine": describe_engine(observed),
        "replays": getattr(observed.stepper, "replays", 0),
        "notices of the alarm": messages,
        "warnings": warned,
        "difference": str(difference or "none"),
    }
    part.require(difference is None, f"observed, {difference}")
    part.require(not messages, f"the alarm says: {messages[:1]}")
    part.require(not warned, f"{warned[:1]}")


def _observe(context: Context, training: Training) -> tuple[list[str], list[str]]:
    """Do what happens at a sample interval; what the alarm says, and warnings."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grid = training.trainer.sample(GRID, Rng(0, "grid", training.device))
        grid.cpu()
        _alarm(context, training, messages).check(training.step)
        networks, rest = state.networks(training.trainer), training.state()
        folder = context.scratch / "observed"
        checkpoint.write(folder, training.step, networks, rest, training.may_be_infinite)
    return messages, [str(warning.message) for warning in caught]


def _alarm(context: Context, training: Training, messages: list[str]) -> Alarm:
    return Alarm(
        training.trainer,
        training.data,
        training.options.batch_size,
        training.options.seed,
        classify=None,
        rows=[],
        notify=messages.append,
    )


def _check_global_streams(part: Part, context: Context) -> None:
    """A model that draws from torch's global streams, as ``nn.Dropout`` does."""
    training = prepare(context, Small, {"dropout": 0.5})
    training.run(10)
    before = _global_streams(context)
    messages, warned = _observe(context, training)
    moved = [name for name, now in _global_streams(context).items() if not now.equal(before[name])]
    training.run(10)
    part.details |= {
        "engine": describe_engine(training),
        "moved": moved,
        "notices of the alarm": messages,
        "warnings": warned,
    }
    part.require(not moved, f"observing moved the global stream of the {', '.join(moved)}")
    part.require(not messages, f"the alarm says: {messages[:1]}")


def _global_streams(context: Context) -> dict[str, torch.Tensor]:
    streams = {"CPU": torch.get_rng_state()}
    return streams | ({"GPU": torch.cuda.get_rng_state(context.device)} if context.cuda else {})
