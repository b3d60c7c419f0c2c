"""Which pixels matter, found by hiding some of them: no gradients, any score."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._accelerate import accelerate
from jaxviz._scores import fixed
from jaxviz._types import Images, Key, Score
from jaxviz.gradient._copies import Fill, by_image, check_positive, filled, run, sum_over, values_of


def occlusion(
    score: Score,
    params: Any,
    images: Images,
    *,
    window: int | tuple[int, int] = 32,
    stride: int | tuple[int, int] = 8,
    fill: Fill = 0.5,
    batch_size: int | None = None,
) -> Float[Array, "n *k h w"]:
    """Mark each pixel by how much the score drops, on average, when a window that covers it is hidden.

    Windows start at the top left corner, `stride` apart, until the last row and column are covered; what would lie
    beyond the image is cut off.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)`.
        params: the network's parameters.
        images: `(n, h, w, 3)` in [0, 1].
        window: height and width in pixels, one number if they are equal.
        stride: from one window to the next, in pixels, at most `window`.
        fill: what hides: a brightness, a colour `(3,)`, an image, one image for each, or "blur", the image blurred.
        batch_size: copies of images that are evaluated at once; by default 4 on CPU, where more are slower, else 16.

    Returns:
        `(n, h, w)` or `(n, k, h, w)`, in units of the score; positive where hiding lowers it.

    Raises:
        ValueError: for a window larger than the images, a stride larger than the window, a fill of another shape, and
            as for `gradient`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights * images.sum(-1), axis=(1, 2))
        >>> weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> print(jaxviz.occlusion(score, weights, jnp.ones((1, 2, 2, 3)), window=1, stride=1, fill=0.0))
        [[[ 3.  6.]
          [ 9. 12.]]]

    Zeiler & Fergus 2013, Visualizing and Understanding Convolutional Networks.
    """
    replacement = filled("fill", fill, images)
    windows, strides = (_pair(name, value) for name, value in (("window", window), ("stride", stride)))
    size = images.shape[1:3]
    if windows[0] > size[0] or windows[1] > size[1]:
        raise ValueError(f"window: expected at most the images' size, {size[0]}x{size[1]}, got {_shown(windows)}")
    if strides[0] > windows[0] or strides[1] > windows[1]:
        raise ValueError(
            f"stride: expected at most the window's size, {_shown(windows)}, got {_shown(strides)}; no window would "
            "cover the pixels between"
        )
    options = {"window": windows, "stride": strides, "batch_size": batch_size}
    return run(_occluded, score, params, images, replacement, **options)


def _occluded(
    score: Score,
    params: Any,
    images: Images,
    fill: Images,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
) -> Array:
    rows, columns = (_spans(*along) for along in zip(images.shape[1:3], window, stride, strict=True))

    def hidden(score: Score, images: Images, fill: Images) -> Array:
        fast = accelerate(score)
        clean = values_of(fast, params, images)

        def part(indices: Array, live: Array) -> Array:
            row, column = jnp.asarray(rows)[indices // len(columns)], jnp.asarray(columns)[indices % len(columns)]
            inside = row[:, None, :, None, None] & column[:, None, None, :, None]
            values = jax.vmap(lambda x: values_of(fast, params, x))(jnp.where(inside, fill[None], images[None]))
            drops = jnp.where(live.reshape(-1, *(1,) * clean.ndim), clean[None] - values, 0)
            return jnp.einsum("b...,bh,bw->...hw", drops, row.astype(drops.dtype), column.astype(drops.dtype))

        return sum_over(len(rows) * len(columns), batch_size, part, images)

    total = by_image(hidden, fixed(score, params, images), images, fill)
    windows = rows.sum(0)[:, None] * columns.sum(0)  # over each pixel
    return total / jnp.asarray(windows.reshape(*(1,) * (total.ndim - 2), *windows.shape), total.dtype)


def _spans(size: int, window: int, stride: int) -> np.ndarray:
    """Return for each window which pixels along one axis are in it, `(windows, size)`."""
    starts = np.arange(-(-(size - window) // stride) + 1)[:, None] * stride
    places = np.arange(size)
    return (places >= starts) & (places < starts + window)


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name}: expected a number of pixels or (height, width), got {value}")
    for side in pair:
        check_positive(**{name: side})
    return pair


def _shown(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def rise(
    score: Score,
    params: Any,
    key: Key,
    images: Images,
    *,
    masks: int = 4000,
    cells: int = 7,
    keep: float | int = 0.5,
    fill: Fill = 0.5,
    batch_size: int | None = None,
) -> Float[Array, "n *k h w"]:
    """Mark each pixel by the mean score of the randomly masked copies in which it can be seen.

    A mask is a grid of `cells x cells` random bits, enlarged smoothly and shifted, as the authors' code does it: beyond
    the middle of its outermost cells it is reflected. The same masks are used for every image, and made as they are
    needed. Use `probability` as the score: the logit has no natural zero.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)`.
        params: the network's parameters.
        key: of the masks.
        images: `(n, h, w, 3)` in [0, 1].
        masks: how many; the paper takes 4000 for VGG-16, 8000 for ResNet-50.
        cells: along each side of a mask.
        keep: chance that a cell is seen, in (0, 1].
        fill: what is seen instead: a brightness, a colour `(3,)`, an image, one image for each, or "blur". The paper's
            is the mean of ImageNet, which is nearly grey.
        batch_size: copies of images that are evaluated at once; by default 4 on CPU, where more are slower, else 16.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights * images.mean(-1), axis=(1, 2))
        >>> weights = jnp.zeros((8, 8)).at[2, 5].set(1.0)
        >>> maps = jaxviz.rise(score, weights, jax.random.key(0), jnp.ones((1, 8, 8, 3)), masks=500, fill=0.0)
        >>> print(jnp.argmax(maps) == 2 * 8 + 5)
        True

    Petsiuk, Das & Saenko 2018, RISE: Randomized Input Sampling for Explanation of Black-box Models.
    """
    check_positive(masks=masks, cells=cells)
    if not 0 < keep <= 1:
        raise ValueError(f"keep: expected a chance in (0, 1], got {keep}")
    options = {"masks": masks, "cells": cells, "keep": float(keep), "batch_size": batch_size}
    return run(_masked, score, params, images, key, filled("fill", fill, images), **options)


def _masked(
    score: Score,
    params: Any,
    images: Images,
    key: Key,
    fill: Images,
    *,
    masks: int,
    cells: int,
    keep: float,
    batch_size: int,
) -> Array:
    height, width = images.shape[1:3]

    def seen(score: Score, images: Images, fill: Images) -> Array:
        fast = accelerate(score)

        def part(indices: Array, live: Array) -> Array:
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
            mask = jax.vmap(lambda k: _mask(k, height, width, cells, keep))(keys).astype(images.dtype)
            copies = fill + mask[:, None, :, :, None] * (images - fill)
            values = jax.vmap(lambda x: values_of(fast, params, x))(copies)
            weights = jnp.where(live.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)
            return jnp.einsum("b...,bhw->...hw", weights, mask)

        return sum_over(masks, batch_size, part, images, lambda total: total / (masks * keep))

    return by_image(seen, fixed(score, params, images), images, fill)


def _mask(key: Key, height: int, width: int, cells: int, keep: float) -> Array:
    """Return a smooth random mask `(h, w)` in [0, 1]: the grid enlarged by one cell more than the image, and cut."""
    bits, shift = jax.random.split(key)
    grid = jax.random.bernoulli(bits, keep, (cells, cells)).astype(float)
    shifts = jax.random.uniform(shift, (2,))
    rows, columns = (_enlarging(side, cells, at) for side, at in zip((height, width), shifts, strict=True))
    return rows @ grid @ columns.T


def _enlarging(size: int, cells: int, shift: Array) -> Array:
    """Return the matrix `(size, cells)` of linear interpolation; `shift` in [0, 1) says where in a cell to begin."""
    cell = -(-size // cells)
    pixels, middles = (jnp.arange(count, dtype=shift.dtype) for count in (size, cells))
    places = (pixels + jnp.floor(shift * cell) + 0.5) * cells / ((cells + 1) * cell) - 0.5
    # Beyond the middle of the outermost cells places are reflected, as the authors' code does.
    places = (cells - 1) - jnp.abs((cells - 1) - jnp.abs(places))
    return jnp.maximum(0, 1 - jnp.abs(jnp.maximum(places, 0)[:, None] - middles[None]))
