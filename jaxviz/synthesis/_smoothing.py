"""Smoothing of gradients by their spectrum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

KNEE = 1 / 16  # cycles per pixel


def smoothed(maps: Float[Array, "n h w c"], power: Any) -> Float[Array, "n h w c"]:
    """Return maps with their frequencies above `KNEE` divided by their ratio to it, to a power; 0 changes nothing.

    In cosines, which continue an image as its mirror image: in a Fourier transform, opposite edges would touch.
    """
    height, width = maps.shape[1:3]
    down, across = np.arange(height) / (2 * height), np.arange(width) / (2 * width)
    ratio = np.maximum(np.hypot(down[:, None], across[None]) / KNEE, 1)
    gain = jnp.asarray(ratio, maps.dtype) ** -power
    spectrum = jax.scipy.fft.dctn(maps, axes=(1, 2), norm="ortho")
    return jax.scipy.fft.idctn(spectrum * gain[None, :, :, None], axes=(1, 2), norm="ortho")
