"""Does a map depend on what the network has learned? Adebayo et al.'s check: shuffle the layers, from the last down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxviz._types import AnyArray, AnyImages, Key, Net
from jaxviz.image._checks import check_finite
from jaxviz.program._modules import named_by_default
from jaxviz.program._names import find, is_layer
from jaxviz.program._trace import Program, Value, trace


def randomize(net: Net, params: Any, key: Key, images: AnyImages, *, down_to: str) -> PyTree[Any]:
    """Return the parameters with those of the upper layers shuffled, from the outputs down to a layer.

    The entries of each array are permuted at random: what was learned is gone, but not the scale. Which layers are
    upper ones is read from the network; a parameter that is used twice counts where it is used first. With the same
    key, a lower `down_to` shuffles the upper layers in the same way: a cascade.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: random key for the shuffling.
        images: `(n, h, w, c)`, or its shape (`jax.ShapeDtypeStruct`); nothing is run.
        down_to: a name that `layers` lists; the convolution or dense product that makes this value, and whatever
            comes after it, are shuffled.

    Returns:
        Parameters with the same structure, shapes and dtypes.

    Raises:
        ValueError: for an unknown layer.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images.mean((1, 2)) @ params["w1"]) @ params["w2"]
        >>> params = {"w1": jnp.arange(12.0).reshape(3, 4), "w2": jnp.arange(8.0).reshape(4, 2)}
        >>> shuffled = jaxviz.randomize(net, params, jax.random.key(0), jnp.ones((1, 8, 8, 3)), down_to="dense_1")
        >>> print(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), params, shuffled))
        {'w1': True, 'w2': False}

    Adebayo et al. 2018, Sanity Checks for Saliency Maps.
    """
    program = trace(named_by_default(net), params, images)
    order = {id(value): i for i, value in enumerate(program.values)}
    start = _made_at(program, find(program, [down_to])[down_to], order)
    leaves, treedef = jax.tree.flatten(params)
    first_uses = [_first_use(value, order) for value in program.inputs[: len(leaves)]]
    return treedef.unflatten(
        jax.random.permutation(jax.random.fold_in(key, i), jnp.ravel(leaf)).reshape(jnp.shape(leaf))
        if start <= use < math.inf
        else leaf
        for i, (leaf, use) in enumerate(zip(leaves, first_uses, strict=True))
    )


def _made_at(program: Program, value: Value, order: dict[int, int]) -> int:
    """Return the place of the last convolution or dense product that a value is made from; 0 if there is none."""
    seen, stack, places = set(), [value], [0]
    while stack:
        value = stack.pop()
        if id(value) not in seen:
            seen.add(id(value))
            if is_layer(value):
                places.append(order[id(value)])
            else:
                stack += [operand for operand in value.inputs if operand.varies]
    return max(places)


def _first_use(value: Value, order: dict[int, int]) -> int | float:
    """Return the place of the first value that depends on both this parameter and the images; infinity for none."""
    places = [order[id(user)] if user.varies else _first_use(user, order) for user in value.users]
    return min(places, default=math.inf)


def rank_correlation(maps: Float[AnyArray, "n h w *c"], others: Float[AnyArray, "n h w *c"]) -> Float[Array, " n"]:
    """Return Spearman's rank correlation of each map with another; 0 where one of them is constant.

    Args:
        maps: `(n, h, w)` or `(n, h, w, c)`.
        others: of the same shape.

    Returns:
        `(n,)` in [-1, 1].

    Raises:
        ValueError: if the shapes differ or are not maps'.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> maps = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
        >>> print(jaxviz.rank_correlation(maps, jnp.exp(maps)).round(3), jaxviz.rank_correlation(maps, -maps).round(3))
        [1.] [-1.]
    """
    if jnp.shape(maps) != jnp.shape(others) or jnp.ndim(maps) < 3:
        raise ValueError(
            f"expected maps of one shape, (n, h, w) or (n, h, w, c), got {jnp.shape(maps)} and {jnp.shape(others)}"
        )
    check_finite("maps", maps)
    check_finite("others", others)
    first, second = (_centered_ranks(values.reshape(len(values), -1)) for values in (maps, others))
    scale = jnp.sqrt((first**2).mean(1)) * jnp.sqrt((second**2).mean(1))
    return jnp.where(scale > 0, (first * second).mean(1) / jnp.where(scale > 0, scale, 1), 0)


def _centered_ranks(values: AnyArray) -> Array:
    """Return ranks from -0.5 to 0.5, equal values sharing their mean rank."""
    ranks = jax.scipy.stats.rankdata(values, axis=1)  # of the values' own dtype, which holds 16 million exactly
    return (ranks - (values.shape[1] + 1) / 2) / values.shape[1]


def sanity_check(
    net: Net,
    params: Any,
    key: Key,
    images: AnyImages,
    *,
    method: Callable[[Any, Any], Any],
    layers: Sequence[str],
    absolute: bool = True,
) -> dict[str, Float[Array, " n"]]:
    """Compare each image's map with the one after shuffling the network's upper layers, down to each of some layers.

    Near 1, the map does not depend on what those layers have learned; near 0, it does. Adebayo et al. plot this.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        key: random key for the shuffling.
        images: `(n, h, w, c)` in [0, 1].
        method: `method(params, images)` returns the maps, `(n, h, w)` or `(n, h, w, c)`, for a score of your choice.
            Give it a class: with `target=None`, another one may rank first once the network is shuffled.
        layers: names that `layers` lists, in any order.
        absolute: compare absolute values; signs that flip at random say little.

    Returns:
        For each layer, the rank correlations, `(n,)` in [-1, 1].

    Raises:
        ValueError: for an unknown layer, and if `method` returns anything but maps.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jnp.tanh(images.reshape(len(images), -1) @ params["w1"]) @ params["w2"]
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> params = {"w1": jax.random.normal(keys[0], (48, 9)), "w2": jax.random.normal(keys[1], (9, 4))}
        >>> found = jaxviz.sanity_check(
        ...     net, params, keys[2], jnp.ones((1, 4, 4, 3)), layers=["dense_1", "dense_0"],
        ...     method=lambda params, images: jaxviz.gradient(jaxviz.logit(net, 3), params, images))
        >>> print([name for name in found], abs(found["dense_0"]) < 0.5)
        ['dense_1', 'dense_0'] [ True]

    Adebayo et al. 2018, Sanity Checks for Saliency Maps.
    """
    seen = jnp.abs if absolute else lambda maps: maps
    original = seen(method(params, images))
    return {
        layer: rank_correlation(original, seen(method(randomize(net, params, key, images, down_to=layer), images)))
        for layer in layers
    }
