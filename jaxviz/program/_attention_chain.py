"""The self-attention of a network's blocks, one behind the other over the same tokens, and which tokens are read."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxviz.program._attention import Attention, attentions
from jaxviz.program._axis_lines import Axes, is_images, letters_of
from jaxviz.program._axis_places import grid_index, places_of
from jaxviz.program._axis_rules import follow
from jaxviz.program._reach import ancestors, followed
from jaxviz.program._reach_windows import NOTHING
from jaxviz.program._tokens import Tokens, told_index
from jaxviz.program._trace import Program, Value


class Chain(NamedTuple):
    """Attention over the same tokens, in forward order."""

    weights: list[Value]
    arrange: list[Callable[[Array], Float[Array, "n heads queries keys"]]]
    """What brings the weights of each into one order."""
    pools: bool
    """Does the last one gather the tokens with queries of its own, as a pooling head does?"""
    read: Bool[np.ndarray, " queries"]
    """Which results of the last one what the network returns is made of."""
    numbers: Int[np.ndarray, "rows columns"]
    """Which token lies at each row and column."""

    def is_block(self, i: int) -> bool:
        """Tell an attention of tokens to each other, which also keep what they are, from a pooling head's."""
        return not (self.pools and i == len(self.weights) - 1)


def chain_of(program: Program, count: int, tokens: Tokens, who: str) -> Chain:
    """Return the attention of a program that is one chain; raise ValueError, in the name of `who`, for any other."""
    found = attentions(program)
    if not found:
        raise ValueError(
            f"{who} found no attention in this network: no softmax that weights a sum over tokens; a kernel of its own "
            "(such as flash attention) hides it, use one written in JAX's operations"
        )
    weights = [attention.weights for attention in found]
    axes = [_known(axes, value) for axes, value in zip(follow(weights, {}), weights, strict=True)]
    arrange = [_arranging(i, *pair, count, who) for i, pair in enumerate(zip(found, axes, strict=True))]
    sizes = [tuple(a.weights.aval.shape[axis] for axis in (a.queries, a.keys)) for a in found]
    # Queries of the network's own are of no image, and may be as many as the tokens.
    own = [q == k and _of_tokens(a, of) for a, of, (q, k) in zip(found, axes, sizes, strict=True)]
    pools = len(sizes) > 1 and not own[-1]
    places = [places_of(of[axis]) for a, of in zip(found, axes, strict=True) for axis in (a.queries, a.keys)]
    places = places[:-2] + places[-1:] if pools else places
    blocks = own[:-1] if pools else own
    if not all(blocks) or len({keys for _, keys in sizes}) > 1 or not _all_alike(places) or not _in_turn(found):
        shapes = ", ".join(f"attention_{i}: {q} x {k}" for i, (q, k) in enumerate(sizes))
        raise ValueError(
            f"{who}: expected self-attention over the same tokens, one layer behind the other, so that it can be "
            f"multiplied; this network has queries x keys of {shapes}"
        )
    return Chain(weights, arrange, pools, *_read(program, found[-1], pools, places, tokens, who))


def _known(axes: Any, value: Value) -> Axes:
    assert axes is not None, value  # what depends on the images has axes
    return axes


def _of_tokens(attention: Attention, axes: Axes) -> bool:
    """Tell whether queries lie along the image's tokens, as keys do, as far as the program shows."""
    return bool(letters_of(axes[attention.queries])) or not letters_of(axes[attention.keys])


def _all_alike(places: Sequence[np.ndarray | None]) -> bool:
    known = [each for each in places if each is not None]
    return all(each.shape == known[0].shape and np.array_equal(each, known[0], equal_nan=True) for each in known)


def _in_turn(found: Sequence[Attention]) -> bool:
    """Tell whether each attention depends on the one before."""
    pairs = itertools.pairwise(attention.weights for attention in found)
    return all(id(before) in ancestors(after) for before, after in pairs)


def _arranging(number: int, attention: Attention, axes: Axes, count: int, who: str) -> Callable[[Array], Array]:
    """Return what puts images first, then heads, queries and keys; images and heads may share an axis."""
    images = [i for i, axis in enumerate(axes) if letters_of(axis) == "n" and is_images(axis[:1], count)]
    last = attention.queries, attention.keys
    beside = [i for i in range(len(axes)) if i not in (*images, *last)]
    told = len(images) == 1 or (count == 1 and not images)
    if not told or any(axis in images for axis in last) or any(letters_of(axes[i]) for i in beside):
        raise ValueError(
            f"{who}: attention_{number} has shape {attention.weights.aval.shape}, in which images cannot be told from "
            "windows: attention within windows has no map of the whole image"
        )
    order = (*images, *beside, *last)

    def arrange(array: Array) -> Array:
        moved = jnp.transpose(array, order)
        return moved.reshape(count, -1, *moved.shape[-2:])

    return arrange


def _read(
    program: Program, last: Attention, pools: bool, places: Sequence[np.ndarray | None], tokens: Tokens, who: str
) -> tuple[Bool[np.ndarray, " queries"], Int[np.ndarray, "rows columns"]]:
    """Return which queries are read, and where the tokens lie."""
    known = next((each for each in places if each is not None), None)
    queries, size = (last.weights.aval.shape[axis] for axis in (last.queries, last.keys))
    index = told_index(size, tokens, who) if tokens else None if known is None else grid_index(known)
    if index is None:
        raise ValueError(
            f"{who}: this network's program does not show where its {size} tokens lie; say so by tokens=(rows, columns)"
        )
    read = np.zeros(queries, bool)
    groups = [np.array([i]) for i in range(queries) if pools or i not in index]
    for group in [*groups, *([] if pools else [index.ravel()])]:
        read[group] = is_read(program, last.weights, last.queries, group)
    if not read.any():
        raise ValueError(f"{who}: what this network returns does not depend on its last attention")
    return read, index


def is_read(program: Program, value: Value, axis: int, places: np.ndarray) -> bool:
    """Tell whether what a program returns depends on some places along an axis of a value."""
    shape = [1] * len(value.aval.shape)
    shape[axis] = value.aval.shape[axis]
    ends = np.full((2, *shape), NOTHING, np.int32)
    ends.reshape(2, -1)[:, places] = 0
    seen = followed(program, value, ends)
    return any(id(x) in seen and (seen[id(x)] != NOTHING).any() for x in program.outputs)
