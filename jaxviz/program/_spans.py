"""Receptive fields in closed form: size, stride and offset, for networks of just windows, paddings and slices."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from jaxviz.program import _reach_rules as rules
from jaxviz.program._constants import Constants
from jaxviz.program._reach import Kept, ancestors
from jaxviz.program._reach_windows import Call
from jaxviz.program._trace import Program, Value


class Span(NamedTuple):
    """Along one image axis: the unit at index i of array axis `axis` sees `size` pixels from `start + i * stride`."""

    axis: int
    size: Fraction
    stride: Fraction
    start: Fraction


def spans_of(program: Program, value: Value, kept: Kept, plane: int) -> Span | None:
    """Return the closed form of a value's receptive field along rows (0) or columns (1); None if there is none."""
    constants, needed, one = Constants(program), ancestors(value), Fraction(1)
    known: dict[int, Span | None] = {
        id(x): Span(1 + plane, one, one, Fraction(0)) for x in program.inputs if x.varies and len(x.aval.shape) > 2
    }
    for current in program.values:
        if id(current) in needed:
            flags = kept[id(current)]
            call = Call(current, constants)
            counted = [i for i, x in enumerate(current.inputs) if x.varies and flags[i][plane]]
            known[id(current)] = _spans(call, {i: known[id(current.inputs[i])] for i in counted})
    return known[id(value)]


def _spans(call: Call, operands: dict[int, Span | None]) -> Span | None:
    if 0 in call.result:
        return None
    if call.value.op == "concatenate":
        return _concatenated(call, operands)
    return _joined([span and _passed(call, i, span) for i, span in operands.items()])


def _joined(found: Sequence[Span | None]) -> Span | None:
    """Return the smallest span that contains all, if they have the same axis and stride."""
    spans = [span for span in found if span]
    if len(spans) < len(found) or len({(span.axis, span.stride) for span in spans}) != 1:
        return None
    start = min(span.start for span in spans)
    return spans[0]._replace(start=start, size=max(span.start + span.size for span in spans) - start)


def _passed(call: Call, operand: int, span: Span) -> Span | None:
    """Return an operand's span as seen from an equation's result; None if no closed form is known."""
    op, axis, shape = call.value.op, span.axis, call.shapes[operand]
    if op in rules.ELEMENTWISE:
        return span if shape[axis] == call.result[axis] else None
    if op in rules.WINDOWS:
        return _windowed(call, span) if operand == 0 else None
    if op in rules.REDUCTIONS:
        gone = rules.reduced_axes(call)
        return None if axis in gone else span._replace(axis=axis - sum(a < axis for a in gone))
    if op == "reshape":
        return _reshaped(call, span, shape)
    if op == "dot_general":
        return _multiplied(call, span, operand)
    if op in rules.MIXTURES:
        return None if axis in rules.mixed_axes(call) else span
    return _MOVES[op](call, span) if op in _MOVES else None


def _windowed(call: Call, span: Span) -> Span | None:
    convolution = call.value.op in rules.CONVOLUTIONS
    numbers = rules.convolution_params(call)["dimension_numbers"] if convolution else None
    for window in rules.WINDOWS[call.value.op](call):
        if window.axis == span.axis:
            step = span.stride / window.base
            reach = (window.size - 1) * window.dilation
            size, start = span.size + reach * abs(step), span.start - window.low * step + min(0, reach * step)
            axis = numbers.out_spec[numbers.lhs_spec.index(span.axis)] if numbers else span.axis
            return Span(axis, size, step * window.stride, start)
    return None if convolution else span


def _transposed(call: Call, span: Span) -> Span:
    return span._replace(axis=call.params["permutation"].index(span.axis))


def _broadcast(call: Call, span: Span) -> Span | None:
    axis = call.params["broadcast_dimensions"][span.axis]
    return span._replace(axis=axis) if call.shapes[0][span.axis] == call.result[axis] else None


def _squeezed(call: Call, span: Span) -> Span | None:
    gone = [a % len(call.shapes[0]) for a in call.params["dimensions"]]
    return None if span.axis in gone else span._replace(axis=span.axis - sum(a < span.axis for a in gone))


def _reversed(call: Call, span: Span) -> Span:
    if span.axis not in call.params["dimensions"]:
        return span
    last = call.shapes[0][span.axis] - 1
    return span._replace(start=span.start + last * span.stride, stride=-span.stride)


def _split(call: Call, span: Span) -> Span:
    if call.params["axis"] != span.axis:
        return span
    before = sum(call.params["sizes"][: call.constants.output(call.value)])
    return span._replace(start=span.start + before * span.stride)


_MOVES: dict[str, Callable[[Call, Span], Span | None]] = {
    "transpose": _transposed,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeezed,
    "rev": _reversed,
    "split": _split,
}


def _concatenated(call: Call, operands: dict[int, Span | None]) -> Span | None:
    """Along rows or columns, follow the part that makes up most of the result: the others are reflected or wrapped."""
    axis = call.params["dimension"]
    operands = {i: span for i, span in operands.items() if 0 not in call.shapes[i]}
    spans = [span for span in operands.values() if span]
    if len(spans) < len(operands) or any(span.axis != axis for span in spans):
        return _joined(list(operands.values()))
    lengths = [shape[axis] for shape in call.shapes]
    largest = max(operands, key=lambda i: lengths[i])
    span = operands[largest]
    assert span is not None
    if 2 * lengths[largest] <= sum(lengths):
        return None
    return span._replace(start=span.start - sum(lengths[:largest]) * span.stride)


def _reshaped(call: Call, span: Span, before: Sequence[int]) -> Span | None:
    """Follow an axis that a reshape keeps; one that it merges or splits loses its positions."""
    for old, new in rules.regrouped(before, call.result):
        if span.axis in old:
            longer = [a for a in old if before[a] > 1], [a for a in new if call.result[a] > 1]
            if longer[0] == [span.axis] and len(longer[1]) == 1:
                return span._replace(axis=longer[1][0])
    return None


def _multiplied(call: Call, span: Span, operand: int) -> Span | None:
    contracting, batch = call.params["dimension_numbers"]
    if span.axis in contracting[operand]:
        return None
    if span.axis in batch[operand]:
        return span._replace(axis=batch[operand].index(span.axis))
    free = [[a for a in range(len(s)) if a not in (*contracting[i], *batch[i])] for i, s in enumerate(call.shapes)]
    ahead = len(batch[0]) + (len(free[0]) if operand == 1 else 0)
    return span._replace(axis=ahead + free[operand].index(span.axis))
