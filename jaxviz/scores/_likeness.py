"""How alike two sets of features are: relative errors, and Gram matrices for texture."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def relative_error(values: Float[Array, "n ..."], target: Float[Array, "#n ..."]) -> Float[Array, " n"]:
    """Return each image's `|values - target|² / |target|²`: 0 if equal, about 1 with nothing in common.

    Divided so, losses of any layer of any network have one scale, and their weights one meaning.

    Example:
        >>> print(relative_error(jnp.array([[3.0, 4.0], [3.0, 3.0]]), jnp.array([[3.0, 4.0]])))
        [0.   0.04]
    """
    axes = tuple(range(1, values.ndim))
    size = jnp.sum(jnp.square(target), axes)
    return jnp.sum(jnp.square(values - target), axes) / jnp.where(size > 0, size, 1)


def gram(features: Float[Array, "n h w c"], mask: Float[Array, "#n h w"] | None = None) -> Float[Array, "n c c"]:
    """Return the Gram matrix of each image's features: for two channels the mean of their product over positions.

    A mean, so that images of all sizes compare. With a mask, a weighted mean: the Gram matrix of a region.

    Example:
        >>> features = jnp.array([[[[1.0, 2.0], [3.0, 0.0]]]])
        >>> print(gram(features)[0])
        [[5. 1.]
         [1. 2.]]
        >>> print(gram(features, jnp.array([[[0.0, 1.0]]]))[0])
        [[9. 0.]
         [0. 0.]]

    Gatys, Ecker & Bethge 2015, Texture Synthesis Using Convolutional Neural Networks.
    """
    n, height, width, channels = features.shape
    rows = features.reshape(n, height * width, channels)
    if mask is None:
        return jnp.einsum("npi,npj->nij", rows, rows) / (height * width)
    weights = jnp.broadcast_to(mask, (n, height, width)).reshape(n, height * width, 1)
    total = jnp.sum(weights, 1, keepdims=True)
    return jnp.einsum("npi,npj->nij", rows * weights, rows) / jnp.where(total > 0, total, 1)
