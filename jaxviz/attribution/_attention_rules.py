"""AttnLRP: layer-wise relevance propagation through products of activations, normalizations and gates.

As relevance is a value times a modified gradient of it, each rule changes one operation's gradient. A product of two
activations, such as queries and keys or attention weights and values, divides its relevance equally: the gradient is
halved. Division by a deviation, as in LayerNorm and RMSNorm, passes all relevance on, as does a smooth activation that
is its input times a gate, such as GELU and SiLU: the deviation or gate is held fixed. A softmax is linearized at its
input, which is its ordinary gradient.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxviz.program._flow import Flow, is_squashed
from jaxviz.program._run import Action
from jaxviz.program._softmax import softmax_axes
from jaxviz.program._trace import Path, Program, Value

_LINEAR = ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "copy", "name", "neg", "transpose")


def attention_actions(program: Program) -> dict[Path, Action]:
    """Return the actions for the operations of a program that have their own rule."""
    flow, actions = Flow(program), {}
    for value in program.values:
        if value.op in ("dot_general", "mul", "div") and sum(operand.varies for operand in value.inputs) == 2:
            held = _held(value, flow)
            if held is not None:
                actions[value.path] = _halved if held == () else _holding(value, *held)
    return actions


def _held(value: Value, flow: Flow) -> tuple[int, ...] | None:
    """Return which operand is held fixed; () if both share, None if the gradient is unchanged."""
    if softmax_axes(value) is not None:
        return None
    if value.op == "div":
        return (1,)
    if value.op == "dot_general":
        return ()
    scales = [i for i, operand in enumerate(value.inputs) if _is_scale(operand)]
    if len(scales) == 1:
        return (scales[0],)
    own = flow.origin(value.inputs[0]) is flow.origin(value.inputs[1])
    gates = [i for i, operand in enumerate(value.inputs) if is_squashed(operand)]
    return (gates[0],) if own and len(gates) == 1 else ()


def _is_scale(value: Value) -> bool:
    """Return whether a value is one over a deviation: `rsqrt(x)` or `1 / sqrt(x)`, possibly times constants."""
    while value.op in _LINEAR or (value.op == "mul" and sum(operand.varies for operand in value.inputs) == 1):
        value = next(operand for operand in value.inputs if operand.varies)
    if value.op == "integer_pow" and value.eqn is not None:
        return value.eqn.params["y"] < 0
    return value.op == "rsqrt" or (value.op == "div" and not value.inputs[0].varies and _is_root(value.inputs[1]))


def _is_root(value: Value) -> bool:
    return any(step.op == "sqrt" for step in _along(value))


def _along(value: Value) -> Iterator[Value]:
    """Yield a value and those it is derived from by adding constants, moving and converting."""
    while True:
        yield value
        varying = [operand for operand in value.inputs if operand.varies]
        if len(varying) != 1 or value.op not in (*_LINEAR, "add", "max", "mul"):
            return
        value = varying[0]


def _halved(operands: list[Any], run: Callable[[], list[Any]]) -> tuple[list[Any], dict]:
    halves = [result / 2 for result in run()]
    return [half + jax.lax.stop_gradient(half) for half in halves], {}


def _holding(value: Value, held: int) -> Action:
    def action(operands: list[Any], _: Callable[[], list[Any]]) -> tuple[list[Any], dict]:
        assert value.eqn is not None
        given = [jax.lax.stop_gradient(x) if i == held else x for i, x in enumerate(operands)]
        return [value.eqn.primitive.bind(*given, **value.eqn.params)], {}

    return action
