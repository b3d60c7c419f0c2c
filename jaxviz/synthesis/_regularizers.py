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

from jaxviz._image import IMAGENET_MEAN, blur
from jaxviz._types import Images

Penalty = Callable[[Images], Float[Array, " n"]]


def l2(images: Images) -> Float[Array, " n"]:
    """Return the mean square of each image's difference from the mean colour, for use as a penalty.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> print(jaxviz.l2(jnp.stack([jnp.full((4, 4, 3), 0.45), jnp.ones((4, 4, 3))])).round(3))
        [0.001 0.305]

    Simonyan, Vedaldi & Zisserman 2013, Deep Inside Convolutional Networks.
    """
    return jnp.mean(jnp.square(_centered(images)), (1, 2, 3))


def _centered(images: Images) -> Images:
    return images - jnp.asarray(IMAGENET_MEAN, images.dtype)


def _after(change: Callable[[Images, Images, Any], Images], every: int = 1) -> optax.GradientTransformation:
    """Return a transformation that, every few steps, changes what comes out: `change(images, before, step)`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state + 1
        moved = _centered(params + updates)
        changed = jax.lax.cond(count % every == 0, lambda x: change(x, updates, params), lambda x: x, moved)
        return updates + changed - moved, count

    return optax.GradientTransformation(lambda params: jnp.zeros((), int), update)


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
    return _after(lambda x, updates, params: (1 - rate) * x)


@functools.cache
def blurring(sigma: float, every: int) -> optax.GradientTransformation:
    """Blur with a Gaussian of so many pixels, every so many steps.

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
    return _after(lambda x, updates, params: blur(x, sigma), every)


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
    return _after(lambda x, updates, params: _without_least(x, jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)), percent))


@functools.cache
def small_contributions(percent: float) -> optax.GradientTransformation:
    """Set to the mean colour the so many per cent of pixels whose loss would harm the score least, to first order.

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

    def change(x: Images, updates: Images, params: Images) -> Images:
        return _without_least(x, jnp.abs(jnp.sum(x * updates, -1, keepdims=True)), percent)

    return _after(change)


def _without_least(x: Images, size: Float[Array, "n h w 1"], percent: float) -> Images:
    return jnp.where(size < jnp.percentile(size, percent, axis=(1, 2, 3), keepdims=True), 0, x)


@functools.cache
def normalized_steps(rate: float) -> optax.GradientTransformation:
    """Step by `rate * g / |g|`, image by image: the length of a step is fixed, in units of brightness."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        size = jnp.sqrt(jnp.sum(jnp.square(updates), (1, 2, 3), keepdims=True))
        return -rate * updates / jnp.where(size > 0, size, 1), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@functools.cache
def progressing_steps(progress: float, most: float) -> optax.GradientTransformation:
    """Step by `rate * g`, image by image, where the rate is such that the score rises by `progress` to first order.

    It is at most `most`: near a summit the gradient is small.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = jnp.sum(jnp.square(updates), (1, 2, 3), keepdims=True)
        return -jnp.minimum(progress / jnp.where(square > 0, square, 1), most) * updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
