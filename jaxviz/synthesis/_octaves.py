"""Sizes of octaves, and resizing to them."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._options import check_whole
from jaxviz._types import AnyImages
from jaxviz.image._arrays import resize


def resized(images: AnyImages, size: tuple[int, ...]) -> Float[Array, "n _ _ c"]:
    """Return images resized and clipped to [0, 1], since the overshoot of cubic interpolation is not their detail."""
    return jnp.clip(resize(images, (size[0], size[1])), 0, 1)


def octave_sizes(size: tuple[int, ...], octaves: int, scale: float) -> list[tuple[int, int]]:
    """Return the sizes of octaves, the smallest first, each `scale` times the one before and the last `size`."""
    check_whole("octaves", octaves)
    if octaves < 1 or not scale > 1:
        raise ValueError(f"expected 1 octave or more and a scale above 1, got {octaves} and {scale}")
    sizes = [(round(size[0] / scale**i), round(size[1] / scale**i)) for i in reversed(range(octaves))]
    if min(sizes[0]) < 1:
        raise ValueError(f"{octaves} octaves of scale {scale} leave no pixels of {size[0]}x{size[1]}; use fewer")
    return sizes
