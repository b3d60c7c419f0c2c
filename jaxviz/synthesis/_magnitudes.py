"""Bases with the magnitudes of photographs: no frequency can have more energy than it has there."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._options import check_least_zero, check_positive
from jaxviz._types import Images, Key
from jaxviz.synthesis._parameterization import (
    Parameterization,
    check_shape,
    colored,
    decorrelated,
    frequencies_of,
    inverse,
)

# Measured on 600 ImageNet photographs, cut to 224 x 224, in the decorrelated colors of `decorrelated`: the mean
# magnitude, over the square root of the number of pixels, falls as amplitude / frequency ** decay (least squares of
# logarithms of the means over circles of 3 to 90 cycles an image; the frequency in cycles a pixel). From 3 to 90 cycles
# those means are within 7%, 11% and 8% of it, and those of 300 of the photographs, in 100 draws, within 11%, 21% and
# 17%; at 1 cycle they are up to 20% below.
MACO_SPECTRUM = ((0.138, 1.258), (0.142, 1.207), (0.221, 1.108))


def maco(height: int, width: int, *, channels: int = 3) -> Parameterization:
    """Parameterize an image by the phases of its Fourier transform; the magnitudes are fixed to those of photographs.

    For each decorrelated color, they are a power of the frequency, which the mean over 600 photographs follows within
    11% from 3 to 90 cycles per image, and the mean over 300 of them within about 20%; the authors use a table of means.
    The optimizer cannot put energy into frequencies that photographs lack, so images look natural without any other
    regularizer, at any size.

    Args:
        height: the height of the images, in pixels.
        width: the width of the images, in pixels.
        channels: their number of channels, 3 for RGB. Otherwise, such as for 1, gray, all channels have the magnitudes
            of the first decorrelated color, which is nearly gray, and phases of their own.

    Returns:
        The basis for images of this size.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> basis = jaxviz.maco(8, 8)
        >>> first, other = basis.images(basis.init(jax.random.key(0), 2))
        >>> print(first.shape, bool(jnp.any(first != other)))
        (8, 8, 3) True

    Fel et al. 2023, Unlocking Feature Visualization for Deep Networks with MAgnitude Constrained Optimization.
    """
    check_shape(height, width, channels)
    return Parameterization.of(_Maco(height, width, channels))


@dataclasses.dataclass(frozen=True)
class _Maco:
    height: int
    width: int
    channels: int

    def init(self, key: Key, n: int) -> Float[Array, "n h f c"]:
        shape = (n, self.height, self.width // 2 + 1, self.channels)
        return jax.random.uniform(key, shape, minval=-np.pi, maxval=np.pi)

    def images(self, phases: Float[Array, "n h f c"]) -> Images:
        magnitude = _magnitude_of_photographs(self.height, self.width, self.channels, phases.dtype)
        directions = jnp.stack([jnp.cos(phases), jnp.sin(phases)], -1)
        return colored(inverse(directions * magnitude, self.width))

    def variables(self, images: Images) -> Float[Array, "n h f c"]:
        return jnp.angle(jnp.fft.rfft2(decorrelated(images), axes=(1, 2)))


def natural(height: int, width: int, *, channels: int = 3, gain: float = 1.0, spread: float = 0.1) -> Parameterization:
    """Parameterize an image by its Fourier transform, with magnitudes of at most those of photographs.

    A coefficient is `m * z / sqrt(1 + |z|²)`, where m is the magnitude that `maco` fixes, and z, complex, is optimized.
    As there, no frequency can have more energy than in photographs; but what the score does not ask for stays gray,
    whereas fixed magnitudes must go somewhere and come out as clouds.

    Args:
        height: the height of the images, in pixels.
        width: the width of the images, in pixels.
        channels: their number of channels, 3 for RGB; others as for `maco`.
        gain: how many times the magnitudes of photographs are allowed, above 0.
        spread: the standard deviation of the variables to start from; below 1, the start is nearly gray.

    Returns:
        The basis for images of this size.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> basis = jaxviz.natural(8, 8)
        >>> images = basis.images(basis.init(jax.random.key(0), 2))
        >>> print(images.shape, bool(jnp.all(abs(images - 0.5) < 0.2)))
        (2, 8, 8, 3) True
    """
    check_shape(height, width, channels)
    check_positive("gain", gain)
    check_least_zero("spread", spread)
    return Parameterization.of(_Natural(height, width, channels, float(gain), float(spread)))


@dataclasses.dataclass(frozen=True)
class _Natural:
    height: int
    width: int
    channels: int
    gain: float
    spread: float

    def _most(self, dtype: Any) -> Float[Array, "1 h f c 1"]:
        return self.gain * _magnitude_of_photographs(self.height, self.width, self.channels, dtype)

    def init(self, key: Key, n: int) -> Float[Array, "n h f c 2"]:
        return self.spread * jax.random.normal(key, (n, self.height, self.width // 2 + 1, self.channels, 2))

    def images(self, variables: Float[Array, "n h f c 2"]) -> Images:
        size = jnp.sqrt(1 + jnp.sum(variables**2, -1, keepdims=True))
        return colored(inverse(variables / size * self._most(variables.dtype), self.width))

    def variables(self, images: Images) -> Float[Array, "n h f c 2"]:
        spectrum = jnp.fft.rfft2(decorrelated(images), axes=(1, 2))
        parts = jnp.stack([spectrum.real, spectrum.imag], -1)
        most = self._most(parts.dtype)
        share = parts / jnp.where(most > 0, most, 1)
        # A photograph has frequencies above the mean of photographs: those come to nearly all that is allowed.
        size = jnp.sqrt(jnp.sum(share**2, -1, keepdims=True))
        share = share * (jnp.minimum(size, 0.95) / jnp.where(size > 0, size, 1))
        return share / jnp.sqrt(1 - jnp.sum(share**2, -1, keepdims=True))


def _magnitude_of_photographs(height: int, width: int, channels: int, dtype: Any) -> Float[Array, "1 h f c 1"]:
    """Return the magnitudes of `rfft2` of a typical photograph in decorrelated colors; the mean is gray."""
    colors = MACO_SPECTRUM if channels == 3 else MACO_SPECTRUM[:1] * channels
    amplitude, decay = (np.array(numbers) for numbers in zip(*colors, strict=True))
    magnitude = np.sqrt(height * width) * amplitude / frequencies_of(height, width)[..., None] ** decay
    magnitude[0, 0] = 0  # whatever the phase
    return jnp.asarray(magnitude[None, ..., None], dtype)
