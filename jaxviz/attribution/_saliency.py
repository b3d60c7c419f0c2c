"""Gradients of a score with respect to pixels.

A score of `jaxviz.logit`, `probability`, `channel`, `neuron` or `energy` is compiled on its first use, and reused for
every class, channel and position. Any other function runs as it is, since it may read changing state: jit it
yourself if it does not.

If a score gives k numbers for each image, all of them are explained from one forward pass, and maps have one more axis:
`(n, k, h, w, c)` or `(n, k, h, w)`. Then `batch_size` limits how many backward passes run at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Score
from jaxviz.attribution._batching import beside, differentiate, run
from jaxviz.fast._swap import accelerate
from jaxviz.image._arrays import largest
from jaxviz.program._with_relu import Rule, ruled


def gradient(
    score: Score, params: Any, images: AnyImages, *, batch_size: int | None = None
) -> Float[Array, "n *k h w c"]:
    """Differentiate each image's score with respect to its pixels, signed.

    Args:
        score: any function `score(params, images) -> (n,)`, one number per image, or `(n, k)`.
        params: the network's parameters.
        images: `(n, h, w, c)` in [0, 1].
        batch_size: for a score `(n, k)`, backward passes run at once, over all images; by default 4 on CPU, else 16.

    Returns:
        `(n, h, w, c)`, or `(n, k, h, w, c)` for a score `(n, k)`, in units of the score per unit of brightness.

    Raises:
        ValueError: if the images are not an array `(n, h, w, c)` of at least one image, not finite or plainly not in
            [0, 1]; if the score is not one number (or k) per image; for a class, channel or position that does not
            exist; and for a score without a gradient, such as an argmax, whose map would be zero for any image. Where a
            gradient merely happens to be zero, as behind inactive ReLUs, the map is zero.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images, axis=(1, 2, 3))
        >>> weights = jnp.arange(12.0).reshape(2, 2, 3)
        >>> print(jnp.array_equal(jaxviz.gradient(score, weights, jnp.ones((1, 2, 2, 3)))[0], weights))
        True
    """
    return run(_gradient, score, params, images, batch_size=batch_size)


def saliency(
    score: Score, params: Any, images: AnyImages, *, batch_size: int | None = None
) -> Float[Array, "n *k h w"]:
    """Mark the pixels that change the score most: the largest absolute gradient over the channels.

    Args:
        score, params, images, batch_size: as for `gradient`.

    Returns:
        `(n, h, w)`, or `(n, k, h, w)`, in units of the score per unit of brightness.

    Raises:
        ValueError: as for `gradient`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images, axis=(1, 2, 3))
        >>> weights = jnp.array([[[1.0, -3.0, 2.0]]])
        >>> print(jaxviz.saliency(score, weights, jnp.ones((1, 1, 1, 3))))
        [[[3.]]]
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> every_class = jaxviz.logit(net, jnp.arange(1000)[None])  # the same thousand for each image
        >>> jaxviz.saliency(every_class, jnp.ones((3, 1000)), jnp.ones((2, 8, 8, 3))).shape
        (2, 1000, 8, 8)

    Simonyan, Vedaldi & Zisserman 2013, Deep Inside Convolutional Networks.
    """
    return run(_gradient, score, params, images, batch_size=batch_size, finish=_largest)


def input_x_gradient(
    score: Score, params: Any, images: AnyImages, *, batch_size: int | None = None
) -> Float[Array, "n *k h w c"]:
    """Multiply each pixel by its gradient: its share of the score, if the network were linear around zero.

    Args:
        score, params, images, batch_size: as for `gradient`.

    Returns:
        `(n, h, w, c)`, or `(n, k, h, w, c)` for a score `(n, k)`, in units of the score.

    Raises:
        ValueError: as for `gradient`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights[None] * images, axis=(1, 2, 3))
        >>> print(jaxviz.input_x_gradient(score, jnp.array([[[1.0, -3.0, 2.0]]]), jnp.full((1, 1, 1, 3), 0.5)))
        [[[[ 0.5 -1.5  1. ]]]]

    Shrikumar et al. 2016, Not Just a Black Box.
    """
    gradients = gradient(score, params, images, batch_size=batch_size)
    return gradients * beside(images, gradients)


def _gradient(
    score: Score,
    params: Any,
    images: Images,
    *,
    batch_size: int,
    rule: Rule | None = None,
    finish: Callable[[Array], Array] = lambda g: g,
) -> Array:
    # A ReLU applied to parameters only does not need swapping.
    changed = score if rule is None else ruled(score, rule, last_only=True)
    return differentiate(accelerate(changed, exact=True), params, images, batch_size=batch_size, finish=finish)


def _largest(gradients: Array) -> Array:
    return largest(jnp.abs(gradients), axis=-1)
