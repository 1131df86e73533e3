"""One function a rule of the contract.

Each raises AssertionError with what to mend, or Skipped with the capability that the model lacks.
"""

import copy
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import numpy as np
import torch
from torch import Tensor

from .. import checkpoint, state
from ..config import Config, parse
from ..config import check_fields as refuse_shadowing
from ..data import ImageData, from_images
from ..engine import Engine
from ..errors import CheckpointError, ConfigError, GenkitError
from ..interfaces import Batch, DataSpec, Discriminator, Encoder, Evaluates, Posterior, Reconstructs, Trainer, build
from ..registry import Registered
from ..rng import Rng
from .replay import record

SHAPE = (1, 28, 28)


class Skipped(Exception):  # noqa: N818 (an outcome, not an error)
    """The model declares that it lacks what the check is about."""


@dataclass(frozen=True)
class Subject:
    """A model under check: its Trainer class and, where it came from a plugin, its entry."""

    name: str
    trainer: type[Trainer]
    registered: Registered[Any] | None = None

    def make(self, shape: tuple[int, int, int] = SHAPE, seed: int = 0, device: str = "cpu", **options: Any) -> Trainer:
        """A new trainer for images of ``shape``."""
        return build(self.trainer, self.trainer.Config(**options), DataSpec(*shape, classes=10), seed, device)

    def engine(self, trainer: Trainer, batch_size: int = 8) -> Engine:
        """An engine that trains it on small made images."""
        return Engine(trainer, made_images(trainer.spec), batch_size=batch_size, log_interval=50, seed=0)

    def batch(self, trainer: Trainer, batch_size: int = 8) -> Batch:
        """Real images for one step, ``(batches_per_step * batch_size, C, H, W)``."""
        data = made_images(trainer.spec).train
        from ..data import Batches

        return next(Batches(data, trainer.iteration.device).in_order(trainer.batches_per_step * batch_size))


Check = Callable[[Subject], None]
CHECKS: dict[str, Check] = {}
"""The checks by name."""


def _check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def made_images(spec: DataSpec, count: int = 64) -> ImageData:
    """Images with something to learn: one bright bar each, on a dark, noisy ground; labelled."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 40, (count, *spec.shape), dtype=torch.uint8, generator=generator)
    rows = torch.arange(count) % spec.height
    images[torch.arange(count), :, rows] = 220
    data = from_images(images)
    labels = torch.arange(len(data.train)) % 10
    return ImageData(type(data.train)(data.train.images, labels), data.test, "made for the check", 10)


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of all that training moves."""
    return {name: tensor.clone() for name, tensor in {**state.networks(trainer), **state.training(trainer)}.items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names whose values are not the same bits."""
    return [name for name in first.keys() | second.keys() if not _same(first.get(name), second.get(name))]


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return False
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


# --- the plugin and its options ---


@_check
def plugin_module_imports_no_torch(subject: Subject) -> None:
    """Listing models must be fast: the plugin's module names its targets as text."""
    if subject.registered is None:
        raise Skipped("a class of no plugin")
    code = f"import sys, {subject.registered.plugin.module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, (
        f"importing {subject.registered.plugin.module} loads torch: import it in the target only"
    )


@_check
def name_and_options_are_described(subject: Subject) -> None:
    """`genkit models` and `--help` show them."""
    if subject.registered is not None:
        assert subject.registered.entry.summary.strip(), "the model has no summary"
    refuse_shadowing(subject.trainer.Config, subject.name)
    for name, field in subject.trainer.Config.model_fields.items():
        assert field.description, f"option {name} has no description"
        assert not field.is_required(), f"option {name} has no default"
    subject.trainer.Config()


@_check
def config_survives_json(subject: Subject) -> None:
    """run.json holds it."""
    config = subject.trainer.Config()
    again = parse(subject.trainer.Config, json.loads(config.model_dump_json()), strict=True)
    assert again == config, "config → JSON → config is another config"


@_check
def options_are_strict(subject: Subject) -> None:
    """Unknown options are refused by name, strings are read by type, values out of range are refused."""
    config = subject.trainer.Config
    try:
        parse(config, {"no_such_option": 1})
    except ConfigError as error:
        refusal = str(error)
    else:
        raise AssertionError("an unknown option is accepted: derive Config from genkit.Config")
    assert "no_such_option" in refusal, "an unknown option is refused, but not by name"
    for name, field in config.model_fields.items():
        typed = field.default
        text = ",".join(str(part) for part in typed) if isinstance(typed, tuple) else str(typed)
        read = getattr(parse(config, {name: text}), name)
        assert read == typed, f"option {name}: {text!r} is read as {read!r}"
        bad = _out_of_range(field.metadata)
        if bad is not None:
            try:
                parse(config, {name: bad})
            except ConfigError:
                continue
            raise AssertionError(f"option {name} accepts {bad}, which is out of its range")


def _out_of_range(metadata: list[Any]) -> Any:
    for rule in metadata:
        if isinstance(rule, annotated_types.Gt):
            return rule.gt
        if isinstance(rule, annotated_types.Ge):
            return rule.ge - 1  # type: ignore[operator]
    return None


@_check
def every_option_changes_something(subject: Subject) -> None:
    """An option that is read nowhere misleads."""
    shape = (1, 28, 28)

    def trained(config: Config) -> dict[str, Tensor]:
        trainer = build(subject.trainer, config, DataSpec(*shape, classes=10), 0, "cpu")
        engine = subject.engine(trainer)
        engine.run(4)
        sampled = trainer.generator.sample(2, Rng(0, "check"))
        return {**tensors(trainer), "samples": sampled}

    usual = trained(subject.trainer.Config())
    for name, field in subject.trainer.Config.model_fields.items():
        value = _other_value(field.annotation, field.default)
        assert differing(usual, trained(subject.trainer.Config(**{name: value}))), f"option {name} changes nothing"


def _other_value(annotation: Any, default: Any) -> Any:
    if get_origin(annotation) is Literal:
        return next(value for value in get_args(annotation) if value != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default * 0.5 if default else 0.5
    if isinstance(default, tuple):
        return tuple(_other_value(type(part), part) for part in default)
    raise Skipped(f"cannot think of another value than {default!r}")


# --- building ---


@_check
def building_leaves_the_world_alone(subject: Subject) -> None:
    """No file is opened and no global random stream moves; one seed gives the same weights."""
    opened: list[str] = []
    active = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if active[0] and event in ("open", "socket.connect") and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
            opened.append(f"{event} {arguments[0]}")

    subject.make()  # whatever is imported on first use is imported now
    sys.addaudithook(audit)
    try:
        with _untouched_global_randomness("building"):
            first = subject.make()
    finally:
        active[0] = False
    assert not opened, f"building does input or output: {opened[0]}"
    assert not differing(tensors(first), tensors(subject.make())), "the same seed builds other weights"


@contextmanager
def _untouched_global_randomness(action: str) -> Iterator[None]:
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state())
    yield
    assert torch.equal(before[0], torch.get_rng_state()), f"{action} draws from torch's global generator: use rng"
    assert before[1] == random.getstate(), f"{action} draws from Python's random: use rng"
    after: Any = np.random.get_state()
    assert np.array_equal(before[2][1], after[1]), f"{action} draws from numpy's global generator: use rng"  # type: ignore[index]
    assert before[2][2] == after[2], f"{action} draws from numpy's global generator: use rng"  # type: ignore[index]


@_check
def optimizers_cover_all_parameters_once(subject: Subject) -> None:
    """Each trainable parameter belongs to exactly one optimizer."""
    trainer = subject.make()
    assert trainer.optimizers, "self.optimizers is empty"
    names = {id(parameter): name for name, parameter in trainer.named_parameters()}
    owners: dict[int, str] = {}
    for owner, optimizer in trainer.optimizers.items():
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name = names.get(id(parameter), "a parameter that is not the trainer's")
            assert id(parameter) not in owners, f"{name} belongs to {owners[id(parameter)]} and to {owner}"
            owners[id(parameter)] = owner
    orphans = [names[id(p)] for p in trainer.parameters() if p.requires_grad and id(p) not in owners]
    assert not orphans, f"no optimizer has {orphans[0]}"


# --- sampling ---


@_check
def samples_are_images(subject: Subject) -> None:
    """Shape, dtype, range; one and none are possible."""
    trainer = subject.make()
    for count in (0, 1, 3):
        images = trainer.generator.sample(count, Rng(0, "check"))
        assert images.shape == (count, *SHAPE), f"sample({count}) has shape {tuple(images.shape)}"
        assert images.dtype == torch.float32, f"samples are {images.dtype}"
        assert bool(torch.isfinite(images).all()), "samples are not finite"
        assert not count or (images.min() >= -1 and images.max() <= 1), "samples leave [-1, 1]"


@_check
def one_seed_gives_the_same_samples(subject: Subject) -> None:
    """All randomness of sampling comes from rng."""
    generator = subject.make().generator
    first, again, other = (generator.sample(4, Rng(seed, "check")) for seed in (0, 0, 1))
    assert torch.equal(first, again), "one seed gives different samples"
    assert not torch.equal(first, other), "different seeds give the same samples"


@_check
def sampling_disturbs_nothing(subject: Subject) -> None:
    """Training mode, gradients, buffers, weights and global randomness are as before."""
    trainer = subject.make()
    subject.engine(trainer).run(2)
    modes = [module.training for module in trainer.modules()]
    before = tensors(trainer)
    with _untouched_global_randomness("sampling"):
        images = trainer.generator.sample(3, Rng(0, "check"))
    assert not images.requires_grad, "samples carry a gradient"
    assert modes == [module.training for module in trainer.modules()], "sampling changes the training mode"
    assert not (changed := differing(before, tensors(trainer))), f"sampling changes {changed[0]}"


# --- training ---


@_check
def metrics_are_named_finite_scalars(subject: Subject) -> None:
    """The same names each time, detached, 0-d; they fit the log format."""
    trainer = subject.make()
    rng = Rng(0, "check")
    first, second = (trainer.step(subject.batch(trainer), rng) for _ in range(2))
    assert first, "step returns no metrics"
    assert tuple(first) == tuple(second), "the names of the metrics change"
    for name, value in first.items():
        assert isinstance(value, Tensor), f"{name} is {type(value).__name__}, not a tensor"
        assert value.dim() == 0, f"{name} has shape {tuple(value.shape)}, not ()"
        assert not value.requires_grad, f"{name} is not detached"
        assert bool(torch.isfinite(value)), f"{name} is {float(value)}"
    trainer.log_format.format(**{name: float(value) for name, value in first.items()})


@_check
def step_leaves_global_randomness_alone(subject: Subject) -> None:
    """Otherwise sampling, or another library, would change what is learned."""
    trainer = subject.make()
    batch = subject.batch(trainer)
    with _untouched_global_randomness("step"):
        trainer.step(batch, Rng(0, "check"))


@_check
def each_update_moves_its_own_parameters_only(subject: Subject) -> None:
    """Bit for bit, in every phase of a step."""
    trainer = subject.make()
    owned = {
        name: [p for group in optimizer.param_groups for p in group["params"]]
        for name, optimizer in trainer.optimizers.items()
    }
    problems: list[str] = []
    update = trainer.update

    def watched(**losses: Tensor) -> None:
        before = {name: [p.detach().clone() for p in ps] for name, ps in owned.items() if name not in losses}
        update(**losses)
        for name, copies in before.items():
            if not all(torch.equal(a, b) for a, b in zip(copies, owned[name], strict=True)):
                problems.append(f"update({', '.join(losses)}) moves parameters of {name}")

    trainer.__dict__["update"] = watched
    phase_end = [p.detach().clone() for ps in owned.values() for p in ps]
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    del trainer.__dict__["update"]
    assert not problems, problems[0]
    moved = [not torch.equal(a, b) for a, b in zip(phase_end, (p for ps in owned.values() for p in ps), strict=True)]
    assert any(moved), "a step moves no parameter"


@_check
def parameters_move_in_updates_only(subject: Subject) -> None:
    """A parameter that moves outside update() escapes clipping, averaging and the rule above."""
    trainer = subject.make()
    trainer.__dict__["update"] = lambda **losses: None
    before = {name: p.detach().clone() for name, p in trainer.named_parameters()}
    trainer.step(subject.batch(trainer), Rng(0, "check"))
    moved = [name for name, p in trainer.named_parameters() if not torch.equal(p, before[name])]
    assert not moved, f"{moved[0]} moves outside update(): call self.update, never optimizer.step()"


@_check
def every_parameter_learns(subject: Subject) -> None:
    """Each trainable parameter gets a gradient in some phase."""
    trainer = subject.make()
    before = {name: p.detach().clone() for name, p in trainer.named_parameters() if p.requires_grad}
    subject.engine(trainer).run(5)
    still = [name for name, p in trainer.named_parameters() if name in before and torch.equal(p, before[name])]
    assert not still, f"{still[0]} does not move in five steps"


@_check
def step_is_capturable(subject: Subject) -> None:
    """Twenty replays of one recorded step equal twenty steps, bit for bit: nothing but tensors changes in a step."""
    eager, replayed = subject.make(), subject.make()
    for trainer in (eager, replayed):
        engine = subject.engine(trainer)
        engine.run(3)  # optimizers make their state in the first step
    streams = [Rng(0, "check"), Rng(0, "check")]
    batch = subject.batch(eager)

    def step(trainer: Trainer, rng: Rng) -> Any:
        metrics = trainer.step(batch, rng)
        trainer.iteration.add_(1)
        return metrics

    for _ in range(21):
        step(eager, streams[0])
    _, recording = record(lambda: step(replayed, streams[1]))
    reads = ", ".join(sorted(set(recording.host_reads)))
    assert not reads, f"step waits for the device or has shapes that depend on data: {reads}"
    for _ in range(20):
        recording.replay()
    changed = differing(tensors(eager), tensors(replayed))
    assert not changed, (
        f"{changed[0]} differs between 20 steps and 20 replays of one: something but a tensor changes in step "
        "(a Python counter, a tensor replaced instead of changed in place)"
    )


@_check
def batch_sizes_one_two_and_odd(subject: Subject) -> None:
    """The last batch of a data set may have any size."""
    for size in (1, 2, 7):
        trainer = subject.make()
        metrics = trainer.step(subject.batch(trainer, size), Rng(0, "check"))
        assert all(bool(torch.isfinite(value)) for value in metrics.values()), f"batch size {size} gives NaN"


@_check
def any_image_shape(subject: Subject) -> None:
    """Not square, three channels; or a GenkitError that says which shapes are possible."""
    for shape in ((1, 28, 36), (3, 28, 28), (3, 32, 32)):
        try:
            trainer = subject.make(shape)
        except GenkitError:
            continue
        trainer.step(subject.batch(trainer, 4), Rng(0, "check"))
        images = trainer.generator.sample(2, Rng(0, "check"))
        assert images.shape == (2, *shape), f"images of {shape} are sampled as {tuple(images.shape)}"


@_check
def no_hard_coded_device(subject: Subject) -> None:
    """Generator and discriminator run on the meta device, where a tensor made on the CPU is an error."""
    trainer = subject.make()
    z = trainer.generator.prior(2, Rng(0, "check"))
    meta = copy.deepcopy(trainer.generator).to("meta")
    assert meta(torch.empty_like(z, device="meta")).device.type == "meta", "the generator leaves the device"
    for network in (m for m in trainer.children() if isinstance(m, Discriminator | Encoder)):
        copy.deepcopy(network).to("meta")(torch.empty(2, *SHAPE, device="meta"))


@_check
def no_hard_coded_dtype(subject: Subject) -> None:
    """All of it in float64."""
    trainer = subject.make().double()
    batch = subject.batch(trainer)
    rng = Rng(0, "check", dtype=torch.float64)
    trainer.step(Batch(batch.images.double(), batch.labels), rng)
    assert trainer.generator.sample(2, rng).dtype == torch.float64, "samples of a float64 model are not float64"


@_check
def discriminators_give_one_logit_an_image(subject: Subject) -> None:
    """``(B,)``, not ``(B, 1)``, which would broadcast silently; and not squashed by a sigmoid."""
    trainer = subject.make()
    found = [m for m in trainer.modules() if isinstance(m, Discriminator)]
    if not found:
        raise Skipped("the model has no Discriminator")
    for network in found:
        for count in (1, 3):
            logits = network(subject.batch(trainer, 3).images[:count])
            assert logits.shape == (count,), f"{type(network).__name__} gives {tuple(logits.shape)}, not ({count},)"
        engine = subject.engine(trainer)
        engine.run(40)
        logits = network(subject.batch(trainer, 16).images)
        assert float(logits.detach().min()) < 0 or float(logits.detach().max()) > 1, (
            f"{type(network).__name__} gives values in [0, 1]: logits have no sigmoid"
        )


# --- encoders ---


@_check
def encoders_are_deterministic_and_kl_is_not_negative(subject: Subject) -> None:
    """In evaluation mode."""
    trainer = subject.make().eval()
    encoders = [m for m in trainer.modules() if isinstance(m, Encoder)]
    if not encoders:
        raise Skipped("the model has no Encoder")
    images = subject.batch(trainer).images
    for encoder in encoders:
        first, again = encoder(images), encoder(images)
        for left, right in zip(*((x if isinstance(x, Posterior) else (x,)) for x in (first, again)), strict=True):
            assert torch.equal(left, right), f"{type(encoder).__name__} gives another code each time"
            assert left.shape[0] == len(images), f"{type(encoder).__name__} gives {tuple(left.shape)}"
            assert left.dim() == 2, f"{type(encoder).__name__} gives {tuple(left.shape)}, not (B, L)"
        if isinstance(first, Posterior):
            assert bool((first.kl() >= 0).all()), "the KL divergence is negative"


@_check
def reconstruction_learns(subject: Subject) -> None:
    """It keeps the shape and overfits one batch."""
    trainer = subject.make()
    if not isinstance(trainer, Reconstructs):
        raise Skipped("the model does not reconstruct")
    batch = subject.batch(trainer, 4)
    real = batch.images[:4]
    rng = Rng(0, "check")

    def error() -> float:
        trainer.eval()
        with torch.no_grad():
            images = trainer.reconstruct(real)
        trainer.train()
        assert images.shape == real.shape, f"{tuple(real.shape)} is reconstructed as {tuple(images.shape)}"
        return float((images - real).abs().mean())

    before = error()
    for _ in range(300):
        trainer.step(batch, rng)
        trainer.iteration.add_(1)
    after = error()
    assert after < 0.5 * before, f"300 steps on one batch bring the error from {before:.3f} to {after:.3f} only"


@_check
def evaluation_disturbs_nothing(subject: Subject) -> None:
    """It measures, and leaves weights, buffers and global randomness alone."""
    trainer = subject.make()
    if not isinstance(trainer, Evaluates):
        raise Skipped("the model does not evaluate itself")
    before = tensors(trainer)
    trainer.eval()
    with torch.no_grad(), _untouched_global_randomness("evaluate"):
        metrics = trainer.evaluate(subject.batch(trainer), Rng(0, "check"))
    assert all(bool(torch.isfinite(value)) for value in metrics.values()), "a test metric is not finite"
    assert not (changed := differing(before, tensors(trainer))), f"evaluate changes {changed[0]}"


# --- saving ---


@_check
def checkpoint_round_trip_is_exact(subject: Subject) -> None:
    """safetensors and back, bit for bit; missing or extra names are refused."""
    trainer = subject.make()
    engine = subject.engine(trainer)
    engine.run(3)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.write(Path(folder), 3, state.networks(trainer), engine.state())
        found = checkpoint.read(path)
    other = subject.engine(subject.make(seed=1))
    other.restore(3, found.model, found.state)
    changed = differing(tensors(trainer), tensors(other.trainer))
    assert not changed, f"{changed[0]} is not what was saved"
    name = next(iter(found.model))
    for model in ({k: v for k, v in found.model.items() if k != name}, {**found.model, "extra.weight": torch.ones(1)}):
        try:
            subject.engine(subject.make()).restore(3, model, found.state)
        except CheckpointError:
            continue
        raise AssertionError("a checkpoint with a missing or extra tensor is accepted")


@_check
def resumed_equals_uninterrupted(subject: Subject) -> None:
    """k steps, save, a new trainer, load, k steps: the bits of 2k steps."""
    whole = subject.engine(subject.make())
    whole.run(10)
    half = subject.engine(subject.make())
    half.run(5)
    model = {name: tensor.clone() for name, tensor in state.networks(half.trainer).items()}
    saved = {name: tensor.clone() for name, tensor in half.state().items()}
    resumed = subject.engine(subject.make(seed=1))
    resumed.restore(5, model, saved)
    resumed.run(5)
    changed = differing(tensors(whole.trainer), tensors(resumed.trainer))
    assert not changed, (
        f"{changed[0]} differs: something that changes in step is no parameter, buffer or optimizer state"
    )
    assert whole.means() == resumed.means(), "the metrics differ after a resume"
