"""Penalties for `ascend(penalties=...)`: one number per image, which synthesis keeps small."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxviz._options import check_positive, check_rank
from jaxviz._types import AnyImages, Images
from jaxviz.image._arrays import IMAGENET_MEAN, per_color
from jaxviz.program._compiled import HoldsFunctions
from jaxviz.scores._algebra import static


def total_variation(images: AnyImages, *, beta: ArrayLike = 2.0) -> Float[Array, " n"]:
    """Return the mean over pixels and colors of `(dx² + dy²)^(beta / 2)`, with differences between adjacent pixels.

    Args:
        images: `(n, h, w, c)`.
        beta: the power, above 0; 2 smooths everything, 1, the plain total variation, preserves edges.

    Returns:
        One number per image, `(n,)`, at least 0.

    Raises:
        ValueError: if `images` is not `(n, h, w, c)` or `beta` not above 0.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> edge = jnp.zeros((1, 4, 4, 3)).at[:, :, 2:].set(1.0)
        >>> print(jaxviz.total_variation(edge), jaxviz.total_variation(edge / 2, beta=1.0))
        [0.25] [0.125]

    Mahendran & Vedaldi 2014, Understanding Deep Image Representations by Inverting Them.
    """
    check_rank(images)
    check_positive("beta", beta)
    across = jnp.square(jnp.diff(images, axis=2, append=images[:, :, -1:]))
    down = jnp.square(jnp.diff(images, axis=1, append=images[:, -1:]))
    squares = across + down
    # For beta < 2, the derivative is infinite at zero, where there is nothing to smooth.
    varies = squares > 0
    return jnp.mean(jnp.where(varies, jnp.where(varies, squares, 1) ** (beta / 2), 0), (1, 2, 3))


IMAGENET_STD = (0.229, 0.224, 0.225)
"""The standard deviation of ImageNet's photographs, in RGB."""

Penalty = Callable[..., Float[Array, " n"]]
"""`penalty(images) -> (n,)`: what an image costs, such as `l2` or `total_variation`. It is added to the loss."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weighted(HoldsFunctions):
    """A penalty with its weight and options, which are data: changing them does not recompile."""

    weight: Any
    penalty: Penalty = static()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, images: Images) -> Float[Array, " n"]:
        return self.weight * self.penalty(images, **self.options)


def l2(images: AnyImages) -> Float[Array, " n"]:
    """Return the mean square of each image's difference from the mean color, for use as a penalty.

    The mean color is ImageNet's, or its mean brightness if the images are not RGB.

    Args:
        images: `(n, h, w, c)`.

    Returns:
        One number per image, `(n,)`, at least 0.

    Raises:
        ValueError: if `images` is not `(n, h, w, c)`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> print(jaxviz.l2(jnp.stack([jnp.full((4, 4, 3), 0.45), jnp.ones((4, 4, 3))])).round(3))
        [0.001 0.305]

    Simonyan, Vedaldi & Zisserman 2013, Deep Inside Convolutional Networks.
    """
    check_rank(images)
    return jnp.mean(jnp.square(_centered(images)), (1, 2, 3))


RANGE = 0.5  # the unit of brightness in the alpha norm: twice this distance from the mean costs 64 times as much


def alpha_norm(images: Images, *, alpha: ArrayLike) -> Float[Array, " n"]:
    """Return each image's mean distance from the mean color, in units of `RANGE`, to the power of `alpha`."""
    return jnp.mean((jnp.abs(_centered(images)) / RANGE) ** alpha, (1, 2, 3))


def normalized_l2(images: Images) -> Float[Array, " n"]:
    """Return each image's `|I|²`, the sum of its squares, in the units of networks that normalize as for ImageNet."""
    return jnp.sum(jnp.square(_centered(images) / per_color(IMAGENET_STD, images)), (1, 2, 3))


def _centered(images: AnyImages) -> Images:
    return jnp.asarray(images) - per_color(IMAGENET_MEAN, images)
