"""Pictures of what a run has learned, each from the run, a seed and the arguments alone: the same
call gives the same bytes. ``draw_`` writes a file and returns its path, ``render_`` returns bytes.
"""

from .animation import draw_animation, render_gif
from .interpolation import Interpolation, draw_interpolation, interpolate, render_interpolation
from .latent_map import draw_latent_map, encode_held_out, render_latent_map
from .manifold import draw_manifold, has_manifold, render_manifold

__all__ = [
    "Interpolation",
    "draw_animation",
    "draw_interpolation",
    "draw_latent_map",
    "draw_manifold",
    "encode_held_out",
    "has_manifold",
    "interpolate",
    "render_gif",
    "render_interpolation",
    "render_latent_map",
    "render_manifold",
]
