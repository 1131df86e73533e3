"""What evaluate measures of models that are good, and of those that fail in a known way; the floor;
the extractor.
"""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

import genkit
from genkit.cli.main import main
from genkit.data.datasets import DataRequest, Split, load_dataset
from genkit.data.images import from_uint8
from genkit.data.in_memory import from_images
from genkit.evaluation import extractor, inputs, measure, run_images
from genkit.evaluation.run_images import RunImages, Source
from genkit.hookspecs import (
    Bounds,
    DatasetEntry,
    MetricEntry,
    MetricInputs,
    Posteriors,
    Reconstructions,
    Samples,
)
from genkit.plugins.plugin import Plugin
from genkit.plugins.registry import Registered, Registry, discover
from tests.conftest import TinyGAN

QUIET = {"progress": False, "device": "cpu", "threads": 1}
SAMPLED = ("fid-lenet", "kid-lenet", "precision-recall", "class-coverage", "memorisation")


def patterns(count: int, seed: int, channels: int = 1, size: int = 12) -> Split:
    """Bars in one of four directions, at any place and brightness, on noise; the direction is the
    label.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 50, (count, channels, size, size), dtype=torch.uint8, generator=generator
    )
    labels = torch.arange(count) % 4
    places = torch.randint(2, size - 2, (count,), generator=generator).tolist()
    bright = torch.randint(120, 255, (count, channels, 1), dtype=torch.uint8, generator=generator)
    along = torch.arange(size)
    for i, (label, at) in enumerate(zip(labels.tolist(), places, strict=True)):
        rows = [along * 0 + at, along, along, size - 1 - along][label]
        columns = [along, along * 0 + at, along, along][label]
        shift = 0 if label < 2 else at - size // 2
        images[i, :, rows, (columns + shift).clamp(0, size - 1)] = bright[i].expand(-1, size)
    return Split(images, labels)


def made(channels: int = 1) -> genkit.ImageData:
    return genkit.ImageData(
        patterns(600, 1, channels), patterns(300, 2, channels), "made for the test", 4
    )


def drawing_from(images: Tensor) -> type[genkit.Trainer]:
    """A model whose samples are drawn from ``images``, uint8 ``(N, C, H, W)``."""

    class Drawer(genkit.Generator):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
            return rng.integers(len(images), n)

        def forward(self, z: Tensor) -> Tensor:
            return from_uint8(images[z])

    class Draws(genkit.Trainer):
        def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            self.generator = Drawer()
            self.optimizers = {"generator": torch.optim.SGD(self.generator.parameters(), lr=0.0)}

        def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
            loss = self.generator.weight.square()
            self.update(generator=loss)
            return {"loss": loss.detach()}

    return Draws


def judged(
    images: Tensor, dataset: genkit.ImageData | str, count: int, **options
) -> dict[str, genkit.Measurement]:
    run = genkit.train(
        drawing_from(images), dataset=dataset, iterations=1, batch_size=2, **QUIET, **options
    )
    given = None if isinstance(dataset, str) else dataset
    return genkit.evaluate(run, SAMPLED, count=count, dataset=given, progress=False)


def judge_all(
    data: genkit.ImageData, fresh: Tensor, dataset: genkit.ImageData | str, count: int, **options
) -> None:
    """Each failure is exposed by the metric that should, and by that one alone where others are
    blind to it.
    """
    shape, classes = data.train.images.shape, data.classes or 1
    noise = torch.randint(
        0, 256, (count, *shape[1:]), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
    )
    real = judged(fresh, dataset, count, **options)
    one = judged(data.train.images[:1], dataset, count, **options)
    static = judged(noise, dataset, count, **options)
    copies = judged(data.train.images, dataset, count, **options)

    for name in SAMPLED:  # real against real is the floor, and new real images lie near it
        assert real[name].floor is not None
    distance = real["fid-lenet"].floor["distance"]
    assert 0 <= real["fid-lenet"].figures["distance"] < 4 * distance + 0.1
    assert real["class-coverage"].figures["covered"] == classes
    assert real["memorisation"].figures["copies"] < 0.1
    assert abs(real["memorisation"].figures["ratio"] - real["memorisation"].floor["ratio"]) < 0.1

    # One image again and again: no coverage, no recall, one class, far away.
    assert one["class-coverage"].figures["covered"] == 1
    assert one["class-coverage"].figures["entropy"] == 0
    assert abs(one["class-coverage"].floor["entropy"] - math.log(classes)) < 0.05
    assert (
        one["precision-recall"].figures["recall"]
        < 0.05
        < 0.5
        < one["precision-recall"].floor["recall"]
    )

    # Noise: little precision (a classifier's features forgive much), and far away.
    precision = static["precision-recall"]
    assert precision.figures["precision"] < 0.5 * precision.floor["precision"]
    assert static["memorisation"].figures["distance"] > 2 * static["memorisation"].floor["distance"]
    for wrong in (one, static):
        assert wrong["fid-lenet"].figures["distance"] > 10 * distance
        assert wrong["kid-lenet"].figures["distance"] > 10 * abs(
            wrong["kid-lenet"].floor["distance"]
        )

    # Training images: every other metric takes them for the real thing.
    assert copies["memorisation"].figures == {"distance": 0, "ratio": 0, "copies": 1}
    assert copies["memorisation"].floor["copies"] < 0.1
    assert copies["fid-lenet"].figures["distance"] < 4 * distance + 0.1


def test_each_failure_is_exposed_by_the_metric_that_should() -> None:
    data = made()
    judge_all(data, patterns(300, 3).images, data, 300)


@pytest.mark.long
def test_each_failure_is_exposed_on_real_digits(mnist_root: Path) -> None:
    data = load_dataset(discover(), "mnist", DataRequest(mnist_root))
    judge_all(data, data.test.images[2000:], "mnist", 2000, data_root=str(mnist_root))


def test_a_colour_dataset_trains_its_own_extractor() -> None:
    data = made(channels=3)
    found = judged(data.test.images, data, 100)
    assert found["fid-lenet"].extractor == found["class-coverage"].extractor
    assert found["fid-lenet"].extractor.name == "images"
    assert found["fid-lenet"].extractor.accuracy > 0.9
    assert found["memorisation"].extractor is None


def lenet() -> type[genkit.Classifier]:
    return extractor.find_classifier(discover()).target()


def test_the_extractor_is_trained_once_and_after_damage(monkeypatch, capsys) -> None:
    data = made()
    run = genkit.train(
        drawing_from(data.train.images), dataset=data, iterations=1, batch_size=2, **QUIET
    )
    first = genkit.evaluate(run, ["fid-lenet"], count=100, dataset=data)["fid-lenet"]
    assert "training an extractor on the labels of images" in capsys.readouterr().err
    (cached,) = Path("cache/genkit/extractors").iterdir()
    whole, train, trained = cached.read_bytes(), extractor.train_weights, []

    def counted(*arguments, **options):
        trained.append(1)
        return train(*arguments, **options)

    monkeypatch.setattr(extractor, "train_weights", counted)
    assert (
        genkit.evaluate(run, ["fid-lenet"], count=100, dataset=data, progress=False)["fid-lenet"]
        == first
    )
    assert not trained
    for damage in (
        b"",
        b"\xff" * 99,
        whole[:100],
        whole[:-4],
        whole.replace(data.fingerprint().encode(), b"0" * 64),
    ):
        with pytest.raises(genkit.DataError, match="there is damaged"):
            extractor.from_bytes(lenet(), damage, "there", data.fingerprint())
    cached.write_bytes(whole[:-4])
    assert genkit.evaluate(run, ["fid-lenet"], count=100, dataset=data)["fid-lenet"] == first
    assert "the cached extractor cannot be used" in capsys.readouterr().err
    assert cached.read_bytes() == whole
    assert len(trained) == 1


def test_without_labels_the_features_are_random_and_said_to_be(capsys) -> None:
    data = from_images(patterns(900, 1).images)
    run = genkit.train(TinyGAN, dataset=data, iterations=1, batch_size=2, **QUIET)
    found = genkit.evaluate(run, dataset=data, count=90)
    err = capsys.readouterr().err
    assert "features are those of a random network" in err
    assert "class-coverage is left out: class-coverage needs labels" in err
    assert "class-coverage" not in found
    kept = json.loads((run.path / "evaluation.json").read_text())["metrics"]
    assert kept["fid-lenet"]["extractor"]["name"] == "random features"
    assert kept["fid-lenet"]["extractor"]["accuracy"] is None
    assert (
        extractor.make_random_extractor(lenet(), 1).info.sha256
        == kept["fid-lenet"]["extractor"]["sha256"]
    )
    assert kept["fid-lenet"]["floor"].keys() == kept["fid-lenet"]["figures"].keys()
    with pytest.raises(genkit.UsageError, match="class-coverage needs labels, and images has none"):
        genkit.evaluate(run, ["class-coverage"], dataset=data, progress=False)


@pytest.mark.parametrize(
    ("metric", "count", "says"),
    [
        ("fid-lenet", 64, "needs more images than the 64 features, and there are 64"),
        ("kid-lenet", 1, "two images or more"),
        ("precision-recall", 3, "4 images or more"),
        ("fid", 300, "needs more images than Inception's 2048 features, and there are 300"),
        ("reconstruction-error", 10, "cannot reconstruct"),
        ("elbo", 10, "has no encoder that gives a posterior"),
        ("active-units", 10, "has no encoder that gives a posterior"),
        ("fid-lenet", 0, "measure one image or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric: str, count: int, says: str) -> None:
    data = genkit.ImageData(patterns(100, 1), patterns(400, 2), "made for the test", 4)
    run = genkit.train(TinyGAN, dataset=data, iterations=1, batch_size=2, **QUIET)
    with pytest.raises(genkit.UsageError, match=says):
        genkit.evaluate(run, [metric], count=count, dataset=data, progress=False)
    assert not (run.path / "evaluation.json").exists()


def test_images_too_small_for_the_extractor_are_refused(tiny, images: Tensor) -> None:
    run = genkit.train(tiny, dataset=images, iterations=1, batch_size=2, **QUIET)
    with pytest.raises(genkit.UsageError, match="8x8 or more, and those of images are 6x5"):
        genkit.evaluate(run, ["kid-lenet"], dataset=images, progress=False)


@pytest.mark.usefixtures("digits_extractor")
@pytest.mark.parametrize("model", ["vae", "ae", "simple-gan"])
def test_a_model_is_measured_by_what_applies_to_it(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = genkit.train(model, dataset="digits", out="run", iterations=30, batch_size=64, **QUIET)
    trained = run.folder.read_json("evaluation.json")["test"] if model != "simple-gan" else None
    main(["evaluate", "run", "--count", "299", "--json"])
    printed = json.loads(capsys.readouterr().out)
    kept = run.folder.read_json("evaluation.json")
    assert kept["metrics"] == printed
    assert kept.get("test") == trained  # measured again, and the same
    of_posteriors = {"elbo", "log-likelihood", "kl-per-dimension", "active-units"}
    wanted = {*SAMPLED, "diversity"} | (
        {"reconstruction-error"} if model != "simple-gan" else set()
    )
    assert printed.keys() == wanted | (of_posteriors if model == "vae" else set())
    assert (
        printed["fid-lenet"]["images"]
        == printed["fid-lenet"]["held_out"]
        == printed["fid-lenet"]["floor_images"]
        == 299
    )
    if model == "vae":
        elbo, bounds = printed["elbo"]["figures"], printed["log-likelihood"]["figures"]
        assert elbo["negative_elbo"] == pytest.approx(trained["loss"], rel=1e-6)
        assert elbo["kl"] == pytest.approx(
            printed["kl-per-dimension"]["figures"]["total"], rel=1e-5
        )
        assert bounds["bound_1"] < bounds["bound_10"] < bounds["bound_100"]
        assert bounds["bound_1"] == pytest.approx(-elbo["negative_elbo"], rel=0.02)
        assert "floor" not in printed["elbo"]


@pytest.mark.usefixtures("digits_extractor")
def test_the_table_says_what_each_figure_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    data = genkit.train(
        "simple-gan", dataset="digits", out="run", iterations=1, batch_size=2, **QUIET
    )
    main(["evaluate", "run", "--metrics", "kid-lenet,diversity", "--count", "20"])
    head, first, *_ = capsys.readouterr().out.splitlines()
    found = genkit.evaluate(data, ["kid-lenet"], count=20, progress=False)["kid-lenet"]
    assert head.split() == ["metric", "figure", "value", "floor", "N", "extractor"]
    assert first.split()[:5] == [
        "kid-lenet",
        "distance",
        f"{found.figures['distance']:.6g}",
        f"{found.floor['distance']:.6g}",
        "20/20",
    ]
    assert first.split()[5:7] == ["digits", found.extractor.sha256[:12]]


def test_a_tighter_bound_of_a_known_density() -> None:
    """p(z) = N(0, 1), p(x | z) = N(z, 1), q(z | x) = N(0, 1): the bounds go to log N(x; 0, 2) from
    below.
    """
    from genkit_plugins.metrics.bounds import log_likelihood

    rng = genkit.Rng(0, "test", dtype=torch.float64)
    x, z = rng.normal(500, 1), rng.normal(500, 1000)
    likelihood = -0.5 * (x - z).square() - 0.5 * math.log(2 * math.pi)
    bounds = {
        name: float(value)
        for name, value in log_likelihood(likelihood, torch.zeros_like(z)).items()
    }
    truth = float((-0.25 * x.square() - 0.5 * math.log(4 * math.pi)).mean())
    assert list(bounds) == ["bound_1", "bound_10", "bound_100", "bound_1000"]
    assert sorted(bounds.values()) == list(bounds.values())
    assert bounds["bound_1000"] == pytest.approx(truth, abs=2e-3)


def test_active_units_are_counted() -> None:
    from genkit_plugins.metrics.posterior import active_units, kl_per_dimension

    mean = genkit.Rng(0, "test").normal(1000, 5) * torch.tensor([0.0, 0.05, 0.3, 1.0, 2.0])
    assert float(active_units(mean, torch.zeros(1000, 5))["active"]) == 3
    kl = kl_per_dimension(torch.ones(4, 2), torch.zeros(4, 2))
    assert [float(kl[name]) for name in ("total", "least", "dimension_1")] == [1.0, 0.5, 0.5]


def test_the_frechet_distance_of_known_gaussians() -> None:
    from genkit_plugins.metrics.distances import fid_lenet

    first, second = (
        genkit.Rng(0, purpose, dtype=torch.float64).normal(20_000, 3) for purpose in "ab"
    )
    assert float(fid_lenet(2 * first + 1, second)["distance"]) == pytest.approx(
        3 * 1 + 3 * 1, rel=0.05
    )


def test_the_published_fid_sees_three_channels_of_whole_grey_levels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    from genkit_plugins.metrics import distances

    class Corner(torch.nn.Module):
        num_features = 2

        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[1:] == (3, 2, 2)
            assert images.dtype == torch.uint8
            seen.append(images[:, 0, 0, 0])
            return images[:, :2, 0, 0].float() / 255

    seen: list[Tensor] = []
    monkeypatch.setattr(
        distances, "_inception", lambda: FrechetInceptionDistance(Corner(), normalize=False)
    )
    levels = torch.arange(256, dtype=torch.uint8).repeat(9).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    distances.fid(from_uint8(levels), from_uint8(levels))
    assert torch.cat(seen)[:256].equal(levels[:256, 0, 0, 0])  # none is made darker
    grey = 2 * genkit.Rng(0, "test").uniform(2049, 1, 2, 2) - 1
    assert float(distances.fid(grey, grey)["distance"]) == pytest.approx(0, abs=1e-4)
    assert float(distances.fid(0.5 * grey + 0.5, grey)["distance"]) > 0.1
    with pytest.raises(genkit.UsageError, match="one or three channels, not 4"):
        distances.fid(grey.expand(-1, 4, -1, -1), grey)


def test_what_the_published_fid_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from genkit_plugins.metrics import distances

    Path("weights.pth").write_bytes(b"a pickle of whatever kind")
    monkeypatch.setenv("GENKIT_INCEPTION_WEIGHTS", "weights.pth")
    with pytest.raises(genkit.UsageError, match=r"weights\.pth is not torch-fidelity's file"):
        distances._inception()
    monkeypatch.setenv("GENKIT_INCEPTION_WEIGHTS", "absent.pth")
    with pytest.raises(genkit.UsageError, match=r"Inception's weights cannot be loaded .*absent"):
        distances._inception()
    monkeypatch.delenv("GENKIT_INCEPTION_WEIGHTS")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(genkit.UsageError, match="pip install torch-fidelity"):
        distances._inception()


def test_an_extractor_is_one_file_of_the_same_bytes() -> None:
    data, kind = made(), lenet()
    weights = [
        extractor.train_weights(kind, data, "patterns", data.fingerprint()) for _ in range(2)
    ]
    assert weights[0] == weights[1]
    loaded = extractor.from_bytes(kind, weights[0], "there", data.fingerprint())
    output = loaded(from_uint8(data.test.images))
    assert output.features.shape == (300, 64)
    assert float(output.probabilities.sum(1).sub(1).abs().max()) < 1e-5
    assert loaded(from_uint8(data.test.images))[0].equal(
        output.features
    )  # no dropout: evaluation mode
    assert float(output.features.square().mean()) == pytest.approx(1, rel=0.2)
    assert loaded(torch.zeros(2, 1, 8, 40)).features.shape == (2, 64)
    state = torch.get_rng_state()
    extractor.from_bytes(kind, weights[0], "there")
    assert torch.get_rng_state().equal(state)
    with pytest.raises(genkit.UsageError, match="images of 1 channels"):
        loaded(torch.zeros(2, 3, 12, 12))


def test_weights_that_cannot_be_right_are_refused() -> None:
    kind, data = lenet(), made()
    network = kind(1, 4)
    metadata = {
        "format": 1,
        "dataset": "x",
        "fingerprint": data.fingerprint(),
        "accuracy": 0.5,
        "channels": 1,
        "classes": 4,
    }
    whole = extractor.to_bytes(network, metadata)
    assert extractor.from_bytes(kind, whole, "there").info.accuracy == 0.5
    for name, value in (
        ("format", 2),
        ("accuracy", 1.5),
        ("channels", 2),
        ("channels", 10**18),
        ("channels", 0),
        ("channels", "1"),
        ("classes", 5),
        ("classes", -1),
    ):
        wrong = extractor.to_bytes(network, {**metadata, name: value})
        with pytest.raises(genkit.DataError, match="there is damaged"):
            extractor.from_bytes(kind, wrong, "there")
    del metadata["classes"]
    with pytest.raises(genkit.DataError, match=r"there is damaged \(KeyError\)"):
        extractor.from_bytes(kind, extractor.to_bytes(network, metadata), "there")
    metadata["classes"] = 4
    with torch.no_grad():
        network.dense.bias[0] = math.nan
    for wrong_network in (network, kind(1, 4).double()):
        with pytest.raises(genkit.DataError, match="there is damaged"):
            extractor.from_bytes(kind, extractor.to_bytes(wrong_network, metadata), "there")


def test_the_classifier_draws_the_samples_of_a_step_as_models_do() -> None:
    from genkit.data.loader import Order
    from genkit_plugins.classifier import BATCH, _sample_numbers

    numbers = _sample_numbers(1000, BATCH, 3)
    assert torch.stack([next(numbers) for _ in range(300)]).equal(
        Order(1000, BATCH, 3).indices(0, 300)
    )


def test_the_shipped_extractor_says_what_it_is() -> None:
    path = (
        Path(__file__).parent.parent
        / "plugins"
        / "genkit_plugins"
        / "extractors"
        / "mnist.safetensors"
    )
    shipped = discover().find(DatasetEntry, "mnist")
    assert Path(shipped.load(shipped.entry.extractor)()).samefile(path)
    loaded = extractor.from_bytes(lenet(), path.read_bytes(), str(path))
    assert path.stat().st_size < 2**20
    assert loaded.info.name == "mnist"
    assert loaded.info.accuracy >= 0.99
    page = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()
    assert loaded.info.sha256 in page
    assert f"{loaded.info.accuracy:.2%}".replace("%", " %") in page


def test_the_shipped_extractor_is_as_good_as_it_says(mnist_root: Path) -> None:
    run = genkit.train(
        "simple-gan",
        dataset="mnist",
        data_root=str(mnist_root),
        iterations=1,
        batch_size=2,
        **QUIET,
    )
    data = load_dataset(discover(), "mnist", DataRequest(mnist_root))
    found = extractor.get_extractor(run, data, notify=lambda line: pytest.fail(line))
    correct = found(from_uint8(data.test.images)).probabilities.argmax(1) == data.test.labels
    assert float(correct.float().mean()) == pytest.approx(found.info.accuracy, abs=2e-4)


PLUGIN = Plugin(name="x", module="x", distribution="x", version="1", origin="")


def damaged() -> bytes:
    return b"no weights"


def not_there() -> str:
    return "absent.safetensors"


def of_others() -> bytes:
    metadata = {
        "format": 1,
        "dataset": "x",
        "fingerprint": "y",
        "accuracy": 1.0,
        "channels": 1,
        "classes": 4,
    }
    return extractor.to_bytes(lenet()(1, 4), metadata)


@pytest.fixture
def shipping(monkeypatch: pytest.MonkeyPatch):
    """A run whose dataset ships the weights that a function of this module gives."""

    def make(data: genkit.ImageData, function: str) -> genkit.Run:
        run = genkit.train(TinyGAN, dataset=data, iterations=1, batch_size=2, **QUIET)
        here = "tests.test_evaluation"
        entry = DatasetEntry("x", "x", f"{here}:made", extractor=f"{here}:{function}")
        monkeypatch.setattr(genkit.Run, "dataset_entry", Registered(entry, PLUGIN))
        return run

    return make


@pytest.mark.parametrize(
    ("function", "says"),
    [("damaged", "is damaged"), ("not_there", "x/x failed to give its extractor")],
)
def test_shipped_weights_that_cannot_be_read_are_one_line(
    shipping, function: str, says: str
) -> None:
    data = made()
    with pytest.raises(genkit.PluginError, match=says):
        extractor.get_extractor(shipping(data, function), data, print)


def test_shipped_weights_of_other_images_are_not_used(shipping) -> None:
    data, lines = from_images(patterns(50, 1).images), []
    found = extractor.get_extractor(shipping(data, "of_others"), data, lines.append)
    assert found.info.name == "random features"
    assert "trained on other images: it is not used" in lines[0]


def test_without_a_classifier_its_metrics_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made()
    run = genkit.train(TinyGAN, dataset=data, iterations=1, batch_size=2, **QUIET)
    plugins = [plugin for plugin in discover().plugins if plugin.builtin]
    for plugin in plugins:
        plugin.load()
        plugin.entries.pop(genkit.ClassifierEntry)
    run.registry = Registry(plugins)
    measured = genkit.evaluate(run, count=90, dataset=data)
    assert "diversity" in measured
    assert "fid-lenet" not in measured
    says = "need the classifier 'lenet', which no plugin provides"
    assert f"fid-lenet is left out: features and classes of images {says}" in (
        capsys.readouterr().err
    )
    assert extractor.load_extractor(run, pytest.fail) is None  # what the alarm asks
    with pytest.raises(genkit.UsageError, match=says):
        genkit.evaluate(run, ["fid-lenet"], dataset=data, progress=False)


def test_a_classifier_of_another_kind_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = genkit.ClassifierEntry("lenet", "x", "json:dumps")
    monkeypatch.setitem(PLUGIN.entries, genkit.ClassifierEntry, [entry])
    monkeypatch.setattr(PLUGIN, "loaded", True)
    with pytest.raises(genkit.ContractError, match=r"x/lenet is .*, not a genkit\.Classifier"):
        extractor.find_classifier(Registry([PLUGIN]))


class Sounds(MetricInputs):
    """Of a kind that genkit does not know."""


def test_a_metric_of_an_unknown_kind_is_named(data: genkit.ImageData, tiny) -> None:
    run = genkit.train(tiny, dataset=data, iterations=1, batch_size=2, **QUIET)
    metric = Registered(MetricEntry("odd", "none", "x:x", inputs=Sounds()), PLUGIN)
    with pytest.raises(genkit.ContractError, match="metric odd has inputs of kind Sounds"):
        measure._measure(metric, RunImages(run, data, 4, 0, print))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Samples("sounds"), "representation is 'sounds', not one of pixels, features"),
        (lambda: Samples(reference="x"), "reference is 'x', not one of held-out, training"),
        (lambda: Bounds(importance_samples=0), "importance_samples is 0"),
        (lambda: MetricEntry("x", "x", "x:x", inputs="samples"), "its inputs are 'samples'"),
    ],
)
def test_inputs_that_do_not_exist_are_refused(make, says: str) -> None:
    with pytest.raises(genkit.PluginError, match=says):
        make()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, Samples()),
        ({"of": "features"}, Samples("features")),
        ({"of": "probabilities", "compares": "samples"}, Samples("probabilities")),
        ({"reference": "training"}, Samples(reference="training")),
        ({"compares": "reconstructions"}, Reconstructions()),
        ({"compares": "posterior"}, Posteriors()),
        ({"compares": "bounds"}, Bounds()),
        ({"compares": "bounds", "codes": 100}, Bounds(importance_samples=100)),
    ],
)
def test_keywords_of_version_1_declare_the_same_inputs(before, now) -> None:
    common = {"aliases": ("y",), "limit": 9, "default": False}
    old = genkit.Metric("x", "x", "x:x", **before, **common)
    assert isinstance(old, MetricEntry)
    assert asdict(old) == asdict(MetricEntry("x", "x", "x:x", inputs=now, **common))
    assert inputs.get_maker(old).inputs == now


def test_a_metric_of_version_1_may_be_declared_by_position() -> None:
    old = genkit.Metric("x", "x", "x:x", (), (), "samples", "features", "training", 1, 500, False)
    assert old.inputs == Samples("features", "training")
    assert (old.limit, old.default) == (500, False)


@pytest.mark.parametrize("wrong", [{"compares": "sounds"}, {"of": "sounds"}])
def test_wrong_inputs_of_version_1_are_an_error_of_that_metric_alone(wrong) -> None:
    old = genkit.Metric("odd", "x", "x:x", **wrong)
    with pytest.raises(genkit.ContractError, match=r"metric odd has unknown inputs: .*'sounds'"):
        inputs.get_maker(old)


def test_samples_that_are_not_finite_are_the_models_fault(data: genkit.ImageData, tiny) -> None:
    run = genkit.train(tiny, dataset=data, iterations=1, batch_size=2, **QUIET)
    with torch.no_grad():
        run.trainer.generator.layer.bias.fill_(math.nan)
    with pytest.raises(
        genkit.PluginError, match="gave samples of another shape, or that are not finite"
    ):
        genkit.evaluate(run, ["diversity"], dataset=data, count=3, progress=False)


def test_a_conditional_model_is_asked_for_every_class(monkeypatch) -> None:
    class Conditional(TinyGAN):
        conditional = True

        def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            prior = self.generator.prior
            self.generator.prior = lambda n, rng, labels=None: asked.append(labels) or prior(n, rng)

    asked: list[Tensor] = []
    data = made()
    run = genkit.train(Conditional, dataset=data, iterations=1, batch_size=2, **QUIET)
    monkeypatch.setattr(run_images, "CHUNK", 3)
    asked.clear()
    genkit.evaluate(run, ["diversity"], dataset=data, count=8, progress=False)
    assert [labels.tolist() for labels in asked] == [[0, 1, 2], [3, 0, 1], [2, 3]]


def test_held_out_images_that_are_cut_are_drawn_from_all(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Datasets are often sorted by class: the first of them are not like all of them."""
    prototypes = (
        torch.arange(0, 250, 25, dtype=torch.uint8)
        .repeat_interleave(40)
        .view(-1, 1, 1, 1)
        .expand(-1, 1, 8, 8)
    )
    data = genkit.ImageData(genkit.Split(prototypes), genkit.Split(prototypes), source="here")
    run = genkit.train(tiny, dataset=data, iterations=1, batch_size=2, **QUIET)
    images = RunImages(run, data, 100, 0, print)
    held_out = images.pixels(Source.HELD_OUT)
    assert len(held_out) == 100
    assert len(held_out.unique()) == 10
    assert len(images.subsample(held_out, 40).unique()) >= 8
    everything = RunImages(run, data, 10_000, 0, print)
    assert everything.pixels(Source.HELD_OUT).equal(
        from_uint8(prototypes)
    )  # in order, as the trainer's own test loss
    monkeypatch.setattr(run_images, "MAX_TRAINING_NUMBERS", 64 * 50)
    assert len(everything.pixels(Source.TRAINING)) == 50


@pytest.mark.usefixtures("digits_extractor")
def test_one_bad_metric_does_not_take_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = genkit.train("simple-gan", dataset="digits", iterations=2, batch_size=8, **QUIET)
    monkeypatch.setattr(
        "genkit_plugins.metrics.pixels.diversity", lambda *_: {"samples": torch.tensor(torch.nan)}
    )
    measured = genkit.evaluate(run, count=100)
    assert "diversity" not in measured
    assert "fid-lenet" in measured
    assert (
        "diversity is left out: metric genkit-torch/diversity gave samples as nan"
        in capsys.readouterr().err
    )
    with pytest.raises(genkit.ContractError, match="gave samples as nan"):
        genkit.evaluate(run, ["diversity"], count=100)
