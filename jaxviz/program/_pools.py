"""Find pools: maxima and means over windows of positions, or over all positions of an image, and over nothing else."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxviz.program._activations import is_reachable
from jaxviz.program._axis_lines import letters_of
from jaxviz.program._axis_rules import follow
from jaxviz.program._flow import Flow, number
from jaxviz.program._trace import KINDS, MOVES, POINTWISE, Program, Value

_GLOBAL = ("reduce_max", "reduce_sum")
_BY_UNIT = {*POINTWISE, *MOVES}
_POOLS = {
    "reduce_window_max": "max_pool",
    "reduce_window_sum": "avg_pool",
    "reduce_max": "global_max_pool",
    "reduce_sum": "global_avg_pool",
}


def find_pools(program: Program, flow: Flow) -> list[tuple[str, Value]]:
    """Return pools, by what they are called, in forward order.

    A maximum or a mean counts if it is known to be over rows and columns, or an image's tokens, and over neither images
    nor channels. What comes before the first layer is none; nor is a statistic of all positions, which meets its own
    source again before the next layer, as in normalizations.
    """
    known: dict[int, Any] = {}
    found: list[tuple[str, Value]] = []
    if any(len(x.aval.shape) != 4 for x in program.inputs if x.varies):  # no images, which have rows and columns
        return found
    for value in program.values:
        if value.op not in _POOLS or not flow.is_touched(value) or not jnp.issubdtype(value.aval.dtype, jnp.floating):
            continue
        pool = value if value.op.endswith("max") else _mean(value)
        if pool is None or not is_reachable(pool) or not _is_of_positions(value, known):
            continue
        if value.op not in _GLOBAL or not _is_statistic(value):
            found.append((_POOLS[value.op], pool))
    return found


def _axes(value: Value) -> tuple[int, ...]:
    """Return the axes of its operand along which a value is reduced."""
    assert value.eqn is not None
    if "axes" in value.eqn.params:
        return tuple(int(axis) for axis in value.eqn.params["axes"])
    params = value.eqn.params
    return tuple(i for i, size in enumerate(params["window_dimensions"]) if size > 1 or params["window_strides"][i] > 1)


def _is_of_positions(value: Value, known: dict[int, Any]) -> bool:
    """Tell whether the reduced axes are rows and columns, or tokens: all of them, where there are no windows."""
    shape, reduced = value.inputs[0].aval.shape, set(_axes(value))
    if len(shape) < 3 or not reduced or len(reduced) > len(shape) - 2:
        return False
    axes = follow([value.inputs[0]], known)[0] or ()
    places = {i for i, axis in enumerate(axes) if {*letters_of(axis)} & {"h", "w"}}
    if any("n" in letters_of(axes[i]) for i in places):
        return False
    return reduced <= places if value.op.startswith("reduce_window") else reduced == places


def _mean(total: Value) -> Value | None:
    """Return the mean that a sum is divided to, by the number of its terms; None if it is not."""
    value = total
    while len(value.users) == 1 and value.users[0].op in (*MOVES, "convert_element_type"):
        value = value.users[0]
    user = value.users[0] if len(value.users) == 1 else None
    if user is None or user.op not in ("div", "mul") or user.inputs[-1] is user.inputs[0]:
        return None
    if math.prod(user.aval.shape) != math.prod(total.aval.shape):  # repeated along some axis
        return None
    other = user.inputs[user.inputs[0] is value]
    if other.varies or (user.op == "div" and other is user.inputs[0]):
        return None
    return user if _counts(other, total, inverse=user.op == "mul") else None


def _counts(value: Value, total: Value, *, inverse: bool) -> bool:
    """Tell whether a value is the number of terms of a sum, or its inverse, at each window or for all alike."""
    known = number(value)
    if known is None:
        return not inverse and _is_of_ones(value, total)
    params = total.eqn.params  # type: ignore[union-attr]
    shape = total.inputs[0].aval.shape
    terms = (
        math.prod(params.get("window_dimensions", ()))
        if "axes" not in params
        else math.prod(shape[axis] for axis in params["axes"])
    )
    return bool(np.allclose(known.astype(float), 1 / terms if inverse else terms, rtol=4e-3))


def _is_of_ones(value: Value, total: Value) -> bool:
    """Tell whether a value has the same windows as a sum, and is the sum of ones there: padding does not count."""
    while value.op in (*MOVES, "convert_element_type") and value.inputs:
        value = value.inputs[0]
    if value.op != "reduce_window_sum" or total.op != value.op or value.eqn is None or total.eqn is None:
        return False
    same = ("window_dimensions", "window_strides", "padding", "window_dilation")
    ones = number(value.inputs[0])
    windows, others = ([eqn.params[key] for key in same] for eqn in (value.eqn, total.eqn))
    return ones is not None and bool((ones == 1).all()) and _longer(windows) == _longer(others)


def _longer(windows: list[Any]) -> list[Any]:
    """Return the windows along the axes where they are longer than 1."""
    return [each for each in zip(*windows, strict=True) if each[0] > 1]


def _is_statistic(value: Value) -> bool:
    """Tell what is combined with its own source, unit by unit, before another layer: a mean to be subtracted."""
    family, later, stack = _of_same_units(value.inputs[0]), {id(value)}, [value]
    while stack:
        for user in stack.pop().users:
            if id(user) in later or user.op in KINDS:
                continue
            if any(id(operand) in family and id(operand) not in later for operand in user.inputs):
                return True
            later.add(id(user))
            stack.append(user)
    return False


def _of_same_units(value: Value) -> set[int]:
    """Return what is computed unit by unit from the same values as this one."""
    found, stack = {id(value)}, [value]
    while stack:
        current = stack.pop()
        near = [user for user in current.users if user.op in _BY_UNIT]
        near += [operand for operand in current.inputs if operand.varies] if current.op in _BY_UNIT else []
        fresh = {id(other): other for other in near if id(other) not in found}
        found.update(fresh)
        stack += fresh.values()
    return found
