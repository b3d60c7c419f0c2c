"""What keeps an image that is optimized pixel by pixel natural: the regularizers of the lecture, as small parts.

Penalties are functions `images -> (n,)`, added to a loss with a weight. The others change the pixels after each step;
they are optax transformations, put behind an optimizer with `optax.chain`, and work around ImageNet's mean colour,
which is what the papers' networks call zero.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxviz._options import check_count, check_number, check_positive
from jaxviz._types import Images
from jaxviz.image._arrays import blur
from jaxviz.synthesis._penalties import _centered, _per_color


def _after(change: Callable[[Images, Any], Images], every: int = 1) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that changes what comes out of the first step, and of every so many after it.

    `change(x, gradient)` is given images as differences from the mean colour. Like the published programs, which count
    steps from 0 and change the image where the count is a multiple.
    """

    def update(updates: Any, state: Any, params: Any = None, *, grad: Any = None, **_: Any) -> tuple[Any, Any]:
        moved = _centered(params + updates)
        gradient = updates if grad is None else grad
        changed = jax.lax.cond(state % every == 0, lambda x: change(x, gradient), lambda x: x, moved)
        return updates + changed - moved, state + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), int), update)


@functools.cache
def decay(rate: float) -> optax.GradientTransformation:
    """Shrink what differs from the mean colour by a fraction at every step: L2 decay.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, optax
        >>> score = lambda params, images: images[:, ::2, ::2, 0].mean((1, 2))
        >>> climb = optax.chain(optax.sgd(1.0), jaxviz.decay(0.1))
        >>> options = {"basis": jaxviz.pixels, "transform": None, "optimizer": climb}
        >>> found = jaxviz.ascend(score, None, jax.random.key(0), size=8, steps=8, **options)
        >>> print(bool(found.losses[-1] < found.losses[0]))
        True

    Yosinski et al. 2015, Understanding Neural Networks Through Deep Visualization.
    """
    _check_share("rate", rate, 1)
    return _after(lambda x, gradient: (1 - rate) * x)


@functools.cache
def blurring(sigma: float, every: int) -> optax.GradientTransformation:
    """Blur with a Gaussian of so many pixels, at the first step and every so many after it.

    Beyond its edges an image is mirrored, and the Gaussian is cut off at four times its deviation, as in SciPy's
    `gaussian_filter`, by which the figures of the papers were made.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, optax
        >>> score = lambda params, images: images[:, ::2, ::2, 0].mean((1, 2))
        >>> climb = optax.chain(optax.sgd(1.0), jaxviz.blurring(1.0, 1))
        >>> options = {"basis": jaxviz.pixels, "transform": None, "optimizer": climb}
        >>> found = jaxviz.ascend(score, None, jax.random.key(0), size=8, steps=8, **options)
        >>> print(bool(found.losses[-1] < found.losses[0]))
        True

    Yosinski et al. 2015, Understanding Neural Networks Through Deep Visualization.
    """
    check_positive("sigma", sigma)
    check_count("every", every)
    reach = int(4 * sigma + 0.5)

    def blurred(x: Images, gradient: Any) -> Images:
        around = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="symmetric")
        return blur(around, sigma, size=2 * reach + 1)[:, reach : reach + x.shape[1], reach : reach + x.shape[2]]

    return _after(blurred, every)


@functools.cache
def small_norms(percent: float) -> optax.GradientTransformation:
    """Set to the mean colour the so many per cent of pixels that differ least from it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, optax
        >>> score = lambda params, images: images[:, ::2, ::2, 0].mean((1, 2))
        >>> climb = optax.chain(optax.sgd(1.0), jaxviz.small_norms(50.0))
        >>> options = {"basis": jaxviz.pixels, "transform": None, "optimizer": climb}
        >>> found = jaxviz.ascend(score, None, jax.random.key(0), size=8, steps=8, **options)
        >>> print(bool(found.losses[-1] < found.losses[0]))
        True

    Yosinski et al. 2015, Understanding Neural Networks Through Deep Visualization.
    """
    _check_share("percent", percent, 100)
    return _after(lambda x, gradient: _without_least(x, jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)), percent))


@functools.cache
def small_contributions(percent: float) -> optax.GradientTransformation:
    """Set to the mean colour the so many per cent of pixels whose loss would change the score least, to first order.

    That is by the gradient of the loss, which `ascend` and `minimize` hand over as `grad`; where `update` is called
    without it, by the step in its place.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz, optax
        >>> score = lambda params, images: images[:, ::2, ::2, 0].mean((1, 2))
        >>> climb = optax.chain(optax.sgd(1.0), jaxviz.small_contributions(50.0))
        >>> options = {"basis": jaxviz.pixels, "transform": None, "optimizer": climb}
        >>> found = jaxviz.ascend(score, None, jax.random.key(0), size=8, steps=8, **options)
        >>> print(bool(found.losses[-1] < found.losses[0]))
        True

    Yosinski et al. 2015, Understanding Neural Networks Through Deep Visualization.
    """

    _check_share("percent", percent, 100)

    def change(x: Images, gradient: Any) -> Images:
        return _without_least(x, jnp.abs(jnp.sum(x * gradient, -1, keepdims=True)), percent)

    return _after(change)


def _without_least(x: Images, size: Float[Array, "n h w 1"], percent: float) -> Images:
    return jnp.where(size < jnp.percentile(size, percent, axis=(1, 2, 3), keepdims=True), 0, x)


def _check_share(name: str, number: float, whole: int) -> None:
    check_number(name, number, f"from 0 to {whole}", lambda x: (x >= 0) & (x <= whole))


@functools.cache
def normalized_steps(
    rate: float, *, unit: float | tuple[float, float, float] = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Step by `rate * g / |g|`, image by image: the length of a step is fixed, in units of brightness.

    With a `unit` for each colour, it is what that step is for a network whose pixels are `(x - mean) / unit`: there a
    gradient is `unit` times as large, and a step is `unit` times as large here.
    """

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        units = _per_color(unit, updates.dtype)
        scaled = units * updates
        size = jnp.sqrt(jnp.sum(jnp.square(scaled), (1, 2, 3), keepdims=True))
        return -rate * units * scaled / jnp.where(size > 0, size, 1), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@functools.cache
def progressing_steps(progress: float, most: float) -> optax.GradientTransformation:
    """Step by `rate * g`, image by image, where the rate is such that the score rises by `progress` to first order.

    It is at most `most`: near a summit the gradient is small.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = jnp.sum(jnp.square(updates), (1, 2, 3), keepdims=True)
        return -jnp.minimum(progress / jnp.where(square > 0, square, 1), most) * updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clipping() -> optax.GradientTransformation:
    """Clip what comes out to [0, 1], as the published programs do: after the step, with the gradient left whole."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        kept = jnp.clip(params + updates, 0, 1) - params
        return jnp.where(jnp.isfinite(updates), kept, updates), state  # for `minimize` to see

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
