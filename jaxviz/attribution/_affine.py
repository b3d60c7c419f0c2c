"""Affine steps with constants before or after a layer, such as BatchNorm in inference, are folded into the layer.

Layer-wise relevance propagation depends on how a network is written: it distributes relevance differently over a
convolution with BatchNorm and over the single equivalent convolution, unless the first is folded into the second.
"""

import math
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxviz._types import at_least_float32
from jaxviz.program._run import bind
from jaxviz.program._trace import MOVES, Program, Value

_SAME = ("convert_element_type", "copy", "name", "reduce_precision", "sharding_constraint")


class Affine(NamedTuple):
    """The constants by which a layer's product is multiplied and that are then added, broadcastable to its shape."""

    scale: Array
    offset: Array


def is_affine(value: Value) -> bool:
    """Return whether a value scales or shifts its one varying operand by constants, or just converts or reorders it."""
    varying = [operand.varies for operand in value.inputs]
    if sum(varying) != 1 or value.rule_at is not None or not jnp.issubdtype(value.aval.dtype, jnp.floating):
        return False
    if value.op in MOVES:
        return math.prod(value.aval.shape) == math.prod(value.inputs[0].aval.shape)
    return value.op in ("add", "sub", "mul", "neg", *_SAME) or (value.op == "div" and varying[0])


def used(program: Program) -> set[Value]:
    """Return the values that the program's outputs depend on; a network may compute others that are never used."""
    seen: set[Value] = set()
    stack = list(program.outputs)
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            stack += value.inputs
    return seen


def steps_after(layer: Value, live: set[Value], outputs: Sequence[Value]) -> list[Value]:
    """Return the affine steps that are a product's only use, in forward order."""
    steps: list[Value] = []
    value = layer
    while value not in outputs:
        users = [user for user in value.users if user in live]
        if len(users) != 1 or not is_affine(users[0]):
            break
        value = users[0]
        steps.append(value)
    return steps


def steps_before(layer: Value, owned: Container[Value]) -> list[Value]:
    """Return the affine steps leading to a layer's input, in forward order, except those that an earlier one owns."""
    steps: list[Value] = []
    value = _varying(layer)
    while value not in owned and (is_affine(value) or (value.op == "pad" and value.inputs[0].varies)):
        steps.append(value)
        value = _varying(value)
    return steps[::-1]


def constants(program: Program, args: Any) -> Callable[[Value], Any]:
    """Return a function that computes values that do not depend on the images, each once."""
    known = dict(zip(program.inputs, jax.tree.leaves(args), strict=True))
    made: dict[tuple[int, ...], list[Value]] = {}
    for value in program.values:
        made.setdefault(value.path, []).append(value)

    def read(value: Value) -> Any:
        if value.op == "constant" and value.eqn is None:
            return value.constant
        if value not in known:
            assert value.eqn is not None
            results, _ = bind(value.eqn, [read(operand) for operand in value.inputs])
            known.update(zip(made[value.path], results, strict=True))
        return known[value]

    return read


def scale_and_offset(layer: Value, steps: Sequence[Value], read: Callable[[Value], Any]) -> Affine:
    """Return the scale and offset that the steps after a product amount to, at least in float32."""
    dtype = at_least_float32(layer.aval.dtype)
    scale, offset = jnp.ones((), dtype), jnp.zeros((), dtype)
    moves: list[Value] = []
    for step in steps:
        if step.op in MOVES:
            moves.append(step)
        elif step.op == "neg":
            scale, offset = -scale, -offset
        elif step.op not in _SAME:
            left = step.inputs[0].varies
            constant = _moved_back(read(step.inputs[1 if left else 0]), step, moves).astype(dtype)
            match step.op, left:
                case "add", _:
                    offset = offset + constant
                case "sub", True:
                    offset = offset - constant
                case "sub", False:
                    scale, offset = -scale, constant - offset
                case "mul", _:
                    scale, offset = scale * constant, offset * constant
                case _:
                    scale, offset = scale / constant, offset / constant
    return Affine(scale, offset)


def offset_before(steps: Sequence[Value], read: Callable[[Value], Any]) -> Array | None:
    """Return what the steps before a layer turn zero into, None if they add nothing."""
    if not any(step.op in ("add", "sub", "pad") for step in steps):
        return None
    start = _varying(steps[0]).aval
    value = jnp.zeros(start.shape, start.dtype)
    for step in steps:
        assert step.eqn is not None
        (value,), _ = bind(step.eqn, [value if operand.varies else read(operand) for operand in step.inputs])
    return value


def _varying(value: Value) -> Value:
    return next(operand for operand in value.inputs if operand.varies)


def _moved_back(constant: Any, step: Value, moves: Sequence[Value]) -> Array:
    """Return a step's constant with its axes as they were before some moves."""
    constant = jnp.asarray(constant)
    if not moves or not constant.ndim:
        return constant
    constant = jnp.broadcast_to(constant, step.aval.shape)
    for move in reversed(moves):
        if move.op == "transpose":
            assert move.eqn is not None
            constant = constant.transpose(np.argsort(move.eqn.params["permutation"]))
        else:
            constant = constant.reshape(move.inputs[0].aval.shape)
    return constant
