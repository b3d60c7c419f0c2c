"""What is optimized instead of pixels. Steps of one size in a well-chosen basis give natural pictures."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._options import check_count, check_function, check_least_zero, check_number
from jaxviz._types import Images, Key

# A square root of the covariance of colors over ImageNet, as published with lucid; columns are decorrelated axes.
_COLOR_SQRT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOR_BASIS = _COLOR_SQRT / np.linalg.norm(_COLOR_SQRT, axis=0).max()


class Parameterization(NamedTuple):
    """How variables become images of one size."""

    init: Callable[[Key, int], Any]
    """`init(key, n)` starts variables of n images, from noise."""
    images: Callable[[Any], Images]
    """`images(variables)` shows them, in [0, 1]."""
    variables: Callable[[Images], Any]
    """`variables(images)` finds those that show given images, as nearly as the basis can."""
    bounds: tuple[float, float] | None = None
    """Where variables must stay, if not anywhere."""

    @classmethod
    def of(cls, basis: Any, *, bounds: tuple[float, float] | None = None) -> "Parameterization":
        """Return the methods `init`, `images` and `variables` of a frozen dataclass: equal where those are equal."""
        return cls(_Method(basis, "init"), _Method(basis, "images"), _Method(basis, "variables"), bounds)


@dataclasses.dataclass(frozen=True)
class _Method:
    """A method that equals that of an equal object; Python's own are equal only if they are of the same one."""

    of: Any
    name: str

    def __call__(self, *args: Any) -> Any:
        return getattr(self.of, self.name)(*args)

    def __repr__(self) -> str:
        return f"{self.of}.{self.name}"


Basis = Callable[[int, int], Parameterization]
"""`basis(height, width)`: `fourier`, `pixels`, `maco` or one of your own.

A basis whose functions are equal for equal arguments, such as methods that `Parameterization.of` takes of a frozen
dataclass, is compiled once.
"""


def parameterized(basis: Basis, height: int, width: int) -> Parameterization:
    """Return a basis of a size; raise ValueError for what is none."""
    check_function("basis", basis, "fourier, pixels, maco or a function (height, width) -> Parameterization")
    form = basis(height, width)
    if not isinstance(form, Parameterization):
        raise ValueError(f"basis: expected a function that returns a Parameterization, got one that returns {form!r}")
    return form


def _check_sides(height: int, width: int) -> None:
    check_count("height", height)
    check_count("width", width)


def pixels(
    height: int,
    width: int,
    *,
    center: float | tuple[float, float, float] = 0.5,
    spread: float | tuple[float, float, float] = 0.1,
) -> Parameterization:
    """Parameterize an image by itself: the variables are the pixels, kept in [0, 1].

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        center: the brightness or color around which the start is.
        spread: standard deviation of the start, or that of each color.

    Example:
        >>> basis = pixels(4, 4)
        >>> basis.images(basis.init(jax.random.key(0), 2)).shape
        (2, 4, 4, 3)
    """
    _check_sides(height, width)
    check_number("center", center, "from 0 to 1", lambda x: (x >= 0) & (x <= 1))
    check_least_zero("spread", spread)

    return Parameterization.of(_Pixels(height, width, _numbers(center), _numbers(spread)), bounds=(0.0, 1.0))


def _numbers(values: Any) -> tuple[float, ...]:
    """Return one number, or one for each color, as what can be compared."""
    return tuple(np.ravel(np.asarray(values, float)).tolist())


@dataclasses.dataclass(frozen=True)
class _Pixels:
    height: int
    width: int
    center: tuple[float, ...]
    spread: tuple[float, ...]

    def init(self, key: Key, n: int) -> Images:
        noise = jax.random.normal(key, (n, self.height, self.width, 3))
        center, spread = (jnp.asarray(x, noise.dtype).reshape(1, 1, 1, -1) for x in (self.center, self.spread))
        return jnp.clip(center + spread * noise, 0, 1)

    def images(self, variables: Images) -> Images:
        return variables

    def variables(self, images: Images) -> Images:
        return jnp.array(images)


def fourier(height: int, width: int, *, decay: float = 1.0, spread: float = 0.01) -> Parameterization:
    """Parameterize by the Fourier transform, its coefficients scaled as in natural images, colors decorrelated.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        decay: the power of frequency by which coefficients fall.
        spread: standard deviation of the start.

    Example:
        >>> basis = fourier(8, 8)
        >>> image = jnp.full((1, 8, 8, 3), 0.25)
        >>> print(jnp.allclose(basis.images(basis.variables(image)), image, atol=1e-3))
        True

    Olah, Mordvintsev & Schubert 2017, Feature Visualization.
    """
    _check_sides(height, width)
    check_number("decay", decay, "", np.isfinite)
    check_least_zero("spread", spread)
    return Parameterization.of(_Fourier(height, width, float(decay), float(spread)))


@dataclasses.dataclass(frozen=True)
class _Fourier:
    height: int
    width: int
    decay: float
    spread: float

    def _scale(self, dtype: Any) -> Float[Array, "1 h f 1 1"]:
        size, frequencies = self.height * self.width, _frequencies(self.height, self.width)
        scale = np.sqrt(size) / frequencies**self.decay / 4  # lucid's contrast
        return jnp.asarray(scale[None, ..., None, None], dtype)

    def init(self, key: Key, n: int) -> Float[Array, "n h f 3 2"]:
        return self.spread * jax.random.normal(key, (n, self.height, self.width // 2 + 1, 3, 2))

    def images(self, variables: Float[Array, "n h f 3 2"]) -> Images:
        return _colored(_inverse(variables * self._scale(variables.dtype), self.width))

    def variables(self, images: Images) -> Float[Array, "n h f 3 2"]:
        spectrum = jnp.fft.rfft2(_decorrelated(images), axes=(1, 2))
        parts = jnp.stack([spectrum.real, spectrum.imag], -1)
        return parts / self._scale(parts.dtype)


# Measured on 600 ImageNet photographs, cut to 224 x 224, in the decorrelated colors of `_decorrelated`: the mean
# magnitude, over the square root of the number of pixels, falls as amplitude / frequency ** decay (least squares of
# logarithms of the means over circles of 3 to 90 cycles an image; the frequency in cycles a pixel). From 3 to 90 cycles
# those means are within 7%, 11% and 8% of it, and those of 300 of the photographs, in 100 draws, within 11%, 21% and
# 17%; at 1 cycle they are up to 20% below.
MACO_SPECTRUM = ((0.138, 1.258), (0.142, 1.207), (0.221, 1.108))


def maco(height: int, width: int) -> Parameterization:
    """Parameterize by the phases of the Fourier transform alone: the magnitudes are those of photographs, and stay.

    They are a power of the frequency for each decorrelated color, which the mean over 600 photographs follows within
    11% from 3 to 90 cycles an image, and that over 300 of them within about 20%; the authors keep a table of means.
    The optimizer cannot put energy into frequencies that photographs do not have, so it needs no other regularizer to
    be natural, at any size.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.

    Example:
        >>> basis = maco(8, 8)
        >>> first, other = basis.images(basis.init(jax.random.key(0), 2))
        >>> print(first.shape, bool(jnp.any(first != other)))
        (8, 8, 3) True

    Fel et al. 2023, Unlocking Feature Visualization for Deep Networks with MAgnitude Constrained Optimization.
    """
    _check_sides(height, width)
    return Parameterization.of(_Maco(height, width))


@dataclasses.dataclass(frozen=True)
class _Maco:
    height: int
    width: int

    def init(self, key: Key, n: int) -> Float[Array, "n h f 3"]:
        return jax.random.uniform(key, (n, self.height, self.width // 2 + 1, 3), minval=-np.pi, maxval=np.pi)

    def images(self, phases: Float[Array, "n h f 3"]) -> Images:
        amplitude, decay = (np.array(numbers) for numbers in zip(*MACO_SPECTRUM, strict=True))
        size, frequencies = self.height * self.width, _frequencies(self.height, self.width)
        magnitude = np.sqrt(size) * amplitude / frequencies[..., None] ** decay
        magnitude[0, 0] = 0  # the mean color is gray, whatever the phase
        directions = jnp.stack([jnp.cos(phases), jnp.sin(phases)], -1)
        return _colored(_inverse(directions * jnp.asarray(magnitude[None, ..., None], phases.dtype), self.width))

    def variables(self, images: Images) -> Float[Array, "n h f 3"]:
        return jnp.angle(jnp.fft.rfft2(_decorrelated(images), axes=(1, 2)))


def _frequencies(height: int, width: int) -> np.ndarray:
    """Return the frequency of each coefficient of `rfft2` in cycles a pixel, that of the mean as the next lowest."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    return np.maximum(np.hypot(rows, columns), 1 / max(height, width))


def _inverse(spectrum: Float[Array, "n h f c 2"], width: int) -> Float[Array, "n h w c"]:
    """Return what `irfft2` does, of real and imaginary parts, as products with matrices of sines and cosines.

    XLA gathers the images of all devices for a Fourier transform, each step; products it leaves where they are. They
    are little beside a network.
    """
    height, frequencies = spectrum.shape[1:3]
    twice = jnp.full(frequencies, 2.0, spectrum.dtype).at[0].set(1)  # for those left out, conjugates of these
    twice = twice.at[-1].set(1) if width % 2 == 0 else twice
    product = functools.partial(jnp.einsum, precision="highest")
    cosine, sine = _waves(height, height, spectrum.dtype)
    even, odd = (product("yu,nufcp->nyfcp", wave, spectrum) for wave in (cosine, sine))
    real, imaginary = even[..., 0] - odd[..., 1], even[..., 1] + odd[..., 0]
    cosine, sine = (wave * (twice / (height * width))[None] for wave in _waves(width, frequencies, spectrum.dtype))
    return product("xf,nyfc->nyxc", cosine, real) - product("xf,nyfc->nyxc", sine, imaginary)


def _waves(size: int, frequencies: int, dtype: Any) -> tuple[Float[Array, "h f"], Float[Array, "h f"]]:
    turns = jnp.arange(size)[:, None] * jnp.arange(frequencies)[None] % size  # whole numbers, so that nothing is lost
    angles = 2 * np.pi / size * turns.astype(dtype)
    return jnp.cos(angles), jnp.sin(angles)


def _colored(signal: Float[Array, "n h w 3"]) -> Images:
    return jax.nn.sigmoid(jnp.matmul(signal, jnp.asarray(COLOR_BASIS.T, signal.dtype), precision="highest"))


def _decorrelated(images: Images) -> Float[Array, "n h w 3"]:
    """Undo `_colored`; black and white are infinitely far away there, so that the darkest 1/512 is taken for black."""
    inside = jnp.clip(images, 1 / 512, 1 - 1 / 512)
    signal = jnp.log(inside) - jnp.log1p(-inside)
    return jnp.matmul(signal, jnp.asarray(np.linalg.inv(COLOR_BASIS.T), images.dtype), precision="highest")
