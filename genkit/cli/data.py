"""Commands about datasets: what is in one, and packing one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import OnBadImage
from .options import DatasetCommand, data_root_option, json_option
from .output import MAX_CELL, print_line, print_table

if TYPE_CHECKING:
    from ..data.inspection import Inspection

PICTURE = "inspection.png"
on_bad_image_option = click.option(
    "--on-bad-image",
    type=click.Choice(["skip", "refuse"]),
    default="skip",
    show_default=True,
    help="On an image file that cannot be used: skip the file, or refuse the dataset.",
)


@click.group()
def data() -> None:
    """Work with datasets."""


@data.command(cls=DatasetCommand)
@click.argument("dataset")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(PICTURE),
    show_default=True,
    help="PNG file: 64 images as a model sees them.",
)
@data_root_option
@on_bad_image_option
@json_option
def inspect(
    dataset: str,
    out: Path,
    data_root: Path | None,
    on_bad_image: OnBadImage,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Look at every image of the dataset DATASET, such as folder:PATH.

    Prints sizes, kinds of pictures, classes, mean and spread of the pixels, exact and near
    duplicates, and each file that is not used with the reason. Writes a picture of 64 images.
    Prints its path.
    """
    from ..data import datasets, images, inspection
    from ..plugins.registry import discover

    images.check_png_name(out)
    _check_outside(out, dataset)
    request = datasets.DataRequest(
        datasets.data_root(data_root),
        options=options,
        on_bad_image=on_bad_image,
        show_progress=True,
    )
    found = inspection.inspect(discover(), dataset, request)
    images.write_picture(images.encode_png(found.picture()), out)
    if as_json:
        click.echo(json.dumps(_json_of(found, out), indent=2))
        return
    _print_inspection(found)
    print_line(out)


def _check_outside(out: Path, dataset: str) -> None:
    """Refuse a picture that would become a part of the dataset that it shows."""
    from ..data.datasets import argument_path
    from ..errors import UsageError

    argument = dataset.partition(":")[2]
    folder = argument_path(argument)
    if argument and folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{out} would become a part of {dataset}: give --out another place")


def _json_of(found: "Inspection", picture: Path) -> dict[str, Any]:
    data, content = found.data, asdict(found, dict_factory=dict)
    del content["data"]
    about = {
        "summary": data.summary,
        "source": data.source,
        "training": len(data.train),
        "held_out": len(data.test),
        "shape": data.spec.shape,
        "fingerprint": data.fingerprint(),
    }
    return {**about, **content, "picture": str(picture)}


def _print_inspection(found: "Inspection") -> None:
    data = found.data
    channels, height, width = data.spec.shape
    mean, spread = (", ".join(f"{x:.1f}" for x in of) for of in (found.mean, found.spread))
    print_line(data.summary or f"{len(data.train):,} images to train, {len(data.test):,} held out")
    facts = [
        ("source", data.source),
        ("images", f"{height}x{width} (height x width), {_name_channels(channels)}"),
        ("mean", f"{mean} (0 to 255)"),
        ("spread", f"{spread} (standard deviation)"),
    ]
    for name, counts in (("sizes", found.sizes), ("kinds", found.modes)):
        if counts:
            facts.append((name, ", ".join(f"{n:,} {what}" for what, n in counts)))
    print_table([("", ""), *facts])
    if found.classes:
        rows = [(name, f"{n:,}", f"{m:,}") for name, n, m in found.classes]
        print_table([("class", "training", "held out"), *rows], max_cell=MAX_CELL)
    _print_list("not used", (f"{name}: {reason}" for name, reason in found.unused))
    _print_groups("groups of the same pixels", found.exact)
    _print_groups("groups that look alike", found.near)
    for warning in found.warnings:
        print_line(f"warning: {warning}")


def _name_channels(channels: int) -> str:
    return {1: "grey", 3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels")


def _print_groups(title: str, groups: Sequence[Sequence[str]]) -> None:
    _print_list(title, (" | ".join(group) for group in groups))


def _print_list(title: str, lines: Iterable[str]) -> None:
    """The whole list: this is the command that leaves nothing out."""
    found = list(lines)
    print_line(f"{title} ({len(found):,}){':' if found else ''}")
    for line in found:
        print_line(f"  {line}")


@data.command(cls=DatasetCommand)
@click.argument("dataset")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@data_root_option
@on_bad_image_option
def pack(
    dataset: str,
    file: Path,
    force: bool,
    data_root: Path | None,
    on_bad_image: OnBadImage,
    options: dict[str, Any],
) -> None:
    """Write the dataset DATASET, such as folder:PATH, to the one file FILE. Prints its path.

    `genkit train MODEL --dataset packed:FILE` trains on it: it starts at once, and large files are
    read as they are needed. FILE holds the images as a model sees them, with labels, class names
    and checksums. Whatever interrupts this command leaves no part of FILE.
    """
    from ..data import datasets
    from ..data.packed.writer import pack as pack_file
    from ..errors import UsageError
    from ..plugins.registry import discover

    if file.exists() and not file.is_file():
        raise UsageError(f"{file} is a folder or a device: give the name of a file")
    if file.exists() and not force:
        raise UsageError(f"{file} exists: choose another name, or replace it with --force")
    request = datasets.DataRequest(
        datasets.data_root(data_root),
        options=options,
        on_bad_image=on_bad_image,
        show_progress=True,
    )
    found = datasets.load_dataset(discover(), dataset, request, _notify)
    if found.augment is not None:
        _notify(f"{dataset} changes its images while training, which a packed file does not")
    pack_file(found, file, show_progress=True)
    if found.summary:
        _notify(found.summary)
    print_line(file)


def _notify(line: str) -> None:
    print_line(f"note: {line}", error=True)
