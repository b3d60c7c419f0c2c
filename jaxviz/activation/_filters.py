"""First-layer filters: the only ones that can be read as pictures."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def filters(params: Any, *, normalize: bool = True) -> Float[Array, "out kh kw 3"]:
    """Return the kernels of the first layer as tiles.

    Args:
        params: a network's parameters, of which the one kernel with three input channels is taken; or that kernel
            itself, `(kh, kw, 3, out)`, or in PyTorch's order `(out, 3, k, k)`.
        normalize: scale each tile to [0, 1] by its largest absolute weight, zero becoming gray; otherwise the weights.

    Raises:
        ValueError: if no kernel, or more than one, has three input channels.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> params = {"conv1": {"kernel": jnp.ones((7, 7, 3, 64)), "bias": jnp.zeros(64)}}
        >>> print(jaxviz.filters(params).shape)
        (64, 7, 7, 3)
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = {jax.tree_util.keystr(path): _channels_last(leaf) for path, leaf in leaves if jnp.ndim(leaf) == 4}
    kernels = {path: kernel for path, kernel in kernels.items() if kernel.shape[2] == 3}
    if len(kernels) != 1:
        found = ", ".join(f"{path} {leaf.shape}" for path, leaf in kernels.items()) or "none"
        raise ValueError(
            f"expected one kernel (kh, kw, 3, out) in the parameters, found {found}; pass the kernel itself"
        )
    tiles = jnp.moveaxis(next(iter(kernels.values())), -1, 0)
    if not normalize:
        return tiles
    largest = jnp.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + tiles / (2 * jnp.where(largest > 0, largest, 1))


LARGEST = 11  # pixels: a square window larger than AlexNet's is rather two numbers of channels


def _channels_last(kernel: Any) -> Array:
    """Return a kernel as `(kh, kw, in, out)`, also from PyTorch's order, `(out, in, k, k)`."""
    first, second, *window = kernel.shape
    torchs = window[0] == window[1] and (first != second or first > LARGEST)
    return jnp.transpose(kernel, (2, 3, 1, 0)) if torchs else jnp.asarray(kernel)
