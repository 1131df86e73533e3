"""A dataset in one file that `genkit data pack` wrote."""

from dataclasses import replace

from genkit import DataError, DataRequest, DataUnavailableError, ImageData, open_packed


def packed(request: DataRequest) -> ImageData:
    """The images and labels in a packed file, which is verified against its checksums.

    More than 1 GiB of pixels stay in the file, of which the system keeps in memory what is in use.
    """
    if not request.argument:
        raise DataError(
            "dataset packed: name the file as packed:FILE; `genkit data pack` writes it"
        )
    path = request.argument_path
    if path.is_dir():
        raise DataError(f"packed:{request.argument} is a folder; type folder:{request.argument}")
    if not path.exists():
        raise DataUnavailableError(f"packed:{request.argument}: there is no file {path}")
    data = open_packed(
        path,
        show_progress=request.show_progress,
        limit=request.limit,
        shape=request.shape,
    )
    return replace(data, argument=str(path))
