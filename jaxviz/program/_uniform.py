"""Axes along which a value is constant whatever the inputs: means and gates that are broadcast."""

import numpy as np

from jaxviz.program import _reach_rules as rules
from jaxviz.program._constants import Constants
from jaxviz.program._reach_windows import Call
from jaxviz.program._trace import Value

Axes = frozenset[int]


class Uniform:
    """Finds the axes along which a program's values are constant. An axis of length 1 always counts."""

    def __init__(self, constants: Constants):
        self._constants = constants
        self._known: dict[int, Axes] = {}

    def operands(self, call: Call) -> list[Axes]:
        """Return these axes for each operand of an equation, as axes of the result.

        A product's result has the axes of all operands: each operand is constant along those that it lacks.
        """
        if call.value.op == "dot_general":
            return [_in_product(call, i, self.of(x)) for i, x in enumerate(call.value.inputs)]
        everywhere = frozenset(range(len(call.result)))
        joined = {call.params["dimension"]} if call.value.op == "concatenate" else set()
        return [(self.of(x) if x.aval.shape else everywhere) - joined for x in call.value.inputs]

    def of(self, value: Value) -> Axes:
        """Return the axes along which a value is constant."""
        if id(value) not in self._known:
            stack = [value]
            while stack:
                waiting = [x for x in stack[-1].inputs if id(x) not in self._known]
                stack += waiting
                if not waiting:
                    current = stack.pop()
                    shape = current.aval.shape
                    single = frozenset(axis for axis, n in enumerate(shape) if n == 1 or 0 in shape)
                    self._known[id(current)] = single if 0 in shape else self._found(current) | single
        return self._known[id(value)]

    def _found(self, value: Value) -> Axes:
        if value.eqn is None:
            known = self._constants.array(value)
            return frozenset() if known is None or not value.aval.shape else _same(np.asarray(known))
        call = Call(value, self._constants)
        if value.op == "dot_general":
            return self._product(call)
        if value.op in rules.ELEMENTWISE or value.op == "concatenate":
            return frozenset(range(len(call.result))).intersection(*self.operands(call))
        return _moved(call, self._known[id(value.inputs[0])] if value.inputs else frozenset(range(len(call.result))))

    def _product(self, call: Call) -> Axes:
        """Follow the axes that a product keeps, and those of a constant matrix that broadcasts a single position."""
        operands, (contracting, _) = call.value.inputs, call.params["dimension_numbers"]
        if all(x.varies for x in operands) and contracting[0]:
            return frozenset()
        found = []
        for i, x in enumerate(operands):
            axes = self.of(x)
            if not x.varies and all(x.aval.shape[a] == 1 for a in contracting[i]):
                known = self._constants.array(x)
                axes |= frozenset() if known is None else _same(np.asarray(known))
            found.append(_in_product(call, i, axes))
        return frozenset.intersection(*found)


def _same(array: np.ndarray) -> Axes:
    return frozenset(a for a, n in enumerate(array.shape) if n and bool((array == array.take([0], a)).all()))


def _moved(call: Call, axes: Axes) -> Axes:
    """Return these axes for the result of an equation whose operand is constant along `axes`."""
    op, p = call.value.op, call.params
    if op in rules.WINDOWS:
        return _windowed(call, axes)
    if op == "broadcast_in_dim":
        places = p["broadcast_dimensions"]
        return frozenset(a for a in range(len(call.result)) if a not in places or places.index(a) in axes)
    if op == "transpose":
        return frozenset(i for i, a in enumerate(p["permutation"]) if a in axes)
    if op == "reshape":
        return _regrouped(call, axes)
    if op == "squeeze" or op in rules.REDUCTIONS:
        gone = [a % len(call.shapes[0]) for a in p["dimensions"]] if op == "squeeze" else rules.reduced_axes(call)
        left = [a for a in range(len(call.shapes[0])) if a not in gone]
        return frozenset(i for i, a in enumerate(left) if a in axes)
    if op in ("rev", "split"):
        return axes
    if op in rules.ACCUMULATIONS:
        return axes - {p["axis"]}
    if op in rules.MIXTURES:
        return axes - {*rules.mixed_axes(call)}
    if op in ("gather", "dynamic_slice") and call.value.inputs[0].varies:
        return _picked(call, axes)
    return frozenset()


def _windowed(call: Call, axes: Axes) -> Axes:
    """Keep an axis if no window leaves the operand: results at a border differ."""
    numbers = rules.convolution_params(call)["dimension_numbers"] if call.value.op in rules.CONVOLUTIONS else None
    kept = {numbers.out_spec[0]} if numbers and numbers.lhs_spec[0] in axes else set()
    for window in rules.WINDOWS[call.value.op](call):
        out = numbers.out_spec[numbers.lhs_spec.index(window.axis)] if numbers else window.axis
        last = (call.result[out] - 1) * window.stride + (window.size - 1) * window.dilation - window.low
        if window.axis in axes and window.low <= 0 and window.base == 1 and last < call.shapes[0][window.axis]:
            kept.add(out)
    return frozenset(kept)


def _regrouped(call: Call, axes: Axes) -> Axes:
    kept = set()
    for old, new in rules.regrouped(call.shapes[0], call.result):
        longer = [a for a in old if call.shapes[0][a] > 1]
        if all(a in axes for a in longer):
            kept.update(new)
    return frozenset(kept)


def _picked(call: Call, axes: Axes) -> Axes:
    """Number the positions that may differ, gather the numbers, and find the axes along which they are constant."""
    shape = call.shapes[0]
    own = [1 if a in axes else n for a, n in enumerate(shape)]
    numbers = np.broadcast_to(np.arange(np.prod(own), dtype=np.int32).reshape(own), shape)
    fill = {"fill_value": -1} if call.value.op == "gather" else {}
    return _same(rules.bound(call, [numbers, *rules.indices_of(call, range(1, len(call.shapes)))], **fill))


def _in_product(call: Call, operand: int, axes: Axes) -> Axes:
    """Return an operand's axes as axes of a product's result, plus those that the operand lacks."""
    contracting, batch = call.params["dimension_numbers"]
    places: list[int | None] = [*batch[operand]]
    for i, shape in enumerate(call.shapes):
        free = [a for a in range(len(shape)) if a not in (*contracting[i], *batch[i])]
        places += free if i == operand else [None] * len(free)
    return frozenset(i for i, a in enumerate(places) if a is None or a in axes)
