"""Pick units by index, one or several per image, from a network's values."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def picked(values: Array, index: Any, what: str, *, several: bool = False) -> Array:
    """Return `values[i, ..., index[i]]` for each image i; raise ValueError for an index out of range.

    A traced index cannot be checked: one out of range gives NaN, in score and gradient, which nobody mistakes for a
    result. With `several`, `index` may be `(n, k)` or `(1, k)`, k of them per image.
    """
    count, size = values.shape[0], values.shape[-1]
    numbers = index if isinstance(index, Tracer) else np.asarray(index)
    if not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise ValueError(f"expected the number of a {what}, or one for each image, got {index!r}")
    if not isinstance(index, Tracer) and numbers.size and (numbers.min() < -size or numbers.max() >= size):
        raise ValueError(f"{what}: expected 0 to {size - 1}, or -{size} to -1 from the end, got {index}")
    shape = jnp.shape(index)
    if not (shape in ((), (count,)) or (several and len(shape) == 2 and shape[0] in (1, count))):
        more = ", or several for each, (1, k) or (n, k)" if several else ""
        raise ValueError(f"expected one {what}, or one for each of {count} images{more}, got shape {shape}")
    wanted = (count, *(1,) * (values.ndim - 2), *(shape[1:] or (1,)))
    rows = jnp.asarray(index).astype(jnp.int32).reshape(-1, *wanted[1:])  # labels may be bytes, which `size` overflows
    chosen = jnp.take_along_axis(values, jnp.broadcast_to(rows % size, wanted), axis=-1)
    if isinstance(index, Tracer):
        chosen = chosen * jnp.where((rows >= -size) & (rows < size), 1, jnp.nan).astype(chosen.dtype)
    return chosen if len(shape) == 2 else chosen[..., 0]
