"""Pick numbers of units, one for each image or several, from what a network has computed."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def picked(values: Array, index: Any, what: str, *, several: bool = False) -> Array:
    """Return `values[i, ..., index[i]]` for each image i; refuse an index out of range where it can be seen.

    A traced index cannot be: one out of range gives NaN, as score and as gradient, which no reader takes for a result.
    With `several`, `index` may be `(n, k)` or `(1, k)`, k of them for each image.
    """
    count, size = values.shape[0], values.shape[-1]
    if not isinstance(index, Tracer):
        numbers = np.asarray(index)
        if not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"expected the number of a {what}, or one for each image, got {index!r}")
        if numbers.size and (numbers.min() < -size or numbers.max() >= size):
            raise ValueError(f"there is no {what} {index}: expected 0 to {size - 1}, or -{size} to -1 from the end")
    shape = jnp.shape(index)
    if not (shape in ((), (count,)) or (several and len(shape) == 2 and shape[0] in (1, count))):
        more = ", or several for each, (1, k) or (n, k)" if several else ""
        raise ValueError(f"expected one {what} or one for each of {count} images{more}, got shape {shape}")
    wanted = (count, *(1,) * (values.ndim - 2), *(shape[1:] or (1,)))
    rows = jnp.asarray(index).reshape(-1, *wanted[1:])
    chosen = jnp.take_along_axis(values, jnp.broadcast_to(rows % size, wanted), axis=-1)
    if isinstance(index, Tracer):
        chosen = chosen * jnp.where((rows >= -size) & (rows < size), 1, jnp.nan).astype(chosen.dtype)
    return chosen if len(shape) == 2 else chosen[..., 0]
