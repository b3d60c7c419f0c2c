"""Images in, pictures out: functions that scale, blur, color and arrange arrays.

The data contract for the whole package: images are `(n, h, w, c)` and one image is `(h, w, c)`, floats in `[0, 1]`,
row 0 at the top, RGB if c is 3. Pictures show one channel as gray, the mean of two as gray, and the first three of more
as RGB (`as_rgb` in `_channels.py`). Files are converted to float32 when they are read, and rounded to 8
bits when they are written. Maps (gradients, saliency) keep their absolute values until `normalize` or `overlay` scales
them for display. Only `load_image` and `save_image` touch files; the other functions work under `jit`, `vmap` and
`grad`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._extras import extra
from jaxviz._types import AnyArray as AnyArray
from jaxviz._types import at_least_float32
from jaxviz.image._channels import as_rgb, is_picture, luminance
from jaxviz.image._checks import ImageError, check_array, check_not_negative, has_channels_first

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""The mean color of ImageNet's photographs: RGB in [0, 1]."""


def per_color(colors: float | tuple[float, ...], images: Any) -> Float[Array, "1 1 1 c"]:
    """Return numbers for red, green and blue broadcastable to images; other channels than RGB all get their mean."""
    return jnp.asarray(colors_for(colors, images), images.dtype).reshape(1, 1, 1, -1)


def colors_for(colors: float | tuple[float, ...], images: Any) -> tuple[float, ...]:
    given, count = np.ravel(colors), images.shape[-1]
    return tuple((given if count == len(given) else np.full(count, given.mean())).tolist())


def largest(values: Any, axis: int | None = None) -> Array:
    """Return the maximum, or NaN if any value is NaN: XLA's own maximum loses NaNs on CPU, from 64x64 values up."""
    values = jnp.asarray(values)
    return jnp.where(jnp.isnan(values).any(axis), jnp.nan, values.max(axis))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Return values in [0, 1] as uint8, 0 to 255."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def resize(images: Float[AnyArray, "*n h w c"], size: tuple[int, int]) -> Float[Array, "*n h2 w2 c"]:
    """Resize images to `(height, width)` by antialiased bicubic interpolation, differentiably.

    The dtype is kept and nothing is clipped: near edges, bicubic interpolation can leave [0, 1] slightly.

    Args:
        images: `(h, w, c)` or `(n, h, w, c)`, floats.
        size: `(height, width)` in pixels.

    Returns:
        The images at that size, with the same leading axes and channels.

    Raises:
        ImageError: images of another rank, or a size below 1 pixel.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> jaxviz.resize(jnp.ones((5, 32, 48, 3)), (8, 12)).shape
        (5, 8, 12, 3)
    """
    check_array("images", images, ImageError)
    if images.ndim < 3:
        raise ImageError(f"images: expected (h, w, c) or (n, h, w, c), got shape {images.shape}")
    *leading, _, _, channels = images.shape
    if len(size) != 2 or min(size) < 1 or any(side % 1 for side in size):
        raise ImageError(f"size: expected (height, width) of at least 1 pixel each, got {size}")
    return jax.image.resize(images, (*leading, *size, channels), "cubic", antialias=True)


def blur(images: Float[AnyArray, "n h w c"], sigma: ArrayLike, *, size: int | None = None) -> Float[Array, "n h w c"]:
    """Blur images with a Gaussian, differentiably; beyond its edges an image repeats its outermost pixels.

    Args:
        images: `(n, h, w, c)`.
        sigma: the Gaussian's standard deviation in pixels.
        size: width of the kernel in pixels, odd; None: three `sigma` on either side, for which `sigma` must be a
            number and not traced.

    Returns:
        The blurred images, `(n, h, w, c)`.

    Raises:
        ImageError: images of another rank, a `sigma` that is negative or not finite, or a size that is not odd.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> spot = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1.0)
        >>> print((100 * jaxviz.blur(spot, 1.0, size=3)[0, ..., 0]).astype(int))
        [[ 7 12  7]
         [12 20 12]
         [ 7 12  7]]
    """
    check_array("images", images, ImageError)
    if images.ndim != 4:
        raise ImageError(f"images: expected (n, h, w, c), got shape {images.shape}; one image is image[None]")
    check_not_negative("sigma", sigma, ImageError)
    if size is None:
        size = 2 * math.ceil(3 * float(sigma)) + 1  # type: ignore[arg-type]
    if size < 1 or size % 2 != 1:
        raise ImageError(f"size: expected an odd number of pixels, got {size}")
    return _blurred(jnp.asarray(images), jnp.asarray(sigma, at_least_float32(images.dtype)), size)


@functools.partial(jax.jit, static_argnums=2)  # one program, and not one for each of up to 100 operations
def _blurred(images: Array, sigma: Array, size: int) -> Array:
    reach = size // 2
    places = jnp.arange(-reach, reach + 1, dtype=sigma.dtype)
    weights = jnp.exp(-0.5 * jnp.square(places / jnp.maximum(sigma, 1e-6)))
    weights = (weights / weights.sum()).astype(images.dtype)
    blurred = images
    for axis in (1, 2):
        padding = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(blurred, padding, mode="edge")
        length = images.shape[axis]
        shifted = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size)]
        blurred = functools.reduce(jnp.add, [weights[i] * part for i, part in enumerate(shifted)])
    return blurred


def normalize(
    maps: Float[AnyArray, "..."], *, signed: bool = False, percentile: float | int = 99.0
) -> Float[Array, "n h w *c"]:
    """Scale maps to [0, 1] for display, each image by its own largest values.

    With `s` the percentile of `|map|` over one image, unsigned maps become `clip(map / s, 0, 1)` and signed ones
    `clip(0.5 + map / (2 s), 0, 1)`, so that zero is black in the first and middle gray in the second. An all-zero map
    stays at zero and gray. Where more than `percentile` of a map is zero, its maximum is used instead.

    Args:
        maps: `(n, h, w)` or `(n, h, w, c)`; pass a single map as `maps[None]`.
        signed: whether negative values carry meaning (as in a gradient) or not (as in saliency).
        percentile: in (0, 100]; 100 scales by the maximum and clips nothing, lower values are robust to a few outliers.

    Returns:
        The maps in [0, 1], in the shape of `maps`.

    Raises:
        ImageError: maps of another rank, or a percentile out of range.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> gradient = jnp.array([-2.0, 0.0, 1.0]).reshape(1, 1, 3)
        >>> jaxviz.normalize(gradient, signed=True, percentile=100).ravel().tolist()
        [0.0, 0.5, 0.75]
    """
    check_array("maps", maps, ImageError)
    if maps.ndim not in (3, 4):
        raise ImageError(
            f"maps: expected (n, h, w) or (n, h, w, c), got shape {maps.shape}; pass one map as maps[None]"
        )
    if not 0 < percentile <= 100:
        raise ImageError(f"percentile: expected a number in (0, 100], got {percentile}")
    return _normalized(jnp.asarray(maps), signed, float(percentile))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normalized(maps: Array, signed: bool, percentile: float) -> Array:
    axes = tuple(range(1, maps.ndim))
    peak = jnp.max(jnp.abs(maps), axes, keepdims=True)
    scale = jnp.percentile(jnp.abs(maps), percentile, axes, keepdims=True)
    scale = jnp.where(scale > 0, scale, jnp.where(peak > 0, peak, 1))
    return jnp.clip(maps / scale / 2 + 0.5 if signed else maps / scale, 0, 1)


def montage(
    images: Float[AnyArray, "..."] | Sequence[Float[AnyArray, "..."]],
    *,
    columns: int | None = None,
    gap: int = 2,
    background: ArrayLike = 1.0,
) -> Float[Array, "h2 w2 3"]:
    """Arrange images in rows, left to right and top to bottom, as one image.

    Args:
        images: `(n, h, w, c)`, gray `(n, h, w)`, or a sequence of `(h, w, c)` and `(h, w)` of any sizes: each is
            centered in a cell as high as the highest image and as wide as the widest. One channel is shown as gray, two
            by their mean, and more than three by the first three, as RGB.
        columns: images per row; None makes the grid about square.
        gap: pixels between images, but not around them.
        background: brightness of gaps and empty cells, in [0, 1].

    Returns:
        One image, `(height, width, 3)`.

    Raises:
        ImageError: no images, a shape that is not an image's, fewer than 1 column, or a gap below 0.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> jaxviz.montage(jnp.zeros((5, 8, 8, 3)), gap=1).shape
        (17, 26, 3)
    """
    cells = _cells(images, background)
    number, height, width, _ = cells.shape
    columns = math.ceil(math.sqrt(number)) if columns is None else columns
    if columns < 1 or gap < 0 or columns % 1 or gap % 1:
        raise ImageError(f"montage: expected at least 1 column and a gap of at least 0, got {columns} and {gap}")
    columns = min(number, columns)
    rows = -(-number // columns)
    # Every cell includes the gap below and to its right; the last gaps are cropped.
    padding = ((0, rows * columns - number), (0, gap), (0, gap), (0, 0))
    cells = jnp.pad(cells, padding, constant_values=background)
    grid = cells.reshape(rows, columns, height + gap, width + gap, 3).swapaxes(1, 2)
    grid = grid.reshape(rows * (height + gap), columns * (width + gap), 3)
    return grid[: rows * (height + gap) - gap, : columns * (width + gap) - gap]


def overlay(
    image: Float[AnyArray, "..."],
    map: Float[AnyArray, "..."],
    *,
    alpha: ArrayLike = 0.5,
    colormap: str = "inferno",
) -> Float[Array, "h w 3"]:
    """Draw a map as colors over a gray version of an image.

    The result is `(1 - alpha) gray(image) + alpha colors(map / max(map))`. A map of another size is resized to the
    image, negative values count as zero, and for an all-zero map the image is returned unchanged.

    Args:
        image: `(h, w, c)` in [0, 1]; if it is not RGB, it is shown as by `montage`.
        map: `(h, w)`, of any height and width.
        alpha: weight of the colors, in [0, 1].
        colormap: the name of one of matplotlib's colormaps.

    Returns:
        The picture, `(h, w, 3)` in [0, 1].

    Raises:
        ImageError: shapes other than an image and a map, an unknown colormap, or an `alpha` out of range.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> jaxviz.overlay(jnp.ones((8, 8, 3)), jnp.eye(2)).shape
        (8, 8, 3)
    """
    check_array("image", image, ImageError)
    check_array("map", map, ImageError)
    if not isinstance(alpha, Tracer) and not np.all((np.asarray(alpha) >= 0) & (np.asarray(alpha) <= 1)):
        raise ImageError(f"alpha: expected a weight in [0, 1], got {alpha}")
    if image.ndim != 3 or not is_picture(image.shape) or map.ndim != 2:
        raise ImageError(
            f"overlay: expected one image (h, w, c) and one map (h, w), got shapes {image.shape} and {map.shape}"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ImageError(f"overlay: expected an image of floats in [0, 1], got {image.dtype}; divide 0 to 255 by 255")
    return _overlaid(jnp.asarray(image), jnp.asarray(map), alpha, _colors(colormap))


@jax.jit
def _overlaid(image: Array, map: Array, alpha: Any, table: Any) -> Array:
    image, heat = jnp.asarray(as_rgb(image)), jnp.maximum(map, 0)
    if heat.shape != image.shape[:2]:
        heat = jax.image.resize(heat, image.shape[:2], "linear", antialias=True)
    peak = largest(heat)
    table = jnp.asarray(table, image.dtype)
    levels = jnp.linspace(0, 1, len(table), dtype=image.dtype)
    # Interpolated rather than indexed, so that a NaN in the map stays NaN.
    lookup = jax.vmap(jnp.interp, in_axes=(None, None, 1), out_axes=-1)
    colors = lookup((heat / jnp.where(peak == 0, 1, peak)).astype(image.dtype), levels, table)
    gray = luminance(image)
    return jnp.where(peak == 0, image, (1 - alpha) * gray[..., None] + alpha * colors)


def _cells(images: AnyArray | Sequence[AnyArray], background: ArrayLike) -> Float[Array, "n h w 3"]:
    """Images of any sizes, each centered in a cell of the same size."""
    if isinstance(images, AnyArray):  # kept as one array: there may be a thousand images
        shapes = {images.shape[1:]} if images.size else set()
        wrong = {shape for shape in shapes if len(shape) not in (2, 3) or has_channels_first(images.shape)}
    else:
        shapes = {image.shape for image in images}
        wrong = {shape for shape in shapes if not is_picture(shape)}
    if not shapes:
        raise ImageError("montage: expected at least one image, got none")
    for shape in wrong:
        raise ImageError(f"montage: expected images (h, w, c) or (h, w), got one of shape {shape}")
    if len(shapes) > 1:
        height, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
        images = [_centered(_colored(image), height, width, background) for image in images]
    if not isinstance(images, AnyArray):
        with jax.numpy_dtype_promotion("standard"):  # a float32 photograph beside images computed in float64
            images = jnp.stack(images)
    cells = jnp.asarray(images)
    return as_rgb(cells if cells.ndim == 4 else cells[..., None])


def _colored(image: AnyArray) -> Float[AnyArray, "h w 3"]:
    return as_rgb(image if image.ndim == 3 else image[..., None])


def _centered(image: AnyArray, height: int, width: int, background: ArrayLike) -> Float[Array, "h w 3"]:
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    padding = ((top, height - image.shape[0] - top), (left, width - image.shape[1] - left), (0, 0))
    return jnp.pad(image, padding, constant_values=background)


def _colors(name: str) -> np.ndarray:
    """The 256 colors of one of matplotlib's colormaps, (256, 3)."""
    with extra("plot"):
        import matplotlib

    try:
        return matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    except KeyError as error:
        raise ImageError(
            f"colormap: expected a name that matplotlib knows, such as 'inferno', 'viridis' or 'magma', got {name!r}"
        ) from error
