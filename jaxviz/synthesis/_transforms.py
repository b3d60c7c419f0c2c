"""Random transformations that an image must survive: what only one alignment of pixels would excite, fades."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxviz._options import check_least_zero, check_number
from jaxviz._types import Images, Key

Transform = Callable[[Key, Images], Images]


class _OfEach:
    """A transform that does something else to each image of a batch."""

    def __call__(self, key: Key, images: Images) -> Images:
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

    def one(self, key: Key, image: Array) -> Array:
        part_key, place_key, noise_key = jax.random.split(key, 3)
        part = jax.random.uniform(part_key, (), image.dtype, self.least, self.most)
        free = (1 - part) / 2 * jnp.array(image.shape[:2], image.dtype)  # as far as its center may go
        shift = free * jax.random.uniform(place_key, (2,), image.dtype, -1, 1)
        shown = resample(image, part * jnp.eye(2, dtype=image.dtype), shift)
        return shown + self.noise * jax.random.normal(noise_key, image.shape, image.dtype)


@dataclasses.dataclass(frozen=True)
class Rolls(_OfEach):
    """What `rolls` returns."""

    most: int
    least: int

    def one(self, key: Key, image: Array) -> Array:
        return jnp.roll(image, jax.random.randint(key, (2,), self.least, self.most + 1), axis=(0, 1))


def jitter_scale_rotate(*, jitter: float = 8.0, scale: float = 0.1, degrees: float = 10.0) -> Transform:
    """Return a transform that shifts, scales and turns each image at random, about its center, in one resampling.

    Args:
        jitter: the largest shift, in pixels.
        scale: the largest change of scale: 0.1 is from 0.9 to 1.1.
        degrees: the largest turn.

    What comes into view from outside is gray. The ranges are lucid's (Olah et al. 2017), which shifts in two steps, by
    up to 4 and 2 pixels either way around a padding of 12, and turns by nothing more often.

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


def crops(*, least: float = 0.05, most: float = 0.5, noise: float = 0.08) -> Transform:
    """Return a transform that shows a random part of each image, enlarged to its size, with noise added.

    Args:
        least: the smallest side of a part, as a fraction of the image's.
        most: the largest.
        noise: standard deviation of what is added, in units of brightness.

    The defaults have the range of sizes and the noise of the program that the authors of MACO published (Fel et al.
    2023), where the size falls from the largest to the smallest on the way, 32 parts are averaged at each step, their
    places are normally distributed, and uniform noise is added, too.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> ramp = jnp.broadcast_to(jnp.linspace(0, 1, 64)[:, None], (1, 64, 64, 3))
        >>> part = jaxviz.crops(least=0.2, most=0.2, noise=0.0)(jax.random.key(0), ramp)
        >>> print(part.shape, jnp.allclose(part.max() - part.min(), 0.2, atol=0.01))
        (1, 64, 64, 3) True
    """
    check_number("least", least, "above 0 and at most 1", lambda x: (x > 0) & (x <= 1))
    check_number("most", most, f"from least, {least}, to 1", lambda x: (x >= least) & (x <= 1))
    check_least_zero("noise", noise)

    return Crops(float(least), float(most), float(noise))


def rolls(*, most: int, least: int = 0) -> Transform:
    """Return a transform that moves each image by so many whole pixels down and to the right, and what leaves, back in.

    The class visualization of CS231n's assignment does so.
    """

    return Rolls(int(most), int(least))


def resample(image: Array, matrix: Array, shift: Array) -> Array:
    """Show an image (h, w, c) under an affine map of coordinates about its center, bilinearly, gray outside."""
    height, width, channels = image.shape
    center = jnp.array([(height - 1) / 2, (width - 1) / 2], image.dtype)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).astype(image.dtype)
    # Accelerators round the factors of a product by default: too coarse for coordinates.
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
