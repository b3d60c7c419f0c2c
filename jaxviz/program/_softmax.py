"""Find a softmax by what it computes, in the spellings that people use."""

import numpy as np
from jax.core import Tracer

from jaxviz.program._trace import MOVES, Value, is_key

_MOVES = (*MOVES, "convert_element_type", "copy", "name", "slice")


def softmax_axes(value: Value) -> tuple[int, ...] | None:
    """Return the axes along which a value is a softmax: (), if they cannot be told; None for any other value.

    That is `e / sum(e)` with `e = exp(x)`, some of them set to 0 by a mask or not; a product with the reciprocal; and
    `exp(x - logsumexp(x))`.
    """
    total = _total(value)
    if total is None or total.eqn is None:
        return None
    same = total.inputs[0].aval.shape == value.aval.shape
    return tuple(int(axis) for axis in total.eqn.params["axes"]) if same else ()


def _total(value: Value) -> Value | None:
    """Return the sum that a softmax is divided by."""
    if value.op == "exp":
        inside = before_moves(value.inputs[0])
        return _sum_in_log(before_moves(inside.inputs[1])) if inside.op == "sub" else None
    if value.op not in ("div", "mul"):
        return None
    pairs = [value.inputs] if value.op == "div" else [value.inputs, value.inputs[::-1]]
    for upper, lower in ((before_moves(a), before_moves(b)) for a, b in pairs):
        if value.op == "mul" and lower.op in ("div", "integer_pow"):
            lower = before_moves(lower.inputs[-1])
        summed = _unmasked(before_moves(lower.inputs[0])) if lower.op == "reduce_sum" else None
        if summed is not None and summed.op == "exp" and _is_same(_unmasked(upper), summed):
            return lower
    return None


def _unmasked(value: Value) -> Value:
    """Return the exponential of which a mask sets some to 0; any other value itself."""
    if value.op != "select_n":
        return value
    return next((x for x in map(before_moves, value.inputs[1:]) if x.op == "exp"), value)


def before_moves(value: Value) -> Value:
    """Look through what only converts or moves a value."""
    while value.op in _MOVES and value.inputs:
        value = value.inputs[0]
    return value


def _is_same(value: Value, other: Value, depth: int = 6) -> bool:
    """Tell two values that are computed alike from the same ones, as where `exp(x)` is written twice."""
    if value is other:
        return True
    if value.op == other.op == "constant":
        constants = (value.constant, other.constant)
        if is_key(value.aval) or is_key(other.aval):
            return False
        return not any(isinstance(x, Tracer) for x in constants) and bool(np.array_equal(*constants))
    if value.eqn is None or other.eqn is None or value.op != other.op or not depth:
        return False
    if str(value.eqn.params) != str(other.eqn.params) or len(value.inputs) != len(other.inputs):
        return False
    return all(_is_same(a, b, depth - 1) for a, b in zip(value.inputs, other.inputs, strict=True))


def _sum_in_log(value: Value) -> Value | None:
    """Return the sum in `log(sum(exp(x)))`, to which the maximum may have been added again."""
    if value.op == "add":
        found = (_sum_in_log(before_moves(operand)) for operand in value.inputs)
        return next((total for total in found if total is not None), None)
    if value.op != "log":
        return None
    inside = before_moves(value.inputs[0])
    inside = before_moves(inside.inputs[0]) if inside.op == "abs" else inside
    return inside if inside.op == "reduce_sum" else None
