"""Functions of one number that a program applies to each unit: which values they are of, and what they compute."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxviz.program._trace import Value, is_key

_MOST_STEPS = 40

_SAME = ("name", "copy", "reduce_precision", "convert_element_type", "broadcast_in_dim")


def _special(name: str) -> Any:
    """Return a function of SciPy's, which takes a fifth of a second to import."""
    return lambda x: getattr(importlib.import_module("scipy.special"), name)(x)


_OPS: dict[str, Any] = {
    "abs": np.abs, "add": np.add, "add_any": np.add, "and": np.logical_and, "cos": np.cos, "div": np.divide,
    "eq": np.equal, "erf": _special("erf"), "erfc": _special("erfc"), "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "ge": np.greater_equal, "gt": np.greater, "is_finite": np.isfinite, "le": np.less_equal, "log": np.log,
    "log1p": np.log1p, "logistic": _special("expit"), "lt": np.less, "max": np.maximum, "min": np.minimum,
    "mul": np.multiply, "ne": np.not_equal, "neg": np.negative, "not": np.logical_not, "or": np.logical_or,
    "pow": np.power, "rsqrt": lambda x: 1 / np.sqrt(x), "sign": np.sign, "sin": np.sin, "sqrt": np.sqrt,
    "square": np.square, "sub": np.subtract, "tanh": np.tanh,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "select_n": lambda condition, no, yes: np.where(condition, yes, no),
}  # fmt: skip


class Made(NamedTuple):
    """A value as a function of one number, applied to each unit of another value."""

    source: Value
    between: tuple[Value, ...]
    """What is computed on the way, the value itself included."""

    def at(self, points: np.ndarray) -> np.ndarray | None:
        """Return what the function gives at some points, in float64; None where that cannot be computed."""
        known: dict[int, Any] = {id(self.source): points}
        with np.errstate(all="ignore"):
            found = _evaluated(self.between[0], known)
        return None if found is None else np.broadcast_to(np.asarray(found, float), points.shape)


def made_of(value: Value, order: Mapping[int, int]) -> Iterator[Made]:
    """Yield what a value is such a function of, the nearest first; `order` has the place of each in the program."""
    frontier, between = {id(value): value}, []
    while len(between) < _MOST_STEPS:
        last = frontier.pop(max(frontier, key=lambda key: order.get(key, -1)))
        varying = [operand for operand in last.inputs if operand.varies]
        if not _is_followed(last, varying, value.aval.shape):
            return
        between.append(last)
        frontier |= {id(operand): operand for operand in varying}
        if len(frontier) == 1:
            yield Made(next(iter(frontier.values())), tuple(between))


def _is_followed(value: Value, varying: Sequence[Value], shape: tuple[int, ...]) -> bool:
    if not varying or any(operand.aval.shape != shape for operand in varying):
        return False
    if value.op == "convert_element_type":
        return not jnp.issubdtype(value.aval.dtype, jnp.integer)  # rounding is no change of type
    return value.op in _OPS or value.op in ("name", "copy", "reduce_precision", "integer_pow")


def _evaluated(value: Value, known: dict[int, Any]) -> Any:
    """Return a value where another one, or several, are known; a number for what depends on none; None if unknown."""
    if id(value) not in known:
        known[id(value)] = _computed(value, known)
    return known[id(value)]


def _computed(value: Value, known: dict[int, Any]) -> Any:
    if value.op == "constant":
        if isinstance(value.constant, Tracer) or is_key(value.aval) or value.aval.shape:
            return None
        array = np.asarray(value.constant)
        return array.astype(bool if array.dtype == bool else float)
    if value.eqn is None or len(value.eqn.outvars) != 1:
        return None
    if value.op in _SAME:
        return _evaluated(value.inputs[0], known)
    operands = [_evaluated(operand, known) for operand in value.inputs]
    if any(operand is None for operand in operands):
        return None
    if value.op == "integer_pow":
        return operands[0] ** value.eqn.params["y"]
    if value.op == "select_n" and len(operands) != 3:
        return None
    return _OPS[value.op](*operands) if value.op in _OPS else None
