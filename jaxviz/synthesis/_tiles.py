"""A score's gradient tile by tile, with the memory that one tile takes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxviz._options import check_count
from jaxviz._types import Images, Score
from jaxviz.fast._swap import accelerate, hoist
from jaxviz.scores._algebra import one_per_image

STRIDE = 32  # tiles begin at multiples of it, so that the windows of strides and pools are those of the entire image


class Tiling(NamedTuple):
    """The size of tiles at most, and how far a tile sees beyond what it changes, in pixels."""

    size: int
    overlap: int

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the tiles of an image."""
        return self._along(height)[0], self._along(width)[0]

    def covers(self, height: int, width: int) -> bool:
        """Tell whether one tile is the entire image."""
        return max(height, width) <= self.size

    def places(self, height: int, width: int) -> np.ndarray:
        """Return for each tile where it begins, and from where to where its gradient counts: `(tiles, 3, 2)`."""
        rows, columns = self._along(height)[1], self._along(width)[1]
        return np.array([np.stack([row, column], -1) for row in rows for column in columns])

    def _along(self, length: int) -> tuple[int, np.ndarray]:
        """Return the side of a tile, and where each begins and counts, `(tiles, 3)`."""
        if length <= self.size:
            return length, np.array([[0, 0, length]])
        # The last tile, which begins at a multiple of the stride as well, ends where the image does.
        side = self.size - (self.size - length) % STRIDE
        units, most = (length - side) // STRIDE, (side - 2 * self.overlap) // STRIDE
        gaps = -(-units // most)
        starts = STRIDE * (np.arange(gaps + 1) * units // gaps)
        between = (starts[1:] + starts[:-1] + side) // 2  # the middle of what two tiles share
        return side, np.stack([starts, np.append(0, between), np.append(between, length)], -1)


def checked_tiling(tile: int | None, overlap: int) -> Tiling | None:
    """Return a tiling, None for none; raise ValueError for tiles that would see nothing but their overlap."""
    check_count("overlap", overlap, least=0)
    if tile is None:
        return None
    check_count("tile", tile)
    least = 2 * overlap + 2 * STRIDE  # whose side may be up to a stride less
    if tile < least:
        raise ValueError(f"tile: expected at least {least} px, twice the overlap and {2 * STRIDE}, got {tile}")
    return Tiling(int(tile), int(overlap))


def in_tiles(tiling: Tiling, score: Score, params: Any, images: Images) -> Float[Array, " n"]:
    """Return the mean of the score over tiles, as a function whose gradient is put together from theirs.

    Each pixel's gradient is that of the tile in which it is farthest from the edges. Where a tile sees everything that
    a pixel's influence depends on, it is the gradient in the entire image, times a number that is the same everywhere.
    """
    height, width = tiling.shape(*images.shape[1:3])
    fixed = jax.lax.stop_gradient(images)
    places = jnp.asarray(tiling.places(*images.shape[1:3]))

    def of_tile(tile: Images) -> tuple[Array, Array]:
        found = lambda x: one_per_image(accelerate(score)(params, x), x)
        values, pull = jax.vjp(found, tile)
        return values, pull(jnp.ones_like(values))[0]

    def add(so_far: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], None]:
        (top, left), low, high = place
        corner = (0, top, left, 0)
        part = jax.lax.dynamic_slice(fixed, corner, (len(images), height, width, images.shape[-1]))
        values, slope = of_tile(part)
        rows, columns = top + jnp.arange(height), left + jnp.arange(width)
        counts = _within(rows, low[0], high[0])[:, None] & _within(columns, low[1], high[1])[None]
        total, slopes = so_far
        there = jax.lax.dynamic_slice(slopes, corner, slope.shape)
        put = jnp.where(counts[None, :, :, None], slope, there)
        return (total + values, jax.lax.dynamic_update_slice(slopes, put, corner)), None

    start = (jnp.zeros(len(images), images.dtype), jnp.zeros_like(fixed))
    body = hoist(add, start, places[0])
    (total, slopes), _ = jax.lax.scan(body, start, places)
    moved = jnp.sum(slopes * (images - fixed), (1, 2, 3))  # zero; its gradient is what was put together
    return total / len(places) + moved


_within = functools.partial(lambda x, low, high: (x >= low) & (x < high))
