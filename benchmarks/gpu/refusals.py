"""Check 4: steps that cannot be captured, and what is left after the attempt."""

import torch

import genkit
from genkit.engines.base import advance
from genkit.rng import Rng

from . import apart
from .comparison import first_difference
from .finding import Context, Finding, Part, Parts, describe_error
from .subjects import LATENT, Small, describe_engine, load_data, prepare_on, run_windows

STEPS = 20
"""After the attempt."""


class Reads(Small):
    """Reads its loss on the host."""

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        metrics = super().step(batch, rng)
        metrics["loss"].item()
        return metrics


class CopiesNumber(Small):
    """Copies a number of Python's to the device."""

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        metrics = super().step(batch, rng)
        return {"loss": metrics["loss"] * torch.tensor(0.5, device=self.iteration.device)}


class Raises(Small):
    """Raises an error while it is captured, or recorded on a CPU."""

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        metrics = super().step(batch, rng)
        if is_captured(self.iteration.device):
            raise ValueError("not while captured")
        return metrics


def is_captured(device: torch.device) -> bool:
    """Whether operations are only captured or recorded now."""
    if device.type == "cuda":
        return torch.cuda.is_current_stream_capturing()
    return torch.utils._python_dispatch._get_current_dispatch_mode() is not None


CASES = {"reads .item()": Reads, "copies torch.tensor(0.5)": CopiesNumber, "raises": Raises}


def check_refusals(context: Context) -> Finding:
    """Whether a step that cannot be captured is run by Python, with the reason, and leaves random
    streams, the current stream and the next training as they should be.

    Each case has a process of its own, in which it may spoil what it likes.
    """
    parts = Parts(context)
    several = {name: {"case": name} for name in CASES}
    results = apart.call_all("refusals:try_case", several, context)
    for name, result in results.items():
        parts.run(name, _judge, result.result, takes_time=False)
    if not context.cuda:
        parts.skip("not applicable on a CPU: the current stream, torch's stream on the device")
    engines = (f"{name}: {each['engine']}" for name, each in parts.details.items())
    return parts.finding("; ".join(engines))


def _judge(part: Part, context: Context, get_result: object) -> None:
    found = get_result()  # type: ignore[operator]
    part.details |= found
    if part.name != "copies torch.tensor(0.5)":  # which a CPU can repeat
        part.require(found["engine"].startswith("eager ("), f"the engine is {found['engine']}")
    for what, outcome in found["afterwards"].items():
        part.require(outcome == "good", f"{what}: {outcome}")


def try_case(arguments: dict[str, object]) -> dict[str, object]:
    """Train a case, then do what has to work all the same; called in a process of its own."""
    device, data = torch.device(str(arguments["device"])), load_data(arguments)
    case, options = CASES[str(arguments["case"])], {"device": str(device), "batch_size": 16}
    stream = _current_stream(device)
    attempted = prepare_on(data, case, **options)
    run_windows(attempted, 3, 7)
    twin = prepare_on(data, Small if case is Raises else case, engine="eager", **options)

    def make_steps() -> str:
        attempted.run(STEPS)
        twin.run(10 + STEPS)
        return str(first_difference(attempted, twin) or "good")

    def draw() -> str:
        attempted.rng.normal(3, LATENT)
        torch.randn(3, device=device)
        batch = attempted.work.batch(torch.arange(16, device=device))
        advance(attempted.trainer, batch, Rng(0, "another stream", device))
        return "good"

    def keep_stream() -> str:
        return "good" if _current_stream(device) == stream else "another one is current"

    def train_another() -> str:
        other, eager = (prepare_on(data, "simple-gan", engine=e, **options) for e in ENGINES)
        run_windows(other, 3, STEPS)
        eager.run(3 + STEPS)
        if other.stepper.kind != "graph":
            return f"the engine is {describe_engine(other)}"
        return str(first_difference(other, eager) or "good")

    afterwards = {
        "more steps": make_steps,
        "draws": draw,
        "current stream": keep_stream,
        "another training": train_another,
    }
    return {
        "engine": describe_engine(attempted),
        "afterwards": {what: _outcome(attempt) for what, attempt in afterwards.items()},
    }


ENGINES = ("graph", "eager")


def _outcome(attempt: object) -> str:
    try:
        return str(attempt())  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 (the next attempts are to be made)
        return describe_error(error)


def _current_stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
