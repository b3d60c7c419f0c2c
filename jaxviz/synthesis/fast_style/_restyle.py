"""Rendering one image of any size in a style, in seamless tiles."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._options import check_array, check_batch, check_count, check_untraced
from jaxviz._types import Images
from jaxviz.fast._swap import accelerate
from jaxviz.synthesis._octaves import resized
from jaxviz.synthesis.fast_style._net import BORDER, STEP, Moments, apply, by_number, mixture, reach, with_border


def restyle(params: Any, image: Float[Any, "_ _ 3"], *, style: Any = 0, tile: int = 1024) -> Float[np.ndarray, "_ _ 3"]:
    """Render an image of any size in a style, with the memory that `tile` x `tile` pixels take.

    `style_net` is applied with a border of 28 reflected pixels, which is then cropped, since a net leaves a line of
    another color along the edges of its input. An image of more than `tile` x `tile` pixels is rendered in tiles. They
    are seamless because they share the mean and variance at every normalization, those of the image reduced to that
    many pixels, and overlap by the net's receptive field: up to rounding, the result is that of one pass with those
    means and variances. These are not quite the large image's own: with an earlier net, pixels of a portrait of 768x576
    in tiles of 384 differed by 0.02 (scream) to 0.09 (ink) on average, because strokes moved.

    Args:
        params: the net's parameters, or what `load_style_net` returns, which names its styles.
        image: `(h, w, 3)` in [0, 1].
        style: an index, weights, or with what `load_style_net` returns a name; see `style_net`.
        tile: the side of a tile in pixels. The net that comes with jaxviz takes 0.75 GB for 1024.

    Returns:
        The image in that style, `(h, w, 3)` in [0, 1].

    Raises:
        ValueError: for an image of another shape, a style that the net does not have, tiles that are too small for the
            net, and traced arguments.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> params = jaxviz.init_style_net(jax.random.key(0), width=2, blocks=1)
        >>> print(jaxviz.restyle(params, jnp.full((150, 200, 3), 0.5), tile=96).shape)
        (150, 200, 3)
        >>> net = jaxviz.StyleNet(params, ["scream"])  # as from load_style_net()
        >>> print(jaxviz.restyle(net, jnp.full((48, 64, 3), 0.5), style="scream").shape)
        (48, 64, 3)
    """
    instead = "it works tile by tile on the host; style_net is one pass, and can be traced"
    check_array("image", image)
    if image.ndim > 3:
        raise ValueError(f"image: expected one image (h, w, 3), got shape {image.shape}; from a batch take images[0]")
    check_batch("image", image[None], channels=3)
    params, style = by_number(params, style, max(image.shape[:2]))
    check_untraced("restyle", params, image, instead=instead)
    check_count("tile", tile)
    pixels = np.asarray(image)
    mix, margin = mixture(params, style), reach(params)
    if len(mix) != 1:
        raise ValueError(f"style: expected a number or one row of weights for the image, got {len(mix)} rows")
    if tile < 3 * margin:
        raise ValueError(f"tile: expected at least {3 * margin} px, three times the reach of this net, got {tile}")
    if math.prod(pixels.shape[:2]) <= tile**2:
        return np.asarray(_whole(params, pixels[None], mix)[0])
    pixels = np.pad(pixels, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="reflect")
    height, width = pixels.shape[:2]
    moments = _moments(params, _shrunk(pixels, tile), mix)
    result = np.empty_like(pixels)
    inner = (tile - 2 * margin) // STEP * STEP  # so that all start at multiples of the stride
    for top in range(0, height, inner):
        for left in range(0, width, inner):
            rows, columns = _window(top, inner, margin, height), _window(left, inner, margin, width)
            made = _with_moments(params, pixels[None, rows[0] : rows[1], columns[0] : columns[1]], mix, moments)[0]
            kept = np.asarray(made)[top - rows[0] :, left - columns[0] :][:inner, :inner]
            result[top : top + len(kept), left : left + kept.shape[1]] = kept
    return result[BORDER:-BORDER, BORDER:-BORDER].copy()


def _window(start: int, inner: int, margin: int, length: int) -> tuple[int, int]:
    """Return where the pixels from which a tile is computed begin and end: at multiples of the net's stride.

    All but the last have the same length, so that few programs are compiled.
    """
    size = inner + 2 * margin
    if length <= size:
        return 0, length
    last = (length - size) // STEP * STEP
    first = min(max(0, start - margin), last)
    return first, length if first == last else first + size


def _shrunk(pixels: np.ndarray, tile: int) -> Images:
    """Return an image reduced to the number of pixels of a tile."""
    height, width = pixels.shape[:2]
    scale = tile / math.sqrt(height * width)
    return resized(jnp.asarray(pixels)[None], (max(1, int(height * scale)), max(1, int(width * scale))))


@jax.jit
def _whole(params: Any, images: Array, mix: Array) -> Array:
    return accelerate(with_border)(params, images, mix)


@jax.jit
def _moments(params: Any, images: Array, mix: Array) -> Moments:
    return accelerate(apply)(params, images, mix)[1]


@jax.jit
def _with_moments(params: Any, images: Array, mix: Array, moments: Moments) -> Array:
    return accelerate(functools.partial(apply, moments=moments))(params, images, mix)[0]
