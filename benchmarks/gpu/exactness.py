"""Check 3: replayed steps against steps that Python runs, bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from genkit.training.session import Training

from .comparison import first_difference
from .finding import Context, Finding, Part, Parts
from .subjects import describe_engine, prepare, run_windows

MODELS = ("simple-gan", "ae", "vae", "dcgan")


class Setting(NamedTuple):
    """A model, and how it is trained."""

    model: str
    precision: str = "fp32"
    channels_last: bool = False
    deterministic: bool = True
    """False: cuDNN may choose kernels that add in an order of the moment, which genkit does not
    let it; what comes of that is shown, and is no failure."""

    @property
    def name(self) -> str:
        """For the finding."""
        parts = [self.model, self.precision]
        parts += ["channels-last"] if self.channels_last else []
        parts += [] if self.deterministic else ["cudnn.deterministic off"]
        return " ".join(parts)


def check_bits(context: Context) -> Finding:
    """Whether two runs by Python give the same bits, and whether captured steps give those, too."""
    parts = Parts(context)
    settings = [Setting(model, precision) for model in MODELS for precision in ("fp32", "bf16")]
    settings.append(Setting("dcgan", channels_last=True))
    if parts.need_cuda("cudnn.deterministic off"):
        settings.append(Setting("dcgan", deterministic=False))
    for setting in settings:
        parts.run(setting.name, compare_engines, setting)
    found = parts.details.values()
    equal = sum(each["graph"] == each["python again"] == "equal" for each in found)
    steps = {
        setting.model: parts.details[setting.name]["steps per replay"]
        for setting in settings
        if setting.name in parts.details
    }
    return parts.finding(
        f"{equal} of {len(settings)} settings equal, twice by Python and replayed; "
        f"steps per replay: {', '.join(f'{model} {k}' for model, k in steps.items())}"
    )


def compare_engines(part: Part, context: Context, setting: Setting) -> None:
    few, middle, many = context.pick((7, 42, 300), (5, 4, 12))
    with _determinism(setting):
        python, again, graph = (_fresh(context, setting, e) for e in ("eager", "eager", "graph"))
        run_windows(python, 1, few)
        run_windows(graph, 1, few)
        early = first_difference(python, graph)
        python.run(middle)
        again.run(1 + few + middle)
        repeated = first_difference(python, again)
        late = None
        if context.left() > 0:
            python.run(many - middle)
            graph.run(many)
            late = first_difference(python, graph)
    difference = early or late
    part.details |= {
        "engine": describe_engine(graph),
        "steps": graph.step,
        "steps per replay": getattr(graph.stepper, "steps_per_replay", None),
        "replays": getattr(graph.stepper, "replays", 0),
        "python again": str(repeated or "equal"),
        "graph": str(difference or "equal"),
    }
    if setting.deterministic:
        part.require(repeated is None, f"by Python twice, {repeated}")
        part.require(difference is None, f"replayed, {difference}")
        part.require(graph.stepper.kind == "graph", f"the engine is {describe_engine(graph)}")
        part.require(part.details["replays"], "nothing was replayed")


def _fresh(context: Context, setting: Setting, engine: str) -> Training:
    training = prepare(
        context,
        setting.model,
        engine=engine,
        precision=setting.precision,
        channels_last=setting.channels_last,
    )
    if not setting.deterministic:  # after Training.prepare, which switches it on
        torch.backends.cudnn.deterministic = False
    return training


@contextmanager
def _determinism(setting: Setting) -> Iterator[None]:
    """cuDNN's switch is afterwards as it was."""
    before = torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        if not setting.deterministic:
            torch.backends.cudnn.deterministic = before
