"""Pictures of what a run has learned: interpolation, latent map, manifold and animation."""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import genkit
from genkit.data import images as pixels
from genkit.evaluation import latents
from genkit.evaluation.latents import estimate_prior, slerp
from genkit.report import pictures
from genkit.report.pictures import animation
from genkit.rng import Rng
from tests.conftest import run_cli

from .conftest import TinyGAN, TinyGenerator

OPTIONS = {
    "iterations": 8,
    "batch_size": 4,
    "sample_interval": 2,
    "device": "cpu",
    "progress": False,
}


def decoded(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as opened:
        return np.asarray(opened.convert("RGB"))


def contains(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether ``part`` lies somewhere in ``picture``, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], part.shape[:2])
    corners = np.argwhere(
        (windows[..., 0, 0] == part[0, 0, 0]) & (windows[..., -1, -1] == part[-1, -1, 0])
    )
    height, width = part.shape[:2]
    return any(np.array_equal(picture[y : y + height, x : x + width], part) for y, x in corners)


# --- slerp


def test_slerp_keeps_the_norm_and_the_ends() -> None:
    start, end = Rng(0, "a").normal(5, 2, 8), Rng(0, "b").normal(5, 2, 8)
    start, end = (z / z.flatten(1).norm(dim=1)[:, None, None] * 4 for z in (start, end))
    assert torch.equal(slerp(start, end, 0), start)
    assert torch.equal(slerp(start, end, 1), end)
    for t in (0.1, 0.5, 0.9):
        assert torch.allclose(slerp(start, end, t).flatten(1).norm(dim=1), torch.full((5,), 4.0))
        assert torch.allclose(slerp(start, end, t), slerp(end, start, 1 - t), atol=1e-6)
    thirds = slerp(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1 / 3
    )  # 30 of 90 degrees
    assert torch.allclose(thirds, torch.tensor([[3**0.5 / 2, 0.5]]))
    assert slerp(start, end, 0.5).shape == start.shape


@pytest.mark.parametrize(
    ("start", "end", "middle"),
    [
        ([1.0, 2.0], [1.0 + 1e-6, 2.0 - 1e-6], [1.0, 2.0]),
        ([1.0, 2.0], [2.0, 4.0], [1.5, 3.0]),
        ([1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]),
        ([0.0, 0.0], [1.0, 2.0], [0.5, 1.0]),
        ([3.0, 3.0], [3.0, 3.0], [3.0, 3.0]),
    ],
    ids=["nearly parallel", "parallel", "opposite", "zero", "equal"],
)
def test_slerp_is_straight_where_there_is_no_arc(
    start: list[float], end: list[float], middle: list[float]
) -> None:
    found = slerp(torch.tensor([start]), torch.tensor([end]), 0.5)
    assert torch.allclose(found, torch.tensor([middle]), atol=1e-5)


def test_slerp_about_a_centre_and_with_what_both_share() -> None:
    centre = torch.tensor([10.0, 0.0, 0.0])
    start, end = (
        torch.tensor([[11.0, 0.0, 1.0]]),
        torch.tensor([[10.0, 1.0, 1.0]]),
    )  # the last as of a one-hot
    half = slerp(start, end, 0.5, centre)
    assert torch.allclose(half, torch.tensor([[10 + 0.5**0.5, 0.5**0.5, 1.0]]))


# --- priors


class Drawn(TinyGenerator):
    """A generator whose prior is what it is given."""

    def __init__(self, draw: Callable[[int, Rng], Tensor]) -> None:
        super().__init__(genkit.DataSpec(1, 6, 5))
        self.draw = draw

    def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
        return self.draw(n, rng)


@pytest.mark.parametrize(
    ("draw", "gaussian", "standard", "centre"),
    [
        (lambda n, rng: rng.normal(n, 7), True, True, 0.0),
        (lambda n, rng: rng.normal(n, 7) * 3 + 20, True, False, 20.0),
        (lambda n, rng: rng.normal(n, 7) * torch.tensor([1, 2, 3, 4, 5, 6, 0]), True, False, 0.0),
        (lambda n, rng: rng.normal(n, 1).expand(n, 7) * 2, True, False, 0.0),
        (lambda n, rng: rng.uniform(n, 7), False, False, 0.5),
        (lambda n, rng: torch.zeros(n, 7), True, False, 0.0),
    ],
    ids=["standard", "elsewhere", "dead number", "singular", "uniform", "constant"],
)
def test_a_prior_is_known_by_its_draws(draw, gaussian: bool, standard: bool, centre: float) -> None:
    found = estimate_prior(Drawn(draw), Rng(0, "survey"))
    assert (found.gaussian, found.standard) == (gaussian, standard)
    assert torch.allclose(found.centre, torch.full((7,), centre), atol=0.3)
    if centre == 0:
        assert not found.centre.any()  # exactly: an arc about 0 stays one


def test_whole_numbers_have_nothing_between_them() -> None:
    with pytest.raises(genkit.UsageError, match="nothing between"):
        estimate_prior(Drawn(lambda n, rng: rng.integers(9, n, 7)), Rng(0, "survey"))


def test_quantiles() -> None:
    standard = latents.quantiles(
        estimate_prior(Drawn(lambda n, rng: rng.normal(n, 2)), Rng(0, "survey")), 4
    )
    assert torch.allclose(
        standard[:, 0], torch.tensor([-1.1503, -0.3186, 0.3186, 1.1503]), atol=1e-4
    )
    assert torch.equal(standard[:, 0], standard[:, 1])
    uniform = latents.quantiles(
        estimate_prior(Drawn(lambda n, rng: rng.uniform(n, 2)), Rng(0, "survey")), 4
    )
    assert torch.allclose(
        uniform, torch.tensor([0.125, 0.375, 0.625, 0.875])[:, None].expand(4, 2), atol=0.03
    )


# --- interpolation


def modes(module: torch.nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 5, 8)], ids=str)
def test_the_ends_of_an_interpolation_are_the_samples_bit_for_bit(
    shape: tuple[int, int, int],
) -> None:
    data = torch.randint(
        0, 256, (20, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    run = genkit.train(TinyGAN, dataset=data, **OPTIONS)
    run.trainer.generator.layer.eval()  # a frozen part keeps its own mode
    before = modes(run.trainer)
    found = pictures.interpolate(run, pairs=3, steps=5, seed=7)
    assert modes(run.trainer) == before
    assert not found.images.requires_grad
    assert found.spherical
    assert found.images.shape == (3, 5, *shape)
    samples = run.sample(6, seed=7)
    assert torch.equal(found.images[:, 0], samples[:3])
    assert torch.equal(found.images[:, -1], samples[3:])
    assert not torch.equal(found.images[:, 0], found.images[:, 1])
    # And in the picture each pixel is the sheet's.
    sheet = np.asarray(pixels.grid(found.images.flatten(0, 1), columns=5))
    sheet = np.repeat(sheet[..., None], 3, axis=2) if sheet.ndim == 2 else sheet
    assert contains(decoded(pictures.render_interpolation(run, 3, 5, 7)), sheet)


def test_two_runs_of_the_commands_give_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("a", "b"):
        genkit.train("vae", dataset="digits", latent_dim=2, hidden_dim=8, out=out, **OPTIONS)
        assert run_cli(
            capsys, "interpolate", out, "--pairs", "2", "--steps", "3", "--seed", "5"
        ) == (
            *(0, f"{out}/plots/interpolation-seed-5.png\n"),
            "",
        )
        drawn = f"{out}/plots/latent-pca.png\n{out}/plots/manifold.png\n"
        assert run_cli(capsys, "latent", out, "--count", "40") == (0, drawn, "")
        assert run_cli(capsys, "animate", out) == (0, f"{out}/plots/animation.gif\n", "")
        assert run_cli(capsys, "latent", out, "--count", "40", "--out", f"{out}/x.png")[1] == (
            f"{out}/x.png\n{out}/x-manifold.png\n"
        )
    made = sorted(path.name for path in Path("a/plots").iterdir())
    assert {"animation.gif", "latent-pca.png", "manifold.png", "interpolation-seed-5.png"} <= set(
        made
    )
    for name in made:
        assert Path("a/plots", name).read_bytes() == Path("b/plots", name).read_bytes(), name


def test_a_settings_file_of_the_user_changes_no_picture(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = genkit.train(TinyGAN, dataset=images, **OPTIONS)
    plain = pictures.render_interpolation(run)
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "red", "image.interpolation": "bicubic"}
    ):
        assert pictures.render_interpolation(run) == plain
        assert matplotlib.rcParams["font.size"] == 30


class Flat(TinyGenerator):
    """Its prior is no Gaussian."""

    def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
        return rng.uniform(n, 3)


class Labelled(TinyGenerator):
    """Noise with the label's one-hot behind it; what it drew last is kept for the tests."""

    def __init__(self, spec: genkit.DataSpec) -> None:
        super().__init__(spec)
        self.classes = spec.classes or 1
        self.layer = torch.nn.Linear(3 + self.classes, spec.size)
        self.__dict__["decoded"] = []

    def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        return torch.cat(
            [rng.normal(n, 3), torch.nn.functional.one_hot(labels, self.classes).float()], 1
        )

    def forward(self, z: Tensor) -> Tensor:
        assert self.training == torch.is_grad_enabled()  # a picture is drawn in evaluation mode
        self.decoded.append(z)
        return super().forward(z)


class Conditional(TinyGAN):
    conditional = True

    def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator = Labelled(spec)
        self.optimizers["generator"] = torch.optim.SGD(self.generator.parameters(), lr=0.01)

    def step(self, batch: genkit.Batch, rng: Rng) -> genkit.Metrics:
        assert batch.labels is not None
        fake = self.generator(self.generator.prior(len(batch.images), rng, batch.labels))
        loss = -self.discriminator(fake).mean()
        self.update(generator=loss)
        return {"g_loss": loss.detach()}


class Uniform(TinyGAN):
    def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator.__class__ = Flat


def test_the_way_is_straight_where_the_prior_is_not_gaussian(images: Tensor) -> None:
    run = genkit.train(Uniform, dataset=images, **OPTIONS)
    found = pictures.interpolate(run, pairs=4, steps=3)
    codes = run.trainer.generator.prior(8, Rng(0, "samples"))
    assert not found.spherical
    with torch.no_grad():
        assert torch.allclose(
            found.images[:, 1], run.trainer.generator((codes[:4] + codes[4:]) / 2), atol=1e-6
        )


def test_both_ends_of_a_pair_have_one_label(images: Tensor) -> None:
    split = genkit.Split(images, torch.arange(len(images)) % 4)
    run = genkit.train(Conditional, dataset=genkit.ImageData(split, split, "here", 4), **OPTIONS)
    seen = run.trainer.generator.decoded
    for labels, expected in ((None, [0, 1, 2, 3, 0]), ([3, 3, 1, 1, 0], [3, 3, 1, 1, 0])):
        seen.clear()
        found = pictures.interpolate(run, pairs=5, steps=4, labels=labels)
        assert found.labels is not None
        assert found.labels.tolist() == expected
        assert found.spherical
        hot = torch.nn.functional.one_hot(torch.tensor(expected), 4).float()
        ends, *between = seen
        assert torch.equal(ends[:, 3:], hot.repeat(2, 1))
        assert len(between) == 2
        for codes in between:
            assert torch.equal(codes[:, 3:], hot)
    assert pictures.render_interpolation(run, 5, 3).startswith(b"\x89PNG")
    with pytest.raises(genkit.UsageError, match="labels have to be 2 whole numbers from 0 to 3"):
        pictures.interpolate(run, pairs=2, labels=[4, 0])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            ("interpolate", "run", "--pairs", "999999999"),
            2,
            "do not fit in one picture: ask for fewer",
        ),
        (("interpolate", "run", "--steps", "9999"), 2, "do not fit in one picture: ask for fewer"),
        (("interpolate", "run", "--steps", "1"), 2, "--steps"),
        (("interpolate", "run", "--labels", "1,2"), 2, "is not conditional"),
        (("interpolate", "run", "--labels", "1,,2"), 2, "is no list of labels"),
        (("interpolate", "run", "--out", "x.jpg"), 2, "ends in .png"),
        (("latent", "run"), 2, "simple-gan has no encoder"),
        (("latent", "run", "--method", "umap"), 2, "--method"),
        (("animate", "run", "--out", "x.webm"), 2, "ends in .gif or .mp4"),
        (("animate", "run", "--fps", "0"), 2, "--fps"),
        (("animate", "absent"), 1, "is not a run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_drawn_is_one_line(
    capsys, arguments: tuple[str, ...], code: int, says: str
) -> None:
    genkit.train("simple-gan", dataset="digits", out="run", hidden_dim=4, **OPTIONS)
    found, out, err = run_cli(capsys, *arguments)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert says in err


# --- the latent map


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("model", ["ae", "vae"])
def test_a_map_is_the_same_every_time(model: str, method: str) -> None:
    run = genkit.train(model, dataset="digits", latent_dim=5, hidden_dim=8, **OPTIONS)
    before = modes(run.trainer)
    first = pictures.render_latent_map(run, method, count=60, seed=1)
    assert modes(run.trainer) == before
    assert pictures.render_latent_map(run, method, count=60, seed=1) == first
    assert pictures.render_latent_map(run, method, count=60, seed=2) != first


def test_codes_are_the_posterior_means_of_held_out_images() -> None:
    run = genkit.train("vae", dataset="digits", hidden_dim=8, **OPTIONS)
    codes, labels = pictures.encode_held_out(run, count=10**6)
    test = run.data().test
    assert labels is not None
    assert torch.equal(labels, test.labels)
    with torch.no_grad():
        means = run.trainer.encoder(pixels.from_uint8(test.images)).mean
    assert torch.allclose(codes, means, atol=1e-5)
    some, _ = pictures.encode_held_out(run, count=30, seed=1)
    assert len(some) == 30
    assert all((codes - code).abs().sum(1).min() < 1e-4 for code in some)


def test_a_map_without_labels_has_one_colour() -> None:
    Path("photos").mkdir()
    noise = np.random.default_rng(0)
    for number in range(100):
        Image.fromarray(noise.integers(0, 256, (6, 9, 3), dtype=np.uint8)).save(
            f"photos/{number:02}.png"
        )
    run = genkit.train("ae", dataset="folder:photos", latent_dim=3, hidden_dim=4, **OPTIONS)
    picture = decoded(pictures.render_latent_map(run))
    labelled = genkit.train("ae", dataset="digits", latent_dim=3, hidden_dim=4, **OPTIONS)
    colours = [_hues(picture), _hues(decoded(pictures.render_latent_map(labelled, count=200)))]
    assert colours[0] <= 2 < 5 < colours[1]


def _hues(picture: np.ndarray) -> int:
    """Colours in which something is drawn, of twelve kinds; greys are none."""
    hue, saturation, _ = np.moveaxis(np.asarray(Image.fromarray(picture).convert("HSV")), -1, 0)
    return int((np.bincount(hue[saturation > 60].astype(int) * 12 // 256, minlength=12) > 20).sum())


class Odd(TinyGAN):
    """It has an encoder, and that gives ``result``."""

    result: Callable[[Tensor], object]

    class Reader(genkit.Encoder):
        def forward(self, images: Tensor) -> object:
            assert not self.training
            return Odd.result(images)

    def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.reader = self.Reader()


@pytest.mark.parametrize(
    ("result", "error", "says"),
    [
        (lambda images: 3, genkit.ContractError, "gave int, not codes"),
        (lambda images: images, genkit.ContractError, "gave shape"),
        (
            lambda images: images.flatten(1)[:, :3] * float("nan"),
            genkit.ContractError,
            "not finite",
        ),
        (lambda images: images.flatten(1)[:, :3] * 0, genkit.UsageError, "the same code"),
        (
            lambda images: images.flatten(1)[:, :1],
            genkit.UsageError,
            "codes of two numbers or more",
        ),
    ],
    ids=["int", "images", "nan", "constant", "one number"],
)
def test_codes_that_make_no_map_are_one_line(
    data, result, error: type[Exception], says: str, monkeypatch
) -> None:
    images = genkit.ImageData(data.train, data.train, "here")
    run = genkit.train(Odd, dataset=images, **OPTIONS)
    monkeypatch.setattr(Odd, "result", staticmethod(result), raising=False)
    with pytest.raises(error, match=says):
        pictures.render_latent_map(run, count=20, dataset=images)


def test_the_manifold_runs_right_and_up(images: Tensor) -> None:
    class Plane(TinyGenerator):
        def prior(self, n: int, rng: Rng, labels: Tensor | None = None) -> Tensor:
            return rng.normal(n, 2)

        def forward(self, z: Tensor) -> Tensor:  # brighter to the right, and more so upwards
            return (z @ torch.tensor([0.1, 0.3]))[:, None, None, None].expand(
                -1, *self.shape
            ) + 0 * self.layer.bias[0]

    class Planar(TinyGAN):
        def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
            super().__init__(config, spec)
            self.generator.__class__ = Plane

    run = genkit.train(Planar, dataset=images, **OPTIONS)
    assert pictures.has_manifold(run)
    values = torch.special.ndtri((torch.arange(3) + 0.5) / 3)
    levels = [[0.1 * x + 0.3 * y for x in values] for y in values.flip(0)]
    expected = torch.tensor(levels).flatten()[:, None, None, None].expand(-1, 1, 6, 5)
    sheet = np.asarray(pixels.grid(expected, columns=3))
    assert contains(
        decoded(pictures.render_manifold(run, side=3)), np.repeat(sheet[..., None], 3, axis=2)
    )


def test_a_manifold_needs_two_numbers(images: Tensor) -> None:
    run = genkit.train(TinyGAN, dataset=images, **OPTIONS)
    assert not pictures.has_manifold(run)
    with pytest.raises(genkit.UsageError, match="needs two numbers"):
        pictures.draw_manifold(run)


# --- the animation


@pytest.fixture
def run(images: Tensor) -> genkit.Run:
    return genkit.train(TinyGAN, dataset=images, out="run", **OPTIONS)


def test_an_animation_has_a_frame_for_each_grid_and_stays_at_the_end(run: genkit.Run) -> None:
    grids = run.folder.all_samples()
    assert [path.name for path in grids] == [f"{step:09}.png" for step in (2, 4, 6, 8)]
    with Image.open(pictures.draw_animation(run, fps=5)) as movie:
        assert movie.format == "GIF"
        assert movie.info["loop"] == 0
        durations = []
        for number, path in enumerate(grids):
            movie.seek(number)
            durations.append(movie.info["duration"])
            with Image.open(path) as grid:
                assert contains(np.asarray(movie.convert("RGB")), np.asarray(grid.convert("RGB")))
        assert movie.n_frames == len(grids)
    assert durations == [200, 200, 200, 2200]


def test_many_grids_are_thinned_and_large_ones_shrunk(
    run: genkit.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animation, "MAX_FRAMES", 3)
    monkeypatch.setattr(animation, "FRAME_SIDE", 100)
    notes, sheets = zip(*animation._read_frames(run), strict=True)
    assert [note.split(",")[0] for note in notes] == ["step 2", "step 6", "step 8"]
    assert max(sheets[0].shape) == 100


def _png_of(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _save(path: Path, size: tuple[int, int], mode: str = "L") -> None:
    Image.new(mode, size).save(path)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "huge": (
        lambda path: path.write_bytes(_png_of(60_000, 60_000, zlib.compress(b"\0" * 999))),
        "pixels",
    ),
    "larger than said": (
        lambda path: path.write_bytes(_png_of(2**31 - 1, 2**31 - 1, b"")),
        "no sample grid",
    ),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:200]), "no sample grid"),
    "garbage": (lambda path: path.write_bytes(b"\x1b[2J" * 50), "no sample grid"),
    "a GIF": (lambda path: Image.new("L", (9, 9)).save(path, format="GIF"), "no sample grid"),
    "empty": (lambda path: path.write_bytes(b""), "no sample grid"),
    "huge file": (lambda path: os.truncate(path, 2**33), "more than the limit"),
    "other size": (lambda path: _save(path, (50, 40)), "grids of one run are of one size"),
    "other colours": (
        lambda path: _save(path, Image.open(path).size, "RGB"),
        "grids of one run are of one size",
    ),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
    "link": (
        lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
        "leads out of the run folder",
    ),
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_grids_are_one_line(
    run: genkit.Run, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    spoil, says = HOSTILE[kind]
    spoil(run.folder.samples(6))
    code, out, err = run_cli(capsys, "animate", "run")
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert "000000006.png" in err
    assert says in err
    assert "\x1b" not in err
    assert not Path("run/plots/animation.gif").exists()


def test_a_pipe_in_samples_is_not_waited_for(
    run: genkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.folder.samples(6)
    path.unlink()
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)
    assert run_cli(capsys, "animate", "run")[0] == 1


def test_without_grids_there_is_no_animation(
    run: genkit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("run/samples")
    assert "has no grids" in run_cli(capsys, "animate", "run")[2]


def test_an_mp4_without_ffmpeg_is_one_line(
    run: genkit.Run, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path("empty").absolute()))
    code, out, err = run_cli(capsys, "animate", "run", "--out", "x.mp4")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "install it, or give a name that ends in .gif" in err
    assert not Path("x.mp4").exists()


@pytest.mark.skipif(os.name == "nt", reason="stands a shell script in for ffmpeg")
def test_an_ffmpeg_that_fails_is_one_line(
    run: genkit.Run, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bin").mkdir()
    Path("bin/ffmpeg").write_text("#!/bin/sh\nexit 3\n")
    Path("bin/ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}{os.pathsep}{os.environ['PATH']}")
    code, out, err = run_cli(capsys, "animate", "run", "--out", "x.mp4")
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert "ffmpeg cannot make the MP4" in err


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_an_mp4(run: genkit.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(capsys, "animate", "run", "--out", "x.mp4") == (0, "x.mp4\n", "")
    assert Path("x.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    "name", ["$\\frac{1}{0}$", "\x1b[2J\n\u202e", "_" * 70, "\u6570\u5b57", "<b>&amp;", ""]
)
def test_hostile_names_in_the_titles(name: str) -> None:
    genkit.train("vae", dataset="digits", latent_dim=2, hidden_dim=4, out="run", **OPTIONS)
    content = json.loads(Path("run/run.json").read_text())
    content["dataset"]["name"] = name
    Path("run/run.json").write_text(json.dumps(content))
    run = genkit.load("run")
    for picture in (
        pictures.render_interpolation(run, 2, 3),
        pictures.render_manifold(run, 3),
        pictures.render_gif(run),
    ):
        assert decoded(picture).std() > 0
