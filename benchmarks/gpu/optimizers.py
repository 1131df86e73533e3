"""Check 6: learning rates that a step schedules, and optimizers with state of many kinds."""

from typing import Any, get_args

import torch

from genkit.training.session import Training

from . import apart
from .comparison import first_difference, largest_difference
from .finding import Context, Finding, NotApplicableError, Part, Parts
from .subjects import (
    DECAY,
    OPTIMIZERS,
    RATE,
    Schedule,
    Scheduled,
    Small,
    describe_engine,
    load_data,
    prepare,
    prepare_on,
    run_windows,
)

WINDOWS = (3, 7)
STEPS = sum(WINDOWS)
RELATIVE_ERROR = 1e-5
"""Of a rate after ten multiplications in float32."""
LARGEST_DIFFERENCE = 1e-3
"""Of weights between a CPU and another device, which round differently."""
APART = "Adagrad"
"""An optimizer whose kernel may read where it must not: on CUDA it has a process of its own."""


def check_optimizers(context: Context) -> Finding:
    """Whether a scheduled rate is what it should be on every device and engine, and which
    optimizers can be captured and give the bits of Python's steps.
    """
    parts = Parts(context)
    schedules = [schedule for schedule in get_args(Schedule) if schedule != "none"]
    for schedule in schedules:
        parts.run(f"rate by {schedule}", _check_schedule, schedule)
    names = [name for name in OPTIMIZERS if name not in ("Adam", "SGD", APART)]
    for name in [*names, APART]:
        parts.run(name, _check_optimizer, name)
    captured = [name for name, each in parts.details.items() if each["engine"] == "graph"]
    eager = [name for name in parts.details if name not in captured]
    return parts.finding(
        f"captured: {', '.join(captured) or 'none'}; by Python: {', '.join(eager) or 'none'}"
    )


def _check_schedule(part: Part, context: Context, schedule: str) -> None:
    where = {"CPU": ("cpu", "eager"), "eager": (context.device, "eager")}
    where |= {"graph": (context.device, "graph")}
    trainings = {}
    for name, (device, engine) in where.items():
        options = {"device": device, "engine": engine}
        trainings[name] = prepare(context, Scheduled, {"schedule": schedule}, **options)
        run_windows(trainings[name], *WINDOWS)
    rates = {name: _rate(training) for name, training in trainings.items()}
    expected = RATE * DECAY**STEPS
    difference = first_difference(trainings["eager"], trainings["graph"])
    from_cpu = _weight_difference(trainings["CPU"], trainings["eager"])
    part.details |= {
        "engine": trainings["graph"].stepper.kind,
        "reason": trainings["graph"].stepper.fallback_reason,
        "rates": rates,
        "expected": expected,
        "graph": str(difference or "equal"),
        "weights, device from CPU": from_cpu,
    }
    for name, rate in rates.items():
        holds = abs(rate / expected - 1) < RELATIVE_ERROR
        part.require(holds, f"{name}: the rate is {rate:.4g}, not {expected:.4g}")
    part.require(difference is None, str(difference))
    part.require(from_cpu < LARGEST_DIFFERENCE, f"weights are {from_cpu:.2g} from the CPU's")


def _rate(training: Training) -> float:
    """What the optimizer itself would use next."""
    return float(training.trainer.optimizers["generator"].param_groups[0]["lr"])


def _weight_difference(one: Training, other: Training) -> float:
    pairs = zip(one.trainer.parameters(), other.trainer.parameters(), strict=True)
    return max(largest_difference(first, second) for first, second in pairs)


def _check_optimizer(part: Part, context: Context, name: str) -> None:
    if not hasattr(torch.optim, name.partition(" ")[0]):
        raise NotApplicableError(f"torch {torch.__version__} lacks it")
    if name == APART and context.cuda:
        arguments = {"optimizer": name, "batch": context.batch}
        found = apart.call("optimizers:try_optimizer", arguments, context)
    else:
        found = _compare_engines(name, context.data, context.device, context.batch)
    part.details |= found
    part.require(found["graph"] == "equal", found["graph"])


def try_optimizer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Train with an optimizer; called in a process of its own."""
    name, device, batch = (arguments[key] for key in ("optimizer", "device", "batch"))
    return _compare_engines(name, load_data(arguments), device, batch)


def _compare_engines(name: str, data: Any, device: str, batch: int) -> dict[str, Any]:
    trainings = [
        prepare_on(data, Small, {"optimizer": name}, engine=engine, device=device, batch_size=batch)
        for engine in ("graph", "eager")
    ]
    for training in trainings:
        run_windows(training, *WINDOWS)
    graph, eager = trainings
    return {
        "engine": graph.stepper.kind,
        "described": describe_engine(graph),
        "graph": str(first_difference(graph, eager) or "equal"),
    }
