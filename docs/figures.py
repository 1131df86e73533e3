"""The pictures of docs/results.md, docs/pictures.md and docs/own-images.md from finished runs.

`python docs/figures.py results GAN_RUN AE_RUN VAE_RUN DCGAN_RUN`, `python docs/figures.py pictures
GAN_RUN VAE_RUN PLANE_RUN`, the last a VAE of two latents, and `python docs/figures.py own AE_RUN
VAE_RUN DCGAN_RUN`.

No picture shows real images: the datasets are not this project's to redistribute.
"""

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

import genkit
from genkit.report import pictures

OUT = Path(__file__).parent / "images"


def write_row(titled: dict[str, Path], path: Path) -> None:
    """Write pictures side by side, each under its title."""
    figure = Figure(figsize=(2.6 * len(titled), 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, picture) in zip(figure.subplots(1, len(titled)), titled.items(), strict=True):
        axis.imshow(imread(picture), cmap="gray", interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=110)


def results(gan: Path, ae: Path, vae: Path, dcgan: Path) -> None:
    """Write the pictures of docs/results.md."""
    steps = {
        f"{step:,} iterations": gan / "samples" / f"{step:09}.png"
        for step in (1_000, 2_000, 10_000, 20_000)
    }
    write_row(steps, OUT / "simple-gan.png")
    latest = {
        name: max((run / "samples").glob("*.png")) for name, run in (("ae", ae), ("vae", vae))
    }
    write_row(latest, OUT / "ae-vae.png")
    both = {"simple-gan, 20,000 iterations": gan, "dcgan, 5,000 iterations": dcgan}
    write_row(
        {title: max((run / "samples").glob("*.png")) for title, run in both.items()},
        OUT / "dcgan.png",
    )
    (OUT / "curves-simple-gan.png").write_bytes((gan / "plots" / "curves.png").read_bytes())


def latents(gan: Path, vae: Path, plane: Path) -> None:
    """What the commands `interpolate`, `latent` and `animate` draw with their defaults, and by
    t-SNE.
    """
    pictures.draw_interpolation(genkit.load(gan), OUT / "interpolation-simple-gan.png")
    pictures.draw_animation(genkit.load(gan), OUT / "training-simple-gan.gif")
    pictures.draw_latent_map(genkit.load(vae), OUT / "latent-vae-pca.png")
    pictures.draw_latent_map(genkit.load(vae), OUT / "latent-vae-tsne.png", method="tsne")
    pictures.draw_latent_map(genkit.load(plane), OUT / "latent-vae-plane.png")
    pictures.draw_manifold(genkit.load(plane), OUT / "manifold-vae.png")


def own_images(ae: Path, vae: Path, dcgan: Path) -> None:
    """Write the picture of docs/own-images.md: the newest samples of runs on one folder."""
    runs = {"ae": ae, "vae": vae, "dcgan": dcgan}
    newest = {name: max((run / "samples").glob("*.png")) for name, run in runs.items()}
    write_row(newest, OUT / "own-images.png")


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    draw = {"results": results, "pictures": latents, "own": own_images}[sys.argv[1]]
    draw(*(Path(argument) for argument in sys.argv[2:]))
