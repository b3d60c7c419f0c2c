"""Gradients of a score with respect to pixels.

A score of `jaxviz.logit`, `channel`, `neuron` or `energy` is compiled on its first use, and then for every class,
channel and position. Any other function runs as it is, for it may read what changes between calls: jit it if not.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._accelerate import accelerate
from jaxviz._image import check_images
from jaxviz._relu import Rule, with_relu
from jaxviz._scores import is_pytree, one_per_image
from jaxviz._types import Images, Maps, Score


def gradient(score: Score, params: Any, images: Images) -> Float[Array, "n h w 3"]:
    """Differentiate each image's score with respect to its pixels, signed.

    Args:
        score: any function `score(params, images) -> (n,)`, one number per image.
        params: the network's parameters.
        images: `(n, h, w, 3)` in [0, 1].

    Raises:
        ValueError: if the images are not a batch of RGB images, or the score is not one number per image.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights * images, axis=(1, 2, 3))
        >>> weights = jnp.arange(12.0).reshape(2, 2, 3)
        >>> print(jnp.array_equal(jaxviz.gradient(score, weights, jnp.ones((1, 2, 2, 3)))[0], weights))
        True
    """
    return _gradient(score, params, images, None)


def saliency(score: Score, params: Any, images: Images) -> Maps:
    """Mark the pixels that change the score most: the largest absolute gradient over RGB.

    Returns:
        `(n, h, w)`, in units of the score per unit of brightness.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> score = lambda weights, images: jnp.sum(weights * images, axis=(1, 2, 3))
        >>> weights = jnp.array([[[1.0, -3.0, 2.0]]])
        >>> print(jaxviz.saliency(score, weights, jnp.ones((1, 1, 1, 3))))
        [[[3.]]]

    Simonyan, Vedaldi & Zisserman 2013, Deep Inside Convolutional Networks.
    """
    return jnp.abs(gradient(score, params, images)).max(axis=-1)


def guided_backprop(score: Score, params: Any, images: Images) -> Float[Array, "n h w 3"]:
    """Differentiate a score with every ReLU passing only positive gradients of active units.

    Raises:
        ValueError: if the score has no ReLU, or one that cannot be swapped (see `with_relu`).

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda w, images: (jax.nn.relu(images.sum((1, 2)) @ w) * jnp.array([1.0, -1.0])).sum(-1)
        >>> w = jnp.array([[1.0, 5.0]] * 3)
        >>> print(jaxviz.guided_backprop(score, w, jnp.ones((1, 1, 1, 3))))
        [[[[1. 1. 1.]]]]

    Springenberg et al. 2014, Striving for Simplicity: The All Convolutional Net.
    """
    return _gradient(score, params, images, "guided")


def deconvnet(score: Score, params: Any, images: Images) -> Float[Array, "n h w 3"]:
    """Project a score back to pixels with every ReLU passing positive gradients, be its unit active or not.

    Raises:
        ValueError: if the score has no ReLU, or one that cannot be swapped (see `with_relu`).

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> score = lambda w, images: jax.nn.relu(images.sum((1, 2)) @ w).sum(-1)
        >>> print(jaxviz.deconvnet(score, -jnp.ones((3, 1)), jnp.ones((1, 1, 1, 3))))
        [[[[-1. -1. -1.]]]]

    Zeiler & Fergus 2013, Visualizing and Understanding Convolutional Networks.
    """
    return _gradient(score, params, images, "deconvnet")


def _gradient(score: Score, params: Any, images: Images, rule: Rule | None) -> Float[Array, "n h w 3"]:
    check_images(images)
    if not is_pytree(score):
        return _differentiate(score, params, images, rule)
    jax.eval_shape(functools.partial(score, params), images)  # complains about numbers that tracing would hide
    return _compiled(score, params, images, rule)


def _differentiate(score: Score, params: Any, images: Images, rule: Rule | None) -> Float[Array, "n h w 3"]:
    ruled = accelerate(score if rule is None else with_relu(score, rule))
    return jax.grad(lambda x: jnp.sum(one_per_image(ruled(params, x), x)))(images)


_compiled = jax.jit(_differentiate, static_argnums=3)
