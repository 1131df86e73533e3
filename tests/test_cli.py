"""The command line as a person and as a program meet it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.cli import output
from genkit.cli.main import main
from genkit.cli.options import config_options
from genkit.config import TrainOptions
from genkit.testing import CHECKS

SMALL = ["--iterations", "12", "--batch-size", "4", "--device", "cpu", "--dataset", "digits"]
SMALL += ["--log-interval", "6", "--sample-interval", "6"]


def genkit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    """Exit code, lines on standard output, lines on standard error."""
    capsys.readouterr()
    try:
        main(list(arguments))
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Path:
    model = getattr(request, "param", "simple-gan")
    code, out, _ = genkit(capsys, "train", model, *SMALL)
    assert code == 0
    return Path(out[-1])


def test_train_prints_the_articles_lines_and_where_things_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = genkit(capsys, "train", "simple-gan", *SMALL)
    assert code == 0
    assert out[0].startswith("6 [D loss: 0.")
    assert "%] [G loss: " in out[0]
    assert out[-2:] == [
        "samples: runs/0001-simple-gan-digits/samples/000000012.png",
        "runs/0001-simple-gan-digits",
    ]
    assert err == ["training to 12 iterations in runs/0001-simple-gan-digits"]
    assert genkit(capsys, "train", "simple-gan", *SMALL)[1][-1] == "runs/0002-simple-gan-digits"


def test_falls_back_to_digits_aloud(
    capsys: pytest.CaptureFixture[str], no_network: None, tmp_path: Path
) -> None:
    arguments = ["--iterations", "2", "--data-root", str(tmp_path / "empty"), "--device", "cpu"]
    code, out, err = genkit(capsys, "train", "simple-gan", *arguments)
    assert code == 0
    assert "training on digits instead" in err[0]
    info = json.loads((Path(out[-1]) / "run.json").read_text())
    assert info["dataset"]["name"] == "digits"


@pytest.mark.parametrize("run", ["ae", "vae"], indirect=True)
def test_models_with_a_test_loss_print_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = json.loads((run / "run.json").read_text())["model"]["name"]
    _, out, _ = genkit(capsys, "train", model, *SMALL)
    assert out[-3].startswith("test after 12 iterations: loss: ")
    assert json.loads((run / "evaluation.json").read_text())["test"]["images"] == 299
    code, out, _ = genkit(capsys, "reconstruct", str(run), "--count", "3")
    assert code == 0
    with Image.open(out[0]) as picture:
        assert picture.size[0] > picture.size[1]


def test_sample_as_grid_array_and_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "a.npy", "folder"):
        assert genkit(capsys, "sample", str(run), "--count", "5", "--out", name)[:2] == (0, [name])
    assert np.load("a.npy").shape == (5, 28, 28)
    assert len(list(Path("folder").iterdir())) == 5
    code, out, _ = genkit(capsys, "sample", str(run), "--seed", "3")
    assert (code, out) == (0, [str(run / "plots" / "samples-seed-3.png")])


def test_resume_goes_to_a_total(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = genkit(capsys, "resume", str(run), "--iterations", "20")
    assert code == 0
    assert err == [f"training from step 12 to 20 iterations in {run}"]
    assert out[-1] == str(run)
    assert "total" in " ".join(genkit(capsys, "resume", "--help")[1])


@pytest.mark.parametrize("command", ["sample", "plot"])
def test_other_suffixes_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, err = genkit(capsys, command, str(run), "--out", "a.jpg")
    assert (code, out, len(err)) == (2, [], 1)
    assert not Path("a.jpg").exists()


def test_plot(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert genkit(capsys, "plot", str(run), "--out", "curves.png")[:2] == (0, ["curves.png"])
    with Image.open("curves.png") as picture:
        assert picture.size[0] > 500


def test_list_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    counts = json.loads("\n".join(genkit(capsys, "list", "--json")[1]))
    assert [row["kind"] for row in counts] == [
        *("models", "datasets", "metrics", "callbacks", "classifiers", "plugins")
    ]
    code, out, _ = genkit(capsys, "list")
    assert code == 0
    assert [line.split() for line in out] == [
        ["kind", "installed"],
        *([row["kind"], str(row["installed"])] for row in counts),
    ]
    names = ("simple-gan", "cifar10", "elbo", "tensorboard", "lenet", "builtin")
    for name, count in zip(names, counts, strict=True):
        kind = count["kind"]
        code, out, _ = genkit(capsys, "list", kind)
        assert code == 0
        assert any(line.split()[0] == name for line in out)
        assert len(out) == count["installed"] + 1
        if kind == "classifiers":  # younger than the hidden aliases
            continue
        assert genkit(capsys, kind)[1] == out  # the hidden alias
        rows = json.loads("\n".join(genkit(capsys, "list", kind, "--json")[1]))
        assert name in [row["name"] for row in rows]
        assert genkit(capsys, kind, "--json")[1] == genkit(capsys, "list", kind, "--json")[1]
    assert set(rows[0]) == {"name", "distribution", "version", "origin"}


def test_help_has_sections_and_hides_the_aliases(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = genkit(capsys, "--help")
    titles = [line for line in out if line.endswith(":") and not line.startswith(" ")]
    expected = ["Options:", "Train:", "Look:", "Judge:", "Data:", "Find:", "Plugins:"]
    assert titles[:7] == expected
    shown = [line.split()[0] for line in out if line.startswith("  ") and line.strip()]
    assert {"train", "sample", "evaluate", "list", "doctor"} <= set(shown)
    assert not {"models", "datasets", "metrics", "callbacks", "plugins"} & set(shown)


def test_tables_are_aligned_and_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    long = "x" * 200
    output.print_table([("name", "value"), ("[red]a[/]:smile:", long), ("\x1b[2J\n", "日本")])
    assert capsys.readouterr().out.split("\n") == [
        "name              value",
        f"[red]a[/]:smile:  {long}",
        "\\x1b[2J\\n         日本",
        "",
    ]
    output.print_table([("日本", "b"), ("a", long)], max_cell=9)
    assert capsys.readouterr().out == f"日本  b\na     {'x' * 8}…\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["models"],
        ["plugins"],
        ["runs", "."],
        ["train", "--help"],
        ["--version"],
    ],
)
def test_no_torch_where_none_is_needed(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom genkit.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_and_plugins_import_no_plugin() -> None:
    code = (
        "import sys\nfrom genkit.cli.main import main\n"
        "for command in (['--help'], ['plugins'], ['list', 'plugins']):\n"
        "    try: main(command)\n    except SystemExit: pass\n"
        "assert 'genkit_plugins' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_help_lists_every_option_with_default_and_meaning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from genkit_plugins.simple_gan import SimpleGAN

    text = " ".join(" ".join(genkit(capsys, "train", "simple-gan", "--help")[1]).split())
    for config in (SimpleGAN.Config, TrainOptions):
        for option in config_options(config):
            assert option.opts[0] in text
        for field in config.model_fields.values():
            assert field.description in text
    assert "[default: 100; at least 1]" in text
    assert "[default: 0.9,0.999]" in text


def test_check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of the checks: tests/test_models.py runs all of them on the built-in models."""
    kind = next(kind for kind in CHECKS if kind.noun == "model")
    few = ("options_are_strict", "samples_are_images", "reconstruction_learns")
    monkeypatch.setitem(CHECKS, kind, {name: CHECKS[kind][name] for name in few})
    code, out, _ = genkit(capsys, "check", "simple-gan")
    assert code == 0
    assert " 0 failed" in out[-1]
    report = json.loads("\n".join(genkit(capsys, "check", "simple-gan", "--json")[1]))
    assert report["failed"] == 0
    assert [check["outcome"] for check in report["checks"]] == ["passed", "passed", "skipped"]

    def fail(subject: object) -> None:
        raise AssertionError("what to change")

    monkeypatch.setitem(CHECKS, kind, {"fail": fail})
    code, out, _ = genkit(capsys, "check", "simple-gan")
    assert code == 1
    assert " 1 failed" in out[-1]


def test_config_file_and_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = genkit(
        capsys, "train", "simple-gan", "--latent-dim", "7", "--betas", "0.5,0.9", "--print-config"
    )
    assert code == 0
    assert {"latent_dim = 7", "betas = [0.5, 0.9]", "iterations = 20000"} <= set(out)
    Path("a.toml").write_text("\n".join(out))
    again = genkit(capsys, "train", "simple-gan", "--config", "a.toml", "--print-config")
    assert again[:2] == (0, out)
    assert (
        "seed = 5"
        in genkit(
            capsys, "train", "simple-gan", "--config", "a.toml", "--seed", "5", "--print-config"
        )[1]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["trian", "simple-gan"], 2, "trian"),
        (["train", "simple-gam"], 2, "unknown model 'simple-gam'; did you mean 'simple-gan'"),
        (["train", "--seed", "1", "simple-gan"], 2, "options follow the model"),
        (["train", "simple-gan", "--latnt-dim", "3"], 2, "--latnt-dim"),
        (["train", "simple-gan", "--tensorboard"], 2, "'--callbacks tensorboard'"),
        (["list", "modles"], 2, "'modles' is not one of 'models', 'datasets'"),
        (["train", "simple-gan", "--latent-dim", "0"], 2, "latent_dim '0': has to be at least 1"),
        (["train", "simple-gan", "--latent-dim", "many"], 2, "latent_dim 'many'"),
        (["train", "simple-gan", "--device", "tpu"], 2, "device 'tpu'"),
        (["train", "simple-gan", "--device", "cuda:²"], 2, "device 'cuda:²'"),
        (["train", "simple-gan", "--dataset", "mnits"], 2, "unknown dataset 'mnits'; did you mean"),
        (
            ["train", "simple-gan", "--dataset", "mnist", "--data-root", "empty"],
            1,
            "dataset mnist not found in empty/MNIST/raw",
        ),
        (["train", "simple-gan", "--dataset", "folder:absent"], 1, "absent does not exist"),
        (["train", "simple-gan", "--config", "absent.toml"], 2, "absent.toml: No such file"),
        (["train", "simple-gan", "--config", "bad.toml"], 2, "bad.toml"),
        (["train", "simple-gan", "--config", "unknown.toml"], 2, "did you mean 'latent_dim'"),
        (
            ["train", "simple-gan", *SMALL, "--out", "/proc/nowhere"],
            1,
            "cannot write the run folder /proc/nowhere",
        ),
        (["resume", "absent"], 1, "absent is not a run folder"),
        (["sample", "absent"], 1, "absent is not a run folder"),
        (["sample", "absent", "--count", "0"], 2, "--count"),
        (["plot", "absent"], 1, "absent is not a run folder"),
        (["check", "simple-gam"], 2, "did you mean 'simple-gan'"),
        (["check", "digits"], 2, "digits is a dataset: pass --kind dataset"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], no_network: None
) -> None:
    Path("bad.toml").write_text("latent_dim = = 3")
    Path("unknown.toml").write_text("latent_dmi = 3")
    found, out, err = genkit(capsys, *arguments)
    assert (found, out, len(err)) == (code, [], 1), err
    assert err[0].startswith("error: ")
    assert says in err[0]
    assert not Path("runs").exists()


def test_cuda_without_one_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    code, _, err = genkit(capsys, "train", "simple-gan", "--device", "cuda")
    assert (code, len(err)) == (1, 1)
    assert "sees 0 CUDA devices" in err[0]


def test_bad_runs_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = genkit(capsys, "train", "simple-gan", *SMALL, "--out", str(run))
    assert (code, len(err)) == (1, 1)
    assert "already holds a run" in err[0]
    code, _, err = genkit(capsys, "reconstruct", str(run))
    assert (code, len(err)) == (2, 1)
    assert "has no encoder" in err[0]
    code, _, err = genkit(capsys, "resume", str(run))
    assert (code, len(err)) == (2, 1)
    assert "at step 12 already" in err[0]
    for path in (run / "checkpoints").glob("*/model.safetensors"):
        path.write_bytes(b"damaged")
    code, _, err = genkit(capsys, "sample", str(run))
    assert (code, len(err)) == (1, 1)
    assert "model.safetensors: damaged" in err[0]


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="unknown model"):
        main(["--debug", "train", "nothing"])
