"""The gradient of a convolution with respect to its images as one product and a sum of its shifted parts.

The kernel is read as stored: flipping it and swapping its channels takes as long as the convolution where there are few
positions, and so many zeros as strides would put between results are not multiplied.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxviz.fast.winograd._convolution import is_plain


def pays(g: Any, images: Any, kernel: Any, params: dict[str, Any]) -> bool:
    """Return whether this way is supported and faster than a convolution: measured."""
    strides = params["window_strides"]
    if not is_plain(params | {"window_strides": (1,) * len(strides)}) or not images.dtype == g.dtype == kernel.dtype:
        return False
    sides = kernel.shape[:2]
    alone = _apart(sides, strides, params["padding"]) or sides == (1, 1)  # no part meets another
    return alone or math.prod(g.shape[:-1]) <= 2 * g.shape[-1]


def _apart(sides: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]) -> bool:
    """Return whether windows are blocks, side by side, as where an image is cut into patches."""
    return tuple(sides) == tuple(strides) and not any(pad for pair in padding for pad in pair)


def gradient_of_images(g: Array, images: Any, kernel: Array, params: dict[str, Any]) -> Array:
    """Return it: the result at `o` touches, by the kernel's row `i`, the image's row `stride * o + i - padding`."""
    *sides, inputs, outputs = kernel.shape
    strides, padding = params["window_strides"], params["padding"]
    products = jnp.matmul(g, kernel.reshape(-1, outputs).T, precision=params["precision"])  # (n, h, w, (*sides, in))
    zero, whole = jnp.zeros((), products.dtype), (0, 0, 0)
    if _apart(sides, strides, padding):
        n, h, w, _ = products.shape
        down, across = sides
        blocks = products.reshape(n, h, w, down, across, inputs).swapaxes(2, 3).reshape(n, h * down, w * across, inputs)
        rest = [(0, size - made, 0) for size, made in zip(images.shape[1:3], blocks.shape[1:3], strict=True)]
        return lax.pad(blocks, zero, (whole, *rest, whole))
    parts = []
    for i, place in enumerate(itertools.product(*map(range, sides))):
        moves = []
        for size, count, stride, at, (low, _) in zip(
            images.shape[1:3], g.shape[1:3], strides, place, padding, strict=True
        ):
            moves.append((at - low, size - stride * (count - 1) - 1 - at + low, stride - 1))
        part = products[..., i * inputs : (i + 1) * inputs]
        parts.append(lax.pad(part, zero, (whole, *moves, whole)))
    return functools.reduce(jnp.add, parts)
