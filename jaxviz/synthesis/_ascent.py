"""Gradient ascent: the image that a unit, a channel, a class responds to most."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxviz._accelerate import accelerate
from jaxviz._relu import revived
from jaxviz._scores import as_data, one_per_image
from jaxviz._types import Images, Key, Score
from jaxviz.synthesis._minimize import minimize
from jaxviz.synthesis._parameterization import Parameterization, fourier
from jaxviz.synthesis._robustness import Transform, jitter_scale_rotate


class Synthesis(NamedTuple):
    """Images, `(n, h, w, 3)` in [0, 1], and the loss before each step: minus the sum of the scores."""

    images: Images
    losses: Float[Array, " steps"]


def ascend(
    score: Score,
    params: Any,
    key: Key,
    *,
    size: int | tuple[int, int] = 224,
    steps: int = 512,
    learning_rate: float = 0.05,
    transform: Transform | None = None,
    callback: Callable[[int, Images, Any], None] | None = None,
) -> Synthesis:
    """Find the images that maximise a score, from noise.

    The image is optimized by Adam in a Fourier basis with decorrelated colours, and shifted, scaled and turned at
    random at every step: the defaults of Olah et al. 2017.

    Args:
        score: what to maximise. A score with numbers for several images, such as
            `channel(net, "relu5_1", jnp.arange(9))`, gives that many images, optimized side by side.
        params: the network's parameters.
        key: of the start and of the transformations. The same key gives the same bits.
        size: of the images in pixels: one side, or (h, w).
        steps: how many.
        learning_rate: of Adam.
        transform: `(key, images) -> images`, applied before the score; None: `jitter_scale_rotate()`.
        callback: called every few steps as `callback(step, images, losses)`.

    Raises:
        FloatingPointError: if the score stops being finite.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda params, images: images[..., 0].mean((1, 2)) - images[..., 1].mean((1, 2))
        >>> images, losses = jaxviz.ascend(score, None, jax.random.key(0), size=16, steps=64)
        >>> print(images.shape, bool(images[..., 0].mean() > images[..., 1].mean()), bool(losses[-1] < losses[0]))
        (1, 16, 16, 3) True True

    Olah, Mordvintsev & Schubert 2017, Feature Visualization; Simonyan et al. 2013, Deep Inside Convolutional Networks.
    """
    height, width = (size, size) if isinstance(size, int) else size
    basis = fourier(height, width)
    start_key, step_key = jax.random.split(key)
    loss = _negative_score(basis, transform or jitter_scale_rotate())
    shown = callback and (lambda step, variables, losses: callback(step, _show(basis, variables), losses))
    variables = basis.init(start_key, _batch(score))
    found = minimize(
        loss,
        variables,
        step_key,
        data=(as_data(score), params),
        steps=steps,
        optimizer=_adam(learning_rate),
        callback=shown,
    )
    return Synthesis(_show(basis, found.variables), found.losses)


_ADAM = optax.scale_by_adam()


def _adam(learning_rate: float) -> optax.GradientTransformation:
    """Return Adam with its learning rate in the state, as data: another one compiles nothing."""
    return optax.GradientTransformation(lambda params: (_ADAM.init(params), learning_rate), _adam_step)


def _adam_step(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    directions, memory = _ADAM.update(updates, state[0], params)
    return jax.tree.map(lambda direction: -state[1] * direction, directions), (memory, state[1])


@functools.cache
def _negative_score(basis: Parameterization, transform: Transform) -> Callable:
    def loss(variables: Any, key: Key, score: Score, params: Any) -> Array:
        images = transform(key, basis.images(variables))
        # A sum, and not a mean: each image's gradient is then the same however many are optimized side by side.
        return -jnp.sum(one_per_image(accelerate(revived(score))(params, images), images))

    return loss


@functools.partial(jax.jit, static_argnums=0)
def _show(basis: Parameterization, variables: Any) -> Images:
    return basis.images(variables)


def _batch(score: Any) -> int:
    """Return for how many images a score holds numbers: the length of its vectors, 1 if it has none."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(as_data(score)) if jnp.ndim(leaf) == 1}
    if len(lengths) > 1:
        raise ValueError(f"the numbers of this score are for {sorted(lengths)} images: give one length")
    return lengths.pop() if lengths else 1
