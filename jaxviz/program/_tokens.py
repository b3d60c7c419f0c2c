"""The grid of a layer of tokens `(n, tokens, channels)`: which token looks at which part of the image.

Found by following the patches through the traced program; what was put beside them (class and register tokens) lies
nowhere and is left out. Where the program does not show it, `tokens=` does.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxviz.program._axis_lines import Operand
from jaxviz.program._axis_places import grid_index, places_of
from jaxviz.program._trace import Value

Tokens = tuple[int, int] | tuple[int, int, int] | None
"""Rows, columns and, if a layer has more tokens than these, how many stand in front of them."""


def checked_tokens(tokens: Any) -> Tokens:
    """Return `tokens` as numbers; raise ValueError for what says no grid."""
    if tokens is None:
        return None
    numbers = tuple(tokens) if isinstance(tokens, tuple | list) else ()
    whole = all(isinstance(x, int | np.integer) and x >= (i < 2) for i, x in enumerate(numbers))
    if len(numbers) not in (2, 3) or not whole:
        raise ValueError(f"tokens: expected (rows, columns) or (rows, columns, in front), got {tokens!r}")
    return tuple(int(x) for x in numbers)  # type: ignore[return-value]


class Grid(NamedTuple):
    """Where a layer has its images, its tokens and its channels, and which token lies at each row and column."""

    images: int
    tokens: int
    channels: int
    numbers: Int[np.ndarray, "rows columns"]

    def map_of(self, array: Any) -> Array:
        """Return a layer's values as a map, `(n, rows, columns, channels)`."""
        moved = jnp.transpose(array, (self.images, self.tokens, self.channels))
        first, count = int(self.numbers.min()), self.numbers.size
        if np.array_equal(self.numbers.ravel(), np.arange(first, first + count)):  # a gather is slow to differentiate
            return moved[:, first : first + count].reshape(len(moved), *self.numbers.shape, -1)
        return moved[:, self.numbers.ravel()].reshape(len(moved), *self.numbers.shape, -1)


def grid_of(value: Value, axes: Operand, images: int | None, tokens: Tokens, who: str) -> Grid | None:
    """Return the grid of a layer's tokens, as its program shows it or as `tokens` says; None if neither does."""
    shape = value.aval.shape
    if len(shape) != 3:
        if tokens is not None:
            raise ValueError(f"{who}: tokens={tokens!r} is for a layer (n, tokens, channels); this one has {shape}")
        return None
    found = None if axes is None or images is None else _found(axes, images)
    if tokens is None:
        return found
    told = _told(shape, axes, images or 0, tokens, who)
    if found is not None and not np.array_equal(found.numbers, told.numbers):
        rows, columns = found.numbers.shape
        raise ValueError(
            f"{who}: tokens={tokens!r} is not what this network's program shows: {rows} rows and {columns} columns, "
            f"the first of them token {found.numbers[0, 0]}; leave tokens out"
        )
    return told


def _found(axes: Any, images: int) -> Grid | None:
    """Return the grid if one axis is the images, one the tokens of each, and one has nothing of either along it."""
    at = [(i, grid_index(places)) for i, axis in enumerate(axes) if (places := places_of(axis)) is not None]
    rest = [i for i in range(3) if i not in (images, *(i for i, _ in at))]
    if len(at) != 1 or at[0][1] is None or len(rest) != 1 or any(part.of for part in axes[rest[0]]):
        return None
    return Grid(images, at[0][0], rest[0], at[0][1])


def _told(shape: Sequence[int], axes: Operand, images: int, tokens: Any, who: str) -> Grid:
    """Return the grid that a user tells."""
    rest = [i for i in range(3) if i != images]
    placed = [i for i in rest if axes is not None and {part.of for part in axes[i]} & {"h", "w", "hw"}]
    at = placed[0] if len(placed) == 1 else rest[0]
    return Grid(images, at, next(i for i in rest if i != at), told_index(shape[at], tokens, who))


def told_index(count: int, tokens: Any, who: str) -> Int[np.ndarray, "rows columns"]:
    """Return which of so many tokens lies at each row and column, as a user tells."""
    rows, columns, *front = tokens
    extra = count - rows * columns
    if extra < 0 or sum(front) > extra:
        behind = f" behind {front[0]}" if front else ""
        raise ValueError(f"{who}: tokens={tokens!r} says {rows} x {columns} tokens{behind}, and this layer has {count}")
    if extra and not front:
        raise ValueError(
            f"{who}: {rows} x {columns} are {rows * columns} of this layer's {count} tokens: say how many of the "
            f"other {extra} stand in front of them, as in tokens=({rows}, {columns}, {extra})"
        )
    return sum(front) + np.arange(rows * columns).reshape(rows, columns)
