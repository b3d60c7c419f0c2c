"""Occlusion: which pixels matter, found by hiding some of them; works for any score, without gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Score
from jaxviz.attribution._batching import Fill, by_image, check_positive, filled, run_by_image, sum_over, values_of
from jaxviz.fast._swap import accelerate
from jaxviz.scores._calls import fixed


def occlusion(
    score: Score,
    params: Any,
    images: AnyImages,
    *,
    window: int | tuple[int, int] = 32,
    stride: int | tuple[int, int] = 8,
    fill: Fill = 0.5,
    batch_size: int | None = None,
) -> Float[Array, "n *k h w"]:
    """Mark each pixel by how much the score drops, on average, when a window that covers it is hidden.

    Windows start at the top left corner, `stride` apart, until the last row and column are covered; what would extend
    beyond the image is cropped.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)`.
        params: the network's parameters.
        images: `(n, h, w, c)` in [0, 1].
        window: height and width in pixels, or one number for both.
        stride: the distance between windows in pixels, at most `window`.
        fill: what hides them: a brightness, a color `(c,)`, an image, one image for each, or "blur", the blurred image.
        batch_size: copies of images evaluated at once; by default 4 on CPU, where more are slower, else 16.

    Returns:
        `(n, h, w)` or `(n, k, h, w)`, in units of the score; positive where hiding lowers it.

    Raises:
        ValueError: for a window larger than the images, a stride larger than the window, a fill of another shape, and
            as for `gradient`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images.sum(-1), axis=(1, 2))
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
    return run_by_image(_occluded, score, params, images, replacement, **options)


def _occluded(
    score: Score,
    params: Any,
    images: Images,
    fill: Images,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
    spread: jax.NamedSharding | None,
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

    total = by_image(hidden, fixed(score, params, images), images, fill, spread=spread)
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
