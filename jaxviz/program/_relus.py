"""Find every ReLU in a function, in the common spellings."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxviz.program._flow import Flow, falls, number, shift, through, users_of
from jaxviz.program._trace import Program, Value, loop_bodies

CONSTANTS = ("constant", "input")  # a learned slope is an input


class Relu(NamedTuple):
    """One ReLU: its output, and the equation where its derivative can be swapped."""

    value: Value
    swap: Value
    operand: int  # which operand of that equation is the ReLU's input
    spelling: Literal["relu", "clamp", "leaky_relu"]  # clamp: one equation that also bounds from above
    mixed: bool = False  # is it passed on, and also part of another function of its input?


def find_relus(program: Program, flow: Flow | None = None) -> list[Relu]:
    """Return the ReLUs of a traced function that are activations, in forward order.

    `max(x, 0)` is not a ReLU where it is part of another function of `x` (CELU, PReLU) or multiplies something else
    (gates, variances); if it is bounded and its input is shifted by a constant (a hard sigmoid); or if it is applied to
    the images before the first layer, or to the scores after the last (hinge losses).

    Inside a function with a custom derivative, it counts only if the function returns nothing else (as in
    `jax.nn.relu`): the maximum inside softplus is not a ReLU, and the custom derivative must survive.
    """
    flow = flow or Flow(program)
    found = [relu for relu in _candidates(program) if _is_returned(relu)]
    fates = [flow.fates(relu.value) for relu in found]
    return [
        relu._replace(mixed="part" in fate)
        for relu, fate in zip(found, fates, strict=True)
        if fate & {"layer", "output"} and not _is_elsewhere(relu, flow, passed="layer" in fate)
    ]


def relus_in_loops(program: Program) -> Iterator[str]:
    """Yield the kind of loop or branch around each ReLU that is inside one."""
    for loop, body in loop_bodies(program):
        yield from (loop for _ in find_relus(body, Flow(body, within_loop=True)))


def _candidates(program: Program) -> Iterator[Relu]:
    for value in program.values:
        if value.varies and jnp.issubdtype(value.aval.dtype, jnp.floating) and (match := _match(value)):
            yield Relu(_bounded(value), value, *match)


def _is_returned(relu: Relu) -> bool:
    rule_at = relu.swap.rule_at
    return rule_at is None or len(relu.value.home[0]) <= len(rule_at)


def _is_elsewhere(relu: Relu, flow: Flow, *, passed: bool) -> bool:
    """Return whether this is a hard sigmoid, clips the images before the first layer, or is a margin after the last."""
    x = relu.swap.inputs[relu.operand]
    shifted = shift(x) != 0
    bounded = relu.spelling == "clamp" or relu.value is not relu.swap or _is_bounded(x)
    if passed or flow.within_loop:
        return (bounded and shifted) or (flow.is_pixels(x) and (bounded or not shifted))
    # An output: a margin, as in a hinge loss, is one number per image, or decreasing, or a difference of scores.
    start = flow.origin(x)
    alone = len(x.aval.shape) < 2 and not flow.is_layer(start)
    between = start.op == "sub" and any(map(shift, start.inputs))
    margin = (shifted and (falls(x) or start.op == "sub")) or between
    return (bounded and shifted) or (flow.is_touched(x) and (margin or alone))


def _match(value: Value) -> tuple[int, Literal["relu", "clamp", "leaky_relu"]] | None:
    """Return which operand of this equation is a ReLU's input, and the ReLU's spelling."""
    inputs = value.inputs
    match value.op:
        case "max":
            for i, x in enumerate(inputs):
                other = inputs[1 - i]
                if _is_zero(other) and not _is_variance(value):
                    return i, "relu"
                if _is_scaled(other, x):
                    return i, "leaky_relu"
        case "clamp" if _is_zero(inputs[0]):
            return 1, "clamp"
        case "select_n" if len(inputs) == 3:
            condition, no, yes = inputs
            for i, (x, other) in ((2, (yes, no)), (1, (no, yes))):
                if _is_sign_test(condition, x, positive=i == 2):
                    return (i, "relu") if _is_zero(other) else (i, "leaky_relu") if _is_scaled(other, x) else None
        case "mul":
            for i, x in enumerate(inputs):
                if _is_sign_test(through(inputs[1 - i]), x, positive=True):
                    return i, "relu"
    return None


def _bounded(value: Value) -> Value:
    """Return the minimum around a maximum, as in relu6, since both together are the activation; else the value."""
    if len(value.users) == 1 and _is_bounded(value.users[0]):
        return value.users[0]
    return value


def _is_bounded(value: Value) -> bool:
    return value.op == "min" and any(not operand.varies for operand in value.inputs)


def _is_zero(value: Value) -> bool:
    constant = number(value)
    return constant is not None and not constant.any()


def _is_scaled(value: Value, x: Value) -> bool:
    """Return whether a value is a constant times `x`: the other branch of a leaky ReLU."""
    if value.op != "mul" or x not in value.inputs:
        return False
    slope = value.inputs[value.inputs[0] is x]
    return slope is not x and through(slope).op in CONSTANTS


def _is_sign_test(value: Value, x: Value, *, positive: bool) -> bool:
    """Return whether a value tests for positive (or negative) `x`; zero may be on either side."""
    if value.op not in ("gt", "ge", "lt", "le"):
        return False
    left, right = value.inputs
    above = value.op in ("gt", "ge")
    if left is x and _is_zero(right):
        return above == positive
    return right is x and _is_zero(left) and above != positive


def _is_variance(maximum: Value) -> bool:
    """Return whether a maximum keeps a normalization's variance from being negative: its root is taken next.

    If it is all that a function with a custom derivative returns, as in `jax.nn.relu`, it is an activation regardless.
    """
    if maximum.rule_at is not None and len(maximum.home[0]) <= len(maximum.rule_at):
        return False
    later = list(users_of(maximum))
    later += [user for value in later if value.op == "add" for user in users_of(value)]
    return any(value.op in ("rsqrt", "sqrt") or (value.op == "pow" and _is_root(value)) for value in later)


def _is_root(power: Value) -> bool:
    exponent = number(power.inputs[1])
    return exponent is None or bool((exponent < 1).all())
