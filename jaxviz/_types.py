"""The two ideas everything stands on: a network and a score are plain functions."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
from jaxtyping import Key as PRNGKey

Params = PyTree[Any]
"""Whatever the network takes as its first argument: any pytree of arrays."""

Images = Float[Array, "n h w 3"]
"""A batch of RGB images in [0, 1]; networks normalize inside."""

Maps = Float[Array, "n h w"]
"""One number per pixel of each image, absolute values: only plotting normalizes."""

Key = PRNGKey[Array, ""]
"""One key of `jax.random.key`."""


@runtime_checkable
class Net(Protocol):
    """Any JAX function from parameters and images to outputs; nothing else about it is assumed."""

    def __call__(self, params: Any, images: Any, /) -> Any:
        """Return the outputs (for a classifier: logits, `(n, classes)`) of `images`, `(n, h, w, 3)` in [0, 1]."""
        ...


@runtime_checkable
class Score(Protocol):
    """Any JAX function from parameters and images to one number per image; attribution also takes several."""

    def __call__(self, params: Any, images: Any, /) -> Any:
        """Return `(n,)`, what attribution explains and synthesis maximizes; or `(n, k)`, k to explain of each image."""
        ...


def at_least_float32(dtype: Any) -> Any:
    """Return a type of floats, or float32 for a narrower one; `jnp.promote_types` refuses some under strict promotion.

    For sums and statistics, which narrow types lose.
    """
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
