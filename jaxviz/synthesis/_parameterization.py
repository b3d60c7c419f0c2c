"""What is optimized in place of pixels. Steps of one size in a well-chosen basis give natural pictures."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._types import Images, Key

# A square root of the covariance of colours over ImageNet, as published with lucid; columns are decorrelated axes.
_COLOR_SQRT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOR_BASIS = _COLOR_SQRT / np.linalg.norm(_COLOR_SQRT, axis=0).max()


class Parameterization(NamedTuple):
    """How variables become images: `init(key, n)` starts them, `images(variables)` shows them in [0, 1]."""

    init: Callable[[Key, int], Any]
    images: Callable[[Any], Images]


@functools.cache
def fourier(height: int, width: int, *, decay: float = 1.0, spread: float = 0.01) -> Parameterization:
    """Parameterize by the Fourier transform, its coefficients scaled as in natural images, colours decorrelated.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        decay: the power of frequency by which coefficients fall.
        spread: standard deviation of the start.

    Olah, Mordvintsev & Schubert 2017, Feature Visualization.
    """
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    scale = np.sqrt(height * width) / frequency**decay

    def init(key: Key, n: int) -> Float[Array, "n h f 3 2"]:
        return spread * jax.random.normal(key, (n, height, width // 2 + 1, 3, 2))

    def images(variables: Float[Array, "n h f 3 2"]) -> Images:
        spectrum = jax.lax.complex(variables[..., 0], variables[..., 1]) * scale[..., None].astype(np.float32)
        signal = jnp.fft.irfft2(spectrum, s=(height, width), axes=(1, 2)) / 4  # lucid's contrast
        return jax.nn.sigmoid(jnp.matmul(signal, jnp.asarray(COLOR_BASIS.T, signal.dtype), precision="highest"))

    return Parameterization(init, images)
