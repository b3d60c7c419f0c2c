"""Windows over images as strided slices, one for each position in a window."""

import itertools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def taps_of(images: Array, fill: float, window: Any, strides: Any, padding: Any, dilation: Any = None) -> list[Array]:
    """Return one strided slice for each position in the window: together they hold every window."""
    if any(low or high for low, high in padding):
        images = lax.pad(images, jnp.asarray(fill, images.dtype), [(low, high, 0) for low, high in padding])
    apart = dilation or (1,) * images.ndim
    sizes = zip(images.shape, window, strides, apart, strict=True)
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in sizes]
    places = itertools.product(*(range(0, k * d, d) for k, d in zip(window, apart, strict=True)))
    return [
        lax.slice(images, at, [a + (c - 1) * s + 1 for a, c, s in zip(at, counts, strides, strict=True)], strides)
        for at in places
    ]


def spread(axes: Any, values: Any, rest: Any, ndim: int) -> tuple:
    """Return one value for each axis of an array: the given values for some axes, `rest` for all others."""
    given = dict(zip(axes, values, strict=True))
    return tuple(given.get(axis, rest) for axis in range(ndim))
