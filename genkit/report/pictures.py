"""What a run has learned, as pictures: walks between latents, maps of them, and the training as an
animation.

Each has a form that gives the bytes of the picture and one that writes them; all are functions of
the run, the seed and the arguments, so the same call gives the same bytes.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.datasets import Split
from ..data.images import GRID_TILE, grid
from ..errors import ContractError, DataError, RunError, UsageError, attribute_errors
from ..evaluation.latents import encode, find_encoder, lerp, quantiles, slerp, survey
from ..interfaces import evaluating
from ..rng import Rng, derive_seed
from ..run import Run
from ..storage import atomic
from . import plotting
from .plotting import Axis, Heading
from .summary import shortened

Method = Literal["pca", "tsne"]

MAX_PIXELS, MAX_SIDE = 2**26, 2**15
"""Of a sheet of images."""
MAX_GRID_BYTES, MAX_GRID_PIXELS = 2**26, 2**25
"""Of a file in ``samples/``: the run may be a stranger's."""
MAX_FRAMES, FRAME_SIDE = 300, 640
"""More grids than this are thinned out evenly, larger ones shrunk to so many pixels."""
HOLD = 2.0
"""Seconds for which an animation's last frame stays."""


@dataclass(frozen=True)
class Walk:
    """Images on the way between pairs of latent codes."""

    images: Tensor
    """``(pairs, steps, C, H, W)`` in [-1, 1]. First and last column: the images of the codes
    themselves.
    """
    spherical: bool
    """Whether the way was an arc; else it was straight, because the prior is not Gaussian."""
    labels: Tensor | None
    """int64 ``(pairs,)``: what a conditional model was asked for, at both ends of a pair."""


def walk(
    run: Run,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    labels: Sequence[int] | Tensor | None = None,
) -> Walk:
    """Walk between pairs of codes from the prior: the codes of ``run.sample(2 * pairs, seed)``,
    first half to second.

    The way is :func:`genkit.evaluation.latents.slerp` about the prior's mean where the prior is
    Gaussian, judged by draws from it, and straight elsewhere. A conditional model is given
    ``labels`` ``(pairs,)``, or 0, 1, 2 … in turn.

    Raises:
        UsageError: labels that the model cannot have, codes that are whole numbers, or too many
        images.
    """
    if pairs < 1 or steps < 2:
        raise UsageError(
            f"{pairs} pairs in {steps} steps: there has to be a pair and two steps or more"
        )
    _check_size(run, pairs, steps)
    generator = run.trainer.generator
    chosen = run.trainer.labels_for(pairs, labels)
    with evaluating(generator), attribute_errors(run.owner, "to interpolate"):
        # One call for all ends, as sampling has: the same bits on every machine.
        codes = generator.prior(
            2 * pairs, Rng(seed, "samples"), None if chosen is None else chosen.repeat(2)
        )
        ends = _checked(run, generator(codes), 2 * pairs)
        start, end = codes[:pairs], codes[pairs:]  # (pairs, ...) each
        kinds = [None] * pairs if chosen is None else chosen.tolist()
        priors = {label: survey(generator, Rng(seed, "survey"), label) for label in set(kinds)}
        spherical = all(prior.gaussian for prior in priors.values())
        centre = torch.stack([priors[label].centre for label in kinds])  # (pairs, ...)
        columns = [ends[:pairs]]
        for number in range(1, steps - 1):
            t = number / (steps - 1)
            between = slerp(start, end, t, centre) if spherical else lerp(start, end, t)
            columns.append(_checked(run, generator(between), pairs))
    return Walk(torch.stack([*columns, ends[pairs:]], 1), spherical, chosen)


def interpolation_png(
    run: Run,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    labels: Sequence[int] | Tensor | None = None,
) -> bytes:
    """:func:`walk` as a PNG with axes, a row for each pair."""
    found = walk(run, pairs, steps, seed, labels)
    sheet = np.asarray(grid(found.images.flatten(0, 1), columns=steps))
    way = "spherical" if found.spherical else "linear"
    ticks = [f"{number / (steps - 1):.2g}" for number in range(steps)]
    if found.labels is None:
        rows = Axis("pair of latent codes", [str(number + 1) for number in range(pairs)])
    else:
        rows = Axis("label of both codes", [str(label) for label in found.labels.tolist()])
    columns = Axis("position between the two codes (fraction of the way)", ticks)
    return plotting.sheet_png(
        sheet, _heading(run, f"{way} interpolation, seed {seed}"), columns, rows
    )


def interpolation(
    run: Run,
    path: Path | None = None,
    *,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    labels: Sequence[int] | Tensor | None = None,
) -> Path:
    """Write :func:`interpolation_png` to ``path`` (None: ``plots/interpolation-seed-S.png`` in the
    run); say where.
    """
    path = path or run.folder.inside(f"plots/interpolation-seed-{seed}.png")
    plotting.check_png(path)
    plotting.save_png(interpolation_png(run, pairs, steps, seed, labels), path)
    return path


def held_out_codes(
    run: Run, count: int = 2000, seed: int = 0, data_root: Path | None = None
) -> tuple[Tensor, Tensor | None]:
    """Codes ``(N, L)`` of ``count`` held-out images that ``seed`` chooses, or of all, and their
    labels ``(N,)``.

    Raises:
        UsageError: the model has no encoder.
        DataError: no images are held out, or they are not to be had.
        ContractError: the encoder gives something else than codes.
    """
    encoder = find_encoder(run.trainer, run.info.model.name)
    if count < 1:
        raise UsageError(f"count is {count}: encode one image or more")
    test: Split = run.data(data_root).test
    if not len(test):
        raise DataError(f"{run.info.dataset.name} holds out no images to encode")
    order = np.random.Generator(np.random.Philox(derive_seed(seed, "held-out"))).permutation(
        len(test)
    )
    chosen = torch.from_numpy(np.sort(order[:count]))
    with attribute_errors(run.owner, "to encode"):
        codes = encode(encoder, test.images[chosen], run.info.model.name)
    return codes, None if test.labels is None else test.labels[chosen]


def latent_map_png(
    run: Run,
    method: Method = "pca",
    count: int = 2000,
    seed: int = 0,
    data_root: Path | None = None,
) -> bytes:
    """The codes of held-out images in two dimensions, coloured and marked by label, as PNG.

    Codes of two numbers are drawn as they are. Others are projected on their first two principal
    components, or laid out by t-SNE (van der Maaten & Hinton 2008; scikit-learn's, begun at the
    principal components).

    Raises:
        UsageError: no encoder, codes of one number, or too few images.
        DataError: no images are held out, or they are not to be had.
        ContractError: the encoder gives something else than codes.
    """
    if method not in ("pca", "tsne"):
        raise UsageError(f"method is {method!r}, but can be pca or tsne")
    codes, labels = held_out_codes(run, count, seed, data_root)
    points, way, names = _flattened(codes.double().numpy(), method, seed)
    note = f"codes of {len(points):,} held-out images, {way}, seed {seed}"
    return plotting.map_png(
        points, None if labels is None else labels.numpy(), _heading(run, note), *names
    )


def latent_map(
    run: Run,
    path: Path | None = None,
    *,
    method: Method = "pca",
    count: int = 2000,
    seed: int = 0,
    data_root: Path | None = None,
) -> Path:
    """Write :func:`latent_map_png` to ``path`` (None: ``plots/latent-METHOD.png`` in the run), and
    say where.
    """
    path = path or run.folder.inside(f"plots/latent-{method}.png")
    plotting.check_png(path)
    plotting.save_png(latent_map_png(run, method, count, seed, data_root), path)
    return path


def _flattened(
    codes: np.ndarray, method: Method, seed: int
) -> tuple[np.ndarray, str, tuple[str, str]]:
    """Codes ``(N, L)`` as points ``(N, 2)``, how, and what the axes are called."""
    count, size = codes.shape
    if size < 2 or count < 4:
        raise UsageError(
            f"{count} codes of {size}: a map needs four images and codes of two numbers or more"
        )
    if size == 2:
        return codes, "as they are", ("latent 1 (no unit)", "latent 2 (no unit)")
    if not codes.std(0).any():
        raise UsageError("the encoder gives all images the same code: there is nothing to map")
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full")
        points = pca.fit_transform(codes)
        shares = [100 * share for share in pca.explained_variance_ratio_]
        first, second = (
            f"principal component {n + 1} ({share:.1f} % of the variance)"
            for n, share in enumerate(shares)
        )
        return points, "PCA", (first, second)
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (count - 1) / 3)  # the usual one, where there are enough neighbours
    state = derive_seed(seed, "t-sne") % 2**32
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=state, n_jobs=1).fit_transform(
        codes
    )
    names = ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")
    return np.asarray(points, dtype=float), f"t-SNE of perplexity {perplexity:.3g}", names


def manifold_png(run: Run, side: int = 20) -> bytes:
    """``side`` x ``side`` images on a grid through a 2-D latent space, as PNG.

    The codes have equal steps of the prior's probability between them (Kingma & Welling 2014,
    figure 4); the first number of the code runs to the right, the second upwards.

    Raises:
        UsageError: the codes that the model is sampled from are not two numbers, or it is
        conditional.
    """
    _check_size(run, side, side)
    generator = run.trainer.generator
    if run.trainer.conditional:
        raise UsageError(
            f"{run.info.model.name} is sampled by label: it has more than the one manifold"
        )
    with evaluating(generator), attribute_errors(run.owner, "to draw the manifold"):
        prior = survey(generator, Rng(0, "survey"))
        shape = tuple(prior.centre.shape)
        if shape != (2,):
            raise UsageError(
                f"{run.info.model.name} has latent codes of shape {shape}; the manifold needs two numbers"
            )
        values = quantiles(prior, side).to(prior.draws.dtype)  # (side, 2)
        across = values[:, 0].repeat(side)
        up = values[:, 1].flip(0).repeat_interleave(side)
        images = _checked(run, generator(torch.stack([across, up], 1)), side * side)
    x, y = ([f"{value:.3g}" for value in column.tolist()] for column in values.T)
    sheet = np.asarray(grid(images, columns=side))
    heading = _heading(run, "decoded codes at equal steps of the prior's probability")
    return plotting.sheet_png(
        sheet, heading, Axis("latent 1 (no unit)", x), Axis("latent 2 (no unit)", y[::-1])
    )


def manifold(run: Run, path: Path | None = None, *, side: int = 20) -> Path:
    """Write :func:`manifold_png` to ``path`` (None: ``plots/manifold.png`` in the run), and say
    where.
    """
    path = path or run.folder.inside("plots/manifold.png")
    plotting.check_png(path)
    plotting.save_png(manifold_png(run, side), path)
    return path


def has_manifold(run: Run) -> bool:
    """Whether :func:`manifold` can draw the run's model."""
    generator = run.trainer.generator
    if run.trainer.conditional:
        return False
    with evaluating(generator), attribute_errors(run.owner, "to sample"):
        return tuple(generator.prior(1, Rng(0, "survey")).shape) == (1, 2)


def animation_gif(run: Run, fps: int = 4) -> bytes:
    """The grids of ``samples/``, which are from the same latents at every step, as an endless GIF.

    Raises:
        RunError: there are none, or a file among them is no such grid.
    """
    return plotting.animation_gif(_frames(run), _title(run), _checked_fps(fps), HOLD)


def animation(run: Run, path: Path | None = None, *, fps: int = 4) -> Path:
    """Write the animation to ``path``, ``.gif`` or ``.mp4`` (None: ``plots/animation.gif`` in the
    run); say where.

    Raises:
        UsageError: another suffix, or an MP4 where there is no ffmpeg.
        RunError: there are no grids, a file among them is no such grid, or ffmpeg fails.
    """
    path = path or run.folder.inside("plots/animation.gif")
    suffix = path.suffix.lower()
    if suffix == ".gif":
        data = animation_gif(run, fps)
    elif suffix == ".mp4":
        data = plotting.animation_mp4(_frames(run), _title(run), _checked_fps(fps), HOLD)
    else:
        raise UsageError(
            f"{path}: animations are written as GIF or MP4; give a name that ends in .gif or .mp4"
        )
    atomic.make_folder(path.parent)
    atomic.replace(path, data)
    return path


def _checked_fps(fps: int) -> int:
    if not 1 <= fps <= 50:
        raise UsageError(f"fps is {fps}: a GIF has from 1 to 50 frames a second")
    return fps


def _frames(run: Run) -> Iterator[tuple[str, np.ndarray]]:
    """Note and picture of each grid, in the order of their steps."""
    paths = run.folder.all_samples()
    if not paths:
        raise RunError(f"{run.path} has no grids in samples/ yet")
    kept = sorted(
        {round(number) for number in np.linspace(0, len(paths) - 1, min(len(paths), MAX_FRAMES))}
    )
    first: np.ndarray | None = None
    for number in kept:
        path = run.folder.inside(f"samples/{paths[number].name}")
        sheet = _read_grid(path)
        first = sheet if first is None else first
        if sheet.shape != first.shape:
            sizes = f"{_size(sheet)}, and {paths[kept[0]].name} is {_size(first)}"
            raise RunError(
                f"{path} is {sizes}: grids of one run are of one size; remove what is not of it"
            )
        yield f"step {int(path.stem):,}, same latents", sheet


def _size(sheet: np.ndarray) -> str:
    height, width, *channels = sheet.shape
    return f"{width} x {height} pixels of {channels[0] if channels else 1} channels"


def _read_grid(path: Path) -> np.ndarray:
    """A grid, uint8 ``(H, W)`` or ``(H, W, 3 or 4)``, no larger than a frame.

    Raises:
        RunError: it is a link, too large or damaged.
    """
    try:
        data = atomic.read(path, MAX_GRID_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # MAX_GRID_PIXELS is the stricter limit
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                if picture.width * picture.height > MAX_GRID_PIXELS:
                    raise ValueError(
                        f"{picture.width} x {picture.height} pixels are more than {MAX_GRID_PIXELS}"
                    )
                grey = picture.mode in ("1", "L")
                picture.thumbnail((FRAME_SIDE, FRAME_SIDE))
                plain = picture.convert(
                    "L" if grey else "RGBA" if picture.mode == "RGBA" else "RGB"
                )
    except (
        OSError,
        SyntaxError,
        EOFError,
        ValueError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise RunError(
            f"{path} is no sample grid that can be read: {' '.join(str(error).split())}"
        ) from None
    return np.array(plain)


def _checked(run: Run, images: Tensor, count: int) -> Tensor:
    expected = (count, *run.spec.shape)
    if not isinstance(images, Tensor) or images.shape != expected:
        given = (
            f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise ContractError(
            f"{run.info.model.name}'s generator gave {given}, not images {expected}"
        )
    return images


def _check_size(run: Run, rows: int, columns: int) -> None:
    """Refuse a sheet that no one could look at, before an image of it is made."""
    _, height, width = run.spec.shape
    tall, wide = (
        rows * max(height, 2 * GRID_TILE),
        columns * max(width, 2 * GRID_TILE),
    )  # small ones are enlarged
    if rows < 1 or columns < 1 or max(tall, wide) > MAX_SIDE or tall * wide > MAX_PIXELS:
        raise UsageError(
            f"{rows} x {columns} images of {height} x {width} make no picture to look at: ask for fewer"
        )


def _title(run: Run) -> str:
    return f"{run.info.model.name} on {shortened(run.info.dataset.name)}"


def _heading(run: Run, note: str) -> Heading:
    return Heading(_title(run), f"step {run.step:,}, {note}")
