"""Pictures of maps: alone, or over the image they explain."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz.image._arrays import AnyArray, blur, largest, normalize, overlay
from jaxviz.image._channels import as_rgb


def draw(
    map: Float[AnyArray, "h w *c"], *, over: Float[AnyArray, "h w _"] | None = None, fine: bool = False
) -> Float[Array, "h w 3"]:
    """Draw one map as a picture, alone or over its image.

    Args:
        map: `(h, w)`, or `(h, w, c)` with colors or signs, in absolute units. Its largest value becomes white; a map
            with colors or negative values is drawn around middle gray. RGB is drawn in color, any other number of
            channels by their sum: the effect of changing all of them together, to first order.
        over: an image `(h, w, c)` in [0, 1], to draw the map over as a heat map; for a map with channels, the heat is
            the largest absolute value among them.
        fine: whether the map consists of single pixels, like a gradient. They would not be visible over an image, so
            such a map is blurred by 3 pixels there. A map of regions, such as Grad-CAM's or RISE's, is drawn relative
            to its smallest value instead, if that is positive.

    Returns:
        The picture, `(h, w, 3)` in [0, 1].

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> picture = jaxviz.draw(jnp.array([[0.0, 1.0], [2.0, 4.0]]), fine=True)
        >>> print(picture.shape, picture[1, 1], picture[0, 0])
        (2, 2, 3) [1. 1. 1.] [0. 0. 0.]
    """
    map = jnp.asarray(map)
    if over is not None:
        heat = largest(abs(map), -1) if map.ndim == 3 else map
        return overlay(over, blur(heat[None, ..., None], 3.0)[0, ..., 0] if fine else _above_least(heat))
    map = map if fine else _above_least(map)
    signed = map.ndim == 3 or bool(map.min() < 0)
    map = map if map.shape[2:] in ((), (3,)) else map.sum(-1)
    shown = normalize(map[None], signed=signed)[0]
    return as_rgb(shown if shown.ndim == 3 else shown[..., None])


def _above_least(map: Float[Array, "h w *c"]) -> Float[Array, "h w *c"]:
    """Subtract the smallest value of a map of regions if it is positive, as it is for RISE, a mean of scores."""
    return map - jnp.maximum(map.min(), 0)
