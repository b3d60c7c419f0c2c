"""DeepDream: more of what a layer already sees in an image."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxviz._accelerate import accelerate
from jaxviz._image import check_images, resize
from jaxviz._scores import as_data, one_per_image
from jaxviz._types import Images, Key, Score
from jaxviz.synthesis._ascent import Synthesis
from jaxviz.synthesis._minimize import minimize


def dream(
    score: Score,
    params: Any,
    key: Key,
    images: Images,
    *,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 10,
    step_size: float = 1.5 / 255,
    jitter: int = 32,
    callback: Callable[[int, Images, Any], None] | None = None,
) -> Synthesis:
    """Change images so that a score rises, from coarse to fine, carrying what was dreamt over to the next size.

    Each step moves along the gradient divided by its mean absolute value, on an image rolled at random, and clips to
    [0, 1].

    Args:
        score: what to have more of; `energy(net, layer)` is DeepDream's.
        params: the network's parameters.
        key: of the jitter. The same key gives the same bits.
        images: `(n, h, w, 3)` in [0, 1].
        octaves: sizes to dream at, the last being the images' own.
        octave_scale: ratio between them.
        steps: in each octave.
        step_size: mean change of a pixel in one step, in units of brightness.
        jitter: the largest roll, in pixels.
        callback: called every few steps as `callback(step, images, losses)`, with images of the octave's size.

    Returns:
        The images and the losses of all octaves in order: minus the sum of the scores.

    Raises:
        ValueError: if the smallest octave has no pixels.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda params, images: images[..., 2].mean((1, 2))
        >>> grey = jnp.full((1, 16, 16, 3), 0.5)
        >>> dreamt, losses = jaxviz.dream(score, None, jax.random.key(0), grey, octaves=2)
        >>> print(dreamt.shape, bool(dreamt[..., 2].mean() > 0.55), losses.shape)
        (1, 16, 16, 3) True (20,)

    Mordvintsev, Olah & Tyka 2015, Inceptionism: Going Deeper into Neural Networks.
    """
    check_images(images)
    sizes = _octave_sizes(images.shape[1:3], octaves, octave_scale)
    detail = jnp.zeros((images.shape[0], *sizes[0], 3), images.dtype)
    dreamt, losses = images, []
    for octave, size in enumerate(sizes):
        base = jnp.clip(resize(images, size), 0, 1)  # what a cubic overshoots is no detail that was dreamt
        shown = callback and functools.partial(_report, callback, octave * steps)
        found = minimize(
            _rolled_score,
            jnp.clip(base + resize(detail, size), 0, 1),
            jax.random.fold_in(key, octave),
            data=(as_data(score), params, jitter),
            steps=steps,
            optimizer=_normalized_steps(step_size),
            callback=shown,
        )
        dreamt = found.variables
        detail = dreamt - base
        losses.append(found.losses)
    return Synthesis(jnp.clip(dreamt, 0, 1), jnp.concatenate(losses))


def _octave_sizes(size: tuple[int, ...], octaves: int, scale: float) -> list[tuple[int, int]]:
    if octaves < 1 or scale <= 1:
        raise ValueError(f"expected 1 octave or more and a scale above 1, got {octaves} and {scale}")
    sizes = [(round(size[0] / scale**i), round(size[1] / scale**i)) for i in reversed(range(octaves))]
    if min(sizes[0]) < 1:
        raise ValueError(f"{octaves} octaves of scale {scale} leave no pixels of {size[0]}x{size[1]}; use fewer")
    return sizes


def _report(callback: Callable, done: int, step: int, images: Images, losses: Any) -> None:
    callback(done + step, images, losses)


def _rolled_score(images: Images, key: Key, score: Score, params: Any, jitter: Any) -> Array:
    shift = jax.random.randint(key, (2,), -jitter, jitter + 1)
    rolled = jnp.roll(images, shift, axis=(1, 2))
    return -jnp.sum(one_per_image(accelerate(score)(params, rolled), rolled))


def _normalized_steps(step_size: float) -> optax.GradientTransformation:
    """Move by the gradient over its mean absolute value, image by image, and stay in [0, 1]."""
    return optax.GradientTransformation(lambda params: jnp.asarray(step_size, params.dtype), _normalized_step)


def _normalized_step(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    size = jnp.abs(updates).mean(axis=(1, 2, 3), keepdims=True)
    step = -state * updates / jnp.where(size > 0, size, 1)
    return jnp.clip(params + step, 0, 1) - params, state
