"""Regularizers for images that are optimized pixel by pixel, as in the lecture.

They change the pixels after each step. They are optax transformations, chained after an optimizer with `optax.chain`,
and act on the difference from ImageNet's mean color, which is zero for the papers' networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxviz._options import check_count, check_number, check_positive
from jaxviz._types import Images
from jaxviz.image._arrays import blur, per_color
from jaxviz.synthesis._penalties import _centered


def _after(change: Callable[[Images, Any], Images], every: int = 1) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that changes the images after the first step and every `every` steps from then on.

    `change(x, gradient)` is given images as differences from the mean color. The published programs, too, count steps
    from 0 and change the image where the count is a multiple.
    """
    return optax.GradientTransformationExtraArgs(_no_steps, _After(change, every))


def _no_steps(params: Any) -> Array:
    return jnp.zeros((), int)


@dataclasses.dataclass(frozen=True)
class _After:
    """The update of such a transformation, equal to another if their `change` is."""

    change: Callable[[Images, Any], Images]
    every: int

    def __call__(self, updates: Any, state: Any, params: Any = None, *, grad: Any = None, **_: Any) -> tuple[Any, Any]:
        moved = _centered(params + updates)
        gradient = updates if grad is None else grad
        changed = jax.lax.cond(state % self.every == 0, lambda x: self.change(x, gradient), lambda x: x, moved)
        return updates + changed - moved, state + 1


def decay(rate: float) -> optax.GradientTransformation:
    """Shrink the difference from the mean color by a fraction at every step: L2 decay.

    Args:
        rate: the fraction, in [0, 1].

    Returns:
        An optax transformation, to be chained after an optimizer.

    Raises:
        ValueError: if `rate` is out of range.

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
    return _after(_Decay(float(rate)))


@dataclasses.dataclass(frozen=True)
class _Decay:
    rate: float

    def __call__(self, x: Images, gradient: Any) -> Images:
        return (1 - self.rate) * x


def blurring(sigma: float, every: int) -> optax.GradientTransformation:
    """Blur with a Gaussian after the first step and every `every` steps from then on.

    Images are mirrored at their edges, and the Gaussian is truncated at four standard deviations, as in SciPy's
    `gaussian_filter`, with which the papers' figures were made.

    Args:
        sigma: the standard deviation in pixels, above 0.
        every: the number of steps between blurs, at least 1.

    Returns:
        An optax transformation, to be chained after an optimizer.

    Raises:
        ValueError: if an option is out of range.

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
    check_count("every", every, unit="step")
    return _after(_Blur(float(sigma)), int(every))


@dataclasses.dataclass(frozen=True)
class _Blur:
    sigma: float

    def __call__(self, x: Images, gradient: Any) -> Images:
        reach = int(4 * self.sigma + 0.5)
        around = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="symmetric")
        return blur(around, self.sigma, size=2 * reach + 1)[:, reach : reach + x.shape[1], reach : reach + x.shape[2]]


def small_norms(percent: float) -> optax.GradientTransformation:
    """Set a percentage of the pixels, those that differ least from the mean color, to it.

    Args:
        percent: the percentage, from 0 to 100.

    Returns:
        An optax transformation, to be chained after an optimizer.

    Raises:
        ValueError: if `percent` is out of range.

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
    return _after(_SmallNorms(float(percent)))


@dataclasses.dataclass(frozen=True)
class _SmallNorms:
    percent: float

    def __call__(self, x: Images, gradient: Any) -> Images:
        return _without_least(x, jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)), self.percent)


def small_contributions(percent: float) -> optax.GradientTransformation:
    """Set a percentage of the pixels to the mean color: those for which this changes the loss least, to first order.

    The change is estimated from the gradient of the loss, which `ascend` and `minimize` pass as `grad`; if `update` is
    called without it, from the step instead.

    Args:
        percent: the percentage, from 0 to 100.

    Returns:
        An optax transformation, to be chained after an optimizer.

    Raises:
        ValueError: if `percent` is out of range.

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
    return _after(_SmallContributions(float(percent)))


@dataclasses.dataclass(frozen=True)
class _SmallContributions:
    percent: float

    def __call__(self, x: Images, gradient: Any) -> Images:
        return _without_least(x, jnp.abs(jnp.sum(x * gradient, -1, keepdims=True)), self.percent)


def _without_least(x: Images, size: Float[Array, "n h w 1"], percent: float) -> Images:
    return jnp.where(size < jnp.percentile(size, percent, axis=(1, 2, 3), keepdims=True), 0, x)


def _check_share(name: str, number: float, whole: int) -> None:
    check_number(name, number, f"from 0 to {whole}", lambda x: (x >= 0) & (x <= whole))


def normalized_steps(
    rate: float, *, unit: float | tuple[float, float, float] = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Step by `rate * g / |g|`, image by image: a step of fixed length, in units of brightness.

    With a `unit` for each color, this is such a step in the pixels `(x - mean) / unit` of a network that normalizes:
    gradients are `unit` times as large there, and its steps are `unit` times as large here.
    """

    return optax.GradientTransformationExtraArgs(_no_state, _Normalized(rate, unit))


def _no_state(params: Any) -> Any:
    return optax.EmptyState()


@dataclasses.dataclass(frozen=True)
class _Normalized:
    rate: float
    unit: float | tuple[float, float, float]

    def __call__(self, updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        units = per_color(self.unit, updates)
        scaled = units * updates
        size = jnp.sqrt(jnp.sum(jnp.square(scaled), (1, 2, 3), keepdims=True))
        return -self.rate * units * scaled / jnp.where(size > 0, size, 1), state


def progressing_steps(progress: float, most: float) -> optax.GradientTransformation:
    """Step by `rate * g`, image by image, with the rate that raises the score by `progress` to first order.

    The rate is at most `most`, since gradients are small near a maximum.
    """

    return optax.GradientTransformation(_no_state, _Progressing(progress, most))


@dataclasses.dataclass(frozen=True)
class _Progressing:
    progress: float
    most: float

    def __call__(self, updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = jnp.sum(jnp.square(updates), (1, 2, 3), keepdims=True)
        return -jnp.minimum(self.progress / jnp.where(square > 0, square, 1), self.most) * updates, state


def clipping() -> optax.GradientTransformation:
    """Clip the images to [0, 1] after the step, as the published programs do, leaving the gradient unchanged."""

    return optax.GradientTransformation(_no_state, _clipped)


def _clipped(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    kept = jnp.clip(params + updates, 0, 1) - params
    return jnp.where(jnp.isfinite(updates), kept, updates), state  # for `minimize` to detect
