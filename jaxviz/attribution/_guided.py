"""Guided backpropagation and the deconvnet: gradients with another backward rule for every ReLU."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Score
from jaxviz.attribution._batching import run
from jaxviz.attribution._saliency import _gradient


def guided_backprop(
    score: Score, params: Any, images: AnyImages, *, batch_size: int | None = None
) -> Float[Array, "n *k h w c"]:
    """Differentiate a score with every ReLU passing only positive gradients of active units.

    Args:
        score, params, images, batch_size: as for `gradient`.

    Returns:
        `(n, h, w, c)`, or `(n, k, h, w, c)` for a score `(n, k)`, signed.

    Raises:
        ValueError: if the score has no ReLU, or one that cannot be swapped (see `with_relu`); and as for `gradient`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda w, images: (jax.nn.relu(images.sum((1, 2)) @ w) * jnp.array([[1.0, -1.0]])).sum(-1)
        >>> w = jnp.array([[1.0, 5.0]] * 3)
        >>> print(jaxviz.guided_backprop(score, w, jnp.ones((1, 1, 1, 3))))
        [[[[1. 1. 1.]]]]

    Springenberg et al. 2014, Striving for Simplicity: The All Convolutional Net.
    """
    return run(_gradient, score, params, images, rule="guided", batch_size=batch_size)


def deconvnet(
    score: Score, params: Any, images: AnyImages, *, batch_size: int | None = None
) -> Float[Array, "n *k h w c"]:
    """Project a score back to pixels with every ReLU passing positive gradients, whether its unit is active or not.

    Args:
        score, params, images, batch_size: as for `gradient`.

    Returns:
        `(n, h, w, c)`, or `(n, k, h, w, c)` for a score `(n, k)`, signed.

    Raises:
        ValueError: if the score has no ReLU, or one that cannot be swapped (see `with_relu`); and as for `gradient`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda w, images: jax.nn.relu(images.sum((1, 2)) @ w).sum(-1)
        >>> print(jaxviz.deconvnet(score, -jnp.ones((3, 1)), jnp.ones((1, 1, 1, 3))))
        [[[[-1. -1. -1.]]]]

    Zeiler & Fergus 2013, Visualizing and Understanding Convolutional Networks.
    """
    return run(_gradient, score, params, images, rule="deconvnet", batch_size=batch_size)
