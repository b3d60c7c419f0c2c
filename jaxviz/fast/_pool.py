"""Max-pooling by strided slices, whose gradient is fast on CPUs and deterministic."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives
from jaxtyping import Array

from jaxviz.fast._kernel_gradient import MOST_TAPS
from jaxviz.fast._windows import spread, taps_of


def max_pool(images: Array, **params: Any) -> Array:
    dilated = any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
    window, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    if dilated or not jnp.issubdtype(images.dtype, jnp.floating) or max(window) > MOST_TAPS:
        return primitives.reduce_window_max_p.bind(images, **params)
    if math.prod(window) <= MOST_TAPS:
        return _pool(images, window, strides, padding)
    # One axis at a time, starting with the last: of equal values the same one wins, the first in row-major order.
    for axis in reversed(range(images.ndim)):
        along = functools.partial(spread, [axis], ndim=images.ndim)
        images = _pool(images, along([window[axis]], 1), along([strides[axis]], 1), along([padding[axis]], (0, 0)))
    return images


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _pool(images: Array, window: Any, strides: Any, padding: Any) -> Array:
    return functools.reduce(jnp.maximum, taps_of(images, -jnp.inf, window, strides, padding))


@_pool.defjvp
def _pool_jvp(window: Any, strides: Any, padding: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Pass the tangent of each window's maximum; the first of several equal ones wins, as in PyTorch.

    The maximum is selected by the same comparisons, so that higher derivatives follow the same rule.
    """
    best, *values = taps_of(primals[0], -jnp.inf, window, strides, padding)
    # Only NaN differs from itself; it wins.
    wins = lambda value, best: lax.bitwise_or(lax.gt(value, best), lax.ne(value, value))
    if window == strides and not any(pad for pair in padding for pad in pair):
        # Windows do not overlap: given the winner's index, the backward pass writes a whole window at once.
        first = jnp.zeros(best.shape, jnp.int8)
        for i, value in enumerate(values, 1):
            taken = wins(value, best)
            first, best = lax.select(taken, lax.full_like(first, i), first), lax.select(taken, value, best)
        changes = _windows(tangents[0], window)
        within = tuple(range(1, changes.ndim, 2))
        sides = [n if axis % 2 else 1 for axis, n in enumerate(changes.shape)]
        numbers = jnp.arange(math.prod(window), dtype=jnp.int8).reshape(sides)
        return best, jnp.sum(jnp.where(jnp.expand_dims(first, within) == numbers, changes, 0), within)
    tangent, *changes = taps_of(tangents[0], 0.0, window, strides, padding)
    for value, change in zip(values, changes, strict=True):
        taken = wins(value, best)
        tangent, best = lax.select(taken, change, tangent), lax.select(taken, value, best)
    return best, tangent


def _windows(values: Array, window: Sequence[int]) -> Array:
    """Return the complete windows, with each axis split in two: the window and the position in it."""
    whole = values[tuple(slice(n // side * side) for n, side in zip(values.shape, window, strict=True))]
    return whole.reshape([n for size, side in zip(whole.shape, window, strict=True) for n in (size // side, side)])
