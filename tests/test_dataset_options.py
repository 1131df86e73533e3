"""Options of datasets, the images of a run found and compared later, and classes by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import genkit
from genkit.callback import Callback
from genkit.cli.options import DatasetCommand
from genkit.data.dataset_options import InstalledDatasets
from genkit.errors import close_names
from genkit.plugins.registry import discover
from genkit.report.comparison import compare_runs
from genkit.testing import check_dataset

from .conftest import run_cli

PLUGIN = """
from genkit import DatasetEntry, ModelEntry, hookimpl

genkit_api_version = 2

@hookimpl
def genkit_datasets():
    target, config = "stripes_target:stripes", "stripes_target:Options"
    return [
        DatasetEntry("stripes", "made of stripes", target, config=config, argument="SEED"),
        DatasetEntry("bare", "has an option without help", target, config="stripes_target:Bare"),
        DatasetEntry("no-config", "its config is none", target, config="stripes_target:stripes"),
        DatasetEntry("shadows", "has genkit's option", target, config="stripes_target:Shadows"),
    ]

@hookimpl
def genkit_models():
    return [ModelEntry("painter", "paints its label", "stripes_target:Painter")]
"""
TARGET = '''
import torch

import genkit


class Options(genkit.Config):
    """Of stripes."""

    stripe_width: int = genkit.Field(1, ge=1, description="pixels of a stripe")
    upright: bool = genkit.Field(False, description="stripes go from top to bottom")
    palette: tuple[str, ...] = genkit.Field(("grey",), description="names of colours")


class Bare(genkit.Config):
    depth: int = 3


class Shadows(genkit.Config):
    seed: int = genkit.Field(3, description="hides the core's")


SEEN = []


def stripes(request):
    SEEN.append(request)
    shift = int(request.argument or 0)
    rows = torch.arange(8)[:, None].expand(8, 8)
    rows = rows.T if request.options.upright else rows
    labels = torch.arange(40) % 3
    images = torch.stack(
        [((rows // request.options.stripe_width + n + shift) % 4) * 60 for n in range(40)]
    )
    images = images.to(torch.uint8)[:, None]
    held_out = torch.arange(40) % 4 == 3
    return genkit.ImageData(
        genkit.Split(images[~held_out], labels[~held_out]),
        genkit.Split(images[held_out], labels[held_out]),
        source="made here",
        classes=3,
        class_names=("dogs", "salt, pepper", "7"),
        summary=f"40 images of stripes {request.options.stripe_width} wide",
    )


class Paint(genkit.Generator):
    def __init__(self, spec):
        super().__init__()
        self.shape = spec.shape
        self.level = torch.nn.Parameter(torch.zeros(()))

    def prior(self, n, rng, labels=None):
        return labels[:, None].float()

    def forward(self, z):
        return (z / 10 + self.level)[:, :, None, None].expand(-1, *self.shape)


class Painter(genkit.Trainer):
    conditional = True

    class Config(genkit.Config):
        palette: str = genkit.Field("warm", description="shared with stripes")

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.generator = Paint(spec)
        self.optimizers = {"all": torch.optim.SGD(self.generator.parameters(), lr=0.0)}

    def step(self, batch, rng):
        loss = self.generator.level.square() + batch.images.mean()
        self.update(all=loss)
        return {"loss": loss.detach()}
'''
QUICK = {
    "iterations": 2,
    "batch_size": 4,
    "log_interval": 1,
    "latent_dim": 2,
    "hidden_dim": 3,
    "device": "cpu",
    "progress": False,
}
TYPED = ("--iterations", "2", "--batch-size", "4", "--hidden-dim", "3", "--device", "cpu")


class Notices(Callback):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_notice(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with datasets that have options, and a conditional model."""
    site = tmp_path / "site"
    info = site / "stripes-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "stripes_plugin.py").write_text(PLUGIN)
    (site / "stripes_target.py").write_text(TARGET)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[genkit]\nstripes = stripes_plugin\n")
    for module in ("stripes_plugin", "stripes_target"):
        sys.modules.pop(module, None)
    monkeypatch.syspath_prepend(str(site))


def write_pictures(folder: Path, count: int = 40, seed: int = 0, side: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    for number in range(count):
        pixels = noise.integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


@pytest.fixture
def pictures() -> Path:
    """40 noisy 8x8 pictures; some are held out."""
    write_pictures(Path("photos"))
    return Path("photos")


def info_of(run: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "run.json").read_text())
    return content


# --- options ---


def test_options_of_a_dataset_are_given_recorded_and_given_to_it_when_it_is_read_again(
    plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_cli(
        capsys,
        *("train", "ae", "--dataset", "stripes:2", "--stripe-width", "2", "--upright"),
        *("--palette", "red,blue", "--out", "run", *TYPED),
    )
    assert code == 0, err
    assert "note: 40 images of stripes 2 wide" in err
    dataset = info_of("run")["dataset"]
    assert dataset["options"] == {"stripe_width": 2, "upright": True, "palette": ["red", "blue"]}
    assert dataset["class_names"] == ["dogs", "salt, pepper", "7"]
    assert dataset["summary"] == "40 images of stripes 2 wide"
    import stripes_target  # type: ignore[import-not-found]

    genkit.resume("run", 3, progress=False)
    genkit.load("run").data()
    for request in stripes_target.SEEN:
        assert request.argument == "2"
        assert request.options == stripes_target.Options(
            stripe_width=2, upright=True, palette=("red", "blue")
        )
    assert len(stripes_target.SEEN) == 3


def test_defaults_are_given_where_none_are_typed(plugin) -> None:
    run = genkit.train("ae", dataset="stripes", **QUICK)
    assert run.info.dataset.options == {"stripe_width": 1, "upright": False, "palette": ["grey"]}
    digits = genkit.train("ae", dataset="digits", **QUICK)
    assert digits.info.dataset.options == {}


def test_a_config_file_holds_them_and_print_config_writes_them(
    plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.toml").write_text('dataset = "stripes:1"\nstripe_width = 3\nlatent_dim = 2\n')
    command = ("train", "ae", "--config", "a.toml", "--upright", "--print-config")
    code, out, _ = run_cli(capsys, *command)
    assert code == 0
    assert {"stripe_width = 3", "upright = true", "latent_dim = 2"} <= set(out.splitlines())
    Path("b.toml").write_text(out)
    assert run_cli(capsys, "train", "ae", "--config", "b.toml", "--print-config")[1] == out
    Path("a.toml").write_text('dataset = "stripes:1"\nstripe_width = "3"\n')
    assert "a.toml: stripe_width '3'" in run_cli(capsys, *command)[2]


def test_image_options_go_through_a_config_file(pictures: Path) -> None:
    Path("a.toml").write_text('dataset = "folder:photos"\nimage_size = [4, 6]\nchannels = 3\n')
    run = genkit.train("ae", config="a.toml", **QUICK)
    assert run.spec.shape == (3, 4, 6)
    assert run.info.dataset.options is not None
    assert run.info.dataset.options["image_size"] == [4, 6]
    assert genkit.resume(run.path, 3, progress=False).step == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image-size", "8"], "image_size is an option of the dataset"),
        (["--image-size", "8"], "add --dataset folder:PATH"),
        (["--dataset", "digits", "--image-size", "8"], "digits has no option 'image_size'"),
        (["--dataset", "stripes", "--image-size", "8"], "stripes has no option 'image_size'"),
        (["--dataset", "stripes", "--stripe-width", "0"], "has to be at least 1"),
        (["--dataset", "stripes", "--stripe-widht", "2"], "--stripe-width"),
        (["--image-sise", "8"], "--image-size"),
        (["--config", "a.toml"], "a.toml: ae has no option 'image_sise'; did you mean"),
        (["--dataset", "no-config"], "no subclass of genkit.Config"),
        (["--dataset", "shadows"], "dataset shadows: its option 'seed' has the name of one of"),
        (["--dataset", "folder:x", "--image-size", "x"], "HEIGHTxWIDTH such as 48x64"),
        (["--dataset", "stripez"], "did you mean 'stripes'"),
    ],
)
def test_what_is_wrong_with_an_option_is_one_line(
    plugin, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    Path("a.toml").write_text("image_sise = 8\n")
    code, _, err = run_cli(capsys, "train", "ae", *arguments)
    assert code in (1, 2)
    assert says in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_options_with_images_in_memory_are_refused(images) -> None:
    with pytest.raises(genkit.ConfigError, match="ae has no option 'image_size'"):
        genkit.train("ae", dataset=images, image_size=4, **QUICK)


def test_a_model_and_a_dataset_with_the_same_option_are_both_named(plugin) -> None:
    with pytest.raises(
        genkit.PluginError, match="model painter and dataset stripes both have an option 'palette'"
    ):
        genkit.train("painter", dataset="stripes", iterations=1, progress=False)


def test_suggestions_are_close() -> None:
    names = ["batch-size", "image-size", "eps", "on-bad-image", "fashion-mnist", "dataset"]
    assert close_names("--image-size", ["--batch-size", "--on-bad-image"]) == []
    assert close_names("resume", names) == close_names("name", names) == []
    assert close_names("bacth-size", names) == ["batch-size"]
    assert close_names("fashion", names) == ["fashion-mnist"]


def test_help_has_a_section_for_each_set_of_options(
    plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_cli(capsys, "train", "ae", "--help")
    assert code == 0
    sections = [line for line in out.splitlines() if line.startswith("Options of")]
    assert sections[0] == "Options of ae:"
    assert sections[-1] == "Options of every model:"
    assert any("folder:PATH" in line for line in sections[1:-1])
    assert out.count("--image-size SIZE") == 1
    assert "stripe" not in out
    assert "stripes_plugin" not in sys.modules
    out = run_cli(capsys, "train", "ae", "--dataset=stripes:3", "--help")[1]
    assert "Options of stripes:SEED:\n  --stripe-width INTEGER" in out
    Path("a.toml").write_text('dataset = "stripes"\n')
    out = run_cli(capsys, "train", "ae", "--config", "a.toml", "--help")[1]
    assert "--upright / --no-upright" in out


def test_a_built_in_dataset_imports_no_other_plugin(plugin) -> None:
    datasets = InstalledDatasets(discover())
    assert datasets.of("folder:x") is genkit.ImageOptions
    assert datasets.of("digits") is None
    assert "folder:PATH" in datasets.owners("image_size")
    assert "stripes_plugin" not in sys.modules


def test_a_command_on_any_dataset_takes_its_options(plugin) -> None:
    @click.command(cls=DatasetCommand)
    @click.argument("dataset")
    @click.option("--limit", type=int)
    def inspect(dataset: str, limit: int | None, options: dict[str, Any]) -> None:
        click.echo(json.dumps([dataset, limit, options]))

    def printed(*arguments: str) -> Any:
        done = CliRunner().invoke(inspect, arguments)
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    assert printed("--fit", "pad", "folder:a b", "--limit", "3", "--no-cache") == [
        "folder:a b",
        3,
        {"fit": "pad", "cache": False},
    ]
    assert printed("stripes:1", "--stripe-width", "2") == ["stripes:1", None, {"stripe_width": "2"}]
    assert "--stripe-width" in CliRunner().invoke(inspect, ["stripes", "--help"]).output


def test_the_check_of_options_is_failed_by_one_without_help(plugin) -> None:
    name = "dataset_options_are_described_and_recorded"
    outcomes = {
        dataset: {result.check: result for result in check_dataset(dataset)}[name]
        for dataset in ("stripes", "bare", "digits")
    }
    assert [outcomes[d].outcome for d in outcomes] == ["passed", "failed", "skipped"]
    assert outcomes["bare"].reason == "option depth has no description"


def test_options_of_a_strangers_run_are_validated(plugin) -> None:
    run = genkit.train("ae", dataset="stripes", **QUICK)
    info = info_of(run.path)
    info["dataset"]["options"]["stripe_width"] = -1
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(genkit.ConfigError, match=r"run\.json: stripe_width -1: has to be at least"):
        genkit.load(run.path).data()


# --- identity ---


def change(path: Path) -> None:
    Image.new("L", (8, 8), 255).save(path)


def split_of(run: genkit.Run) -> tuple[list[Path], list[Path]]:
    """The files of training and held-out images."""
    known = {np.asarray(Image.open(path)).tobytes(): path for path in Path("photos").glob("*.png")}
    data = run.data()
    return tuple(  # type: ignore[return-value]
        [known[image.numpy().tobytes()] for image in split.images]
        for split in (data.train, data.test)
    )


@pytest.mark.parametrize("which", ["training", "held-out"])
def test_changed_images_are_refused_by_every_command_that_reads_them(
    pictures: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    run = genkit.train("ae", dataset="folder:photos", out="run", **QUICK)
    training, held_out = split_of(run)
    change((training if which == "training" else held_out)[0])
    for command in (
        ("evaluate", "run", "--metrics", "reconstruction-error"),
        ("resume", "run", "--iterations", "4"),
        ("reconstruct", "run"),
        ("latent", "run"),
    ):
        code, _, err = run_cli(capsys, *command)
        assert code == 1
        assert f"error: the {which} images from {Path('photos').resolve()} are not those" in err
        assert "pass --dataset folder:PLACE" in err
    assert run_cli(capsys, "report", "run")[0] == 0
    page = (run.path / "report.html").read_text()
    assert f"the {which} images from" in page


def test_counts_and_shapes_that_differ_are_named(pictures: Path) -> None:
    run = genkit.train("ae", dataset="folder:photos", out="run", **QUICK)
    held_out = len(split_of(run)[1])
    split_of(run)[1][0].unlink()
    with pytest.raises(
        genkit.DataError, match=rf"held-out images .* \({held_out - 1} now, {held_out} then\)"
    ):
        run.data()
    split = genkit.Split(torch.zeros(20, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(genkit.DataError, match=r"\(3x4x4 now, 1x8x8 then\)"):
        run.data(dataset=genkit.ImageData(split, split, "here"))


def test_of_an_older_run_the_training_images_are_compared(plugin) -> None:
    run = genkit.train("ae", dataset="stripes", out="run", **QUICK)
    info = info_of("run")
    dataset = info["dataset"]
    dataset["fingerprint"] = dataset.pop("training_fingerprint")
    for name in ("options", "class_names", "summary"):
        del dataset[name]
    (run.path / "run.json").write_text(json.dumps(info))
    import stripes_target

    old = genkit.load("run")
    old.data()
    assert stripes_target.SEEN[-1].legacy
    assert old.info.dataset.of_training == dataset["fingerprint"]
    genkit.resume("run", 3, progress=False)
    assert info_of("run")["dataset"]["options"] is None
    dataset["fingerprint"] = "0" * 64
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(genkit.DataError, match="the training images or their labels from made"):
        genkit.load("run").data()


# --- images that moved ---

READERS = [
    ("evaluate", "run", "--metrics", "reconstruction-error", "--count", "4"),
    ("reconstruct", "run"),
    ("latent", "run"),
    ("resume", "run", "--iterations", "4"),
]


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_images_that_moved_are_found_by_dataset(
    pictures: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    genkit.train("ae", dataset="folder:photos", out="run", image_size=6, **QUICK)
    pictures.rename("new: place")
    code, _, err = run_cli(capsys, *command)
    assert code == 1
    assert err.endswith(": pass --dataset folder:WHERE_IT_IS_NOW\n")
    before = info_of("run")
    code, _, err = run_cli(capsys, *command, "--dataset", "folder:new: place")
    assert code == 0, err
    now, then = info_of("run")["dataset"], before["dataset"]
    if command[0] != "resume":
        assert now == then
        return
    assert now["name"] == f"folder:{Path('new: place').resolve()}"
    assert now["options"] == then["options"]
    assert now["fingerprint"] == then["fingerprint"]
    assert genkit.resume("run", 5, progress=False).step == 5


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_folder_that_moved_is_found_by_data_root(
    pictures: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    genkit.train("ae", dataset="folder:photos", out="run", image_size=6, **QUICK)
    pictures.rename("new")
    code, _, err = run_cli(capsys, *command, "--data-root", "new")
    assert code == 0, err


def test_checks_of_a_dataset_take_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(Path("photos"), seed=0)
    Image.new("RGB", (9, 5)).save("photos/wide.png")
    check = ["check", "--kind", "dataset", "folder:photos"]
    code, out, _ = run_cli(capsys, *check)
    assert code == 1
    assert "images differ in size" in out
    code, out, _ = run_cli(capsys, *check, "--option", "image-size=6", "--option", "channels=1")
    assert code == 0, out
    for wrong, message in (
        ("image_size", "is not NAME=VALUE"),
        ("sise=6", "unknown option 'sise'"),
    ):
        code, _, err = run_cli(capsys, *check, "--option", wrong)
        assert code == 2, err
        assert message in err
    code, _, err = run_cli(capsys, "check", "ae", "--option", "a=1")
    assert code == 2
    assert "only datasets have options here" in err


def test_a_user_without_a_home_directory_resumes(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genkit.train("ae", dataset="folder:photos", out="run", **QUICK)

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(nowhere))
    assert genkit.resume("run", 4, progress=False).step == 4


def test_a_report_finds_images_that_moved(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genkit.train("ae", dataset="folder:photos", out="run", **QUICK)
    pictures.rename("new")
    run_cli(capsys, "report", "run")
    assert "pass --dataset folder:WHERE_IT_IS_NOW" in Path("run/report.html").read_text()
    run_cli(capsys, "report", "run", "--dataset", "folder:new")
    assert 'id="reconstructions"' in Path("run/report.html").read_text()


def test_images_that_moved_are_found_in_python(pictures: Path) -> None:
    run = genkit.train("ae", dataset="folder:photos", out="run", **QUICK)
    pictures.rename("new")
    with pytest.raises(genkit.DataUnavailableError, match="pass --dataset folder:WHERE_IT_IS_NOW"):
        run.data()
    assert len(run.data(dataset="folder:new").train) == run.info.dataset.images
    metrics = ["reconstruction-error"]
    measured = genkit.evaluate(run, metrics, dataset="folder:new", count=4, progress=False)
    assert measured["reconstruction-error"].step == 2
    write_pictures(Path("other"), seed=1)
    with pytest.raises(genkit.DataError, match=r"the training images from .*other are not those"):
        genkit.resume("run", 4, dataset="folder:other", progress=False)
    assert genkit.resume("run", 4, dataset="folder:new", progress=False).step == 4
    assert genkit.resume("run", 6, progress=False).step == 6


def test_options_survive_a_place_that_has_none(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genkit.train("ae", dataset="folder:photos", image_size=6, out="run", **QUICK)
    code, _, err = run_cli(capsys, "data", "pack", "folder:photos", "file", "--image-size", "6")
    assert code == 0, err
    genkit.resume("run", 3, dataset="packed:file", progress=False)
    assert info_of("run")["dataset"]["name"] == f"packed:{Path('file').resolve()}"
    genkit.resume("run", 4, dataset="folder:photos", progress=False)
    assert genkit.resume("run", 5, progress=False).step == 5


def test_images_in_memory_are_found_in_a_folder_and_the_other_way_round(pictures: Path) -> None:
    run = genkit.train("ae", dataset="folder:photos", out="run", **QUICK)
    data = run.data()
    assert genkit.resume("run", 3, dataset=data, progress=False).step == 3
    in_memory = genkit.train("ae", dataset=data, out="memory", **QUICK)
    with pytest.raises(genkit.UsageError, match="the program that has them"):
        in_memory.data()
    assert genkit.resume("memory", 3, dataset="folder:photos", progress=False).step == 3
    assert genkit.resume("memory", 4, progress=False).step == 4


# --- classes by name ---


@pytest.fixture
def painter(plugin) -> genkit.Run:
    data = genkit.load(genkit.train("ae", dataset="stripes", **QUICK).path).data()
    return genkit.train("painter", dataset=data, out="painter", iterations=1, progress=False)


def levels(run: genkit.Run, labels: Any) -> list[int]:
    return [round(float(image.mean()) * 10) for image in run.sample(len(labels), labels=labels)]


def test_labels_are_names_or_numbers(painter: genkit.Run) -> None:
    assert painter.class_names == ("dogs", "salt, pepper", "7")
    assert levels(painter, ["salt, pepper", "dogs", "7", "1", 2]) == [1, 0, 2, 1, 2]
    with pytest.raises(genkit.UsageError, match=r"label 'dgos': .* did you mean 'dogs'"):
        painter.sample(1, labels=["dgos"])
    with pytest.raises(genkit.UsageError, match="no such class; its classes are 'dogs', 'salt"):
        painter.sample(1, labels=["elephant"])
    with pytest.raises(genkit.UsageError, match="whole numbers from 0 to 2"):
        painter.sample(1, labels=["3"])


def test_labels_by_name_on_the_command_line(
    painter: genkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--labels", '"salt, pepper", dogs')
    code, _, err = run_cli(capsys, "sample", "painter", "--count", "4", *names, "--out", "a.npy")
    assert code == 0, err
    drawn = np.load("a.npy").reshape(4, -1).mean(1)
    assert drawn[0] == drawn[2] > drawn[1] == drawn[3]
    code, _, err = run_cli(capsys, "interpolate", "painter", "--pairs", "2", *names)
    assert code == 0, err
    for wrong, says in (
        ("cats", "no such class"),
        ('"salt', "--labels"),
        ("dogs,,dogs", "is no list of labels"),
    ):
        code, _, err = run_cli(capsys, "sample", "painter", "--labels", wrong)
        assert (code, err.count("\n")) == (2, 1)
        assert says in err


def test_an_unconditional_model_is_named_as_it_was_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    genkit.train("simple-gan", dataset="digits", out="run", iterations=1, progress=False)
    code, _, err = run_cli(capsys, "sample", "run", "--labels", "3")
    assert code == 2
    assert "simple-gan is not conditional" in err
    assert "SimpleGAN" not in err


def test_reports_show_classes_by_name(
    plugin, painter: genkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    genkit.train("ae", dataset="stripes", out="run", **QUICK)
    assert run_cli(capsys, "report", "run")[0] == 0
    page = Path("run/report.html").read_text()
    assert "0: dogs, 1: salt, pepper, 2: 7" in page
    assert "40 images of stripes 1 wide" in page
    assert 'id="latent-map"' in page
    assert "--stripe-width" not in page
    wide = genkit.train("ae", dataset="stripes", stripe_width=2, upright=True, **QUICK)
    assert run_cli(capsys, "report", str(wide.path))[0] == 0
    assert "--stripe-width 2 --upright" in (wide.path / "report.html").read_text()


def test_the_reproducing_command_types_a_size_as_it_is_read(pictures: Path) -> None:
    from genkit.report.reproduction import reproduce

    run = genkit.train("ae", dataset="folder:photos", image_size="4x6", **QUICK)
    command, note = reproduce(run)
    assert "--image-size 4x6" in command
    assert "complete the path behind --dataset" in note


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
def test_names_of_another_number_than_the_classes_are_refused(images, names) -> None:
    split = genkit.Split(images, torch.arange(len(images)) % 2)
    with pytest.raises(genkit.DataError, match="class_names for 2 classes"):
        genkit.ImageData(split, split, "here", 2, class_names=names)


# --- comparison ---


def test_compare_marks_values_of_runs_on_different_images(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        genkit.train("ae", dataset="folder:photos", out=name, **QUICK)
        metrics = ["reconstruction-error"]
        genkit.evaluate(name, metrics, count=3, progress=False)
        if name == "a":
            shutil.rmtree("photos")
            write_pictures(Path("photos"), seed=1)
    out = run_cli(capsys, "compare", "b", "c")[1]
    assert "not comparable" not in out
    assert info_of("b")["dataset"]["fingerprint"][:12] in out
    code, out, _ = run_cli(capsys, "compare", "a", "b", "--html", "both.html")
    assert code == 0
    assert "not comparable: the runs have different training images (a: " in out
    comparison = compare_runs([Path("a"), Path("b")])
    tables = {table.name: table for table in comparison.tables}
    for name in ("losses", "figures"):
        assert tables[name].rows
        assert all(row.marked and row.cells[0].endswith(" *") for row in tables[name].rows)
    assert "Not comparable:" in Path("both.html").read_text()


def test_compare_marks_metrics_where_only_held_out_images_differ(plugin) -> None:
    data = genkit.train("ae", dataset="stripes", **QUICK).data()
    other = genkit.ImageData(
        data.train,
        genkit.Split(255 - data.test.images, data.test.labels),
        "here",
        3,
    )
    for name, images in (("a", data), ("b", other)):
        genkit.train("ae", dataset=images, out=name, **QUICK)
        genkit.evaluate(name, ["reconstruction-error"], dataset=images, count=3, progress=False)
    tables = {table.name: table for table in compare_runs([Path("a"), Path("b")]).tables}
    assert not any(row.marked for row in tables["losses"].rows)
    assert all(row.marked for row in tables["figures"].rows)
    assert "different held-out images" in tables["figures"].notes[0]


def test_compare_shows_options_of_datasets_that_differ(plugin) -> None:
    for name, width in (("a", 1), ("b", 2)):
        genkit.train("ae", dataset="stripes", stripe_width=width, out=name, **QUICK)
    tables = {table.name: table for table in compare_runs([Path("a"), Path("b")]).tables}
    rows = {row.cells[0]: row.cells[1:] for row in tables["images"].rows}
    assert rows["stripe_width"] == ["1", "2"]
    assert "upright" not in rows


# --- paths ---


def test_a_path_for_a_dataset_is_answered_by_what_to_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder, shown in (
        ("plain", "--dataset folder:plain"),
        ("my photos", '--dataset "folder:my photos"'),
        ("at: home", '--dataset "folder:at: home"'),
        ("C:\\Users\\me\\pics", "--dataset folder:C:\\Users\\me\\pics"),
    ):
        if "\\" not in folder:
            Path(folder).mkdir()
        code, _, err = run_cli(capsys, "train", "ae", "--dataset", folder)
        assert code == 2
        assert err.rstrip().endswith(shown)


@pytest.mark.parametrize("name", ["with space", "a:b:c", "~tilde", "日本", "C:\\me\\pics"])
def test_folders_of_any_name_work_everywhere(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_pictures(Path(name), count=30)
    typed = f"folder:{Path(name).absolute() if name.startswith('~') else name}"
    code, out, err = run_cli(capsys, "train", "ae", "--dataset", typed, *TYPED)
    assert code == 0, err
    run = out.splitlines()[-1]
    assert run.isascii()
    assert "/" not in run.removeprefix("runs/")
    os.chdir("runs")  # the recorded place is absolute
    run = run.removeprefix("runs/")
    for command in ("reconstruct", "report"):
        code, _, err = run_cli(capsys, command, run)
        assert code == 0, err
    assert 'id="reconstructions"' in Path(run, "report.html").read_text()


def test_a_path_that_is_not_utf8_is_refused_before_training(pictures: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        pictures.rename(name)
    except OSError:
        pytest.skip("this file system takes no such name")
    for arguments in (
        ["--dataset", f"folder:{name}"],
        ["--dataset", "digits", "--data-root", name],
        ["--dataset", "folder:."],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "genkit", "train", "ae", *arguments, *TYPED],
            capture_output=True,
            check=False,
            cwd=name if arguments[1] == "folder:." else None,
        )
        error = done.stderr.decode()
        assert done.returncode in (1, 2), error
        assert "is not UTF-8" in error.splitlines()[-1]
        assert "Traceback" not in error
    assert not Path("runs").exists()
    assert not Path(name, "runs").exists()
