"""Packed files: what is read is what was written, whatever is wrong with the file is found, and a
training from a mapped file is the training from memory.
"""

import errno
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genkit
import genkit_plugins.packed_dataset
from genkit.config import TrainOptions
from genkit.data import track
from genkit.data.datasets import DataRequest, ImageData, Split, load_dataset
from genkit.data.loader import Order, Resident, Streamed, iterate_batches
from genkit.data.packed import reader as packed, writer as packed_writer
from genkit.data.packed.header import ALIGNMENT, MAGIC, PREFIX, VERSION
from genkit.data.packed.reader import open_packed
from genkit.data.packed.writer import create_packed, pack, temporary_packed
from genkit.errors import DataError
from genkit.models import build
from genkit.plugins.registry import discover
from genkit.storage.state import snapshot
from genkit.testing.subject import differing
from genkit.training.session import Training
from tests.conftest import run_cli, training_of

ROOT = Path(__file__).resolve().parent.parent


def dataset(
    count: int = 30, held_out: int = 6, channels: int = 3, classes: int | None = 3, **more: Any
) -> ImageData:
    """Random images; labels if there are classes."""
    generator = torch.Generator().manual_seed(channels)
    images = torch.randint(0, 256, (count, channels, 6, 5), dtype=torch.uint8, generator=generator)
    labels = None if classes is None else torch.arange(count) % classes
    train, test = (
        Split(images[part], None if labels is None else labels[part])
        for part in (slice(0, count - held_out), slice(count - held_out, count))
    )
    return ImageData(train, test, source="a camera", classes=classes, **more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A packed file with everything that one can have."""
    path = tmp_path / "images.packed"
    pack(dataset(class_names=("cat", "Hündin", "犬"), summary="36 images"), path)
    return path


def same(ours: ImageData, theirs: ImageData) -> bool:
    def equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
        return (a is None and b is None) or (a is not None and b is not None and a.equal(b))

    pairs = ((ours.train, theirs.train), (ours.test, theirs.test))
    return all(equal(a.images, b.images) and equal(a.labels, b.labels) for a, b in pairs)


@pytest.mark.parametrize("max_memory_bytes", [0, 2**30], ids=["mapped", "in memory"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("held_out", [0, 6])
@pytest.mark.parametrize(
    ("classes", "class_names"), [(None, None), (3, None), (7, None), (3, ("a b", "ü", "犬,x"))]
)
def test_what_is_read_is_what_was_written(
    tmp_path: Path,
    max_memory_bytes: int,
    channels: int,
    held_out: int,
    classes: int | None,
    class_names: tuple[str, ...] | None,
) -> None:
    data = dataset(
        held_out=held_out,
        channels=channels,
        classes=classes,
        class_names=class_names,
        summary='30 images, "as they are"\\',
    )
    pack(data, tmp_path / "new" / "x.packed")
    opened = open_packed(tmp_path / "new" / "x.packed", max_memory_bytes=max_memory_bytes)
    assert same(opened, data)
    assert opened.spec == data.spec
    assert (opened.class_names, opened.summary) == (data.class_names, data.summary)
    assert opened.source == str(tmp_path / "new" / "x.packed")
    assert opened.fingerprint() == data.fingerprint()
    recomputed = Split(opened.train.images, opened.train.labels, opened.train.release)
    assert recomputed.fingerprint() == data.train.fingerprint()
    for split in (opened.train, opened.test):
        assert (split.release is None) == (max_memory_bytes > 0)
        assert split.images.is_contiguous()


def test_the_documented_bytes(file: Path) -> None:
    """Read as docs/packed-format.md says, without genkit."""
    data = dataset()
    content = file.read_bytes()
    magic, version, length, digest = struct.unpack_from("<8sII32s", content)
    assert (magic, version) == (b"\x89GKPACK\n", 1)
    header = content[48 : 48 + length]
    assert hashlib.sha256(header).digest() == digest
    fields = json.loads(header.decode())
    assert fields["class_names"] == ["cat", "Hündin", "犬"]
    assert (fields["training"], fields["held_out"], fields["shape"]) == (24, 6, [3, 6, 5])
    assert fields["training_offset"] % ALIGNMENT == fields["held_out_offset"] % ALIGNMENT == 0
    images = np.frombuffer(content, np.uint8, 24 * 90, fields["training_offset"])
    assert np.array_equal(images.reshape(24, 3, 6, 5), data.train.images.numpy())
    images = np.frombuffer(content, np.uint8, 6 * 90, fields["held_out_offset"])
    assert np.array_equal(images.reshape(6, 3, 6, 5), data.test.images.numpy())
    labels = np.frombuffer(content, "<i8", 30, fields["labels_offset"])
    assert labels.tolist() == [n % 3 for n in range(30)]
    assert len(content) == fields["labels_offset"] + 8 * 30
    first = content[fields["training_offset"] : fields["training_offset"] + 24 * 90]
    fingerprint = hashlib.sha256(b"(24, 3, 6, 5)" + first + labels[:24].tobytes()).hexdigest()
    assert fields["training_fingerprint"] == fingerprint == data.train.fingerprint()


def test_a_nameless_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    data = dataset()
    with temporary_packed((3, 6, 5), None, labelled=True) as (writer, opened):
        for split, held_out in ((data.train, False), (data.test, True)):
            assert split.labels is not None
            for start in range(0, len(split), 4):
                part = slice(start, start + 4)
                writer.add(split.images[part].numpy(), split.labels[part].numpy(), held_out)
        writer.finish("here", None)
        mapped = open_packed(opened, max_memory_bytes=0)
    assert same(mapped, data)  # also when the file is closed
    assert not list(tmp_path.iterdir())


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header, with the right length and SHA-256, as somebody hostile would."""
    content = path.read_bytes()
    length = struct.unpack_from("<I", content, 12)[0]
    fields = json.loads(content[PREFIX.size : PREFIX.size + length])
    change(fields)
    replace_header(path, json.dumps(fields).encode())


def replace_header(path: Path, text: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[:4096] = bytes(4096)
    whole = PREFIX.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest()) + text
    content[: len(whole)] = whole
    path.write_bytes(content)


def refused(path: Path, *words: str, **how: Any) -> None:
    """The file gives one line that names it and contains these words."""
    for max_memory_bytes in (0, 2**30):
        with pytest.raises(DataError) as caught:
            open_packed(path, max_memory_bytes=max_memory_bytes, **how)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 500
        for word in words:
            assert word in message


HOSTILE = {
    "training 0": {"training": 0},
    "training too many": {"training": 25},
    "training negative": {"training": -24},
    "training huge": {"training": 2**63},
    "training above all bounds": {"training": 10**400},
    "training a float": {"training": 24.0},
    "training a bool": {"training": True},
    "training text": {"training": "24"},
    "held_out negative": {"held_out": -1},
    "held_out none": {"held_out": 0},
    "splits moved": {"training": 23, "held_out": 7},
    "shape flat": {"shape": [90]},
    "shape empty": {"shape": []},
    "shape zero": {"shape": [3, 0, 5]},
    "shape negative": {"shape": [3, -6, -5]},
    "shape huge": {"shape": [2**40, 2**40, 2**40]},
    "shape turned": {"shape": [3, 5, 6]},
    "shape with NaN": {"shape": [3, 6, float("nan")]},
    "no classes": {"classes": None},
    "too few classes": {"classes": 2, "class_names": None},
    "classes 0": {"classes": 0},
    "classes infinite": {"classes": float("inf"), "class_names": None},
    "classes huge": {"classes": 2**50, "class_names": None},
    "names too few": {"class_names": ["cat", "dog"]},
    "names no text": {"class_names": [1, 2, 3]},
    "names an object": {"class_names": {"cat": 1}},
    "source a number": {"source": 1},
    "summary a list": {"summary": ["a"]},
    "fingerprint short": {"training_fingerprint": "ab"},
    "fingerprint other": {"training_fingerprint": "0" * 64},
    "fingerprint with a line": {"held_out_fingerprint": "0" * 63 + "\n"},
    "held-out fingerprint other": {"held_out_fingerprint": "0" * 64},
    "offset unaligned": {"training_offset": 36865},
    "offset in the header": {"training_offset": 4096 - 4096 % 7},
    "offset zero": {"training_offset": 0},
    "offset behind the end": {"training_offset": 2**40},
    "offset of others": {"held_out_offset": 36864},
    "labels in the pixels": {"labels_offset": 40960},
    "unknown field": {"pixels": 1},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_header(file: Path, name: str) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields.update(HOSTILE[name])

    rewrite(file, change)
    refused(file)


@pytest.mark.parametrize("field", ["training", "summary", "class_names", "held_out_fingerprint"])
def test_missing_field(file: Path, field: str) -> None:
    rewrite(file, lambda fields: fields.pop(field))
    refused(file, field)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"training":' * 20_000,
        b'{"source": "\\ud800"}',
        b'{"source": "\xff"}',
        b"\x00" * 30,
        b"{}{}",
        b"NaN",
    ],
    ids=str,
)
def test_header_that_is_no_header(file: Path, text: bytes) -> None:
    replace_header(file, text)
    refused(file)


def test_every_byte_counts(file: Path) -> None:
    """A change of any byte is found: in the prefix, the header, the padding, pixels and labels."""
    content = file.read_bytes()
    length = struct.unpack_from("<I", content, 12)[0]
    edges = [0, 8, 12, 16, 47, 48, 48 + length - 1, 48 + length, 36863, 36864, 36864 + 24 * 90 - 1]
    edges += [36864 + 24 * 90, 40959, 40960, 40960 + 6 * 90 - 1, 45055, 45056, len(content) - 1]
    for place in [*edges, *range(48, 48 + length, 7), *range(36864, len(content), 997)]:
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(DataError):
            open_packed(file)
    file.write_bytes(content)
    open_packed(file)


@pytest.mark.parametrize("size", [0, 7, 8, 47, 48, 200, 36864, 40960, -1, -8])
def test_truncated(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    refused(file)


@pytest.mark.parametrize("more", [b"\0", b"x" * 4096])
def test_appended(file: Path, more: bytes) -> None:
    file.write_bytes(file.read_bytes() + more)
    refused(file, "header promises")


def test_another_version_or_format(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8] = 2
    file.write_bytes(content)
    refused(file, "version 2")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(picture, "no packed file")


def test_labels_outside_the_classes(file: Path) -> None:
    """With checksums that fit them."""
    content = bytearray(file.read_bytes())
    content[45056:45064] = struct.pack("<q", -1)
    file.write_bytes(content)
    pixels, labels = content[36864 : 36864 + 24 * 90], content[45056 : 45056 + 24 * 8]
    fingerprint = hashlib.sha256(b"(24, 3, 6, 5)" + pixels + labels).hexdigest()
    rewrite(file, lambda fields: fields.update(training_fingerprint=fingerprint))
    refused(file, "-1 to 2")


def test_a_file_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    """The system is not asked to reserve memory for all of it."""
    path = tmp_path / "sparse"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with path.open("wb+") as file:
        file.truncate(4 * memory)
        mapped = packed._map(file, 4 * memory, "sparse")
    assert mapped[4 * memory - 1] == 0
    mapped.close()


def test_a_mapped_file_is_never_written_to(file: Path) -> None:
    content = file.read_bytes()
    data = open_packed(file, max_memory_bytes=0)
    data.train.images.zero_()
    assert int(data.train.images.sum()) == 0
    assert file.read_bytes() == content


# Writing.


def images_of(count: int) -> np.ndarray:
    return np.zeros((count, 3, 6, 5), np.uint8)


def test_a_writer_refuses_what_a_file_cannot_hold(tmp_path: Path) -> None:
    def write(*parts: tuple[Any, Any, bool], names: Any = None, **how: Any) -> None:
        with create_packed(tmp_path / "x", (3, 6, 5), names, True, **how) as writer:
            for part in parts:
                writer.add(*part)
            writer.finish("", None)

    labels = np.zeros(2, np.int64)
    wrong: list[tuple[list[tuple[Any, Any, bool]], str]] = [
        ([], "no training images"),
        ([(images_of(2), labels, True)], "no training images"),
        ([(images_of(2), labels, True), (images_of(2), labels, False)], "after those"),
        ([(images_of(2), None, False)], "for all of its images, or for none"),
        ([(images_of(2), labels[:1], False)], "labels to pack"),
        ([(images_of(2), labels.astype(np.int32), False)], "labels to pack"),
        ([(images_of(2), labels - 1, False)], "go from -1 to -1"),
        ([(images_of(2).astype(np.int16), labels, False)], "uint8"),
        ([(images_of(2)[0], labels, False)], "uint8"),
        ([(images_of(2)[:, :1], labels, False)], "uint8"),
    ]
    for parts, words in wrong:
        with pytest.raises(DataError, match=words):
            write(*parts)
    with pytest.raises(DataError, match="for 4"):
        write(names=("a", "b"), classes=4)
    with pytest.raises(DataError, match="5 to 5, not 0 to 3"):
        write((images_of(2), labels + 5, False), classes=4)
    unfinished = create_packed(tmp_path / "x", (3, 6, 5), None, False)
    with pytest.raises(RuntimeError, match="finish"), unfinished:
        pass
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_file_that_was_there(file: Path) -> None:
    content = file.read_bytes()

    def write() -> None:
        with create_packed(file, (3, 6, 5), None, False) as writer:
            writer.add(images_of(5), None, False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from genkit.data.packed.writer import create_packed

with create_packed(Path(sys.argv[1]), (3, 6, 5), None, False) as writer:
    writer.add(np.ones((500, 3, 6, 5), np.uint8), None, False)
    if sys.argv[2] == "finished":
        writer.finish("", None)
    print("here", flush=True)
    sys.stdin.read(1)
"""


@pytest.mark.parametrize("when", ["writing", "finished"])
def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path, when: str) -> None:
    path = tmp_path / "a [0]*.packed"
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), when],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == b"here\n"
    (temporary,) = tmp_path.iterdir()
    assert temporary.name.startswith(".")
    pack(dataset(), path)  # while the other one writes: its file is left alone
    assert set(tmp_path.iterdir()) == {path, temporary}
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert set(tmp_path.iterdir()) == {path, temporary}
    pack(dataset(), path)
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_other_names_and_links_stay(tmp_path: Path) -> None:
    others = [tmp_path / ".x.packing-1.tmp.bak", tmp_path / ".y.packing-1.tmp"]
    for other in others:
        other.write_bytes(b"")
    link = tmp_path / ".x.packing-2.tmp"
    link.symlink_to(others[0])
    pack(dataset(), tmp_path / "x")
    assert {*others, link} < set(tmp_path.iterdir())


def full_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Writes of packed files fail as on a disk with so many bytes free."""
    real = packed_writer._open_temporary

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    def opened(path: Path) -> tuple[Any, Path]:
        file, temporary = real(path)
        file.close()
        return Full(temporary, "r+"), temporary

    monkeypatch.setattr(packed_writer, "_open_temporary", opened)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, 60_000)
    big = dataset(count=400)
    with pytest.raises(DataError) as caught:
        pack(big, tmp_path / "x")
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "need 74.3 KiB" in message  # all of it, although less was written so far
    assert os.strerror(errno.ENOSPC) in message
    assert not list(tmp_path.iterdir())


def test_what_cannot_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    much = create_packed(tmp_path / "x", (1, 1000, 1000), None, False, expected=10**6)
    with pytest.raises(DataError, match=r"need 931 GiB or more \(.* are free\)"), much:
        pytest.fail("it began")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        pack(dataset(), tmp_path / "file" / "x")
    with pytest.raises(DataError, match="cannot write"):
        pack(dataset(), tmp_path / ("x" * 300))


# Training.


def trainings(
    tiny: type[genkit.Trainer], file: Path, engine: Any, **more: Any
) -> tuple[Training, Training]:
    options = TrainOptions(batch_size=4, log_interval=50, device="cpu", engine=engine, **more)
    made = []
    for limit in (2**30, 0):
        data = open_packed(file, max_memory_bytes=limit)
        made.append(training_of(build(tiny, tiny.Config(), data.spec, 0, "cpu"), data, options))
    return made[0], made[1]


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_mapped_file_changes_no_bit(
    tiny: type[genkit.Trainer], file: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genkit.data.loader.CHUNK_STEPS", 5)
    memory, mapped = trainings(tiny, file, engine)
    assert isinstance(memory.work.loader, Resident)
    assert isinstance(mapped.work.loader, Streamed)
    for training in (memory, mapped):
        for window in (7, 20, 3, 11, 9):
            training.run(window)
    assert memory.stepper.kind == mapped.stepper.kind == engine
    assert not differing(snapshot(memory.trainer), snapshot(mapped.trainer))
    assert memory.means() == mapped.means()
    for training in (memory, mapped):
        training.close()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("max_memory_bytes", [0, 2**30], ids=["mapped", "in memory"])
def test_labels_of_a_stream_stay_with_their_images(
    tmp_path: Path, in_place: bool, max_memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is its label."""
    numbers = torch.arange(200)
    images = numbers.to(torch.uint8)[:, None, None, None].expand(200, 3, 40, 40).contiguous()
    pack(ImageData(Split(images, numbers), Split(images[:0], numbers[:0]), "", 200), tmp_path / "x")
    data = open_packed(tmp_path / "x", max_memory_bytes=max_memory_bytes)
    monkeypatch.setattr("genkit.data.loader.REGION_BYTES", 2**12)
    monkeypatch.setattr("genkit.data.loader.RELEASE_BYTES", 2**14)
    order = Order(200, 16, seed=0)
    loader = Streamed(data.train, order, torch.device("cpu"), chunk=3, in_place=in_place)
    for first, steps in ((0, 7), (7, 2), (3, 9), (12, 1)):
        seen = []
        for window in loader.windows(first, steps):
            for row in window:
                batch = loader.batch(row)
                assert batch.labels is not None
                level = ((batch.images[:, 0, 0, 0] + 1) * 127.5).round().long()
                assert level.equal(batch.labels)
                seen.append(batch.labels)
        assert torch.stack(seen).equal(order.indices(first, steps))
    loader.close()


def test_iterating_a_mapped_file_releases_it(file: Path) -> None:
    data = open_packed(file, max_memory_bytes=0)
    calls: list[int] = []
    split = Split(data.train.images, data.train.labels, lambda: calls.append(1))
    batches = list(iterate_batches(split, 10, "cpu"))
    expected = list(iterate_batches(dataset().train, 10, "cpu"))
    assert len(calls) == len(batches) == 3
    for ours, theirs in zip(batches, expected, strict=True):
        assert ours.images.equal(theirs.images)


RESIDENT_MEMORY = """
import sys, torch
import numpy as np
from pathlib import Path
from genkit.data import loader
from genkit.data.packed import reader as packed

loader.CHUNK_BYTES, loader.RELEASE_BYTES = 2**23, 2**23
def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20

data = packed.open_packed(Path(sys.argv[1]), max_memory_bytes=0)
split, most = data.train, 0
def release():
    global most
    most = max(most, resident())
    split.release()

watched = type(split)(split.images, split.labels, release)
stream = loader.make_loader(watched, loader.Order(len(split), 32, seed=0), torch.device("cpu"))
for buffer in stream._buffers:
    buffer.samples.images.fill_(1)
before = resident()
for number in range(12):
    for window in stream.windows(number * stream.chunk, stream.chunk):
        pass
for batch in loader.iterate_batches(watched, 16, "cpu"):
    pass
stream.close()
print(before, most, resident())
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_mapped_file_takes_the_memory_of_a_window(tmp_path: Path) -> None:
    """192 MiB of images by windows of 8 MiB."""
    path = tmp_path / "large"
    with create_packed(path, (3, 64, 64), None, False) as writer:
        for _ in range(16):
            writer.add(np.random.randint(0, 256, (1024, 3, 64, 64), np.uint8), None, False)
        writer.finish("", None)
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT_MEMORY, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    before, most, after = map(float, done.stdout.split())
    assert most - before < 48, done.stdout
    assert after - before < 32, done.stdout


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_resuming_from_a_mapped_file_is_exact(
    file: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the whole run is the one of the same images in memory."""
    options: dict[str, Any] = {
        "batch_size": 4,
        "log_interval": 5,
        "sample_interval": 10,
        "checkpoint_interval": 10,
        "device": "cpu",
        "engine": engine,
        "progress": False,
    }
    monkeypatch.setattr("genkit.data.loader.CHUNK_STEPS", 3)
    name = f"packed:{file.name}"
    memory = genkit.train(
        "simple-gan", dataset=name, iterations=20, out=str(tmp_path / "memory"), **options
    )
    mapped = partial(open_packed, max_memory_bytes=0)
    monkeypatch.setattr(genkit_plugins.packed_dataset, "open_packed", mapped)
    assert memory.info.dataset.name == f"packed:{file}"
    whole = genkit.train(
        "simple-gan", dataset=name, iterations=20, out=str(tmp_path / "whole"), **options
    )
    genkit.train("simple-gan", dataset=name, iterations=10, out=str(tmp_path / "parts"), **options)
    monkeypatch.chdir(tmp_path.parent)  # the run knows the absolute path
    parts = genkit.resume(tmp_path / "parts", 20, progress=False)
    for other in (whole, parts):
        ours = snapshot(memory.trainer)
        assert not differing(ours, snapshot(other.trainer))
        assert other.info.dataset.fingerprint == memory.info.dataset.fingerprint
    expected = (tmp_path / "memory" / "metrics.jsonl").read_bytes()
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == expected


# The dataset and the command.


def load(argument: str, **request: Any) -> ImageData:
    return load_dataset(discover(), f"packed:{argument}", DataRequest(Path("nowhere"), **request))


def test_the_dataset(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = file.with_name("a:b  ü~.packed")
    file.rename(odd)
    data = load(odd.name)
    assert same(data, dataset())
    assert data.argument == data.source == str(odd)
    monkeypatch.setenv("HOME", str(odd.parent))
    assert load(f"~/{odd.name}").argument == str(odd)
    assert len(load(odd.name, limit=30, shape=(3, 6, 5)).train) == 24
    with pytest.raises(DataError, match="has 30 images, more than the 29 of the run"):
        load(odd.name, limit=29)
    with pytest.raises(DataError, match=r"\(3, 6, 5\), not the \(1, 6, 5\) of the run"):
        load(odd.name, shape=(1, 6, 5))


def test_more_than_the_run_had_is_not_read(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[36864] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="more than the 29"):
        load(file.name, limit=29)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("", "packed:FILE"),
        ("none", "there is no file"),
        (".", "folder:"),
        ("pipe", "no regular file"),
        ("text", "no packed file"),
        ("empty", "no packed file"),
        ("secret", "Permission denied"),
    ],
)
def test_not_a_packed_file(tmp_path: Path, argument: str, words: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("hello" * 100)
    (tmp_path / "empty").write_text("")
    (tmp_path / "secret").write_text("hello" * 100)
    (tmp_path / "secret").chmod(0)
    if argument == "secret" and os.access(tmp_path / "secret", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match=words):
        load(argument)


def test_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_cli(capsys, "data", "pack", "digits", "new/digits.packed")
    assert (code, out) == (0, "new/digits.packed\n")
    digits = load_dataset(discover(), "digits", DataRequest(tmp_path))
    opened = open_packed(Path("new/digits.packed"))
    assert same(opened, digits)
    assert opened.fingerprint() == digits.fingerprint()
    assert opened.spec == digits.spec

    before = Path("new/digits.packed").read_bytes()
    code, out, err = run_cli(capsys, "data", "pack", "digits", "new/digits.packed")
    assert (code, out) == (2, "")
    assert "--force" in err
    code, _, err = run_cli(capsys, "data", "pack", "digits", "new", "--force")
    assert code == 2
    assert "is a folder" in err
    code, *_ = run_cli(capsys, "data", "pack", "digits", "new/digits.packed", "--force")
    assert code == 0
    assert Path("new/digits.packed").read_bytes() == before
    assert [path.name for path in Path("new").iterdir()] == ["digits.packed"]


def test_pack_from_a_packed_file_to_itself(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = partial(open_packed, max_memory_bytes=0)
    monkeypatch.setattr(genkit_plugins.packed_dataset, "open_packed", mapped)
    monkeypatch.setattr(packed_writer, "PACK_BYTES", 200)
    code, *_ = run_cli(capsys, "data", "pack", f"packed:{file}", str(file), "--force")
    assert code == 0
    assert same(open_packed(file), dataset())
    assert open_packed(file).class_names == ("cat", "Hündin", "犬")


def test_pack_takes_the_options_of_a_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(12):
        picture = Image.new("RGB", (20 + number, 16), (number, 0, 0))
        picture.save(tmp_path / "pictures" / f"{number}.png")
    code, _, err = run_cli(capsys, "data", "pack", "folder:pictures", "x", "--image-size", "8x6")
    assert code == 0, err
    assert open_packed(Path("x")).spec.shape == (3, 8, 6)
    code, _, err = run_cli(capsys, "data", "pack", "digits", "y", "--image-size", "8")
    assert code == 2
    assert "digits" in err
    assert not Path("y").exists()


def test_an_interrupted_pack_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packed_writer.PackedWriter, "finish", interrupt)
    code, out, err = run_cli(capsys, "data", "pack", "digits", "x")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert not list(tmp_path.glob("*x*"))


# Progress.


def test_track_prints_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with track.track("decoding", 3000, True) as advance:
        for _ in range(3):
            now += 6
            advance(1000)
    assert capsys.readouterr().err == "decoding: 2,000 of 3,000\n"
    with track.track("decoding", 3000, False) as advance:
        now += 60
        advance(3000)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(Terminal):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "the terminal has gone")


@pytest.mark.parametrize("stream", [None, Closed(), Terminal()], ids=["None", "gone", "terminal"])
def test_track_never_fails(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(track, "SECONDS_BETWEEN_LINES", 0.0)
    done = 0
    with track.track("decoding [b]", 5, True) as advance:
        for _ in range(5):
            advance(1)
            done += 1
    assert done == 5
    if isinstance(stream, Terminal) and not isinstance(stream, Closed):
        assert "decoding [b]" in stream.getvalue()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with track.track("decoding", 5, True) as advance:
        advance(5)
