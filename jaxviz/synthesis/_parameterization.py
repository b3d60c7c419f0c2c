"""What is optimized instead of pixels: equal steps in a well-chosen basis give natural pictures."""

import dataclasses
import functools
import inspect
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


def color_basis(channels: int) -> np.ndarray:
    """Return the matrix from decorrelated colors to RGB; for other numbers of channels, each is independent.

    They have the contrast of the first decorrelated color, which is nearly gray.
    """
    return COLOR_BASIS if channels == 3 else float(COLOR_BASIS[:, 0].mean()) * np.eye(channels)


class Parameterization(NamedTuple):
    """How variables become images of one size.

    Attributes:
        init: `init(key, n)` returns the variables of n images of noise, to start from.
        images: `images(variables)` returns the images, in [0, 1].
        variables: `variables(images)` returns the variables of given images, as closely as the basis can represent
            them.
        bounds: the range in which variables must stay, if any.
    """

    init: Callable[[Key, int], Any]
    images: Callable[[Any], Images]
    variables: Callable[[Images], Any]
    bounds: tuple[float, float] | None = None

    @classmethod
    def of(cls, basis: Any, *, bounds: tuple[float, float] | None = None) -> "Parameterization":
        """Make one from the methods `init`, `images` and `variables` of a frozen dataclass.

        Args:
            basis: an object with these methods. Parameterizations of equal objects are equal, so that the programs
                compiled for one are used for the other, too.
            bounds: the range in which variables must stay; None: any.

        Returns:
            The parameterization.

        Example:
            >>> import dataclasses, jax, jax.numpy as jnp, jaxviz
            >>> @dataclasses.dataclass(frozen=True)
            ... class Gray:
            ...     height: int
            ...     width: int
            ...
            ...     def init(self, key, n):
            ...         return 0.5 + 0.1 * jax.random.normal(key, (n, self.height, self.width, 1))
            ...
            ...     def images(self, variables):
            ...         return jnp.broadcast_to(variables, (*variables.shape[:3], 3))
            ...
            ...     def variables(self, images):
            ...         return images.mean(-1, keepdims=True)
            >>> basis = lambda height, width: jaxviz.Parameterization.of(Gray(height, width), bounds=(0.0, 1.0))
            >>> score = lambda params, images: images[..., 1].mean((1, 2))
            >>> found = jaxviz.ascend(score, None, jax.random.key(0), size=8, steps=16, basis=basis)
            >>> print(found.images.shape, bool(jnp.all(found.images[..., 0] == found.images[..., 1])))
            (1, 8, 8, 3) True
        """
        return cls(_Method(basis, "init"), _Method(basis, "images"), _Method(basis, "variables"), bounds)


@dataclasses.dataclass(frozen=True)
class _Method:
    """A method that compares equal for equal objects; Python's own only do so for the same object."""

    of: Any
    name: str

    def __call__(self, *args: Any) -> Any:
        return getattr(self.of, self.name)(*args)

    def __repr__(self) -> str:
        return f"{self.of}.{self.name}"


Basis = Callable[..., Parameterization]
"""`basis(height, width)`: `fourier`, `pixels`, `maco`, `natural` or your own. For images other than RGB it is also
given `channels=c`.

A basis that returns equal functions for equal arguments, as `Parameterization.of` does for a frozen dataclass, is
compiled only once.
"""


def parameterized(basis: Basis, height: int, width: int, channels: int = 3) -> Parameterization:
    """Return a basis for a size; raise ValueError if it is not a basis."""
    check_function("basis", basis, "fourier, pixels, maco, natural or a function (height, width) -> Parameterization")
    if channels != 3 and not _takes_channels(basis):
        raise ValueError(
            f"basis: expected a function (height, width, *, channels) for images of {channels} channels, got one that "
            f"takes no channels, {basis!r}; fourier, pixels, maco and natural take them"
        )
    form = basis(height, width) if channels == 3 else basis(height, width, channels=channels)
    if not isinstance(form, Parameterization):
        raise ValueError(f"basis: expected a function that returns a Parameterization, got one that returns {form!r}")
    return form


def _takes_channels(basis: Basis) -> bool:
    try:
        inspect.signature(basis).bind(1, 1, channels=1)
    except TypeError:
        return False
    return True


def check_shape(height: int, width: int, channels: int) -> None:
    for name, count in (("height", height), ("width", width), ("channels", channels)):
        check_count(name, count)


def pixels(
    height: int,
    width: int,
    *,
    channels: int = 3,
    center: float | tuple[float, ...] = 0.5,
    spread: float | tuple[float, ...] = 0.1,
) -> Parameterization:
    """Parameterize an image by its pixels, kept in [0, 1].

    Args:
        height: the height of the images, in pixels.
        width: the width of the images, in pixels.
        channels: their number of channels, 3 for RGB.
        center: the brightness or color, in [0, 1], around which the noise to start from is.
        spread: the standard deviation of that noise, or one for each color.

    Returns:
        The basis for images of this size.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> import jax, jaxviz
        >>> basis = jaxviz.pixels(4, 4)
        >>> basis.images(basis.init(jax.random.key(0), 2)).shape
        (2, 4, 4, 3)
    """
    check_shape(height, width, channels)
    check_number("center", center, "from 0 to 1", lambda x: (x >= 0) & (x <= 1))
    check_least_zero("spread", spread)

    around = _numbers("center", center, channels), _numbers("spread", spread, channels)
    return Parameterization.of(_Pixels(height, width, channels, *around), bounds=(0.0, 1.0))


def _numbers(name: str, values: Any, channels: int) -> tuple[float, ...]:
    """Return one number, or one for each channel, as a tuple, which can be compared."""
    numbers = tuple(np.ravel(np.asarray(values, float)).tolist())
    if len(numbers) not in (1, channels):
        raise ValueError(f"{name}: expected one number, or one for each of {channels} channels, got {values!r}")
    return numbers


@dataclasses.dataclass(frozen=True)
class _Pixels:
    height: int
    width: int
    channels: int
    center: tuple[float, ...]
    spread: tuple[float, ...]

    def init(self, key: Key, n: int) -> Images:
        noise = jax.random.normal(key, (n, self.height, self.width, self.channels))
        center, spread = (jnp.asarray(x, noise.dtype).reshape(1, 1, 1, -1) for x in (self.center, self.spread))
        return jnp.clip(center + spread * noise, 0, 1)

    def images(self, variables: Images) -> Images:
        return variables

    def variables(self, images: Images) -> Images:
        return jnp.array(images)


def fourier(
    height: int, width: int, *, channels: int = 3, decay: float = 1.0, spread: float = 0.01
) -> Parameterization:
    """Parameterize an image by its Fourier transform, scaled as in natural images, with decorrelated colors.

    Args:
        height: the height of the images, in pixels.
        width: the width of the images, in pixels.
        channels: their number of channels, 3 for RGB; otherwise channels are independent of each other.
        decay: the power of frequency by which coefficients fall.
        spread: the standard deviation of the variables to start from.

    Returns:
        The basis for images of this size.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> basis = jaxviz.fourier(8, 8)
        >>> image = jnp.full((1, 8, 8, 3), 0.25)
        >>> print(jnp.allclose(basis.images(basis.variables(image)), image, atol=1e-3))
        True

    Olah, Mordvintsev & Schubert 2017, Feature Visualization.
    """
    check_shape(height, width, channels)
    check_number("decay", decay, "", np.isfinite)
    check_least_zero("spread", spread)
    return Parameterization.of(_Fourier(height, width, channels, float(decay), float(spread)))


@dataclasses.dataclass(frozen=True)
class _Fourier:
    height: int
    width: int
    channels: int
    decay: float
    spread: float

    def _scale(self, dtype: Any) -> Float[Array, "1 h f 1 1"]:
        size, frequencies = self.height * self.width, frequencies_of(self.height, self.width)
        scale = np.sqrt(size) / frequencies**self.decay / 4  # lucid's contrast
        return jnp.asarray(scale[None, ..., None, None], dtype)

    def init(self, key: Key, n: int) -> Float[Array, "n h f c 2"]:
        return self.spread * jax.random.normal(key, (n, self.height, self.width // 2 + 1, self.channels, 2))

    def images(self, variables: Float[Array, "n h f c 2"]) -> Images:
        return colored(inverse(variables * self._scale(variables.dtype), self.width))

    def variables(self, images: Images) -> Float[Array, "n h f c 2"]:
        spectrum = jnp.fft.rfft2(decorrelated(images), axes=(1, 2))
        parts = jnp.stack([spectrum.real, spectrum.imag], -1)
        return parts / self._scale(parts.dtype)


def frequencies_of(height: int, width: int) -> np.ndarray:
    """Return the frequency of each coefficient of `rfft2` in cycles per pixel, for the mean the next lowest one."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    return np.maximum(np.hypot(rows, columns), 1 / max(height, width))


def inverse(
    spectrum: Float[Array, "n h f c 2"], width: int, window: tuple[slice, slice] = (slice(None), slice(None))
) -> Float[Array, "n _ _ c"]:
    """Compute `irfft2`, or a window of it, from real and imaginary parts by products with sines and cosines.

    At every step, XLA would gather the images of all devices for a Fourier transform, but not for products, which take
    little time compared with a network.
    """
    height, frequencies = spectrum.shape[1:3]
    twice = jnp.full(frequencies, 2.0, spectrum.dtype).at[0].set(1)  # for those left out, conjugates of these
    twice = twice.at[-1].set(1) if width % 2 == 0 else twice
    product = functools.partial(jnp.einsum, precision="highest")
    cosine, sine = (wave[window[0]] for wave in _waves(height, height, spectrum.dtype))
    even, odd = (product("yu,nufcp->nyfcp", wave, spectrum) for wave in (cosine, sine))
    real, imaginary = even[..., 0] - odd[..., 1], even[..., 1] + odd[..., 0]
    waves = _waves(width, frequencies, spectrum.dtype)
    cosine, sine = (wave[window[1]] * (twice / (height * width))[None] for wave in waves)
    return product("xf,nyfc->nyxc", cosine, real) - product("xf,nyfc->nyxc", sine, imaginary)


def _waves(size: int, frequencies: int, dtype: Any) -> tuple[Float[Array, "h f"], Float[Array, "h f"]]:
    parts = jnp.arange(size)[:, None] * jnp.arange(frequencies)[None] % size  # integers, which are exact
    angles = 2 * np.pi / size * parts.astype(dtype)
    return jnp.cos(angles), jnp.sin(angles)


def colored(signal: Float[Array, "n h w c"]) -> Images:
    basis = color_basis(signal.shape[-1]).T
    return jax.nn.sigmoid(jnp.matmul(signal, jnp.asarray(basis, signal.dtype), precision="highest"))


def decorrelated(images: Images) -> Float[Array, "n h w c"]:
    """Invert `colored`, clipping to 1/512 and 511/512, since black and white are infinite there."""
    inside = jnp.clip(images, 1 / 512, 1 - 1 / 512)
    signal = jnp.log(inside) - jnp.log1p(-inside)
    basis = color_basis(images.shape[-1]).T
    return jnp.matmul(signal, jnp.asarray(np.linalg.inv(basis), images.dtype), precision="highest")
