"""Distinguish activations from other nonlinear functions in a traced function, by what uses their results.

An activation is a function of one number, applied to each unit, whose result the network passes on to its next layer.
Gates and normalizations, which only multiply what is passed on, are not activations; nor are attention's softmax,
preprocessing of the images before the first layer, and link functions and losses after the last.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import jaxprs_in_params

from jaxviz.program._trace import KINDS, MOVES, POINTWISE, Program, Value, call_body, is_key

Fate = Literal["layer", "output", "part", "gate", "factor"]
"""How a value is used: a layer reads it; the function returns it; another function of the same input contains it; it
scales something else that is passed on; it is one of two factors, neither of which gates the other."""

SAME = ("convert_element_type", "broadcast_in_dim", "copy", "reshape", "pvary", "sharding_constraint", "name")
_LIKE = POINTWISE | {*SAME, "squeeze", "shard_map", "reshard", "logistic", "integer_pow", "custom_jvp_call"}
_NO_GRADIENT = ("gt", "ge", "lt", "le", "eq", "ne", "sign", "is_finite", "stop_gradient", "argmax", "argmin")
_RESHAPES = {*MOVES, *SAME, "pad", "slice", "dynamic_slice", "concatenate", "rev", "gather", "shard_map"}
_SMOOTH = ("tanh", "logistic", "erf", "erfc", "exp", "exp2", "expm1", "log", "log1p", "sin", "cos", "atan2")
_PIECEWISE = ("max", "min", "clamp", "select_n", "abs", "sign")
_POWERS = ("square", "integer_pow", "pow", "sqrt", "rsqrt", "cbrt", "mul", "div")
_MOST_COLORS = 4


def through(value: Value) -> Value:
    """Return the value that this one only converts or broadcasts."""
    while value.op in SAME:
        value = value.inputs[0]
    return value


def number(value: Value) -> Any:
    """Return a value's constant if it is known and no random key, else None."""
    constant = through(value).constant
    return None if constant is None or isinstance(constant, Tracer) or is_key(value.aval) else np.asarray(constant)


def _is_one_number(value: Value) -> bool:
    constant = number(value)
    return constant is not None and constant.ndim == 0


class Flow:
    """What each value of a program depends on, and how it is used.

    `within_loop` is True for the body of a loop, whose inputs come from layers and whose results go to layers.
    """

    def __init__(self, program: Program, *, within_loop: bool = False):
        self.program, self.within_loop = program, within_loop
        self.outputs = {id(value) for value in program.outputs}
        self._leaves: dict[int, int] = {id(value): 1 << i for i, value in enumerate(program.inputs) if value.varies}
        self._touched: set[int] = set()
        self._pixels = set(self._leaves)
        self._plain: set[int] = set()  # computed only from literals in the program
        self._origins: dict[int, Value] = {}
        for value in program.values:
            self._note(value)

    def _note(self, value: Value) -> None:
        key, operands = id(value), [x for x in value.inputs if x.varies]
        self._leaves[key] = functools.reduce(int.__or__, (self._leaves.get(id(x), 0) for x in value.inputs), 0)
        if all(id(x) in self._plain or _is_one_number(x) for x in value.inputs):
            self._plain.add(key)
        if operands and (self.is_layer(value) or any(id(x) in self._touched for x in operands)):
            self._touched.add(key)
        elif value.op in _LIKE | _RESHAPES | KINDS.keys() and any(id(x) in self._pixels for x in operands):
            self._pixels.add(key)
        if value.op in _LIKE and operands:
            origins = {id(self.origin(x)): self.origin(x) for x in self._of_data(operands)}
            if len(origins) == 1:
                self._origins[key] = next(iter(origins.values()))

    def _of_data(self, operands: list[Value]) -> list[Value]:
        """Return the operands except parameters, which also vary if a function is traced in all its arguments."""
        touched = [x for x in operands if self.is_touched(x)]
        if touched or len(operands) < 2:
            return touched or operands
        largest = max(operands, key=lambda x: x.aval.size)
        return [x for x in operands if self.share(x, largest) or x.aval.size == largest.aval.size]

    def is_layer(self, value: Value) -> bool:
        """Return whether a value is a convolution or a product, other than a resize: over positions, by literals."""
        if value.op not in KINDS or value.eqn is None:
            return False
        constants = [x for x in value.inputs if id(x) in self._plain]
        if value.op != "dot_general" or len(constants) != 1 or len(constants[0].aval.shape) != 2:
            return True
        side = 1 - value.inputs.index(constants[0])
        shape = value.inputs[side].aval.shape
        summed = value.eqn.params["dimension_numbers"][0][side]
        return len(shape) < 3 or len(summed) != 1 or shape[summed[0]] <= _MOST_COLORS

    def is_touched(self, value: Value) -> bool:
        """Return whether a value depends on a layer's output."""
        return id(value) in self._touched

    def is_pixels(self, value: Value) -> bool:
        """Return whether a value is the images: moved, resized, rescaled or clipped, but not yet read by a layer."""
        return not self.within_loop and id(value) in self._pixels

    def origin(self, value: Value) -> Value:
        """Return the value that this one is a pointwise function of."""
        return self._origins.get(id(value), value)

    def share(self, value: Value, other: Value) -> bool:
        """Return whether two values depend on a common input."""
        return bool(self._leaves.get(id(value), 0) & self._leaves.get(id(other), 0))

    def is_data(self, value: Value, beside: Value) -> bool:
        """Return whether a value comes from the images like `beside`: not a parameter, a mask or a constant."""
        return value.varies and self.share(value, beside) and (self.is_touched(value) or not self.is_touched(beside))

    def descendants(self, value: Value, *, past_layers: bool = True) -> set[int]:
        """Return the ids of all values that are computed from this one."""
        found, stack = {id(value)}, [value]
        while stack:
            for user in stack.pop().users:
                if id(user) not in found and (past_layers or not self.is_layer(user)):
                    found.add(id(user))
                    stack.append(user)
        return found

    def fates(self, value: Value, *, whole: bool = False) -> set[Fate]:
        """Return how a value is used, along all paths from it to a next layer or to the end.

        With `whole`, a function of the same input that contains it is followed to where that is passed on.
        """
        return _Walk(self, value, whole).run()

    def activations(self, relus: Iterable[Value]) -> list[str]:
        """Return one string for each activation that is not in `relus`: its operations, joined by +.

        Powers and logarithms of a ReLU, as in a squared ReLU, do not count.
        """
        known = {id(value) for value in relus}
        of_relu = set(known)
        found: dict[int, set[str]] = {}
        for value in self.program.values:
            data = [id(x) for x in value.inputs if x.varies]
            if value.op in _LIKE and data and of_relu.issuperset(data):
                of_relu.add(id(value))
            powered = id(value) in of_relu and value.op in (*_POWERS, "log", "log1p")
            if id(value) not in known and not powered and self._bends(value) and self._is_passed_on(value):
                found.setdefault(id(self.origin(value)), set()).add(value.op)
        return [_described(ops) for ops in found.values()]

    def _bends(self, value: Value) -> bool:
        """Return whether a value is a nonlinear pointwise function of a layer's output."""
        if not jnp.issubdtype(value.aval.dtype, jnp.floating) or self.origin(value) is value:
            return False
        if not (value.varies and (self.within_loop or self.is_touched(value))):
            return False
        data = [x for x in value.inputs if self.is_data(x, value)]
        match value.op:
            case "mul":
                return len(data) == 2
            case "div":
                return value.inputs[1] in data
            case "select_n":
                # A choice between values that do not depend on the input is flat: it passes no gradient.
                return value.inputs[0] in data and any(x.varies for x in value.inputs[1:])
            case "integer_pow":
                return bool(data) and value.eqn is not None and value.eqn.params["y"] != 1
        return bool(data) and value.op in (*_SMOOTH, *_PIECEWISE, *_POWERS)

    def _is_passed_on(self, value: Value) -> bool:
        fates = self.fates(value, whole=True)
        gated = value.op == "mul" or value.op == "expm1"  # as in GELU, SiLU and ELU, which are not link functions
        ends = {"layer", "factor"} | ({"output"} if self.within_loop or gated else set())
        return bool(fates & ends)


class _Walk:
    """A forward walk from a value: first through its pointwise functions, then through its other users."""

    def __init__(self, flow: Flow, value: Value, whole: bool):
        self.flow, self.start, self.whole = flow, value, whole
        self.fates: set[Fate] = set()
        self.near, self.far, self.seen = [value], [], {id(value)}

    @functools.cached_property
    def later(self) -> set[int]:
        return self.flow.descendants(self.start)

    def run(self) -> set[Fate]:
        while self.near or (self.far and "layer" not in self.fates):
            value = self.near.pop() if self.near else self.far.pop()
            if id(value) in self.flow.outputs:
                self.fates.add("output")
            for user in value.users:
                self._step(value, user)
        return self.fates

    def _go_on(self, user: Value) -> None:
        if id(user) not in self.seen:
            self.seen.add(id(user))
            own = self.flow.origin(user) is self.flow.origin(self.start)
            (self.near if own else self.far).append(user)

    def _step(self, value: Value, user: Value) -> None:
        flow = self.flow
        if user.op in _NO_GRADIENT or (user.op == "select_n" and user.inputs[0] is value):
            return
        others = [x for x in user.inputs if x is not value and flow.is_data(x, value) and id(x) not in self.later]
        same = bool(others) and all(flow.origin(x) is flow.origin(value) for x in others)
        if is_opaque(user) or (flow.is_layer(user) and not others and not self._is_squared(user)):
            self.fates.add("layer")
        elif same and flow.origin(user) is flow.origin(self.start) and not self.whole:
            self.fates.add("part")
        elif others and not same and (user.op in ("mul", "div") or user.op in KINDS):
            self._scale(value, user, others[0])
        else:
            self._go_on(user)

    def _is_squared(self, user: Value) -> bool:
        """Return whether this is a product whose factors both come from here, as in Gram matrices and attention."""
        return all(id(x) in self.later for x in user.inputs)

    def _scale(self, value: Value, user: Value, other: Value) -> None:
        """Record the role of a value that is multiplied by another one that does not come from it."""
        flow, squashed = self.flow, is_squashed(value)
        size, beside = through(value).aval.size, through(other).aval.size
        if user.op == "div" and user.inputs[1] is value:
            self.fates.add("gate")
        elif user.op in KINDS:
            self._choose(user, gate=squashed, signal=is_squashed(other))
        elif size != beside:
            self._choose(user, gate=size < beside, signal=size > beside)
        else:  # a gate if computed from what it scales, by layers as in attention, or by sums as in normalizations
            made = flow.descendants(other, past_layers=squashed)
            self._choose(user, gate=id(value) in made, signal=is_squashed(other))

    def _choose(self, user: Value, *, gate: bool, signal: bool) -> None:
        if gate:
            self.fates.add("gate")
        elif signal:
            self._go_on(user)
        else:
            self.fates.add("factor")


def is_opaque(value: Value) -> bool:
    """Return whether a value results from a loop, a branch or another operation with its own jaxpr."""
    return (
        value.eqn is not None and call_body(value.eqn) is None and any(True for _ in jaxprs_in_params(value.eqn.params))
    )


def is_squashed(value: Value) -> bool:
    """Return whether a value is bounded from both sides whatever the input, such as a sigmoid or a softmax."""
    value = through(value)
    match value.op:
        case "logistic" | "tanh" | "erf" | "erfc" | "sin" | "cos" | "clamp":
            return True
        case "max" | "min":
            bounded = [x for x in value.inputs if through(x).op == ("min" if value.op == "max" else "max")]
            return any(_has_constant(x) for x in (value, *map(through, bounded[:1]))) and bool(bounded)
        case "div" if _holds(value.inputs[1], value.inputs[0]):
            return True
        case "mul" | "div" | "add" | "sub" | "neg" | "transpose" | "select_n" | "squeeze" | "concatenate" | "slice":
            varying = [x for x in value.inputs if x.varies and not _is_bool(x)]
            return bool(varying) and all(map(is_squashed, varying)) and (value.op != "div" or value.inputs[0].varies)
    return False


def _is_bool(value: Value) -> bool:
    return value.aval.dtype == bool


def _has_constant(value: Value) -> bool:
    return any(not x.varies for x in value.inputs)


def _holds(denominator: Value, numerator: Value) -> bool:
    """Return whether a denominator sums over the numerator, or adds to it, as in softmax and explicit sigmoids."""
    total, part = through(denominator), through(numerator)
    if total.op == "reduce_sum":
        return through(total.inputs[0]) is part
    terms = [through(x) for x in total.inputs] if total.op == "add" else []
    return part in terms or (not part.varies and any(x.op in ("exp", "exp2") for x in terms))


def _described(ops: set[str]) -> str:
    for kind in (_SMOOTH, _PIECEWISE, _POWERS):
        if chosen := sorted(ops.intersection(kind)):
            return "+".join(chosen)
    return "+".join(sorted(ops))


def shift(value: Value) -> float:
    """Return the constant that has been added to a value, before any scaling; 0 if there is none."""
    while value.inputs:
        value = through(value)
        constants = [x for x in value.inputs if not x.varies]
        varying = [x for x in value.inputs if x.varies]
        if value.op in ("add", "sub") and constants:
            by = number(constants[0])
            return float(by) if by is not None and by.ndim == 0 else 0.0
        if value.op not in ("mul", "div", "neg", "min", "max") or len(varying) != 1:
            return 0.0
        value = varying[0]
    return 0.0


def falls(value: Value) -> bool:
    """Return whether a value is a constant minus a varying value, as in 1 - x."""
    value = through(value)
    return value.op == "neg" or (value.op == "sub" and not value.inputs[0].varies)


def users_of(value: Value) -> Iterator[Value]:
    """Yield the users of a value, skipping those that only convert or broadcast it."""
    for user in value.users:
        yield from users_of(user) if user.op in SAME else [user]
