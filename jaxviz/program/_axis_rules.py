"""How each operation carries axes of images, rows and columns from its operands to its result."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxviz.program._axis_lines import Axes, Operand, from_line, letters_of, line_of, met, plain_axis, size_of, unknown
from jaxviz.program._axis_moves import (
    broadcast,
    concatenated,
    convolved,
    filled,
    gathered,
    in_reverse,
    in_sorted,
    kept,
    multiplied,
    output_of,
    padded,
    pointwise,
    pooled,
    reduced,
    reshaped,
    sliced,
    split,
    squeezed,
    transformed,
    transposed,
    updated,
    windows_of_one,
)
from jaxviz.program._trace import POINTWISE, Value, trace


def follow(wanted: Sequence[Value], known: dict[int, Operand]) -> list[Operand]:
    """Return the axes of values, working through what they are made from without recursion: networks are deep."""
    stack = list(wanted)
    while stack:
        current = stack[-1]
        waiting = [operand for operand in current.inputs if operand.varies and id(operand) not in known]
        if waiting and id(current) not in known:
            stack += waiting
            continue
        stack.pop()
        if id(current) not in known:
            known[id(current)] = _axes_of(current, [known.get(id(operand)) for operand in current.inputs])
    return [known[id(value)] for value in wanted]


def _axes_of(value: Value, operands: list[Operand]) -> Operand:
    if not value.varies:
        return None
    shape = value.aval.shape
    if value.op == "input":
        if len(shape) != 4:
            return unknown(shape, "nhw")
        places = [from_line(letter, np.arange(size, dtype=float)) for letter, size in zip("nhw", shape, strict=False)]
        return (*places, plain_axis(shape[3]))
    rule = _RULES.get(value.op)
    if rule is None and value.op.startswith("reduce_window"):
        rule = pooled
    if rule is None and value.op.startswith(("reduce", "arg")):
        rule = reduced
    axes = None if rule is None else rule(value, operands)
    if axes is None:
        return unknown(shape, "".join(letters_of(axis) for operand in operands if operand for axis in operand))
    assert len(axes) == len(shape)
    assert all(math.prod(part.size for part in axis) == size for axis, size in zip(axes, shape, strict=True))
    return axes


# Loops and branches


def _body(jaxpr: ClosedJaxpr, inputs: Sequence[Axes]) -> list[Axes]:
    """Return the axes of what a body returns."""
    run = jaxpr_as_fun(jaxpr)
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in jaxpr.in_avals]
    program = trace(lambda *args: jax.lax.optimization_barrier(run(*args)), *shapes, last_only=False)
    known: dict[int, Operand] = {id(v): axes for v, axes in zip(program.inputs, inputs, strict=True)}
    outputs = program.values[-1].inputs
    found = follow(outputs, known)
    return [
        tuple(plain_axis(size) for size in value.aval.shape) if axes is None else axes
        for value, axes in zip(outputs, found, strict=True)
    ]


def _settled(step: Callable[[list[Axes]], list[Axes]], carry: list[Axes]) -> list[Axes]:
    """Return the axes of what a loop carries: such as each turn leaves as they are."""
    for _ in range(4):
        after = [tuple(map(met, *pair)) for pair in zip(carry, step(carry), strict=True)]
        if _signature(after) == _signature(carry):
            return after
        carry = after
    return [unknown(tuple(map(size_of, axes)), "nhw") for axes in carry]


def _signature(carry: list[Axes]) -> Any:
    return [[(letters_of(axis), line_of(axis) is None, len(axis)) for axis in axes] for axes in carry]


def _scanned(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, filled(value, operands)  # type: ignore[union-attr]
    fixed, carried = params["num_consts"], params["num_carry"]
    constants, carry, slices = axes[:fixed], axes[fixed : fixed + carried], axes[fixed + carried :]
    turns = functools.reduce(met, [each[0] for each in slices], plain_axis(params["length"]))
    turn = lambda carry: _body(params["jaxpr"], [*constants, *carry, *(each[1:] for each in slices)])
    carry = _settled(lambda carry: turn(carry)[:carried], carry)
    at = output_of(value)
    return carry[at] if at < carried else (turns, *turn(carry)[at])


def _repeated(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, filled(value, operands)  # type: ignore[union-attr]
    first = params["cond_nconsts"]
    constants, carry = axes[first : first + params["body_nconsts"]], axes[first + params["body_nconsts"] :]
    return _settled(lambda carry: _body(params["body_jaxpr"], [*constants, *carry]), carry)[output_of(value)]


def _branched(value: Value, operands: list[Operand]) -> Operand:
    branches = value.eqn.params["branches"]  # type: ignore[union-attr]
    found = [_body(branch, filled(value, operands)[1:])[output_of(value)] for branch in branches]
    return tuple(functools.reduce(met, axes) for axes in zip(*found, strict=True))


_MORE_POINTWISE = """
    acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cosh clz complex conj copy_p digamma imag lgamma mesh_cast
    population_count pvary sharding_constraint shift_left shift_right_arithmetic shift_right_logical sinh
""".split()
_RULES: dict[str, Callable[[Value, list[Operand]], Operand]] = {
    **dict.fromkeys([*POINTWISE, *_MORE_POINTWISE], pointwise),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), kept),
    **dict.fromkeys(("sort", "top_k", "approx_top_k"), in_sorted),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add", "dynamic_update_slice"), updated),
    **dict.fromkeys(("conv_general_dilated", "jaxviz_convolution"), convolved),
    "broadcast_in_dim": broadcast,
    "concatenate": concatenated,
    "cond": _branched,
    "dot_general": multiplied,
    "dynamic_slice": windows_of_one,
    "fft": transformed,
    "gather": gathered,
    "pad": padded,
    "reshape": reshaped,
    "rev": in_reverse,
    "scan": _scanned,
    "slice": sliced,
    "split": split,
    "squeeze": squeezed,
    "transpose": transposed,
    "while": _repeated,
}
