"""genkit animate RUN."""

from pathlib import Path

import click

from .output import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--fps", type=click.IntRange(1, 50), default=4, show_default=True, help="Frames a second."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=".gif, or .mp4 with ffmpeg.  [default: plots/animation.gif in the run]",
)
def animate(run: Path, fps: int, out: Path | None) -> None:
    """Show the training: the run's sample grids, which are from the same latents. Prints where the
    animation is.
    """
    from ..report import pictures
    from ..run import Run

    say(pictures.draw_animation(Run.open(run), out, fps=fps))
