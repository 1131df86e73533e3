"""Every check of the contract is failed by a model that is wrong in just that way, and passed by
what is right.
"""

import pickle
import random
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit
from genkit.data.datasets import DataRequest, ImageData, Split
from genkit.hookspecs import DatasetEntry, MetricEntry, ModelEntry
from genkit.plugins.plugin import Plugin
from genkit.plugins.registry import Registered, discover
from genkit.testing import (
    CHECKS,
    check_dataset,
    check_metric,
    check_model,
    iter_checks,
    parametrize_with_checks,
    record,
)
from genkit.testing.runner import run_check, subject_of
from genkit.testing.subject import ModelSubject


class Generator(genkit.Generator):
    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.shape = spec.shape
        self.layer = nn.Linear(3, spec.size)

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, 3)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layer(z)).view(len(z), *self.shape)


class Discriminator(genkit.Discriminator):
    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.layer = nn.Linear(spec.size, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)).flatten()


class Encoder(genkit.Encoder):
    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.layer = nn.Linear(spec.size, 6)

    def forward(self, images: Tensor) -> genkit.Posterior:
        mean, log_variance = self.layer(images.flatten(1)).chunk(2, 1)
        return genkit.Posterior(mean, log_variance)


class Right(genkit.Trainer):
    """A model with everything that the checks look at: a GAN whose generator also decodes an
    encoder's codes.
    """

    class Config(genkit.Config):
        learning_rate: float = genkit.Field(0.01, gt=0, description="step size")

    Generator = Generator
    Discriminator = Discriminator
    Encoder = Encoder

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator = self.Generator(spec)
        self.discriminator = self.Discriminator(spec)
        self.encoder = self.Encoder(spec)
        self.register_buffer("seen", torch.zeros(()))
        decoder = [*self.generator.parameters(), *self.encoder.parameters()]
        self.optimizers = {
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), lr=config.learning_rate
            ),
            "decoder": torch.optim.Adam(decoder, lr=config.learning_rate),
        }

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        self.seen.add_(1)
        z = self.generator.prior(len(batch.images), rng)
        fake = self.generator(z)
        logits, fakes = self.discriminator(batch.images), self.discriminator(fake.detach())
        d_loss = F.softplus(-logits).mean() + F.softplus(fakes).mean()
        self.update(discriminator=d_loss)
        posterior = self.encoder(batch.images)
        error = (self.generator(posterior.sample(rng)) - batch.images).abs().mean()
        g_loss = (
            0.01 * F.softplus(-self.discriminator(fake)).mean()
            + error
            + 1e-3 * posterior.kl().mean()
        )
        self.update(decoder=g_loss)
        return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.generator(self.encoder(images).mean)

    def evaluate(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        return {"error": (self.reconstruct(batch.images) - batch.images).abs().mean()}


WRONG: dict[str, tuple[type[genkit.Trainer], set[str]]] = {}
"""Name → a model that is wrong in one way, and all the checks that it fails."""


def wrong(*fails: str):
    def register(trainer: type[genkit.Trainer]) -> type[genkit.Trainer]:
        WRONG[trainer.__name__] = (trainer, set(fails))
        return trainer

    return register


@wrong(
    "name_and_options_are_described",
    "every_option_changes_something",
    "run_folder_is_plain_and_loads_without_unpickling",  # genkit.train refuses it
)
class ShadowsACoreOption(Right):
    class Config(Right.Config):
        seed: int = genkit.Field(0, description="shadows the core's")


@wrong("name_and_options_are_described")
class UndescribedOption(Right):
    class Config(genkit.Config):
        learning_rate: float = 0.01


@wrong("config_survives_json")
class ConfigLosesPrecision(Right):
    class Config(Right.Config):
        learning_rate: float = genkit.Field(0.01, description="step size", serialization_alias=None)

        def model_dump_json(self, **_: object) -> str:
            return '{"learning_rate": 0.02}'


@wrong("options_are_strict")
class AcceptsAnyOption(Right):
    class Config(Right.Config):
        model_config = {"extra": "ignore"}  # noqa: RUF012


@wrong("every_option_changes_something")
class IgnoresAnOption(Right):
    class Config(Right.Config):
        width: int = genkit.Field(8, ge=1, description="never read")


@wrong("building_leaves_the_world_alone")
class ReadsAFileWhenBuilt(Right):
    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        with open("/proc/self/status") as file:  # noqa: PTH123
            file.read()


@wrong("optimizers_cover_all_parameters_once", "every_parameter_learns")
class ForgetsParameters(Right):
    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        self.extra = nn.Linear(2, 2)


@wrong("samples_are_images")
class LeavesTheRange(Right):
    class Generator(Generator):
        def forward(self, z: Tensor) -> Tensor:
            return 3 * super().forward(z)


@wrong(
    "one_seed_gives_the_same_samples",
    "sampling_disturbs_nothing",
    "step_leaves_global_randomness_alone",
    "step_is_capturable",
    "resumed_equals_uninterrupted",
    "no_hard_coded_dtype",
)
class DrawsGlobally(Right):
    class Generator(Generator):
        def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
            return torch.randn(n, 3)


@wrong("sampling_disturbs_nothing")
class SamplingCounts(Right):
    class Generator(Generator):
        def __init__(self, spec) -> None:
            super().__init__(spec)
            self.register_buffer("drawn", torch.zeros(()))

        def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
            self.drawn.add_(1)
            return super().prior(n, rng)


@wrong("metrics_are_named_finite_scalars", "run_folder_is_plain_and_loads_without_unpickling")
class LogFormatOfOtherMetrics(Right):
    log_format = "{loss}"


@wrong(
    "metrics_are_named_finite_scalars",
    *(
        "checkpoint_round_trip_is_exact",
        "resumed_equals_uninterrupted",
        "step_is_capturable",
    ),  # the engine refuses
    "run_folder_is_plain_and_loads_without_unpickling",
    *("every_option_changes_something", "every_parameter_learns", "sampling_disturbs_nothing"),
    "one_seed_gives_the_same_samples",
)
class MetricsCarryGradients(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        return {**metrics, "weight": self.generator.layer.weight.sum()}


@wrong("step_leaves_global_randomness_alone")
class FlipsACoin(Right):
    def step(self, batch, rng):
        random.random()
        return super().step(batch, rng)


@wrong("each_update_moves_its_own_parameters_only")
class MovesAnotherNetwork(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        loss = self.discriminator(
            self.generator(self.generator.prior(len(batch.images), rng))
        ).mean()
        hook = self.optimizers["decoder"].register_step_post_hook(self._leak)
        self.update(decoder=loss)
        hook.remove()
        return metrics

    def _leak(self, *_: object) -> None:
        with torch.no_grad():
            self.discriminator.layer.bias.add_(0.1)


@wrong("fused_optimizers_compute_the_same")
class FusedOverStridedParameters(Right):
    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        self.discriminator.layer.bias = nn.Parameter(torch.zeros(1))
        self.discriminator.layer.weight = nn.Parameter(torch.full((1, 2 * spec.size), 0.1)[:, ::2])
        parameters = self.discriminator.parameters()
        self.optimizers["discriminator"] = torch.optim.SGD(
            parameters, lr=config.learning_rate, fused=True
        )


@wrong("parameters_move_in_updates_only")
class StepsByHand(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        with torch.no_grad():
            self.generator.layer.bias.add_(1e-3)
        return metrics


@wrong("every_parameter_learns")
class DeadParameter(Right):
    class Generator(Generator):
        def __init__(self, spec) -> None:
            super().__init__(spec)
            self.unused = nn.Parameter(torch.ones(1))


@wrong("step_is_capturable", "resumed_equals_uninterrupted")
class CountsInPython(Right):
    count = 0

    def step(self, batch, rng):
        self.count += 1
        self.seen.add_(self.count)
        return super().step(batch, rng)


@wrong("step_is_capturable")
class ReassignsABuffer(Right):
    def step(self, batch, rng):
        self.seen = self.seen + 1
        return super().step(batch, rng)


@wrong("step_is_capturable")
class WaitsForTheDevice(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        metrics["d_loss"].item()
        return metrics


@wrong("step_is_capturable")
class ReadsByNumpy(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        assert metrics["d_loss"].numpy() is not None
        return metrics


@wrong("step_is_capturable")
class PicksByAMask(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        return {**metrics, "bright": batch.images[batch.images > -2].mean()}


@wrong("batch_sizes_one_two_and_odd")
class NeedsTwoImages(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        return {**metrics, "spread": batch.images.std(0, correction=1).mean().clone()}


@wrong("any_image_shape")
class SquareOnly(Right):
    class Generator(Generator):
        def forward(self, z: Tensor) -> Tensor:
            return torch.tanh(self.layer(z)).view(
                len(z), self.shape[0], self.shape[1], self.shape[1]
            )


@wrong("images_need_no_labels")
class NeedsLabels(Right):
    def step(self, batch, rng):
        return {**super().step(batch, rng), "label": batch.labels.float().mean()}


@wrong("no_hard_coded_device")
class MakesTensorsOnTheCPU(Right):
    class Generator(Generator):
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z) * torch.ones(1, 1, 1, 1)


@wrong("no_hard_coded_dtype")
class HardCodedFloat(Right):
    class Generator(Generator):
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z).float()


@wrong("discriminators_give_one_logit_an_image")
class ColumnOfLogits(Right):
    class Discriminator(Discriminator):
        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images.flatten(1))


@wrong("discriminators_give_one_logit_an_image")
class SquashedLogits(Right):
    class Discriminator(Discriminator):
        def forward(self, images: Tensor) -> Tensor:
            return torch.sigmoid(super().forward(images))


@wrong("encoders_are_deterministic_and_kl_is_not_negative", "evaluation_disturbs_nothing")
class NoisyEncoder(Right):
    class Encoder(Encoder):
        def __init__(self, spec) -> None:
            super().__init__(spec)
            self.register_buffer("noise", torch.zeros(()), persistent=True)

        def forward(self, images: Tensor) -> genkit.Posterior:
            posterior = super().forward(images)
            if not self.training:
                self.noise.add_(1)
            return genkit.Posterior(posterior.mean + self.noise, posterior.log_variance)


@wrong("reconstruction_learns")
class ReconstructsNothing(Right):
    def reconstruct(self, images: Tensor) -> Tensor:
        return torch.zeros_like(images)


@wrong("evaluation_disturbs_nothing")
class EvaluationCounts(Right):
    def evaluate(self, batch, rng):
        self.seen.add_(1)
        return super().evaluate(batch, rng)


@wrong("run_folder_is_plain_and_loads_without_unpickling")
class UnpicklesWhenBuilt(Right):
    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        pickle.loads(pickle.dumps(config.learning_rate))  # noqa: S301 (what the check is for)


@wrong(
    *("every_parameter_learns", "one_seed_gives_the_same_samples"),
    "run_folder_is_plain_and_loads_without_unpickling",
    "checkpoint_round_trip_is_exact",
    "resumed_equals_uninterrupted",
    "sampling_disturbs_nothing",
    "step_is_capturable",
    "every_option_changes_something",
)
class KeepsTextInTheOptimizer(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        self.optimizers["decoder"].state[self.generator.layer.weight]["note"] = "a string"
        return metrics


def outcomes(trainer: type[genkit.Trainer]) -> dict[str, str]:
    return {
        result.check: result.reason for result in check_model(trainer) if result.outcome == "failed"
    }


def test_the_right_model_passes_everything() -> None:
    results = {result.check: result for result in check_model(Right)}
    assert {name: r.reason for name, r in results.items() if r.outcome == "failed"} == {}
    assert [name for name, r in results.items() if r.outcome == "skipped"] == [
        "plugin_module_imports_no_torch",
        "resumed_in_a_new_process",
    ]


class SpectralNorm(Right):
    class Discriminator(Discriminator):
        def __init__(self, spec) -> None:
            super().__init__(spec)
            self.layer = nn.utils.parametrizations.spectral_norm(
                nn.Linear(spec.size, 1, bias=False)
            )


class MovingAverage(Right):
    """The generator that is sampled averages one that learns; no optimizer has its parameters."""

    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        self.learner = self.generator
        self.generator = Generator(spec)
        self.generator.load_state_dict(self.learner.state_dict())
        self.generator.requires_grad_(False)

    def step(self, batch, rng):
        averaged, self._modules["generator"] = self.generator, self.learner
        metrics = super().step(batch, rng)
        self._modules["generator"] = averaged
        with torch.no_grad():
            for mean, new in zip(averaged.parameters(), self.learner.parameters(), strict=True):
                mean.mul_(0.9).add_(new, alpha=0.1)
        return metrics


class Masked(Right):
    """A buffer of minus infinity, as attention has it."""

    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        self.generator.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))


class BeginsAtZero(Right):
    class Generator(Generator):
        def __init__(self, spec) -> None:
            super().__init__(spec)
            nn.init.zeros_(self.layer.weight)


class OptionalOption(Right):
    class Config(Right.Config):
        slope: float | None = genkit.Field(None, ge=0, description="of the losses; None: 1")

    def step(self, batch, rng):
        slope = 1.0 if self.config.slope is None else self.config.slope
        return {name: slope * value for name, value in super().step(batch, rng).items()}


class GradientPenalty(Right):
    def step(self, batch, rng):
        metrics = super().step(batch, rng)
        images = batch.images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            self.discriminator(images).sum(), images, create_graph=True
        )
        self.update(discriminator=gradient.flatten(1).norm(dim=1).sub(1).square().mean())
        return metrics


class CountsZeros(Right):
    def step(self, batch, rng):
        return {**super().step(batch, rng), "dark": batch.images.lt(0).count_nonzero().float()}


class Labelled(Right):
    conditional = True

    class Generator(Generator):
        def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
            return rng.normal(n, 3) + labels[:, None].to(rng.dtype)

    def step(self, batch, rng):
        draw = self.generator.prior
        self.generator.__dict__["prior"] = lambda n, rng: draw(n, rng, batch.labels)
        metrics = super().step(batch, rng)
        del self.generator.__dict__["prior"]
        return metrics


@pytest.mark.parametrize(
    "trainer",
    [
        SpectralNorm,
        MovingAverage,
        Masked,
        BeginsAtZero,
        OptionalOption,
        GradientPenalty,
        CountsZeros,
        Labelled,
    ],
    ids=lambda trainer: trainer.__name__,
)
def test_models_that_are_unusual_and_right_pass(trainer: type[genkit.Trainer]) -> None:
    assert outcomes(trainer) == {}


def test_an_optimizer_that_reads_on_the_host_is_no_fault_of_the_model() -> None:
    class Rectified(Right):
        def __init__(self, config, spec) -> None:
            super().__init__(config, spec)
            learning_rate = config.learning_rate
            self.optimizers["discriminator"] = torch.optim.RAdam(
                self.discriminator.parameters(), lr=learning_rate
            )

    results = {result.check: result for result in check_model(Rectified)}
    assert "RAdam" in results["step_is_capturable"].reason
    assert [r.check for r in results.values() if r.outcome == "failed"] == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_model_fails_just_its_checks(name: str) -> None:
    trainer, expected = WRONG[name]
    failed = outcomes(trainer)
    assert failed.keys() == expected, failed
    assert all(reason and "\n" not in reason for reason in failed.values())


def test_every_check_is_failed_by_some_model() -> None:
    shown = set().union(*(fails for _, fails in WRONG.values()))
    of_plugins = {"plugin_module_imports_no_torch", "resumed_in_a_new_process"}  # shown below
    assert CHECKS[ModelEntry].keys() - shown == of_plugins


def test_a_plugin_module_that_loads_torch_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").touch()  # loads faster, and has the name that the check looks for
    (tmp_path / "heavy_plugin.py").write_text("import torch\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plugin = Plugin("heavy", "heavy_plugin", "heavy", "1", str(tmp_path))
    subject = ModelSubject(
        name="heavy",
        trainer=Right,
        registered=Registered(ModelEntry("heavy", "x", "heavy_plugin:x"), plugin),
    )
    name = "plugin_module_imports_no_torch"
    assert "loads torch" in run_check(name, CHECKS[ModelEntry][name], subject).reason


@parametrize_with_checks(Right)
def test_as_a_plugin_author_writes_it(check) -> None:
    check()


def test_a_read_on_the_host_is_named_with_its_line() -> None:
    (reason,) = outcomes(WaitsForTheDevice).values()
    assert "_local_scalar_dense" in reason
    assert "test_testing.py:" in reason


def test_iter_checks_raises_what_to_fix() -> None:
    checks = dict(iter_checks(ColumnOfLogits))
    with pytest.raises(AssertionError, match=r"\(1, 1\), not \(1,\)"):
        checks["discriminators_give_one_logit_an_image"]()
    with pytest.raises(genkit.UsageError, match="did you mean"):
        parametrize_with_checks(Right, expected_failures={"step_is_capturabel": "typo"})


def test_a_replay_is_a_step() -> None:
    weight, stream = torch.ones(3), genkit.Rng(0, "x")

    def step() -> Tensor:
        return weight.add_(stream.normal(3)).sum()

    total, recording = record(step)
    again = recording.replay()[id(total)]
    assert torch.equal(again, weight.sum())
    expected = torch.ones(3) + sum(rng.normal(3) for rng in [genkit.Rng(0, "x")] for _ in range(2))
    assert torch.allclose(weight, expected)


COUNTS_IN_ITS_MODULE = """
from genkit import ModelEntry, hookimpl

@hookimpl
def genkit_models():
    return [ModelEntry("forgetful", "counts in a global", "forgetful_model:Forgetful")]
"""
FORGETFUL = """
import torch
from tests.test_testing import Right

steps = torch.zeros(())

class Forgetful(Right):
    def step(self, batch, rng):
        steps.add_(1)
        metrics = super().step(batch, rng)
        return {**metrics, "steps": steps.clone() if self.iteration >= 4 else torch.zeros(())}
"""


@pytest.mark.long
def test_what_only_a_new_process_forgets_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forgetful.py").write_text(COUNTS_IN_ITS_MODULE)
    (tmp_path / "forgetful_model.py").write_text(FORGETFUL)
    info = tmp_path / "forgetful-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: forgetful\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[genkit]\nforgetful = forgetful\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parent.parent}")
    name = "resumed_in_a_new_process"
    subject = subject_of("forgetful")
    assert "metrics.jsonl differs" in run_check(name, CHECKS[ModelEntry][name], subject).reason
    (tmp_path / "forgetful_model.py").write_text(
        "from tests.test_testing import Right as Forgetful\n"
    )
    del sys.modules["forgetful_model"]
    result = run_check(name, CHECKS[ModelEntry][name], subject_of("forgetful"))
    assert result.outcome == "passed", result.reason


def bars(request: DataRequest, count: int = 30, **changes: object) -> ImageData:
    """A dataset that is right, or wrong in what ``changes`` says."""
    images = (
        torch.arange(2 * count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 5).clone()
    )
    labels = torch.arange(2 * count) % 3
    parts = {
        "train": Split(images[:count], labels[:count]),
        "test": Split(images[count:], labels[count:]),
        "source": "made in the test",
        "classes": 3,
    }
    return ImageData(**{**parts, **changes})


def gives_a_list(request: DataRequest) -> list[int]:
    return [1, 2, 3]


def another_order_each_time(request: DataRequest) -> ImageData:
    data = bars(request)
    shuffle = torch.randperm(len(data.train))
    return ImageData(
        Split(data.train.images[shuffle], data.train.labels[shuffle]), data.test, data.source, 3
    )


def held_out_is_trained_on(request: DataRequest) -> ImageData:
    return bars(request, test=bars(request).train)


def unpickles(request: DataRequest) -> ImageData:
    pickle.loads(pickle.dumps(1))  # noqa: S301 (what the check is for)
    return bars(request)


def absent_is_a_bare_error(request: DataRequest) -> ImageData:
    if not any(request.root.iterdir()):
        raise genkit.DataError("nothing there")
    return bars(request)


def augments_in_place(request: DataRequest) -> ImageData:
    return bars(request, augment=lambda images, rng: images.mul_(0.5))


def augments_from_torch_s_generator(request: DataRequest) -> ImageData:
    return bars(request, augment=lambda images, rng: images * torch.rand(1))


def augments_by_a_number_of_the_host(request: DataRequest) -> ImageData:
    return bars(request, augment=lambda images, rng: images * rng.uniform(1).item())


WRONG_DATASETS = {
    gives_a_list: {
        "dataset_gives_images",
        "loading_twice_gives_the_same",
        "held_out_images_are_held_out",
    },
    another_order_each_time: {"loading_twice_gives_the_same"},
    held_out_is_trained_on: {"held_out_images_are_held_out"},
    unpickles: {"loading_unpickles_nothing"},
    absent_is_a_bare_error: {"absent_images_are_said_to_be_unavailable"},
    augments_in_place: {"augment_gives_images"},
    augments_from_torch_s_generator: {"augment_draws_from_rng_alone", "augment_is_capturable"},
    augments_by_a_number_of_the_host: {"augment_is_capturable"},
}


@pytest.mark.parametrize("dataset", [bars, *WRONG_DATASETS], ids=lambda load: load.__name__)
def test_a_wrong_dataset_fails_just_its_checks(
    dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "something").touch()
    monkeypatch.setenv("GENKIT_DATA", str(tmp_path / "data"))
    failed = {
        result.check: result.reason
        for result in check_dataset(dataset)
        if result.outcome == "failed"
    }
    assert failed.keys() == WRONG_DATASETS.get(dataset, set()), failed


def distance(images: Tensor, reference: Tensor) -> genkit.Metrics:
    """A metric that is right."""
    return {"distance": (images.mean(0) - reference.mean(0)).abs().mean()}


def gives_a_number(images: Tensor, reference: Tensor) -> float:
    return float(images.mean())


def gives_a_vector(images: Tensor, reference: Tensor) -> genkit.Metrics:
    return {"mean": images.flatten(1).mean(1)}


def gives_infinity(images: Tensor, reference: Tensor) -> genkit.Metrics:
    return {"odds": images.mean() / images[:0].sum()}


def centres_in_place(images: Tensor, reference: Tensor) -> genkit.Metrics:
    return {"spread": images.sub_(images.mean(0)).std()}


def draws_a_sample(images: Tensor, reference: Tensor) -> genkit.Metrics:
    return {"distance": (images - reference.mean(0)).abs().mean() + torch.rand(())}


def looks_at_the_first(images: Tensor, reference: Tensor) -> genkit.Metrics:
    return {"distance": (images[0] - reference.mean(0)).abs().mean()}


def looks_at_nothing(images: Tensor, reference: Tensor) -> genkit.Metrics:
    return {"count": torch.tensor(float(len(images)))}


def square_only(images: Tensor, reference: Tensor) -> genkit.Metrics:
    return {"distance": (images.transpose(2, 3).mean(0) - reference.mean(0)).abs().mean()}


WRONG_METRICS = {
    gives_a_number: set(CHECKS[MetricEntry]) - {"plugin_module_imports_no_torch"},
    gives_a_vector: set(CHECKS[MetricEntry]) - {"plugin_module_imports_no_torch"},
    gives_infinity: {
        "figures_are_named_finite_scalars",
        "order_does_not_matter",
        "metric_tells_images_apart",
    },
    centres_in_place: {"metric_is_a_pure_function"},
    draws_a_sample: {"metric_is_a_pure_function", "order_does_not_matter"},
    looks_at_the_first: {"order_does_not_matter"},
    looks_at_nothing: {"metric_tells_images_apart"},
    square_only: {"any_number_of_channels_and_shape"},
}


@pytest.mark.parametrize("metric", [distance, *WRONG_METRICS], ids=lambda measure: measure.__name__)
def test_a_wrong_metric_fails_just_its_checks(metric) -> None:
    failed = {
        result.check: result.reason for result in check_metric(metric) if result.outcome == "failed"
    }
    assert failed.keys() == WRONG_METRICS.get(metric, set()), failed


def test_every_check_of_datasets_and_metrics_is_failed_by_one_of_them() -> None:
    of_plugins = {"plugin_module_imports_no_torch"}  # shown above
    of_options = {"dataset_options_are_described_and_recorded"}  # in test_dataset_options.py
    shown = of_plugins | of_options
    assert set().union(*WRONG_DATASETS.values()) == CHECKS[DatasetEntry].keys() - shown
    assert set().union(*WRONG_METRICS.values()) == CHECKS[MetricEntry].keys() - of_plugins


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("digits", DatasetEntry),
        *(
            (r.entry.name, MetricEntry)
            for r in discover().builtin(MetricEntry)
            if r.entry.name != "fid"
        ),
    ],
)
def test_the_builtin_datasets_and_metrics_pass(name: str, kind) -> None:
    check = check_dataset if kind is DatasetEntry else check_metric
    results = check(name)
    assert not [result for result in results if result.outcome == "failed"]
    skipped = {result.check for result in results if result.outcome == "skipped"}
    of_augment = {check for check in CHECKS[DatasetEntry] if check.startswith("augment")}
    of_options = {"dataset_options_are_described_and_recorded"}
    assert skipped <= {"any_number_of_channels_and_shape", *of_augment, *of_options}, (
        "only metrics that see no pixels take no shape; digits has no options and no augment"
    )


def test_a_deprecated_kind_has_the_checks_of_the_current_one() -> None:
    assert [name for name, _ in iter_checks(distance, genkit.Metric)] == list(CHECKS[MetricEntry])
