"""Masks of images: which part of them a score uses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float


def mask_of(name: str, mask: Any, size: tuple[int, ...] | None = None) -> Float[Array, "n h w"]:
    """Return a mask for one image or several as floats; raise ValueError if it is not a mask, or has another size."""
    shape = jnp.shape(mask)
    if len(shape) not in (2, 3) or (size is not None and shape[-2:] != size):
        expected = "(h, w) or (n, h, w)" if size is None else f"the size of its image, {size}"
        raise ValueError(f"{name}: expected {expected}, got shape {shape}")
    if not isinstance(mask, Tracer):
        values = np.asarray(mask, np.float32)  # not a jax.Array, with which computations are traced under an outer jit
        low, high = float(values.min()), float(values.max())  # NaN if any value is
        told = f"{name}: expected finite numbers in [0, 1]"
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"{told}, got {low:g} to {high:g}; divide 0 to 255 by 255")
        if not (values.reshape(-1, *shape[-2:]).max((1, 2)) > 0).all():
            raise ValueError(f"{told}, some above 0, got a mask that matches nothing")
    array = jnp.asarray(mask).reshape(-1, *shape[-2:])
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.float32)


def fitted(mask: Any, value: Array | jax.ShapeDtypeStruct) -> Any:
    """Return a mask at the size of a layer; None stays None."""
    if mask is None:
        return None
    if len(mask) not in (1, len(value)):
        raise ValueError(f"expected one mask, or one for each of {len(value)} images, got {len(mask)}")
    size = (len(mask), *value.shape[1:3])
    return jnp.clip(jax.image.resize(mask, size, "linear", antialias=True), 0, 1).astype(value.dtype)


def mean_in(weights: Array, value: Array) -> Array:
    """Return the mean of maps `(n, h, w, c)` over positions, weighted by `(n, h, w)` or by `(n, h, w, c)`."""
    weights = jnp.broadcast_to(weights if weights.ndim == 4 else weights[..., None], value.shape).astype(value.dtype)
    total = weights.sum((1, 2))
    return jnp.sum(weights * value, (1, 2)) / jnp.where(total > 0, total, 1)
