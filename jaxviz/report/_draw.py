"""How maps are drawn, on the command line and in the tour."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz.image._arrays import blur, largest, normalize, overlay


def raw(map: Float[Array, "h w *c"], *, fine: bool) -> Float[Array, "h w 3"]:
    """Draw a map as it is: white where it is largest; one that has colours or signs around middle grey."""
    map = map if fine else _above_least(map)
    shown = normalize(map[None], signed=map.ndim == 3 or bool(map.min() < 0))[0]
    return shown if shown.ndim == 3 else jnp.repeat(shown[..., None], 3, axis=-1)


def overlaid(image: Float[Array, "h w 3"], map: Float[Array, "h w *c"], *, fine: bool) -> Float[Array, "h w 3"]:
    """Draw a map over its image; of colours, the largest absolute value.

    A map of single bright pixels, `fine`, would not be seen over a photograph: it is blurred by 3 pixels.
    """
    heat = largest(abs(map), -1) if map.ndim == 3 else map
    return overlay(image, blur(heat[None, ..., None], 3.0)[0, ..., 0] if fine else _above_least(heat))


def _above_least(map: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Return what a map of regions has above its least value, if that is positive: RISE's is a mean score."""
    return map - jnp.maximum(map.min(), 0)
