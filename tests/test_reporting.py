"""Reports, comparisons and the list of runs: what they say, what they refuse, and that nothing is
left out silently.
"""

import io
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import genkit
from genkit.cli.main import main
from genkit.errors import GenkitError, RunError, UsageError
from genkit.report import charts, embedding, html as pages, reproduction
from genkit.report.comparison import compare_runs
from genkit.report.run_report import make_report
from genkit.report.summary import find_runs, shorten_dataset, summarise
from genkit.storage import lock
from genkit.storage.folder import EVALUATION, RunFolder
from tests.conftest import TinyGAN
from tests.pages import check_page

OPTIONS = {
    "iterations": 8,
    "batch_size": 4,
    "log_interval": 2,
    "sample_interval": 2,
    "device": "cpu",
    "progress": False,
}
SMALL = {"latent_dim": 2, "hidden_dim": 4}
HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.org/x>\x1b[2J\u202e{{ 7*7 }}"


@pytest.fixture
def gan() -> genkit.Run:
    return genkit.train("simple-gan", dataset="digits", out=Path("gan"), **OPTIONS, **SMALL)


def page_of(run: genkit.Run) -> str:
    return pages.write_report(run).read_text(encoding="utf-8")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_report_says_what_was_trained_and_how_to_do_it_again(gan: genkit.Run) -> None:
    html = page_of(gan)
    page = check_page(html)
    assert page.texts["title"] == ["simple-gan on digits"]
    headings = [tag for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert headings[:2] == ["h1", "h2"]
    assert html.count("<figcaption>") >= 4  # a grid at 2, 4, 6 and 8
    assert "finished" not in html
    command = shlex.split(page.texts["code"][0])
    assert command[:5] == ["genkit", "train", "simple-gan", "--dataset", "digits"]
    main([*command[1:], "--out", "again"])
    assert Path("again/metrics.jsonl").read_bytes() == Path("gan/metrics.jsonl").read_bytes()


def test_the_command_of_another_plugin_and_of_odd_values_is_quoted() -> None:
    assert reproduction.to_arguments("keep_all", False) == ["--no-keep-all"]
    assert reproduction.to_arguments("betas", [0.5, 0.9]) == ["--betas", "0.5,0.9"]
    assert reproduction.to_arguments("out", None) == []
    assert reproduction.qualify("dcgan", "genkit-dcgan") == "genkit-dcgan/dcgan"
    assert reproduction.qualify("vae", "genkit-torch") == "vae"


def test_what_cannot_be_shown_is_named_with_its_reason(gan: genkit.Run) -> None:
    html = page_of(gan)
    missing = html[html.index('id="missing"') :]
    assert "simple-gan cannot reconstruct images" in missing
    assert "has not been measured" in missing
    for name in ("Reconstructions", "Interpolation", "Latent map", "Evaluation"):
        assert (f"<dt>{name}</dt>" in missing) != (f">{name}</h2>" in html), name


def test_a_model_with_an_encoder_shows_reconstructions_and_what_it_measured() -> None:
    run = genkit.train("ae", dataset="digits", out=Path("ae"), **OPTIONS)
    html = page_of(run)
    assert 'id="reconstructions"' in html
    assert "test " in html[html.index('id="evaluation"') :]


def test_a_class_of_no_plugin_has_a_report_too(images: torch.Tensor) -> None:
    run = genkit.train(TinyGAN, dataset=images, out=Path("own"), **OPTIONS)
    html = page_of(genkit.load(run.path))
    assert "Trained from Python" in html
    assert "trained with a class that is not in a plugin" in html
    check_page(html)


def test_grids_are_thinned_out_and_bad_ones_left_out(gan: genkit.Run, tmp_path: Path) -> None:
    for step in range(100, 160):
        (gan.path / "samples" / f"{step:09d}.png").write_bytes(gan.folder.samples(8).read_bytes())
    gan.folder.samples(159).write_bytes(b"no picture")
    (tmp_path / "elsewhere.png").write_bytes(b"secret")
    gan.folder.samples(2).unlink()
    gan.folder.samples(2).symlink_to(tmp_path / "elsewhere.png")
    html = page_of(gan)
    assert html.count('class="grid"') == embedding.MAX_GRIDS - 2 + 1
    assert "20 of 64 grids, evenly chosen." in html
    assert "not a PNG image that can be read" in html
    assert "leads out of the run folder" in html


def test_a_large_picture_is_made_smaller_and_a_huge_one_refused() -> None:
    noise = torch.randint(0, 256, (900, 900, 3), dtype=torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    found = embedding.embed(buffer.getvalue(), 512, 60_000, "noise")
    assert max(found.width, found.height) <= 512
    assert len(found.base64) < 60_000 * 1.34 + 4
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, format="PNG")
    with pytest.raises(RunError, match="pixels, more than"):
        embedding.embed(buffer.getvalue(), 512, 60_000, "x")
    with pytest.raises(RunError, match="not a PNG image"):
        embedding.embed(b"GIF89a", 512, 60_000, "x")


def test_hostile_names_are_shown_and_do_nothing(gan: genkit.Run) -> None:
    info = gan.path / "run.json"
    edit(
        info,
        environment={
            **json.loads(info.read_text())["environment"],
            "torch": HOSTILE,
            "device": HOSTILE,
        },
    )
    edit(info, dataset={**json.loads(info.read_text())["dataset"], "name": HOSTILE})
    rows = [{"step": step, HOSTILE: 0.5, f"{HOSTILE}loss": 1e308 * step} for step in (1, 2)]
    (gan.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    about = {
        "step": 8,
        "images": 10,
        "extractor": {"name": HOSTILE, "sha256": HOSTILE},
        "figures": {HOSTILE: 1.0},
    }
    (gan.path / "evaluation.json").write_text(
        json.dumps({"metrics": {HOSTILE: about}, "test": {HOSTILE: 2}})
    )
    (gan.path / "failure.json").write_text(json.dumps({"step": 2, "reason": HOSTILE}))
    html = page_of(genkit.load(gan.path))
    check_page(html, HOSTILE)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7*7 }}" in html
    path = pages.write_comparison(compare_runs([gan.path, gan.path]), Path("both.html"))
    check_page(path.read_text(encoding="utf-8"), HOSTILE)


def test_a_report_is_html_and_says_where_it_is(
    gan: genkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", "gan"])
    assert capsys.readouterr().out == "gan/report.html\n"
    main(["report", "gan", "--out", "deep/er.html"])
    assert Path("deep/er.html").is_file()
    with pytest.raises(UsageError, match=r"ends in \.html"):
        pages.write_report(gan, Path("report.pdf"))


def test_figures_stand_with_what_they_rest_on(gan: genkit.Run) -> None:
    about = {
        "step": 8,
        "images": 5000,
        "held_out": 4000,
        "seed": 3,
        "extractor": {"name": "lenet", "sha256": "0123456789abcdef", "accuracy": 0.991},
        "figures": {"fid": 12.5, "odd": "text", "endless": float("inf")},
        "floor": {"fid": 0.75},
    }
    (gan.path / "evaluation.json").write_text(json.dumps({"metrics": {"fid": about}}))
    html = page_of(gan)
    row = html[html.index("fid</th>") :].split("</tr>")[0]
    for text in (
        "12.5",
        "0.75",
        "step 8, N = 5,000, 4,000 held out, seed 3",
        "lenet 0123456789ab (99.10% accurate)",
    ):
        assert f"<td>{text}</td>" in row
    assert "odd" not in html
    assert "endless" not in html


def test_charts_are_bounded_and_take_any_finite_number() -> None:
    rows = [{"step": step, "loss": float(step % 7)} for step in range(1, 100_001)]
    (chart,) = charts.make_charts(rows)
    assert chart.lines[0].path.count("L") <= charts.MAX_POINTS
    thinned = [y for _, y in charts.thin(rows, "loss")]
    assert sum(thinned) / len(thinned) == pytest.approx(3, abs=0.01)
    for values in (
        [0.0, 0.0],
        [1e308, -1e308],
        [5e-324, 0.0],
        [1e300, 1e300 * (1 + 1e-15)],
        [-3.0, 1e9],
    ):
        (chart,) = charts.make_charts([{"step": n, "x": v} for n, v in enumerate(values)])
        assert 2 <= len(chart.y_ticks) < 10
        assert "nan" not in chart.lines[0].path
        assert "inf" not in chart.lines[0].path
    with pytest.raises(RunError, match="no metrics"):
        charts.make_charts([{"step": 1}, {"step": 2}])
    with pytest.raises(RunError, match="a curve needs 2 rows"):
        charts.make_charts([{"step": 1, "loss": 1.0}])


def test_comparison_shows_what_differs_and_flags_what_is_not_comparable(
    gan: genkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    other = genkit.train(
        "simple-gan", dataset="digits", out=Path("other"), **{**OPTIONS, **SMALL, "hidden_dim": 5}
    )
    for run, count, seed in ((gan, 100, 0), (other, 200, 0)):
        figures = {
            "fid": {
                "step": 8,
                "images": count,
                "seed": seed,
                "figures": {"fid": 1.0},
                "floor": {"fid": 0.5},
            }
        }
        same = {"same": {"step": 8, "images": 50, "seed": seed, "figures": {"a": 1.0}}}
        (run.path / "evaluation.json").write_text(json.dumps({"metrics": figures | same}))
    main(["compare", "gan", "other", "--html", "both.html"])
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["hidden_dim", "4", "5"] in lines
    assert not any(line[:1] == ["latent_dim"] for line in lines)
    assert "not comparable: fid rests on a different number of images" in out
    assert "same a *" not in out
    assert "1, floor 0.5, N = 100" in out
    assert "other/samples/000000008.png" in out
    html = Path("both.html").read_text(encoding="utf-8")
    check_page(html)
    assert html.count('class="grid"') == 2
    for wrong, says in (
        (["gan"], "from 2 to 12"),
        (["gan", "nowhere"], "nowhere is not a run folder"),
    ):
        with pytest.raises(GenkitError, match=says):
            compare_runs([Path(path) for path in wrong])


class Fails(TinyGAN):
    """Its losses are no numbers from the fourth iteration on."""

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        metrics = dict(super().step(batch, rng))
        return {**metrics, "d_loss": torch.where(self.iteration < 3, metrics["d_loss"], torch.nan)}


def test_states_of_runs(
    tmp_path: Path, images: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = tmp_path / "runs"
    finished = genkit.train(TinyGAN, dataset=images, out=parent / "a", **OPTIONS)
    with pytest.raises(GenkitError):
        genkit.train(Fails, dataset=images, out=parent / "b", **OPTIONS)
    interrupted = genkit.train(TinyGAN, dataset=images, out=parent / "c", **OPTIONS)
    interrupted.folder.inside("plots/curves.png").unlink()
    (parent / "d").mkdir()
    (parent / "d" / "run.json").write_text("{}")
    (parent / "e").mkdir()
    (parent / "f.txt").touch()
    with lock.hold(finished.folder):
        assert summarise(finished.path).state == "running"
    found = {run.path.name: run for run in find_runs(parent)}
    assert {name: run.state for name, run in found.items()} == {
        "a": "finished",
        "b": "failed",
        "c": "interrupted",
        "d": "damaged",
    }
    assert found["a"].losses.keys() == {"d_loss", "g_loss"}
    assert found["b"].reason.startswith("step 4: d_loss became nan")
    main(["runs", str(parent)])
    out = capsys.readouterr().out
    assert "b: step 4: " in out
    assert "d: run.json is not as genkit writes it" in out
    main(["runs", str(parent), "--json"])
    assert [run["state"] for run in json.loads(capsys.readouterr().out)] == [
        "finished",
        "failed",
        "interrupted",
        "damaged",
    ]
    with pytest.raises(GenkitError, match="No such file"):
        find_runs(parent / "nowhere")


def test_resuming_forgets_the_failure(images: torch.Tensor) -> None:
    run = genkit.train(TinyGAN, dataset=images, out=Path("a"), **OPTIONS)
    run.folder.write_json("failure.json", {"step": 8, "reason": "the disk is full"})
    assert summarise(run.path).state == "failed"
    genkit.resume(run.path, 10, trainer=TinyGAN, dataset=images, progress=False)
    assert summarise(run.path).state == "finished"


def test_asking_for_the_state_keeps_no_one_from_training(gan: genkit.Run) -> None:
    import fcntl

    with (gan.path / ".lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        code = (
            "from pathlib import Path\nfrom genkit.storage.folder import RunFolder\n"
            "from genkit.storage import lock\nwith lock.hold(RunFolder(Path('gan'))): print('in')"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert lock.is_held(gan.folder) is False  # two may ask at once
        time.sleep(0.05)
        fcntl.flock(file, fcntl.LOCK_UN)
        assert process.communicate()[0] == "in\n"


@pytest.mark.parametrize(
    "content", ["[]", "null", '{"model": 3}', "{", '{"metrics": [1]}', "\xff" * 10]
)
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "evaluation.json", "failure.json"])
def test_damaged_files_make_one_row_and_no_traceback(
    gan: genkit.Run, name: str, content: str
) -> None:
    (gan.path / name).write_text(content + "\n")
    (row,) = find_runs(gan.path.parent)
    assert row.state in ("damaged", "finished", "interrupted")
    if row.state == "damaged":
        assert row.reason
        with pytest.raises(GenkitError):
            make_report(genkit.load(gan.path))


def test_a_hundred_runs_are_listed_without_torch(gan: genkit.Run) -> None:
    files = {name: (gan.path / name).read_bytes() for name in ("run.json", "metrics.jsonl")}
    for number in range(100):
        folder = Path("runs") / f"{number:04d}"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    code = (
        "import sys; from genkit.cli.main import main\n"
        "main(['runs']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("interrupted") == 100


def test_the_last_row_is_found_without_the_rest(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last_row("metrics.jsonl") == {}
    (tmp_path / "metrics.jsonl").write_text('no row\n{"step": 3, "loss": 1.5}\n{"step": 4, "lo')
    assert folder.last_row("metrics.jsonl") == {"step": 3, "loss": 1.5}
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "lo')
    assert folder.last_row("metrics.jsonl") == {}
    (tmp_path / "metrics.jsonl").write_text("no row\n")
    with pytest.raises(RunError, match="damaged"):
        folder.last_row("metrics.jsonl")


def test_a_run_of_one_row_is_finished_and_its_page_has_no_empty_curve(
    gan: genkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = genkit.train(
        "simple-gan", dataset="digits", iterations=3, batch_size=4, device="cpu", progress=False
    )
    assert summarise(run.path).state == "finished"
    html = page_of(run)
    assert "Interrupted" not in html
    assert "a curve needs 2 rows of metrics.jsonl" in html


def test_a_page_does_not_say_where_things_are(tmp_path: Path) -> None:
    pictures = tmp_path / "secret" / "mine"
    pictures.mkdir(parents=True)
    for number in range(12):
        Image.new("L", (8, 8), color=number).save(pictures / f"{number}.png")
    options = {"iterations": 2, "batch_size": 2, "device": "cpu", "progress": False}
    html = page_of(genkit.train("simple-gan", dataset=f"folder:{pictures}", **options))
    assert "secret" not in html
    assert "folder:mine" in html
    assert shorten_dataset("folder:C:\\secret\\mine") == "folder:mine"
    assert shorten_dataset("mnist") == "mnist"


def test_a_metric_of_many_figures_does_not_flood_the_page(gan: genkit.Run) -> None:
    figures = {f"dimension_{number}": 1.0 for number in range(30)}
    gan.folder.merge_json(
        EVALUATION,
        {"metrics": {"kl-per-dimension": {"step": 1, "images": 5, "figures": figures}}},
    )
    html = page_of(gan)
    assert "kl-per-dimension: 22 more in evaluation.json" in html
    assert "dimension 7" in html
    assert "dimension 8" not in html
