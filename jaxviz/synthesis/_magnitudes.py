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


def natural(
    height: int, width: int, *, channels: int = 3, margin: float = 0.5, contrast: float = 1.4, spread: float = 0.8
) -> Parameterization:
    """Parameterize an image as the middle of a larger one with the magnitudes of photographs; phases are optimized.

    As for `maco`, no frequency can have more energy than in photographs. But all that energy must go somewhere: where
    the score asks for nothing, fixed magnitudes come out as clouds. Here they come out beside the image. The larger
    image starts with nearly equal phases, which put its energy into its corners, out of sight; phases are standardized,
    so what is not asked for returns there. And the image has no opposite edges that must fit together.

    Args:
        height: the height of the images, in pixels.
        width: the width of the images, in pixels.
        channels: their number of channels, 3 for RGB; others as for `maco`.
        margin: how much larger the optimized image is on each side, as a fraction of the image's, at least 0.
        contrast: the root mean square of the larger image's decorrelated colors, before the sigmoid that brings them
            into [0, 1]; above 0. The authors' is 1.
        spread: the standard deviation of phases, in radians; above 0. The smaller, the calmer.

    Returns:
        The basis for images of this size. It has no variables of a given image: start from noise.

    Raises:
        ValueError: if an option is out of range; and if images are to start from a given one.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> basis = jaxviz.natural(16, 16)
        >>> first, other = basis.images(basis.init(jax.random.key(0), 2))
        >>> print(first.shape, bool(jnp.any(first != other)))
        (16, 16, 3) True

    After Fel et al. 2023, Unlocking Feature Visualization for Deep Networks with MAgnitude Constrained Optimization,
    whose program standardizes phases and image, and shows the whole of it.
    """
    check_shape(height, width, channels)
    check_least_zero("margin", margin)
    check_positive("contrast", contrast)
    check_positive("spread", spread)
    return Parameterization.of(_Natural(height, width, channels, float(margin), float(contrast), float(spread)))


@dataclasses.dataclass(frozen=True)
class _Natural:
    height: int
    width: int
    channels: int
    margin: float
    contrast: float
    spread: float

    def _whole(self) -> tuple[int, int]:
        """Return the size of the larger image."""
        return self.height + 2 * round(self.margin * self.height), self.width + 2 * round(self.margin * self.width)

    def init(self, key: Key, n: int) -> Float[Array, "n h f c"]:
        height, width = self._whole()
        return jax.random.normal(key, (n, height, width // 2 + 1, self.channels))

    def images(self, variables: Float[Array, "n h f c"]) -> Float[Array, "n _ _ c"]:
        height, width = self._whole()
        phases = self.spread * _standardized(variables)
        magnitude = _magnitude_of_photographs(height, width, self.channels, phases.dtype)
        directions = jnp.stack([jnp.cos(phases), jnp.sin(phases)], -1)
        top, left = (height - self.height) // 2, (width - self.width) // 2
        window = slice(top, top + self.height), slice(left, left + self.width)
        signal = inverse(directions * magnitude, width, window) / _deviation(magnitude, width)
        return colored(self.contrast * signal)

    def variables(self, images: Images) -> Float[Array, "n h f c"]:
        raise ValueError(
            "start: expected none: the basis natural cannot show a given image; start from noise, or optimize in "
            "another basis, such as basis=jaxviz.fourier"
        )


def _standardized(phases: Float[Array, "n h f c"]) -> Float[Array, "n h f c"]:
    """Return the phases of each image and color with the mean 0 and the standard deviation 1."""
    centered = phases - jnp.mean(phases, (1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centered), (1, 2), keepdims=True)
    return centered / jnp.sqrt(jnp.where(variance > 0, variance, 1))


def _deviation(magnitude: Float[Array, "1 h f c 1"], width: int) -> Array:
    """Return the root mean square over positions and colors of images with these magnitudes, by Parseval's theorem."""
    twice = np.full(magnitude.shape[2], 2)  # these columns also stand for their mirror images
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    square = jnp.square(magnitude) * jnp.asarray(twice, magnitude.dtype)[None, None, :, None, None]
    return jnp.sqrt(jnp.sum(square) / magnitude.shape[3]) / (magnitude.shape[1] * width)


def _magnitude_of_photographs(height: int, width: int, channels: int, dtype: Any) -> Float[Array, "1 h f c 1"]:
    """Return the magnitudes of `rfft2` of a typical photograph in decorrelated colors; the mean is gray."""
    colors = MACO_SPECTRUM if channels == 3 else MACO_SPECTRUM[:1] * channels
    amplitude, decay = (np.array(numbers) for numbers in zip(*colors, strict=True))
    magnitude = np.sqrt(height * width) * amplitude / frequencies_of(height, width)[..., None] ** decay
    magnitude[0, 0] = 0  # whatever the phase
    return jnp.asarray(magnitude[None, ..., None], dtype)
