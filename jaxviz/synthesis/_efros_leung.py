"""Texture grown pixel by pixel from similar places in a sample, without a network."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from jaxtyping import Key as PRNGKey

from jaxviz._options import check_array
from jaxviz._types import AnyArray, Key, at_least_float32
from jaxviz.image._channels import is_picture
from jaxviz.image._checks import check_finite, check_range, sides_of

# The authors' constants. Errors are means over channels, so that those of a gray sample are as in the paper.
_TOLERANCE = 0.1  # how much worse than the best match a match may be
_MAX_ERROR = 0.3  # above it, a pixel waits until more of its neighbors are known
_GROWTH = 1.1  # factor of the largest error allowed, if all pixels wait
_SEED = 3  # side of the first patch, in pixels

_QUEUE = 64  # pixels of a pass among which to look for some that can be filled at the same time
_BATCH = 8  # how many to fill at once: enough for an efficient convolution, few enough to be found


class _Sample(NamedTuple):
    """Colors minus their mean, for accuracy, with the sum of their squares; and the rows of all windows."""

    pixels: Float[Array, "h w c+1"]
    strips: Float[Array, "h across strip"]


class _Growth(NamedTuple):
    """The result so far: the sample's pixel that each is a copy of, -1 if unknown and in a margin of half a window."""

    source: Int[Array, "rows columns"]
    limit: Float[Array, ""]
    key: Key


class _Pass(NamedTuple):
    """The plan of a pass: all pixels, the ones to fill first and in order; their number; the largest error allowed."""

    order: Int[Array, " pixels"]
    length: Int[Array, ""]
    limit: Float[Array, ""]
    key: Key


class _Round(NamedTuple):
    """Within a pass: the places in its list being considered, in order, the next one, and the result so far."""

    queue: Int[Array, " q"]
    following: Int[Array, ""]
    source: Int[Array, "rows columns"]


def efros_leung(
    key: Key, image: Float[AnyArray, "h w c"], *, size: int | tuple[int, int], window: int = 11
) -> Float[Array, "height width c"]:
    """Grow a texture outward from a seed, each pixel copied from a place in the sample with similar surroundings.

    A patch of 3x3 pixels of the sample is put in the middle. Each pass lists the unknown pixels next to known ones,
    those with the most known pixels in their window first, and fills them one by one. The error of a place in the
    sample is the mean squared difference over the known pixels, weighted by a Gaussian with deviation `window / 6.4`.
    One of the places within 10% of the smallest error is picked at random, unless its error is above 0.3: then the
    pixel waits for a later pass, and if all pixels wait, the limit grows by 10%.

    Pixels of a pass that are not in each other's windows are filled at the same time, with the same result. The time is
    proportional to the pixels of the result, of the sample and of the window: 128x128 from 64x64 takes 2 s on two
    cores, and 3 s with a window of 23.

    Args:
        key: the random key, for the seed, the order and the picks. The same key gives the same bits.
        image: the sample, `(h, w, c)` in [0, 1], at least as large as the window.
        size: the size of the result in pixels, `(height, width)`, or one number if they are equal.
        window: the side of the square neighborhood in pixels, odd and at least 3. It should span what repeats in the
            texture: a smaller one loses the pattern, a much larger one copies whole pieces of the sample.

    Returns:
        `(height, width, c)` in [0, 1]; every pixel is one of the sample's.

    Raises:
        ValueError: for an image that is not `(h, w, c)` of floats in [0, 1] or is smaller than the window, an even
            window, and an empty size.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> stripes = jnp.zeros((8, 8, 3)).at[:, ::2].set(1.0)
        >>> print(jaxviz.efros_leung(jax.random.key(0), stripes, size=(4, 6), window=5)[..., 0])
        [[0. 1. 0. 1. 0. 1.]
         [0. 1. 0. 1. 0. 1.]
         [0. 1. 0. 1. 0. 1.]
         [0. 1. 0. 1. 0. 1.]]

    Efros & Leung 1999, Texture Synthesis by Non-parametric Sampling.
    """
    _check(image, window)
    image = jnp.asarray(image)
    # The choice of pixels has no gradient; their colors have.
    source = _grown(key, jax.lax.stop_gradient(image), size=sides_of(size), window=int(window))
    return image.reshape(-1, image.shape[-1])[source]


@functools.partial(jax.jit, static_argnames=("size", "window"))
def _grown(key: Key, image: Float[Array, "h w c"], *, size: tuple[int, int], window: int) -> Int[Array, "height width"]:
    """Return which of the sample's pixels each pixel of the result is, counted row by row."""
    sample = _sample(image, window)
    reach = window // 2
    inside = (slice(reach, reach + size[0]), slice(reach, reach + size[1]))

    def unfinished(growth: _Growth) -> Bool[Array, ""]:
        return jnp.any(growth.source[inside] < 0)

    def one_pass(growth: _Growth) -> _Growth:
        key, order_key, pick_key = jax.random.split(growth.key, 3)
        todo = _Pass(*_waiting(order_key, growth.source, window), growth.limit, pick_key)
        queue = jnp.arange(_QUEUE)
        start = _Round(queue, jnp.asarray(_QUEUE, queue.dtype), growth.source)
        fill = functools.partial(_filled, sample, todo, window)
        source = jax.lax.while_loop(lambda state: state.queue[0] < todo.length, fill, start).source
        progress = jnp.any(source != growth.source)
        return _Growth(source, jnp.where(progress, growth.limit, _GROWTH * growth.limit), key)

    seed_key, key = jax.random.split(key)
    seed = _seed(seed_key, (image.shape[0], image.shape[1]), size, reach)
    start = _Growth(seed, jnp.asarray(_MAX_ERROR, sample.pixels.dtype), key)
    return jax.lax.while_loop(unfinished, one_pass, start).source[inside]


def _sample(image: Float[Array, "h w c"], window: int) -> _Sample:
    values = image.astype(at_least_float32(image.dtype))
    values -= values.mean((0, 1), keepdims=True)
    pixels = jnp.concatenate([values, jnp.sum(values**2, -1, keepdims=True)], -1)
    across = pixels.shape[1] - window + 1
    return _Sample(pixels, jnp.concatenate([pixels[:, i : i + across] for i in range(window)], -1))


def _seed(key: Key, shape: tuple[int, int], size: tuple[int, int], reach: int) -> Int[Array, "rows columns"]:
    """Return a result with only a patch in the middle known, from a random place in a sample of `shape`."""
    sides = [min(_SEED, side) for side in size]
    first = [
        jax.random.randint(k, (), 0, side - seed + 1)
        for k, side, seed in zip(jax.random.split(key), shape, sides, strict=True)
    ]
    rows, columns = (start + jnp.arange(side) for start, side in zip(first, sides, strict=True))
    top, left = (reach + (side - seed) // 2 for side, seed in zip(size, sides, strict=True))
    source = jnp.full([side + 2 * reach for side in size], -1)
    return source.at[top : top + sides[0], left : left + sides[1]].set(rows[:, None] * shape[1] + columns[None])


def _waiting(key: Key, source: Int[Array, "rows columns"], window: int) -> tuple[Int[Array, " pixels"], Int[Array, ""]]:
    """Return all pixels, those that a pass is to fill first and in order, and their number."""
    reach = window // 2
    known = source >= 0
    beside = slice(reach - 1, 1 - reach or None)  # the result and one pixel around it
    edge = ~known[reach:-reach, reach:-reach] & (_counts(known[beside, beside], 3) > 0)
    ties = jax.random.uniform(key, edge.shape)
    return jnp.argsort(jnp.where(edge, ties - _counts(known, window).astype(ties.dtype), 1), axis=None), edge.sum()


def _counts(known: Bool[Array, "rows columns"], window: int) -> Int[Array, "height width"]:
    """Return how many pixels are known in each window."""
    sides = ((window, 1), (1, window))
    add = functools.partial(jax.lax.reduce_window, init_value=0, computation=jax.lax.add, window_strides=(1, 1))
    return functools.reduce(lambda x, side: add(x, window_dimensions=side, padding="VALID"), sides, known.astype(int))


def _filled(sample: _Sample, todo: _Pass, window: int, state: _Round) -> _Round:
    """Fill pixels of the queue with no earlier one in their window, as if they were filled one by one."""
    reach = window // 2
    pixels = todo.order[jnp.minimum(state.queue, len(todo.order) - 1)]
    rows, columns = jnp.divmod(pixels, state.source.shape[1] - 2 * reach)
    waits = state.queue < todo.length
    near = (jnp.abs(rows[:, None] - rows[None]) <= reach) & (jnp.abs(columns[:, None] - columns[None]) <= reach)
    ready = waits & ~jnp.any(jnp.tril(near, -1) & waits[None], axis=1)
    chosen = jnp.argsort(~ready)[:_BATCH]
    done = ready[chosen]

    keys = jax.vmap(functools.partial(jax.random.fold_in, todo.key))(pixels[chosen])
    match, error = _matched(keys, sample, state.source, rows[chosen], columns[chosen], window)
    accepted = done & ~(error > todo.limit)  # even a NaN is accepted: the loop must end
    # What is not accepted is written beyond the edge, and so dropped.
    place = (jnp.where(accepted, rows[chosen] + reach, state.source.shape[0]), columns[chosen] + reach)
    source = state.source.at[place].set(match, mode="drop")

    gone = jnp.zeros(_QUEUE, bool).at[chosen].set(done)
    queue = jnp.sort(jnp.where(gone, state.following + jnp.cumsum(gone) - 1, state.queue))
    return _Round(queue, state.following + gone.sum(), source)


def _matched(
    keys: PRNGKey[Array, " b"],
    sample: _Sample,
    source: Int[Array, "rows columns"],
    row: Int[Array, " b"],
    column: Int[Array, " b"],
    window: int,
) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """Return which of the sample's pixels to copy to each of some pixels, and its error."""
    around = jax.vmap(lambda *corner: jax.lax.dynamic_slice(source, corner, (window, window)))(row, column)
    errors = _errors(sample, around)
    down, across = jax.vmap(_picked)(keys, errors)
    match = (down + window // 2) * sample.pixels.shape[1] + across + window // 2
    return match, errors[jnp.arange(len(row)), down, across]


def _errors(sample: _Sample, around: Int[Array, "b window window"]) -> Float[Array, "b down across"]:
    """Return the error of each window of the sample compared with the known pixels around each of some pixels.

    It is the mean of `w (p - q)^2` as `w p^2 - 2 w p q + w q^2`: the last two terms, for all places, are one
    convolution.
    """
    window = around.shape[1]
    offsets = jnp.arange(window, dtype=sample.pixels.dtype) - window // 2
    gaussian = jnp.exp(-0.5 * (offsets / (window / 6.4)) ** 2)
    weights = jnp.where(around >= 0, (gaussian[:, None] * gaussian[None])[None], 0)
    channels = sample.pixels.shape[-1] - 1
    weights = weights / (channels * weights.sum((1, 2), keepdims=True))
    values = sample.pixels.reshape(-1, channels + 1)[jnp.maximum(around, 0)]
    kernels = weights[..., None] * jnp.concatenate([-2 * values[..., :-1], jnp.ones_like(values[..., :1])], -1)
    products = jax.lax.conv_general_dilated(
        sample.strips[None],  # whole rows of a window as channels: on CPU, several times as fast as a pixel's channels
        jnp.moveaxis(kernels, 0, -1).reshape(window, 1, (channels + 1) * window, -1),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,  # the terms nearly cancel
    )
    squares = jnp.sum(weights * values[..., -1], axis=(1, 2))
    return jnp.maximum(jnp.moveaxis(products[0], -1, 0) + squares[:, None, None], 0)


def _picked(key: Key, errors: Float[Array, "down across"]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Return the row and column of one of the best places."""
    # The slack allows for rounding of errors near 0, which are differences of numbers near 1.
    slack = 16 * jnp.finfo(errors.dtype).eps
    best = errors <= (1 + _TOLERANCE) * errors.min() + slack
    ends = jnp.cumsum(best.sum(1))
    rank = jnp.floor(jax.random.uniform(key, dtype=errors.dtype) * ends[-1].astype(errors.dtype)).astype(ends.dtype)
    row = jnp.argmax(ends > rank)
    line = best[row]
    return row, jnp.argmax(jnp.cumsum(line) > rank - ends[row] + line.sum())


def _check(image: Float[AnyArray, "h w c"], window: int) -> None:
    check_array("image", image)
    if jnp.ndim(image) != 3 or not is_picture(image.shape):
        raise ValueError(f"expected one image (h, w, c), got shape {jnp.shape(image)}; from a batch take images[0]")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"expected an image of floats in [0, 1], got {image.dtype}; divide bytes by 255")
    check_finite("image", image)
    check_range("image", image)
    if not isinstance(window, int | float | np.number) or window != window // 1 or window < 3 or window % 2 == 0:
        raise ValueError(f"window: expected an odd number of pixels, at least 3, got {window}")
    if min(image.shape[:2]) < window:
        raise ValueError(
            f"image: expected at least {window}x{window} pixels, the window's, got {image.shape[0]}x{image.shape[1]}; "
            "use a smaller window or a larger sample"
        )
