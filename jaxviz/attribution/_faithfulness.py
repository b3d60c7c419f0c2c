"""How faithful is a map? Curves of the score as pixels are removed or added in its order, and the pointing game."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from jaxviz._types import AnyArray, AnyImages, AnyMaps, Images, Maps, Score
from jaxviz.attribution._batching import Fill, by_image, check_positive, filled, loop_over, run_by_image
from jaxviz.fast._swap import accelerate
from jaxviz.image._arrays import IMAGENET_MEAN, per_color
from jaxviz.image._checks import check_finite, check_images, check_not_negative
from jaxviz.scores._algebra import one_per_image
from jaxviz.scores._calls import fixed
from jaxviz.show._shown import shown


@shown("lines", lambda found: found.values)
class Curve(NamedTuple):
    """What `deletion` and `insertion` return.

    Attributes:
        values: `(n, points)`, the score at each point, from nothing changed to everything changed.
        areas: `(n,)`, the area under each curve, by the trapezoidal rule, with a horizontal axis from 0 to 1.
    """

    values: Float[Array, "n points"]
    areas: Float[Array, " n"]


def deletion(
    score: Score,
    params: Any,
    images: AnyImages,
    maps: AnyMaps,
    *,
    step: int = 224,
    fill: Fill = 0.5,
    batch_size: int | None = None,
) -> Curve:
    """Follow the score while pixels are deleted, the most important ones first, as a map ranks them.

    A small area is good: the score falls as soon as what matters is gone. Compare areas only if score, step and fill
    are the same. RISE's protocol is `probability`, a step of 224 pixels, and the mean of ImageNet as fill,
    `(0.485, 0.456, 0.406)`, which is what zero means after its preprocessing.

    Args:
        score: any function `score(params, images) -> (n,)`.
        params: the network's parameters.
        images: `(n, h, w, c)` in [0, 1].
        maps: `(n, h, w)`; of pixels with equal values, the upper left goes first.
        step: the number of pixels deleted between points.
        fill: what replaces them: a brightness, a color `(c,)`, an image, one image for each, or "blur".
        batch_size: copies of images evaluated at once; by default 4 on CPU, where more are slower, else 16.

    Returns:
        `values`, `(n, points)`, and `areas`, `(n,)`, in units of the score.

    Raises:
        ValueError: if the maps are not one for each image, of its size, and finite; and as for `gradient`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images.mean(-1), axis=(1, 2))
        >>> weights = jnp.array([[1.0, 2.0], [0.0, 4.0]])
        >>> values, areas = jaxviz.deletion(score, weights, jnp.ones((1, 2, 2, 3)), weights[None], step=1, fill=0.0)
        >>> print(values, areas)
        [[7. 3. 1. 0. 0.]] [1.875]

    Petsiuk, Das & Saenko 2018, RISE.
    """
    return _follow(score, params, images, maps, fill, step=step, batch_size=batch_size, inserting=False)


def insertion(
    score: Score,
    params: Any,
    images: AnyImages,
    maps: AnyMaps,
    *,
    step: int = 224,
    fill: Fill | Literal["rise"] = "blur",
    batch_size: int | None = None,
) -> Curve:
    """Follow the score while an image appears, the most important pixels first, as a map ranks them.

    A large area is good. RISE's protocol is `probability`, a step of 224 pixels, and the blurred image as the start.
    The default, "blur", is a Gaussian of 11 pixels, sigma 5, with edge pixels repeated beyond it. The blur of the
    authors' code, "rise", is stronger: that Gaussian with the part beyond its 11 pixels folded back, which is
    nearly a plain mean, and padded with the mean of ImageNet. Areas from the two are not comparable.

    Args:
        score: any function `score(params, images) -> (n,)`.
        params: the network's parameters.
        images: `(n, h, w, c)` in [0, 1].
        maps: `(n, h, w)`; of pixels with equal values, the upper left comes first.
        step: the number of pixels inserted between points.
        fill: what the image replaces: a brightness, a color `(c,)`, an image, one image for each, "blur" or "rise".
        batch_size: copies of images evaluated at once; by default 4 on CPU, where more are slower, else 16.

    Returns:
        `values`, `(n, points)`, and `areas`, `(n,)`, in units of the score.

    Raises:
        ValueError: as for `deletion`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images.mean(-1), axis=(1, 2))
        >>> weights = jnp.array([[1.0, 2.0], [0.0, 4.0]])
        >>> values, areas = jaxviz.insertion(score, weights, jnp.ones((1, 2, 2, 3)), weights[None], step=1, fill=0.0)
        >>> print(values, areas)
        [[0. 4. 6. 7. 7.]] [5.125]

    Petsiuk, Das & Saenko 2018, RISE.
    """
    if isinstance(fill, str) and fill == "rise":
        check_images(images)
        fill = _blurred_as_rise(images)
    return _follow(score, params, images, maps, fill, step=step, batch_size=batch_size, inserting=True)


def _blurred_as_rise(images: AnyImages) -> Images:
    """Return the images as `blur` of the authors' Evaluation.ipynb makes them: `gkern(11, 5)`, a border of zeros."""
    from scipy.ndimage import gaussian_filter1d

    along = jnp.asarray(gaussian_filter1d(np.eye(1, 11, 5)[0], 5), images.dtype)  # symmetric, in two ways
    mean = per_color(IMAGENET_MEAN, images)
    apart = images - mean
    for axis in (1, 2):
        padding = [(5, 5) if i == axis else (0, 0) for i in range(4)]
        padded, size = jnp.pad(apart, padding), images.shape[axis]
        apart = sum(along[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(11))
    return mean + apart


def pointing_game(maps: AnyMaps, boxes: Num[AnyArray, "n m 4"], *, tolerance: float | int = 15) -> Bool[Array, " n"]:
    """Return, for each image, whether the map's largest value lies on the object.

    Args:
        maps: `(n, h, w)`.
        boxes: `(n, m, 4)`, the object's boxes as top, left, bottom, right in pixels, the last two exclusive; pad with
            empty boxes, such as four zeros, for images that have fewer.
        tolerance: how many pixels outside a box still count as a hit; 15 is usual.

    Returns:
        `(n,)` booleans; their mean is the pointing game's accuracy.

    Raises:
        ValueError: if the shapes are not `(n, h, w)` and `(n, m, 4)`, a map is not finite, or the tolerance is
            negative.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> maps = jnp.zeros((2, 8, 8)).at[:, 4, 6].set(1.0)
        >>> boxes = jnp.array([[[2, 2, 6, 7]], [[0, 0, 4, 4]]])
        >>> print(jaxviz.pointing_game(maps, boxes, tolerance=1))
        [ True False]

    Zhang et al. 2016, Top-down Neural Attention by Excitation Backprop.
    """
    if jnp.ndim(maps) != 3 or jnp.ndim(boxes) != 3 or boxes.shape[::2] != (len(maps), 4):
        raise ValueError(
            f"expected maps (n, h, w) and boxes (n, m, 4), got shapes {jnp.shape(maps)} and {jnp.shape(boxes)}"
        )
    check_finite("maps", maps)
    check_not_negative("tolerance", tolerance)
    most = jnp.argmax(maps.reshape(len(maps), -1), axis=1)
    row, column = (at[:, None].astype(float) for at in divmod(most, maps.shape[2]))
    top, left, bottom, right = jnp.moveaxis(jnp.asarray(boxes).astype(float), -1, 0)  # differences of bytes overflow
    down = jnp.maximum(0, jnp.maximum(top - row, row - (bottom - 1)))
    across = jnp.maximum(0, jnp.maximum(left - column, column - (right - 1)))
    near = down**2 + across**2 <= float(tolerance) ** 2
    return jnp.any(near & (bottom > top) & (right > left), axis=1)


def _follow(score: Score, params: Any, images: Any, maps: Any, fill: Fill, **options: Any) -> Curve:
    check_positive(step=options["step"])
    replacement = filled("fill", fill, images)
    if jnp.shape(maps) != jnp.shape(images)[:3]:
        hint = "; reduce colors first, as in abs(maps).max(-1)" if jnp.shape(maps) == jnp.shape(images) else ""
        raise ValueError(f"maps: expected one for each image, {images.shape[:3]}, got shape {jnp.shape(maps)}{hint}")
    check_finite("maps", maps)
    return run_by_image(_curve, score, params, images, jnp.asarray(maps), replacement, **options)


def _curve(
    score: Score,
    params: Any,
    images: Images,
    maps: Maps,
    replacement: Images,
    *,
    step: int,
    batch_size: int,
    spread: jax.NamedSharding | None,
    inserting: bool,
) -> Curve:
    def follow(score: Score, images: Images, maps: Maps, replacement: Images) -> Array:
        fast = accelerate(score)
        order = jnp.argsort(maps.reshape(len(maps), -1), axis=1, descending=True, stable=True)
        ranks = jnp.argsort(order, axis=1).reshape(maps.shape)[..., None]  # 0 for the most important pixel
        first, second = (replacement, images) if inserting else (images, replacement)

        def at(count: Array) -> Array:
            changed = jnp.where(ranks < count, second, first)
            return one_per_image(fast(params, changed), images)

        points = step * jnp.arange(-(-ranks[0].size // step) + 1)
        at_once = min(len(points), max(1, batch_size // len(images)))
        return loop_over(at, points, batch_size=at_once).T

    values = by_image(follow, fixed(score, params, images), images, maps, replacement, spread=spread)
    return Curve(values, (values[:, 1:] + values[:, :-1]).mean(axis=1) / 2)
