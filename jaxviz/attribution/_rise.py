"""RISE: the average of random masks, weighted by the score of what each leaves visible."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Key, Score
from jaxviz.attribution._batching import Fill, by_image, check_positive, filled, run_by_image, sum_over, values_of
from jaxviz.fast._swap import accelerate
from jaxviz.scores._calls import fixed


def rise(
    score: Score,
    params: Any,
    key: Key,
    images: AnyImages,
    *,
    masks: int = 4000,
    cells: int = 7,
    keep: float | int = 0.5,
    fill: Fill = 0.5,
    batch_size: int | None = None,
) -> Float[Array, "n *k h w"]:
    """Mark each pixel by the mean score of the randomly masked copies in which it can be seen.

    A mask is a grid of `cells x cells` random bits, enlarged smoothly and shifted, as in the authors' code: it is
    reflected beyond the centers of its outermost cells. All images share the same masks, which are made as they are
    needed. Use `probability` as the score: a logit has no natural zero.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)`.
        params: the network's parameters.
        key: random key for the masks.
        images: `(n, h, w, c)` in [0, 1].
        masks: the number of masks; the paper uses 4000 for VGG-16 and 8000 for ResNet-50.
        cells: the number of cells along each side of a mask.
        keep: the probability that a cell is visible, in (0, 1].
        fill: what is shown instead: a brightness, a color `(c,)`, an image, one image for each, or "blur". In the paper
            it is the mean of ImageNet, which is nearly gray.
        batch_size: copies of images evaluated at once; by default 4 on CPU, where more are slower, else 16.

    Returns:
        `(n, h, w)`, or `(n, k, h, w)` for a score `(n, k)`, in units of the score.

    Raises:
        ValueError: for a `keep` outside (0, 1], fewer than 1 mask or cell, a fill of another shape; and as for
            `gradient`, except that the score needs no gradient.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images.mean(-1), axis=(1, 2))
        >>> weights = jnp.zeros((8, 8)).at[2, 5].set(1.0)
        >>> maps = jaxviz.rise(score, weights, jax.random.key(0), jnp.ones((1, 8, 8, 3)), masks=500, fill=0.0)
        >>> print(jnp.argmax(maps) == 2 * 8 + 5)
        True

    Petsiuk, Das & Saenko 2018, RISE: Randomized Input Sampling for Explanation of Black-box Models.
    """
    check_positive(masks=masks, cells=cells)
    if not 0 < keep <= 1:
        raise ValueError(f"keep: expected a probability in (0, 1], got {keep}")
    options = {"masks": masks, "cells": cells, "keep": float(keep), "batch_size": batch_size}
    return run_by_image(_masked, score, params, images, key, filled("fill", fill, images), **options)


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
    spread: jax.NamedSharding | None,
) -> Array:
    height, width = images.shape[1:3]

    def seen(score: Score, images: Images, fill: Images) -> Array:
        fast = accelerate(score)

        def part(indices: Array, live: Array) -> Array:
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
            mask = jax.vmap(lambda k: _mask(k, height, width, cells, keep))(keys).astype(images.dtype)
            copies = fill[None] + mask[:, None, :, :, None] * (images - fill)[None]
            values = jax.vmap(lambda x: values_of(fast, params, x))(copies)
            weights = jnp.where(live.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)
            return jnp.einsum("b...,bhw->...hw", weights, mask)

        return sum_over(masks, batch_size, part, images, lambda total: total / (masks * keep))

    return by_image(seen, fixed(score, params, images), images, fill, spread=spread)


def _mask(key: Key, height: int, width: int, cells: int, keep: float) -> Array:
    """Return a smooth random mask `(h, w)` in [0, 1]: the grid, enlarged to a cell more than the image and cropped."""
    bits, shift = jax.random.split(key)
    grid = jax.random.bernoulli(bits, keep, (cells, cells)).astype(float)
    shifts = jax.random.uniform(shift, (2,))
    rows, columns = (_enlarging(side, cells, at) for side, at in zip((height, width), shifts, strict=True))
    return rows @ grid @ columns.T


def _enlarging(size: int, cells: int, shift: Array) -> Array:
    """Return the matrix `(size, cells)` of linear interpolation, starting at `shift`, in [0, 1), within a cell."""
    cell = -(-size // cells)
    pixels, middles = (jnp.arange(count, dtype=shift.dtype) for count in (size, cells))
    places = (pixels + jnp.floor(shift * cell) + 0.5) * cells / ((cells + 1) * cell) - 0.5
    # Beyond the middle of the outermost cells places are reflected, as the authors' code does.
    places = (cells - 1) - jnp.abs((cells - 1) - jnp.abs(places))
    return jnp.maximum(0, 1 - jnp.abs(jnp.maximum(places, 0)[:, None] - middles[None]))
