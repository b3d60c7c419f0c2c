"""Scores of a network's units: a channel, a neuron, a layer's energy."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from jaxviz._types import Net
from jaxviz.image._arrays import AnyArray
from jaxviz.program._axes import Layout
from jaxviz.program._returned import Layer, layer_or_output
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.scores._algebra import Index, OfLayer, numbers, static
from jaxviz.scores._masks import fitted, mask_of, mean_in
from jaxviz.scores._picked import picked


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Channel(OfLayer):
    name: ClassVar[str] = "channel"
    net: Net = static()
    layer: Layer = static()
    index: Any = 0
    where: Any = None
    tokens: Tokens = static(default=None)

    @property
    def layout(self) -> Layout:  # type: ignore[override]  # of the others it is the class's
        """The axes that the layer must have: with a mask, those of a map."""
        return "channels" if self.where is None else "map"

    def lengths(self) -> set[int]:
        """Return how many images the channels and masks are for; a single mask fits any number."""
        masks = set() if self.where is None else {len(self.where)} - {1}
        return masks | ({len(self.index)} if jnp.ndim(self.index) == 1 else set())

    def of_parts(self) -> bool:
        """Tell whether it is of all positions alike."""
        return self.where is None

    def pick(self, value: Array) -> Array:
        if self.where is None:
            means = value.mean(axis=tuple(range(1, value.ndim - 1)))
        else:
            means = mean_in(fitted(self.where, value), value)
        return picked(means, self.index, f"channel of {self.layer!r}", several=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Neuron(OfLayer):
    layout: ClassVar[Layout] = "units"
    name: ClassVar[str] = "neuron"
    net: Net = static()
    layer: Layer = static()
    index: Any = 0
    position: Any = None
    tokens: Tokens = static(default=None)

    def pick(self, value: Array) -> Array:
        if value.ndim == 4:
            row, column = (value.shape[1] // 2, value.shape[2] // 2) if self.position is None else self.position
            along_row = picked(jnp.swapaxes(value, 1, -1), row, f"row of {self.layer!r}")  # (n, c, w)
            value = picked(along_row, column, f"column of {self.layer!r}")
        elif self.position is not None:
            raise ValueError(f"{self.layer!r} has shape {value.shape}, so its units have no position")
        return picked(value, self.index, f"channel of {self.layer!r}", several=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Energy(OfLayer):
    layout: ClassVar[Layout] = "images"
    name: ClassVar[str] = "energy"
    net: Net = static()
    layer: Layer = static()
    tokens: Tokens = static(default=None)

    def of_parts(self) -> bool:
        """It is of all positions alike."""
        return True

    def pick(self, value: Array) -> Array:
        return jnp.mean(jnp.square(value), axis=tuple(range(1, value.ndim)))


def channel(
    net: Net,
    layer: str | None,
    index: Index,
    *,
    output: Any = None,
    where: Shaped[AnyArray, "*_ _ _"] | None = None,
    tokens: Tokens = None,
) -> Channel:
    """Score one channel of a layer by its mean over positions: those of a map, or the tokens of `(n, tokens, c)`.

    Args:
        net: any JAX function `net(params, images)`.
        layer: a name that `layers` lists; None: what the network returns.
        index: a channel; one per image, `(n,)`; or k per image, `(n, k)` or `(1, k)`; -1 is the last.
        output: with `layer=None`, which part the network returns: a key, an attribute, an index, or a tuple of them.
        where: weights of a map's positions in the mean, in [0, 1]: `(h, w)` for all images, or `(n, h, w)`, resized to
            the layer. None: all positions count equally.
        tokens: the grid of tokens, `(rows, columns)`, if the network's program does not show it: see `grad_cam`. Class
            and register tokens have no position, and do not count.

    Returns:
        A score, `(n,)`, or `(n, k)` for k channels per image.

    Raises:
        ValueError: when called, for a layer or channel that does not exist, and for a layer for which the network's
            program does not show which axis is the images and which the channels, such as `(n, tokens, heads, dim)`
            or windows `(n * windows, h, w, c)`; and for a mask of another shape, or of zeros only.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.channel(net, "dense_0", jnp.array([0, 2]))(jnp.diag(jnp.arange(3.0)), jnp.ones((2, 4, 4, 3))))
        [0. 2.]
        >>> segments = lambda params, images: {"masks": images @ params}  # two classes for each pixel
        >>> left = jnp.array([[1.0, 0.0], [1.0, 0.0]])
        >>> score = jaxviz.channel(segments, None, 1, output="masks", where=left)
        >>> print(score(jnp.eye(3)[:, :2], jnp.arange(12.0).reshape(1, 2, 2, 3) / 16))
        [0.25]
    """
    mask = None if where is None else mask_of("where", where)
    return Channel(net, layer_or_output(layer, output), numbers(index), mask, checked_tokens(tokens))


def neuron(
    net: Net,
    layer: str | None,
    index: Index,
    position: tuple[Index, Index] | None = None,
    *,
    output: Any = None,
    tokens: Tokens = None,
) -> Neuron:
    """Score one unit: channel `index` at `position` (row, column), by default at the center of the map.

    Args:
        net: any JAX function `net(params, images)`.
        layer: a name that `layers` lists, with maps, tokens or vectors; None: what the network returns.
        index: a channel; one per image, `(n,)`; or k per image, `(n, k)` or `(1, k)`; -1 is the last.
        position: row and column, each one number or one per image, `(n,)`; None: the center of the map. A vector's
            units have no position.
        output: with `layer=None`, which part the network returns, as for `channel`.
        tokens: the grid of tokens, `(rows, columns)`, if the network's program does not show it: see `grad_cam`.

    Returns:
        A score, `(n,)`, or `(n, k)` for k channels per image.

    Raises:
        ValueError: for a position that is not a row and a column; when called, for a layer, channel or position that
            does not exist, and for a layer that is neither a vector `(n, c)` nor, as the network's program shows, a map
            or tokens in a grid.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.neuron(net, "dense_0", 1)(jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [1. 1.]
    """
    return Neuron(net, layer_or_output(layer, output), numbers(index), _place(position), checked_tokens(tokens))


def _place(position: Any) -> tuple[Any, Any] | None:
    """Return a row and a column, each a number or one per image; raise ValueError for anything else."""
    if position is None:
        return None
    try:
        row, column = position
    except (TypeError, ValueError):
        raise ValueError(
            f"position: expected (row, column), each a number or one per image, got {position!r}"
        ) from None
    return numbers(row), numbers(column)


def energy(net: Net, layer: str | None, *, output: Any = None, tokens: Tokens = None) -> Energy:
    """Score a whole layer by the mean of its squares, as DeepDream does.

    Args:
        net: any JAX function `net(params, images)`.
        layer: a name that `layers` lists; None: what the network returns.
        output: with `layer=None`, which part the network returns, as for `channel`.
        tokens: the grid of tokens, as for `channel`; class and register tokens do not count.

    Returns:
        A score, `(n,)`, at least 0.

    Raises:
        ValueError: when called, for a layer that does not exist, or has no axis of images.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.energy(net, "dense_0")(2 * jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [4. 4.]
    """
    return Energy(net, layer_or_output(layer, output), checked_tokens(tokens))
