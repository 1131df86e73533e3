"""Commands about datasets: data pack."""

from pathlib import Path
from typing import Any

import click

from ..config import OnBadImage
from .options import DatasetCommand, data_root_option
from .output import print_line


@click.group()
def data() -> None:
    """Work with datasets."""


@data.command(cls=DatasetCommand)
@click.argument("dataset")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@data_root_option
@click.option(
    "--on-bad-image",
    type=click.Choice(["refuse", "skip"]),
    default="skip",
    show_default=True,
    help="On an image file that cannot be used: skip the file, or refuse the dataset.",
)
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
    from ..data import datasets, packed
    from ..errors import UsageError
    from ..plugins.registry import discover

    if file.is_dir():
        raise UsageError(f"{file} is a folder: give the name of a file")
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
    packed.pack(found, file, show_progress=True)
    if found.summary:
        _notify(found.summary)
    print_line(file)


def _notify(line: str) -> None:
    print_line(f"note: {line}", error=True)
