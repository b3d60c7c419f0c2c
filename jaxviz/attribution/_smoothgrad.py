"""SmoothGrad and its relatives: statistics of the gradients of noisy copies."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Key, Score
from jaxviz.attribution._batching import by_image, check_positive, differentiate, run_by_image, sum_over
from jaxviz.fast._swap import accelerate
from jaxviz.image._checks import check_not_negative
from jaxviz.scores._calls import fixed


def smoothgrad(
    score: Score,
    params: Any,
    key: Key,
    images: AnyImages,
    *,
    noise: ArrayLike = 0.15,
    samples: int = 32,
    statistic: Literal["mean", "squared", "variance"] = "mean",
    batch_size: int | None = None,
) -> Float[Array, "n *k h w c"]:
    """Average the gradients of noisy copies of an image, which keeps what the noise does not change.

    Args:
        score: any function `score(params, images) -> (n,)` or `(n, k)`.
        params: the network's parameters.
        key: random key for the noise; an image's noise does not depend on the others.
        images: `(n, h, w, c)` in [0, 1].
        noise: the standard deviation, as a fraction of the image's range of values, at least 0.
        samples: the number of noisy copies of each image.
        statistic: "mean" of the gradients, signed; mean of their squares; or their variance (VarGrad).
        batch_size: copies of images evaluated at once; by default 4 on CPU, where more are slower, else 16.

    Returns:
        `(n, h, w, c)`, or `(n, k, h, w, c)` for a score `(n, k)`.

    Raises:
        ValueError: for an unknown statistic, fewer than 1 sample or negative noise; and as for `gradient`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images, axis=(1, 2, 3))
        >>> weights, images = jnp.array([[[1.0, -3.0, 2.0]]]), jnp.ones((1, 1, 1, 3))
        >>> print(jaxviz.smoothgrad(score, weights, jax.random.key(0), images, statistic="squared"))
        [[[[1. 9. 4.]]]]

    Smilkov et al. 2017, SmoothGrad; Hooker et al. 2019 (squared); Adebayo et al. 2018 (variance).
    """
    check_positive(samples=samples)
    check_not_negative("noise", noise)
    if statistic not in _STATISTICS:
        raise ValueError(f"statistic: expected one of {', '.join(_STATISTICS)}, got {statistic!r}")
    options = {"samples": samples, "statistic": statistic, "batch_size": batch_size}
    return run_by_image(_smoothed, score, params, images, key, jnp.asarray(noise), **options)


_STATISTICS = {
    "mean": lambda mean, square: mean,
    "squared": lambda mean, square: square,
    "variance": lambda mean, square: jnp.maximum(square - mean**2, 0),
}


def _smoothed(
    score: Score,
    params: Any,
    images: Images,
    key: Key,
    noise: Array,
    *,
    samples: int,
    statistic: str,
    batch_size: int,
    spread: jax.NamedSharding | None,
) -> Array:
    span = images.max((1, 2, 3)) - images.min((1, 2, 3))
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(images)))

    def around(score: Score, images: Images, deviation: Array, keys: Array) -> Array:
        fast = accelerate(score, exact=True)

        def sample(index: Array) -> Array:
            def draw(key: Any) -> Array:
                return jax.random.normal(jax.random.fold_in(key, index), images.shape[1:], images.dtype)

            noisy = images + deviation[:, None, None, None] * jax.vmap(draw)(keys)
            return differentiate(fast, params, noisy, batch_size=1)

        def part(indices: Array, live: Array) -> tuple[Array, Array]:
            gradients, weights = jax.vmap(sample)(indices), live.astype(images.dtype) / samples
            return jnp.tensordot(weights, gradients, 1), jnp.tensordot(weights, gradients**2, 1)

        return sum_over(samples, batch_size, part, images, lambda total: _STATISTICS[statistic](*total))

    deviation = (noise * span).astype(images.dtype)
    return by_image(around, fixed(score, params, images), images, deviation, keys, spread=spread)
