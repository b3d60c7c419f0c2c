"""What images are compared by, and what keeps them smooth: one number for each image, with plain gradients at zero."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._types import Images
from jaxviz.synthesis._options import check_positive, check_rank


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


def total_variation(images: Images, *, beta: ArrayLike = 2.0) -> Float[Array, " n"]:
    """Return the mean over pixels and colours of `(dx² + dy²)^(beta / 2)`, the differences to the next pixels.

    Args:
        images: `(n, h, w, 3)`.
        beta: 2 is smooth; 1, the plain total variation, lets edges stand.

    Example:
        >>> edge = jnp.zeros((1, 4, 4, 3)).at[:, :, 2:].set(1.0)
        >>> print(total_variation(edge), total_variation(edge / 2, beta=1.0))
        [0.25] [0.125]

    Mahendran & Vedaldi 2014, Understanding Deep Image Representations by Inverting Them.
    """
    check_rank(images)
    check_positive("beta", beta)
    across = jnp.square(jnp.diff(images, axis=2, append=images[:, :, -1:]))
    down = jnp.square(jnp.diff(images, axis=1, append=images[:, -1:]))
    squares = across + down
    # The power's derivative is infinite at zero for beta < 2; where nothing varies there is nothing to smooth.
    varies = squares > 0
    return jnp.mean(jnp.where(varies, jnp.where(varies, squares, 1) ** (beta / 2), 0), (1, 2, 3))
