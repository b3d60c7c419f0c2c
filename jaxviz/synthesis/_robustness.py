"""Random transformations that an image must survive: what only one alignment of pixels would excite, fades."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxviz._types import Images, Key

Transform = Callable[[Key, Images], Images]


@functools.cache
def jitter_scale_rotate(jitter: float = 8.0, scale: float = 0.1, degrees: float = 10.0) -> Transform:
    """Return a transform that shifts, scales and turns each image at random, about its centre, in one resampling.

    Args:
        jitter: the largest shift, in pixels.
        scale: the largest change of scale: 0.1 is from 0.9 to 1.1.
        degrees: the largest turn.

    What comes into view from outside is grey. The ranges are those of Olah et al. 2017.
    """

    def transform(key: Key, images: Images) -> Images:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
        return jax.vmap(one)(keys, images)

    def one(key: Key, image: Array) -> Array:
        shift_key, scale_key, turn_key = jax.random.split(key, 3)
        shift = jax.random.uniform(shift_key, (2,), image.dtype, -jitter, jitter)
        zoom = jax.random.uniform(scale_key, (), image.dtype, 1 - scale, 1 + scale)
        turn = jnp.deg2rad(jax.random.uniform(turn_key, (), image.dtype, -degrees, degrees))
        cos, sin = jnp.cos(turn) / zoom, jnp.sin(turn) / zoom
        return resample(image, jnp.array([[cos, -sin], [sin, cos]]), shift)

    return transform


def resample(image: Array, matrix: Array, shift: Array) -> Array:
    """Show an image (h, w, c) under an affine map of coordinates about its centre, bilinearly, grey outside."""
    height, width, channels = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], image.dtype)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).astype(image.dtype)
    # Accelerators round the factors of a product by default: too coarse for coordinates.
    points = jnp.matmul(grid - centre, matrix.T, precision="highest") + centre + shift
    low = jnp.floor(points)
    part = points - low
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=0.5).reshape(-1, channels)

    def corner(down: int, right: int) -> Array:
        row = jnp.clip(low[..., 0] + down, -1, height).astype(jnp.int32) + 1
        column = jnp.clip(low[..., 1] + right, -1, width).astype(jnp.int32) + 1
        weight = jnp.abs(1 - down - part[..., 0]) * jnp.abs(1 - right - part[..., 1])
        return weight[..., None] * padded[row * (width + 2) + column]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)
