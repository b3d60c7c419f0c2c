"""The two ideas that everything else stands on: a network and a score are plain functions."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from jaxtyping import Key as PRNGKey

Params = PyTree[Any]
"""A network's parameters, its first argument: any pytree of arrays."""

Images = Float[Array, "n h w c"]
"""A batch of images in [0, 1], RGB where c is 3; networks apply their own normalization."""

Maps = Float[Array, "n h w"]
"""One number per pixel of each image, in absolute units: only plotting normalizes."""

AnyArray = Array | np.ndarray
"""What functions take where they return an `Array`."""

AnyImages = Float[AnyArray, "n h w c"]
"""A batch of images as functions take them, of JAX or of NumPy."""

AnyMaps = Float[AnyArray, "n h w"]
"""Maps as functions take them."""

Key = PRNGKey[Array, ""]
"""One key from `jax.random.key`."""


@runtime_checkable
class Net(Protocol):
    """Any JAX function from parameters and images to outputs; nothing else about it is assumed."""

    def __call__(self, params: Any, images: Any, /) -> Any:
        """Return the outputs (a classifier's: logits, `(n, classes)`) for `images`, `(n, h, w, c)` in [0, 1]."""
        ...


@runtime_checkable
class Score(Protocol):
    """Any JAX function from parameters and images to one number per image; attribution also takes several per image."""

    def __call__(self, params: Any, images: Any, /) -> Any:
        """Return `(n,)`, what attribution explains and synthesis maximizes; or `(n, k)`, k to explain per image."""
        ...


def at_least_float32(dtype: Any) -> Any:
    """Return a floating-point dtype, or float32 if it is narrower: sums and statistics lose precision below that.

    Not `jnp.promote_types`, which refuses some pairs under strict promotion.
    """
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
