"""Features and Gram matrices of large images compared tile by tile, with the memory that one tile takes.

The errors of `match_features` and `match_grams` are functions of sums over positions. Sums over tiles, each position
counted in one tile that has all that it sees, are those of the entire image, and so is the gradient.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxviz._types import Images, Net
from jaxviz.fast._swap import accelerate, hoist
from jaxviz.program._compiled import compiled
from jaxviz.program._image_channels import known_channels
from jaxviz.program._receptive_field import receptive_field
from jaxviz.scores._algebra import Summable, read_terms, static, terms_of
from jaxviz.scores._likeness import FeatureMatch, GramMatch, Part, features_of, grams_of
from jaxviz.synthesis._colors import Batch
from jaxviz.synthesis._tiles import STRIDE, Tiling, checked_tiling


class _Place(NamedTuple):
    """Where a tile begins, and from where to where the pixels at which a position begins count."""

    corner: Array
    low: Array
    high: Array


class Tiles(NamedTuple):
    """How images are divided, and the stride of each layer in pixels."""

    tiling: Tiling
    strides: tuple[tuple[str, tuple[int, int]], ...]

    def part(self, name: str, shape: tuple[int, ...], whole: tuple[int, ...], place: _Place) -> Part:
        """Return which positions of a layer are in a tile, and which of them count."""
        stride = jnp.asarray(dict(self.strides)[name])
        start = place.corner // stride
        rows, columns = (
            _within(step * (first + jnp.arange(side)), low, high)
            for step, first, side, low, high in zip(stride, start, shape[1:3], place.low, place.high, strict=True)
        )
        return Part((start[0], start[1]), rows[:, None] & columns[None], whole)


def tiles_of(
    net: Net, params: Any, names: tuple[str, ...], images: Images | jax.ShapeDtypeStruct, tile: int | None
) -> Tiles | None:
    """Return the tiles for some layers of images; None where there is no need of any.

    Raises:
        ValueError: for a layer whose positions see too much for tiles of this size, or are not on a grid of pixels.
    """
    tiling = checked_tiling(tile, 0)
    if tiling is None or tiling.covers(*images.shape[1:3]):
        return None
    height, width = tiling.shape(*images.shape[1:3])
    one = jax.ShapeDtypeStruct((1, height, width, images.shape[-1]), images.dtype)
    strides, overlap = {}, 0
    for name in names:
        field = receptive_field(net, params, one, name, strict=True)
        if any(not isinstance(step, int) or step < 1 or STRIDE % step for step in field.stride):
            raise ValueError(
                f"tile: expected layers whose positions are 1, 2, 4, 8, 16 or 32 pixels apart, but those of {name!r} "
                f"are {field.stride} apart, or see the whole image: leave out tile"
            )
        strides[name] = field.stride
        reach = (max(-first, first + size - 1) for first, size in zip(field.offset, field.size, strict=True))
        overlap = max(overlap, *reach)
    least = 2 * overlap + 2 * STRIDE
    if tiling.size < least:
        raise ValueError(
            f"tile: expected at least {least} px, so that a tile holds all that a position of {names[-1]!r} sees, got "
            f"{tile}"
        )
    return Tiles(checked_tiling(tile, overlap) or tiling, tuple(strides.items()))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["score"], meta_fields=["tiles"])
@dataclasses.dataclass(frozen=True)
class InTiles(Summable):
    """A sum of matches, with its gradient, tile by tile: the forward pass twice, and the backward pass."""

    score: Any
    tiles: Tiles = static()

    def __call__(self, params: Any, images: Any) -> Float[Array, " n"]:
        fixed, terms = jax.lax.stop_gradient(images), list(terms_of(self.score))
        whole = jax.eval_shape(functools.partial(self._values, params), fixed)

        def sums_of(tile: Batch, place: _Place) -> Any:
            values = accelerate(self._values)(params, tile)
            return [
                {name: term.summed(name, x, self._part(name, x, shapes[name], place)) for name, x in of.items()}
                for (term, _), of, shapes in zip(terms, values, whole, strict=True)
            ]

        first = lambda tile: jax.eval_shape(sums_of, tile, _place(jnp.zeros((3, 2), int)))
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first(self._tile(fixed, jnp.zeros(2, int))))
        add = lambda sums, place: jax.tree.map(jnp.add, sums, sums_of(self._tile(fixed, place.corner), place))
        sums = self._scan(add, empty, fixed)
        total, pull = jax.vjp(functools.partial(self._total, whole), sums)
        (wanted,) = pull(jnp.ones_like(total))

        def back(slopes: Images, place: _Place) -> Images:
            tile = self._tile(fixed, place.corner)
            (slope,) = jax.vjp(lambda x: sums_of(x, place), tile)[1](wanted)
            corner = (0, place.corner[0], place.corner[1], 0)
            there = jax.lax.dynamic_slice(slopes, corner, slope.shape)
            return jax.lax.dynamic_update_slice(slopes, there + slope, corner)

        slopes = self._scan(back, jnp.zeros_like(fixed), fixed)
        return total + jnp.sum(slopes * (images - fixed), (1, 2, 3))  # zero; its gradient is what was put together

    def _values(self, params: Any, images: Any) -> list[dict[str, Array]]:
        return read_terms([term for term, _ in terms_of(self.score)], params, images)

    def _part(self, name: str, value: Array, whole: Any, place: _Place) -> Part:
        return self.tiles.part(name, value.shape, whole.shape, place)

    def _tile(self, images: Images, corner: Array) -> Batch:
        return _tile(self.tiles, images, corner)

    def _scan(self, add: Callable[[Any, _Place], Any], start: Any, images: Images) -> Any:
        return _scan(self.tiles, add, start, images)

    def _total(self, whole: Any, sums: Any) -> Float[Array, " n"]:
        """Return the score, of sums over the entire image."""
        found = []
        for (term, weights), of, shapes in zip(terms_of(self.score), sums, whole, strict=True):
            value = term.of_errors({name: term.error(name, total, shapes[name].shape) for name, total in of.items()})
            found.append(functools.reduce(lambda x, weight: jnp.asarray(weight, x.dtype) * x, weights, value))
        return functools.reduce(jnp.add, found)


def feature_match(
    net: Net, params: Any, images: Images, weights: Mapping[str, Any], tiles: Tiles | None
) -> FeatureMatch:
    """Return `match_features`, with the images' features put together from those of tiles."""
    names = tuple(weights)
    with known_channels(net, params, images):
        if tiles is None:
            return FeatureMatch(net, weights, features_of(net, names, params, images))
        return FeatureMatch(net, weights, _features_in_tiles(net, names, tiles, params, images))


def gram_match(
    net: Net, params: Any, images: Images, weights: Mapping[str, Any], tile: int | None, *, mask: Any, where: Any
) -> GramMatch:
    """Return `match_grams`, with the images' Gram matrices summed over tiles."""
    names = tuple(weights)
    with known_channels(net, params, images):
        tiles = tiles_of(net, params, names, images, tile)
        if tiles is None:
            return GramMatch(net, weights, grams_of(net, names, params, images, mask), where)
        return GramMatch(net, weights, _grams_in_tiles(net, names, tiles, params, images, mask), where)


@compiled(static_argnums=(0, 1, 2))
def _features_in_tiles(net: Net, names: tuple[str, ...], tiles: Tiles, params: Any, images: Images) -> Any:
    values = functools.partial(features_of, net, names, params)
    whole = jax.eval_shape(values, images)

    def put(maps: dict[str, Array], place: _Place) -> dict[str, Array]:
        found = values(_tile(tiles, images, place.corner))
        for name, value in found.items():
            part = tiles.part(name, value.shape, whole[name].shape, place)
            corner = (0, *part.start, 0)
            there = jax.lax.dynamic_slice(maps[name], corner, value.shape)
            merged = jnp.where(part.counts[None, :, :, None], value, there)
            maps = maps | {name: jax.lax.dynamic_update_slice(maps[name], merged, corner)}
        return maps

    empty = {name: jnp.zeros(of.shape, of.dtype) for name, of in whole.items()}
    return _scan(tiles, put, empty, images)


@compiled(static_argnums=(0, 1, 2))
def _grams_in_tiles(
    net: Net, names: tuple[str, ...], tiles: Tiles, params: Any, images: Images, mask: Any
) -> dict[str, Array]:
    term = GramMatch(net, dict.fromkeys(names, 1.0), dict.fromkeys(names), mask)
    values = lambda params, images: read_terms([term], params, images)[0]
    whole = jax.eval_shape(functools.partial(values, params), images)

    def add(sums: dict[str, Array], place: _Place) -> dict[str, Array]:
        found = accelerate(values)(params, _tile(tiles, images, place.corner))
        part = lambda name: tiles.part(name, found[name].shape, whole[name].shape, place)
        return {name: sums[name] + term.summed(name, found[name], part(name)) for name in names}

    shape = lambda of: (of.shape[0], of.shape[-1], of.shape[-1])
    sums = _scan(tiles, add, {name: jnp.zeros(shape(of), of.dtype) for name, of in whole.items()}, images)
    return {name: term.mean(total, whole[name].shape) for name, total in sums.items()}


def _tile(tiles: Tiles, images: Images, corner: Array) -> Batch:
    height, width = tiles.tiling.shape(*images.shape[1:3])
    shape = (len(images), height, width, images.shape[-1])
    return jax.lax.dynamic_slice(images, (0, corner[0], corner[1], 0), shape)


def _scan(tiles: Tiles, add: Callable[[Any, _Place], Any], start: Any, images: Images) -> Any:
    places = jnp.asarray(tiles.tiling.places(*images.shape[1:3]))
    body = lambda so_far, place: (add(so_far, _place(place)), None)
    return jax.lax.scan(hoist(body, start, places[0]), start, places)[0]


def _place(rows: Array) -> _Place:
    return _Place(rows[0], rows[1], rows[2])


def _within(x: Array, low: Array, high: Array) -> Array:
    return (x >= low) & (x < high)
