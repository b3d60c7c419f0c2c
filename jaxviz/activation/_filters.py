"""First-layer filters: the only ones that can be viewed as pictures."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def filters(params: Any, *, channels: int = 3, normalize: bool = True) -> Float[Array, "out kh kw c"]:
    """Return the kernels of the first layer as tiles.

    Args:
        params: a network's parameters, with a single kernel of that many input channels; or the kernel itself,
            `(kh, kw, c, out)`, or in PyTorch's order `(out, c, k, k)`.
        channels: the number of channels of the images, 3 for RGB.
        normalize: whether to scale each tile to [0, 1] by its largest absolute weight, with zero as gray; otherwise
            the weights are returned unchanged.

    Returns:
        The tiles, `(out, kh, kw, c)`.

    Raises:
        ValueError: if no kernel, or more than one, has that many input channels.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> params = {"conv1": {"kernel": jnp.ones((7, 7, 3, 64)), "bias": jnp.zeros(64)}}
        >>> print(jaxviz.filters(params).shape)
        (64, 7, 7, 3)

    Tiles with three channels are pictures in color, those with one are gray. For other numbers, show each channel
    separately, one row for each filter:

        >>> tiles = jaxviz.filters({"kernel": jnp.ones((5, 5, 4, 8))}, channels=4)
        >>> jaxviz.montage(jnp.moveaxis(tiles, -1, 1).reshape(-1, 5, 5), columns=4).shape
        (54, 26, 3)
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    every = {jax.tree_util.keystr(path): _channels_last(leaf) for path, leaf in leaves if jnp.ndim(leaf) == 4}
    kernels = {path: kernel for path, kernel in every.items() if kernel.shape[2] == channels}
    if len(kernels) != 1:
        listed = lambda some: ", ".join([*(f"{path} {leaf.shape}" for path, leaf in some.items())][:8])
        others = f" among {listed(every)}, or say how many channels the images have, channels=..." if every else ""
        found = f"{listed(kernels)}; pass the kernel itself" if kernels else f"none; pass the kernel itself{others}"
        raise ValueError(f"expected one kernel (kh, kw, {channels}, out) in the parameters, found {found}")
    tiles = jnp.moveaxis(next(iter(kernels.values())), -1, 0)
    if not normalize:
        return tiles
    largest = jnp.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + tiles / (2 * jnp.where(largest > 0, largest, 1))


LARGEST = 11  # pixels: two equal sizes larger than AlexNet's window are more likely numbers of channels


def _channels_last(kernel: Any) -> Array:
    """Return a kernel as `(kh, kw, in, out)`, also from PyTorch's order, `(out, in, k, k)`."""
    first, second, *window = kernel.shape
    torchs = window[0] == window[1] and (first != second or first > LARGEST)
    return jnp.transpose(kernel, (2, 3, 1, 0)) if torchs else jnp.asarray(kernel)
