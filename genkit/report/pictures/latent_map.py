"""The latent map: codes of held-out images in two dimensions, coloured by label."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...data.datasets import Split
from ...data.images import check_png_name, write_picture
from ...errors import DataError, UsageError, attribute_errors
from ...evaluation.latents import encode, find_encoder
from ...rng import derive_seed
from ...run import Run
from ...storage.folder import LATENT_MAP
from ..plotting import render_map
from .sheet import make_heading

Method = Literal["pca", "tsne"]


def encode_held_out(
    run: Run,
    count: int = 2000,
    seed: int = 0,
    data_root: Path | None = None,
    dataset: Any = None,
) -> tuple[Tensor, Tensor | None]:
    """Encode ``count`` held-out images that ``seed`` chooses, or all if they are fewer: codes
    ``(N, L)`` and labels ``(N,)``.

    ``data_root`` and ``dataset`` are those of :meth:`genkit.Run.data`.

    Raises:
        UsageError: the model has no encoder.
        DataError: the dataset was not found, or holds out no images.
        ContractError: the encoder does not give codes.
    """
    encoder = find_encoder(run.trainer, run.info.model.name)
    if count < 1:
        raise UsageError(f"count is {count}: encode one image or more")
    test: Split = run.data(data_root, dataset=dataset).test
    if not len(test):
        raise DataError(f"{run.info.dataset.name} holds out no images to encode")
    random = np.random.Generator(np.random.Philox(derive_seed(seed, "held-out")))
    chosen = torch.from_numpy(np.sort(random.permutation(len(test))[:count]))
    with attribute_errors(run.owner, "to encode"):
        codes = encode(encoder, test, chosen, run.info.model.name)
    return codes, None if test.labels is None else test.labels[chosen]


def render_latent_map(
    run: Run,
    method: Method = "pca",
    count: int = 2000,
    seed: int = 0,
    data_root: Path | None = None,
    dataset: Any = None,
) -> bytes:
    """The codes of held-out images in two dimensions, coloured and marked by label, as PNG.

    Codes of two numbers are drawn without a projection. Others are projected on their first two
    principal components, or by t-SNE (van der Maaten & Hinton 2008; scikit-learn's, initialised
    with the principal components).

    Raises:
        UsageError: no encoder, codes of one number, or too few images.
        DataError: the dataset was not found, or holds out no images.
        ContractError: the encoder does not give codes.
    """
    if method not in ("pca", "tsne"):
        raise UsageError(f"method is {method!r}, but can be pca or tsne")
    codes, labels = encode_held_out(run, count, seed, data_root, dataset)
    points, how, names = _project(codes.double().numpy(), method, seed)
    heading = make_heading(run, f"codes of {len(points):,} held-out images, {how}, seed {seed}")
    classes = None if labels is None else labels.numpy()
    x, y = names
    return render_map(points, classes, heading, x, y, run.class_names)


def draw_latent_map(
    run: Run,
    path: Path | None = None,
    *,
    method: Method = "pca",
    count: int = 2000,
    seed: int = 0,
    data_root: Path | None = None,
    dataset: Any = None,
) -> Path:
    """Write :func:`render_latent_map` to ``path`` (None: to ``plots/`` in the run)."""
    path = path or run.folder.default_output(LATENT_MAP.format(method=method))
    check_png_name(path)
    write_picture(render_latent_map(run, method, count, seed, data_root, dataset), path)
    return path


def _project(codes: np.ndarray, method: Method, seed: int) -> tuple[np.ndarray, str, list[str]]:
    """Codes ``(N, L)`` as points ``(N, 2)``, the method in words, and the names of the axes."""
    count, size = codes.shape
    if size < 2 or count < 4:
        raise UsageError(
            f"{count} codes of {size}: a map needs four images and codes of two numbers or more"
        )
    if size == 2:
        return codes, "as they are", ["latent 1 (no unit)", "latent 2 (no unit)"]
    if not codes.std(0).any():
        raise UsageError("the encoder gives all images the same code: there is nothing to map")
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full")
        points = pca.fit_transform(codes)
        names = [
            f"principal component {number} ({100 * share:.1f} % of the variance)"
            for number, share in enumerate(pca.explained_variance_ratio_, 1)
        ]
        return points, "PCA", names
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (count - 1) / 3)  # 30 is usual, and needs so many neighbours
    state = derive_seed(seed, "t-sne") % 2**32
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=state, n_jobs=1)
    points = np.asarray(tsne.fit_transform(codes), dtype=float)
    names = ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]
    return points, f"t-SNE of perplexity {perplexity:.3g}", names
