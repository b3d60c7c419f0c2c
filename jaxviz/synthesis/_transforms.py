"""Random transformations that make images robust: patterns that excite a unit in only one alignment fade."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._options import check_function, check_least_zero, check_number, check_positive
from jaxviz._types import Images, Key
from jaxviz.image._checks import sides_of
from jaxviz.program._compiled import HoldsFunctions

Transformed = Float[Array, "n _ _ c"]
Transform = Callable[[Key, Images], Transformed]
"""Of images; what it returns may be of another size."""


class _OfEach:
    """A transform that acts differently on each image of a batch."""

    def __call__(self, key: Key, images: Images) -> Transformed:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
        return jax.vmap(self.one)(keys, images)

    def one(self, key: Key, image: Array) -> Array:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class JitterScaleRotate(_OfEach):
    """What `jitter_scale_rotate` returns."""

    jitter: float
    scale: float
    degrees: float

    def one(self, key: Key, image: Array) -> Array:
        shift_key, scale_key, turn_key = jax.random.split(key, 3)
        shift = jax.random.uniform(shift_key, (2,), image.dtype, -self.jitter, self.jitter)
        zoom = jax.random.uniform(scale_key, (), image.dtype, 1 - self.scale, 1 + self.scale)
        turn = jnp.deg2rad(jax.random.uniform(turn_key, (), image.dtype, -self.degrees, self.degrees))
        cos, sin = jnp.cos(turn) / zoom, jnp.sin(turn) / zoom
        return resample(image, jnp.array([[cos, -sin], [sin, cos]]), shift)


@dataclasses.dataclass(frozen=True)
class Crops(_OfEach):
    """What `crops` returns."""

    least: float
    most: float
    noise: float
    spread: float | None
    size: tuple[int, int] | float

    def one(self, key: Key, image: Array) -> Array:
        part_key, place_key, noise_key = jax.random.split(key, 3)
        part = jax.random.uniform(part_key, (), image.dtype, self.least, self.most)
        free = (1 - part) / 2  # how far the part's center can be from the image's, in sides of the image
        if self.spread is None:
            away = free * jax.random.uniform(place_key, (2,), image.dtype, -1, 1)
        else:
            away = jnp.clip(self.spread * jax.random.normal(place_key, (2,), image.dtype), -free, free)
        height, width = self._shown(*image.shape[:2])
        rows = _window(image.shape[0], height, part, away[0])
        columns = _window(image.shape[1], width, part, away[1])
        shown = jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision="highest")
        return shown + self.noise * jax.random.normal(noise_key, shown.shape, shown.dtype)

    def _shown(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of what is returned of an image of this size."""
        if isinstance(self.size, tuple):
            return self.size
        return max(round(self.size * height), 1), max(round(self.size * width), 1)


def _window(length: int, size: int, part: Array, away: Array) -> Array:
    """Return the matrix (size, length) that resamples a part of a line, with its center moved, to another size.

    It is linear interpolation, with the triangle widened where the part is made smaller, as in `jax.image.resize`.
    """
    step = part * length / size
    steps = jnp.arange(size, dtype=part.dtype) - (size - 1) / 2
    places = jnp.clip((length - 1) / 2 + away * length + steps * step, 0, length - 1)
    distances = jnp.abs(places[:, None] - jnp.arange(length, dtype=part.dtype)[None])
    weights = jnp.maximum(1 - distances / jnp.maximum(step, 1), 0)
    return weights / weights.sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Rolls(_OfEach):
    """What `rolls` returns."""

    most: int
    least: int

    def one(self, key: Key, image: Array) -> Array:
        return jnp.roll(image, jax.random.randint(key, (2,), self.least, self.most + 1), axis=(0, 1))


@dataclasses.dataclass(frozen=True)
class Composed(HoldsFunctions):
    """What `compose` returns."""

    transforms: tuple[Transform, ...]

    def __call__(self, key: Key, images: Images) -> Transformed:
        for i, transform in enumerate(self.transforms):
            images = transform(jax.random.fold_in(key, i), images)
        return images


def compose(*transforms: Transform) -> Transform:
    """Return a transform that applies several, one after the other, each with a random key of its own.

    Args:
        transforms: functions `(key, images) -> images`, the first first; with none, images stay as they are.

    Returns:
        A function `(key, images) -> images` of float images `(n, h, w, c)`.

    Raises:
        ValueError: One of them is not a function.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> turn = jaxviz.jitter_scale_rotate(jitter=2.0, degrees=5.0)
        >>> move = jaxviz.compose(jaxviz.crops(least=0.75, most=1.0, size=32), turn)
        >>> print(move(jax.random.key(0), jnp.full((2, 64, 64, 3), 0.5)).shape)
        (2, 32, 32, 3)
    """
    for transform in transforms:
        check_function("transforms", transform, "functions of a key and images")
    return Composed(transforms)


def jitter_scale_rotate(*, jitter: float = 8.0, scale: float = 0.1, degrees: float = 10.0) -> Transform:
    """Return a transform that randomly shifts, scales and rotates each image about its center, in one resampling.

    Areas from outside the image are gray. The ranges follow lucid (Olah et al. 2017), which shifts in two steps, by up
    to 4 and 2 pixels in each direction around a padding of 12, and more often leaves the angle at zero.

    Args:
        jitter: the largest shift, in pixels, at least 0.
        scale: the largest change of scale, from 0 to below 1: 0.1 means factors of 0.9 to 1.1.
        degrees: the largest rotation, in degrees, at least 0.

    Returns:
        A function `(key, images) -> images` of float images `(n, h, w, c)`, of the same shape and dtype.

    Raises:
        ValueError: An option is outside its range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> move = jaxviz.jitter_scale_rotate(jitter=2.0, scale=0.0, degrees=0.0)
        >>> print(jnp.allclose(move(jax.random.key(0), jnp.full((2, 8, 8, 3), 0.5)), 0.5))
        True
    """
    for name, number in (("jitter", jitter), ("scale", scale), ("degrees", degrees)):
        check_least_zero(name, number)
    check_number("scale", scale, "below 1", lambda x: x < 1)

    return JitterScaleRotate(float(jitter), float(scale), float(degrees))


def crops(
    *,
    least: float = 0.05,
    most: float = 0.5,
    noise: float = 0.08,
    spread: float | None = None,
    size: int | tuple[int, int] | None = None,
    zoom: float = 1.0,
) -> Transform:
    """Return a transform that cuts a random part out of each image, resizes it and adds noise.

    The defaults have the range of sizes and the noise of the code published by the authors of MACO (Fel et al. 2023),
    in which the size also falls from largest to smallest during the run, 32 parts are averaged at each step, positions
    are normally distributed, and uniform noise is added as well.

    Args:
        least: the smallest side of a part, as a fraction of the image's, above 0.
        most: the largest, up to 1.
        noise: the standard deviation of the Gaussian noise, in units of the images' [0, 1] range; at least 0.
        spread: the standard deviation of a part's center around the image's, as a fraction of the image's sides; parts
            that would leave the image end at its edge. None: anywhere, with equal probability.
        size: the size of the result in pixels: one side, or (h, w). None: `zoom` times the image's.
        zoom: the size of the result as a fraction of the image's size, above 0. With the typical fraction of a part,
            such as 0.5 for parts of 0.4 to 0.6, a network sees parts of a large image at their own scale. Parts that
            are made smaller are antialiased.

    Returns:
        A function `(key, images) -> images` of float images `(n, h, w, c)`, of the same dtype.

    Raises:
        ValueError: if an option is out of range, or `zoom` is given together with a size, which would ignore it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> ramp = jnp.broadcast_to(jnp.linspace(0, 1, 64)[:, None], (1, 64, 64, 3))
        >>> part = jaxviz.crops(least=0.2, most=0.2, noise=0.0)(jax.random.key(0), ramp)
        >>> print(part.shape, jnp.allclose(part.max() - part.min(), 0.2, atol=0.01))
        (1, 64, 64, 3) True
        >>> print(jaxviz.crops(zoom=0.5)(jax.random.key(0), ramp).shape)
        (1, 32, 32, 3)
    """
    check_number("least", least, "above 0 and at most 1", lambda x: (x > 0) & (x <= 1))
    check_number("most", most, f"from least, {least}, to 1", lambda x: (x >= least) & (x <= 1))
    check_least_zero("noise", noise)
    check_positive("zoom", zoom)
    if spread is not None:
        check_least_zero("spread", spread)
    if size is not None and zoom != 1:
        raise ValueError(f"zoom: expected none beside a size, which would ignore it, got {zoom} and {size}")
    shown = float(zoom) if size is None else sides_of(size)
    return Crops(float(least), float(most), float(noise), None if spread is None else float(spread), shown)


def rolls(*, most: int, least: int = 0) -> Transform:
    """Return a transform that rolls each image down and to the right by random whole pixels, wrapping around.

    The class visualization of CS231n's assignment does this.
    """

    return Rolls(int(most), int(least))


def resample(image: Array, matrix: Array, shift: Array) -> Array:
    """Resample an image (h, w, c) bilinearly under an affine map of coordinates about its center; gray outside."""
    height, width, channels = image.shape
    center = jnp.array([(height - 1) / 2, (width - 1) / 2], image.dtype)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).astype(image.dtype)
    # Accelerators by default round the factors of a product, too coarsely for coordinates.
    centered = grid - center[None, None]
    points = jnp.matmul(centered, matrix.T, precision="highest") + (center + shift)[None, None]
    low = jnp.floor(points)
    part = points - low
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=0.5).reshape(-1, channels)

    def corner(down: int, right: int) -> Array:
        row = jnp.clip(low[..., 0] + down, -1, height).astype(jnp.int32) + 1
        column = jnp.clip(low[..., 1] + right, -1, width).astype(jnp.int32) + 1
        weight = jnp.abs(1 - down - part[..., 0]) * jnp.abs(1 - right - part[..., 1])
        return weight[..., None] * padded[row * (width + 2) + column]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)
