"""Any number of images in bounded memory: samples, files of them, and measuring them."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import genkit
from genkit import interfaces
from genkit.data import images, saving
from genkit.data.datasets import Split
from genkit.evaluation import inputs, latents, run_images
from genkit.evaluation.run_images import RunImages, Source
from genkit.interfaces import chunk_sizes
from genkit.rng import Rng
from genkit.storage import atomic, capacity
from tests.conftest import TinyGAN, run_cli

QUIET = {"progress": False, "device": "cpu", "threads": 1, "iterations": 1, "batch_size": 2}
ABSURD = 10**12


@pytest.fixture
def run(tiny: type[TinyGAN], data: genkit.ImageData) -> genkit.Run:
    return genkit.train(tiny, dataset=data, out="run", **QUIET)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 32 images of 1x6x5 at a time, or 47 at the end."""
    monkeypatch.setattr(interfaces, "CHUNK_NUMBERS", 32 * 30)


def record_calls(run: genkit.Run) -> list[int]:
    """Images of each call of the generator from now on."""
    calls: list[int] = []
    run.trainer.generator.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    return calls


@pytest.mark.parametrize("count", [0, 1, 15, 47, 48, 63, 64, 1000, 10**6 + 1])
@pytest.mark.parametrize("numbers", [1, 784, 3 * 64 * 64, 10**9])
def test_chunks_are_aligned_and_bounded(count: int, numbers: int) -> None:
    sizes = list(chunk_sizes(count, numbers))
    most = max(16, min(2**14, 2**23 // numbers))
    assert sum(sizes) == count
    assert all(size % 16 == 0 and size <= most for size in sizes[:-1])
    assert sizes[-1] < most + 16
    assert len(sizes) == 1 or sizes[-1] >= 16
    assert list(chunk_sizes(10_000, 784)) == [10_000]  # as before there were chunks


@pytest.mark.parametrize("count", [1, 40, 47, 48, 49, 100, 1001])
def test_chunks_are_what_one_call_gives_bit_for_bit(run: genkit.Run, count: int) -> None:
    whole = run.sample(count, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interfaces, "CHUNK_NUMBERS", 32 * 30)
        calls = record_calls(run)
        assert run.sample(count, seed=3).equal(whole)
        assert max(calls) < 48
        chunks = list(run.sample_chunks(count, seed=3))
    assert torch.cat(chunks).equal(whole)
    assert [len(chunk) for chunk in chunks] == calls[len(calls) // 2 :]


def test_the_codes_of_one_draw_are_the_same_in_chunks() -> None:
    """What the alignment rests on; for an odd latent dimension, too."""
    for draw in ("normal", "uniform"):
        for size in (1, 3, 100):
            rng = Rng(0, "samples")
            parts = [getattr(rng, draw)(count, size) for count in (32, 48, 19)]
            assert torch.cat(parts).equal(getattr(Rng(0, "samples"), draw)(99, size))


@pytest.mark.usefixtures("small_chunks")
def test_modes_are_as_they_were_between_chunks(run: genkit.Run) -> None:
    run.trainer.train()
    for _ in run.sample_chunks(100):
        assert run.trainer.generator.training


class ByLabel(TinyGAN):
    """Its images are its labels."""

    conditional = True

    def __init__(self, config: genkit.Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator.prior = self.codes
        self.generator.layer.weight.data.zero_()[:, 0] = 0.1
        self.generator.layer.bias.data.zero_()

    def codes(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        given = torch.zeros(n) if labels is None else labels
        return given[:, None].expand(n, 3).float()


@pytest.mark.usefixtures("small_chunks")
def test_labels_go_on_from_chunk_to_chunk(images: Tensor) -> None:
    split = Split(images, torch.arange(len(images)) % 5)
    data = genkit.ImageData(split, split, "the test", 5)
    run = genkit.train(ByLabel, dataset=data, **QUIET)

    def drawn(chunks: Iterator[Tensor]) -> list[int]:
        values = torch.cat(list(chunks))[:, 0, 0, 0]
        order = values.unique().tolist()
        return [order.index(value) for value in values.tolist()]

    assert drawn(run.sample_chunks(101)) == [n % 5 for n in range(101)]
    assert drawn(run.sample_chunks(101, labels=[0, 2, 1])) == [(0, 2, 1)[n % 3] for n in range(101)]
    given = [n % 4 for n in range(101)]
    assert drawn(iter([run.sample(101, labels=given)])) == given
    with pytest.raises(genkit.UsageError, match="labels have to be 101 whole numbers"):
        run.sample(101, labels=given[:-1])
    with pytest.raises(genkit.UsageError, match="labels have to be 2 whole numbers from 0 to 4"):
        run.sample_chunks(101, labels=[0, 5])
    with pytest.raises(genkit.UsageError, match="labels"):
        run.sample_chunks(101, labels=[])


@pytest.mark.usefixtures("small_chunks")
def test_samples_of_another_shape_are_the_models_fault(run: genkit.Run) -> None:
    run.trainer.generator.shape = (1, 5, 6)
    with pytest.raises(genkit.ContractError, match=r"gave samples of \(1, 5, 6\), not \(1, 6, 5\)"):
        saving.save_chunks(run.sample_chunks(100), 100, run.spec.shape, Path("x.npy"))
    assert not list(Path.cwd().glob("*x.npy*"))


@pytest.mark.parametrize("shape", [(1, 6, 5), (2, 6, 5), (3, 6, 5), (4, 6, 5)])
def test_files_in_chunks_are_those_of_one_tensor(shape: tuple[int, int, int]) -> None:
    pixels = 2 * Rng(0, "test").uniform(50, *shape) - 1
    for name in ("whole", "parts"):
        chunks = [pixels] if name == "whole" else torch.split(pixels, 7)
        for suffix in (".npy", ".png", ""):
            saving.save_chunks(chunks, 50, shape, Path(name + suffix))
    for suffix in (".npy", ".png"):
        assert Path(f"whole{suffix}").read_bytes() == Path(f"parts{suffix}").read_bytes()
    with Path("saved.npy").open("wb") as file:
        np.save(file, images.to_array(pixels), allow_pickle=False)
    assert Path("parts.npy").read_bytes() == Path("saved.npy").read_bytes()
    found = sorted(Path("parts").iterdir())
    assert [path.name for path in found] == [f"{number:06d}.png" for number in range(50)]
    assert [path.read_bytes() for path in found] == [
        path.read_bytes() for path in sorted(Path("whole").iterdir())
    ]


def test_names_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "NAME_DIGITS", 1)
    saving.save(torch.zeros(12, 1, 2, 2), Path("folder"))
    names = sorted(path.name for path in Path("folder").iterdir())
    assert (names[0], names[-1]) == ("00.png", "11.png")


def never() -> Iterator[Tensor]:
    raise AssertionError("an image was computed")
    yield  # a generator


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (
            "x.npy",
            r"x\.npy: 1,000,000,000,000 images of 1x6x5 need 27,939 GiB of disk, and .* free",
        ),
        (
            "folder",
            r"1,000,000,000,000 images of 1x6x5 as PNGs need [0-9,]+ GiB of disk, and .* fr",
        ),
        ("x.png", r"do not fit in a picture of 67,108,864 pixels, 19,600 do: .*\.npy"),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_computed(out: str, says: str) -> None:
    with pytest.raises(genkit.UsageError, match=says) as caught:
        saving.save_chunks(never(), ABSURD, (1, 6, 5), Path("new") / out)
    assert "\n" not in str(caught.value)
    assert not Path("new").exists()


def test_the_number_of_images_that_fit_is_exact() -> None:
    with pytest.raises(genkit.UsageError, match=r"pixels, 18,496 do"):
        images.check_grid(10**6, (1, 28, 28))
    images.check_grid(18_496, (1, 28, 28))
    with pytest.raises(genkit.UsageError):
        images.check_grid(18_497, (1, 28, 28))
    images.check_grid(1, (3, 10_000, 10_000))  # one image is always shown
    small = torch.zeros(7, 1, 3, 4)
    for columns in (None, 7):
        across, down, gap, factor = images._layout(7, 3, 4, columns)
        size = (across * (4 + gap) + gap) * factor, (down * (3 + gap) + gap) * factor
        assert images.grid(small, columns).size == size


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "run", "--out", "x.npy"),
        ("sample", "run", "--out", "folder"),
        ("sample", "run"),
        ("reconstruct", "run"),
        ("interpolate", "run", "--pairs"),
        ("evaluate", "run", "--metrics", "diversity"),
    ],
    ids=" ".join,
)
def test_an_absurd_count_is_one_line(capsys: pytest.CaptureFixture[str], command) -> None:
    small = {"hidden_dim": 4, "latent_dim": 2}
    genkit.train("vae", dataset="digits", out="run", **QUIET, **small)
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    count = [] if command[-1] == "--pairs" else ["--count"]
    code, out, err = run_cli(capsys, *command, *count, str(ABSURD))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "GiB" in err or "fit in" in err
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.usefixtures("small_chunks")
def test_the_command_samples_what_the_function_gives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"hidden_dim": 4, "latent_dim": 2}
    run = genkit.train("vae", dataset="digits", out="run", **QUIET, **small)
    whole = images.to_array(run.sample(77, seed=4))
    capsys.readouterr()
    sample = ("sample", "run", "--count", "77", "--seed", "4", "--out")
    assert run_cli(capsys, *sample, "x.npy") == (0, "x.npy\n", "")
    assert (np.load("x.npy") == whole).all()
    assert run_cli(capsys, *sample, "folder")[0] == 0
    for path, pixels in zip(sorted(Path("folder").iterdir()), whole, strict=True):
        with Image.open(path) as picture:
            assert (np.asarray(picture) == pixels).all()
    monkeypatch.setattr(saving, "MIN_SHOWN", 10)
    monkeypatch.setattr("genkit.data.track.SECONDS_BETWEEN_LINES", 0.0)
    code, _, err = run_cli(capsys, *sample, "y.npy")
    assert code == 0
    assert err.splitlines()[-1] == "images: 77 of 77"


def failing_after(count: int, error: BaseException) -> Iterator[Tensor]:
    yield torch.zeros(count, 1, 6, 5)
    raise error


def test_an_interrupted_array_leaves_what_was_there() -> None:
    with pytest.raises(KeyboardInterrupt):
        saving.save_chunks(failing_after(3, KeyboardInterrupt()), 9, (1, 6, 5), Path("x.npy"))
    assert not list(Path.cwd().iterdir())
    Path("x.npy").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        saving.save_chunks(failing_after(3, KeyboardInterrupt()), 9, (1, 6, 5), Path("x.npy"))
    assert [path.name for path in Path.cwd().iterdir()] == ["x.npy"]
    assert Path("x.npy").read_bytes() == b"old"


def test_an_interrupted_folder_says_how_many_are_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    genkit.train("simple-gan", dataset="digits", out="run", **QUIET)
    written = saving._write_whole

    def interrupted(path: Path, data: bytes) -> None:
        written(path, data)
        if path.name == "000004.png":
            raise KeyboardInterrupt

    def interrupted_halfway(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        if self.name == "000002.png":
            raise KeyboardInterrupt

    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "_write_whole", interrupted)
        code, out, err = run_cli(capsys, "sample", "run", "--count", "9", "--out", "folder")
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted: 4 of 9 images are in folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted_halfway)
        with pytest.raises(genkit.errors.Interrupted, match="2 of 9 images are in half"):
            saving.save(torch.zeros(9, 1, 6, 5), Path("half"))
    assert sorted(path.name for path in Path("half").iterdir()) == ["000000.png", "000001.png"]


def test_a_model_that_fails_leaves_no_folder() -> None:
    with pytest.raises(genkit.PluginError):
        saving.save_chunks(
            failing_after(0, genkit.PluginError("it fails")), 9, (1, 6, 5), Path("folder")
        )
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write, room = atomic._write, [200]

    def limited(descriptor: int, data: bytes) -> None:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(number, "the disk is full")
        write(descriptor, data)

    monkeypatch.setattr(atomic, "_write", limited)
    pixels = torch.zeros(2000, 1, 6, 5)
    says = (
        r"x\.npy: 2,000 images of 1x6x5 need 58\.7 KiB, and there is no room \(the disk is full\)"
    )
    with pytest.raises(genkit.UsageError, match=says):
        saving.save_chunks(torch.split(pixels, 2), 2000, (1, 6, 5), Path("x.npy"))
    assert not list(Path.cwd().iterdir())

    def full(path: Path, data: bytes) -> None:
        if path.name == "000003.png":
            raise OSError(number, "the disk is full")
        write_whole(path, data)

    write_whole = saving._write_whole
    monkeypatch.setattr(saving, "_write_whole", full)
    with pytest.raises(genkit.UsageError, match=r"full after 3 of 2,000 images of 1x6x5"):
        saving.save(pixels, Path("folder"))
    assert len(list(Path("folder").iterdir())) == 3


def test_what_the_disk_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 3 * 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    says = r"4\.3 MiB of disk, and 3\.0 MiB are free in elsewhere: ask for fewer, or write elsew"
    with pytest.raises(genkit.UsageError, match=says):
        saving.save_chunks(never(), 150_000, (1, 6, 5), Path("elsewhere/x.npy"))
    saving.save(torch.zeros(10, 1, 6, 5), Path("elsewhere/x.npy"))


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (300, "0.3 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (12 * 2**30 + 2**29, "12.5 GiB"),
        (10**15, "931,322 GiB"),
        (10**400, "GiB"),
    ],
)
def test_sizes_as_people_read_them(size: int, says: str) -> None:
    assert capacity.format_bytes(size).endswith(says)


def test_free_memory_is_that_of_the_machine_or_the_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = capacity.free_memory()
    assert free is not None
    assert 2**20 < free < 2**50
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(capacity, "_CGROUP_LIMIT", limit)
    limit.write_text("1048576\n")
    assert capacity.free_memory() == 2**20
    limit.write_text("max\n")
    assert capacity.free_memory() != 2**20
    monkeypatch.setattr(capacity, "_MEMINFO", tmp_path / "absent")
    assert (capacity.free_memory() or 0) > 2**20


def test_samples_that_do_not_fit_in_memory_are_refused(run: genkit.Run) -> None:
    with pytest.raises(genkit.UsageError, match=r"need 111,758 GiB of memory, .*sample_chunks\(\)"):
        run.sample(ABSURD)
    assert len(next(run.sample_chunks(ABSURD))) == 2**14


MEASURED = """
import resource, sys
from pathlib import Path
import genkit
from genkit.data.saving import save_chunks
from tests.conftest import TinyGAN

run = genkit.load(sys.argv[1], TinyGAN)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
def save(count, path):
    save_chunks(run.sample_chunks(count), count, run.spec.shape, path)
save(40_000, Path("few.npy"))
before = peak()
save(200_000, Path("many.npy"))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB there")
def test_many_images_take_no_more_memory_than_some(tiny: type[TinyGAN], tmp_path: Path) -> None:
    pixels = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    run = genkit.train(tiny, dataset=pixels, out="run", **QUIET)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", MEASURED, str(run.path.absolute())]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert np.load("many.npy", mmap_mode="r").shape == (200_000, 28, 28)
    assert int(done.stdout) < 100  # MiB; as floats they are 598, as bytes 150


def record_reads(monkeypatch: pytest.MonkeyPatch, module: object) -> list[int]:
    """Images of each conversion to floats in a module."""
    read: list[int] = []

    def recorded(given: Tensor) -> Tensor:
        read.append(len(given))
        return images.from_uint8(given)

    monkeypatch.setattr(module, "from_uint8", recorded)
    return read


@pytest.fixture
def mapped() -> tuple[genkit.ImageData, list[int]]:
    """600 images in 4 classes, half held out, as if mapped; an entry for each release."""
    released: list[int] = []
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split(pixels[:300], torch.arange(300) % 4, release=lambda: released.append(1))
    held_out = Split(pixels[300:], torch.arange(300) % 4, release=lambda: released.append(1))
    return genkit.ImageData(split, held_out, "the test", 4), released


def test_measuring_in_chunks_gives_the_same_figures(
    monkeypatch: pytest.MonkeyPatch, mapped: tuple[genkit.ImageData, list[int]]
) -> None:
    data, released = mapped
    small = {"hidden_dim": 4, "latent_dim": 2}
    run = genkit.train("vae", dataset=data, out="run", **QUIET, **small)
    names = [
        *("class-coverage", "precision-recall", "memorisation", "diversity"),
        *("reconstruction-error", "elbo", "log-likelihood", "kl-per-dimension"),
    ]

    def measure() -> dict[str, genkit.Measurement]:
        return genkit.evaluate(run, names, count=250, dataset=data, progress=False)

    measure()  # trains the extractor
    monkeypatch.setattr(run_images, "CHUNK", 50)
    monkeypatch.setattr(inputs, "MAX_DECODED_NUMBERS", 50 * 100 * 64)
    whole = measure()
    monkeypatch.setattr(run_images, "MAX_HELD_BYTES", 0)
    read, calls = record_reads(monkeypatch, run_images), record_calls(run)
    del released[:]
    assert measure() == whole
    assert max(read) == 50
    assert len(released) >= len(read) - 1  # the first image of all is only looked at
    assert max(calls) <= 50 * 100  # of 50 images, 100 codes each
    assert calls.count(50) == 5 * 4  # features; pixels of two metrics; reconstructions


def test_codes_of_mapped_images_are_read_in_parts(
    monkeypatch: pytest.MonkeyPatch, mapped: tuple[genkit.ImageData, list[int]]
) -> None:
    data, released = mapped
    run = genkit.train("ae", dataset=data, out="run", **QUIET)
    encoder = latents.find_encoder(run.trainer, "ae")
    chosen = torch.randperm(300)
    whole = latents.encode(encoder, replace(data.test, release=None), chosen, "ae")
    monkeypatch.setattr(latents, "BATCH", 64)
    read = record_reads(monkeypatch, latents)
    del released[:]
    assert latents.encode(encoder, data.test, chosen, "ae").equal(whole)
    assert read == [64, 64, 64, 64, 44]
    assert len(released) == 5


def test_pixels_are_those_of_the_whole_cut(monkeypatch: pytest.MonkeyPatch, run, data) -> None:
    monkeypatch.setattr(run_images, "CHUNK", 16)
    held = RunImages(run, data, 100, 0, print)
    whole = {source: held.pixels(source) for source in Source if source.name != "RECONSTRUCTIONS"}
    monkeypatch.setattr(run_images, "MAX_HELD_BYTES", 0)
    streamed = RunImages(run, data, 100, 0, print)
    assert whole[Source.SAMPLES].shape == (100, 1, 6, 5)
    for source, pixels in whole.items():
        for limit in (None, 3, 99, 1000):
            expected = held.subsample(pixels, limit)
            assert held.pixels(source, limit).equal(expected)
            assert streamed.pixels(source, limit).equal(expected)


def test_a_metric_that_does_not_fit_in_memory_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, run: genkit.Run, data: genkit.ImageData
) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: 2**20)
    says = (
        r"diversity: 10,040 images of 1x6x5 need 9\.9 MiB of memory, and 1\.0 MiB are free: "
        r"ask for fewer \(a --count of 4,189 fits\)"
    )
    with pytest.raises(genkit.UsageError, match=says):
        genkit.evaluate(run, ["diversity"], count=10**6, dataset=data, progress=False)
    calls = record_calls(run)
    assert genkit.evaluate(run, ["diversity"], count=4189, dataset=data, progress=False)
    assert sum(calls) == 4189
    with pytest.raises(genkit.UsageError, match=r"a --count of 4,189 fits"):
        genkit.evaluate(run, ["diversity"], count=4190, dataset=data, progress=False)
    del calls[:]
    says = r"fid-lenet: .* images of 1x8x8 need .* GiB of memory"
    wider = genkit.ImageData(*[Split(torch.zeros(40, 1, 8, 8, dtype=torch.uint8))] * 2, "a test")
    other = genkit.train(TinyGAN, dataset=wider, **QUIET)
    with pytest.raises(genkit.UsageError, match=says):
        genkit.evaluate(other, ["fid-lenet"], count=10**9, dataset=wider, progress=False)
    assert not calls


def test_how_far_drawing_is_is_said_now_and_then(
    monkeypatch: pytest.MonkeyPatch, run: genkit.Run, data: genkit.ImageData
) -> None:
    monkeypatch.setattr(run_images, "CHUNK", 40)
    monkeypatch.setattr(run_images, "SECONDS_BETWEEN_LINES", 0.0)
    lines: list[str] = []
    RunImages(run, data, 100, 0, lines.append).pixels(Source.SAMPLES)
    assert lines == ["drawing 100 samples", *(f"{n} of 100 samples" for n in (40, 80, 100))]
