"""Which input pixels a unit sees, read from the jaxpr."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxviz._interpret import POINTWISE, Value, find, trace
from jaxviz._types import Net


class ReceptiveField(NamedTuple):
    """What the unit at row `i` sees: the rows from `offset[0] + i * stride[0]`, `size[0]` of them; columns likewise.

    Each is (rows, columns) in input pixels. The offset is negative where the first unit also sees padding. A unit that
    has no position, as in a dense layer, has stride 0 and sees the whole range.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]

    def window(self, position: tuple[int, int], image_size: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns that the unit at `position` sees of an image of this height and width.

        >>> ReceptiveField(size=(5, 5), stride=(2, 2), offset=(-1, -1)).window((0, 3), (8, 8))
        (slice(0, 4, None), slice(5, 8, None))
        """
        starts = [at * stride + first for at, stride, first in zip(position, self.stride, self.offset, strict=True)]
        rows, columns = (
            slice(max(start, 0), min(start + size, side))
            for start, size, side in zip(starts, self.size, image_size, strict=True)
        )
        return rows, columns


class _Span(NamedTuple):
    """Along one image axis: the unit at index i of array axis `axis` sees `size` pixels from `start + i * stride`."""

    axis: int  # -1: the unit has no position along this image axis
    size: int
    stride: int
    start: int


_Spans = tuple[_Span, _Span]


def receptive_field(net: Net, params: Any, images: Any, layer: str) -> ReceptiveField:
    """Return the exact window of input pixels that a unit of a layer can depend on.

    Read from the network's convolutions, pools, paddings and slices; nothing is run. Where a reshape splits rows or
    columns, or merges them with another axis, it is the whole image.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters, or their shapes.
        images: `(n, h, w, 3)`, or its shape.
        layer: a name that `layers` lists.

    Raises:
        ValueError: for a layer that is unknown or does not depend on the images, and for a network that moves pixels
            in a way that is no convolution, pool, padding, slice or reduction.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     x = jax.lax.conv_general_dilated(
        ...         images, params, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"))
        ...     return jax.nn.relu(x)
        >>> print(jaxviz.receptive_field(net, jnp.ones((3, 3, 3, 8)), jnp.ones((1, 9, 9, 3)), "relu_0"))
        ReceptiveField(size=(3, 3), stride=(2, 2), offset=(-1, -1))

    Araujo, Norris & Sim 2019, Computing Receptive Fields of Convolutional Neural Networks.
    """
    program = trace(net, params, images)
    value = find(program, [layer])[layer]
    rows, columns = _spans_of(value, images.shape[1:3])
    return ReceptiveField(*((getattr(rows, f), getattr(columns, f)) for f in ("size", "stride", "start")))


def _spans_of(value: Value, image_size: Sequence[int]) -> _Spans:
    """Return the spans of a value, working through what it is made from without recursion: networks are deep."""
    known: dict[int, _Spans] = {}
    stack = [value]
    while stack:
        current = stack[-1]
        waiting = [operand for operand in current.inputs if operand.varies and id(operand) not in known]
        if waiting:
            stack += waiting
            continue
        known[id(stack.pop())] = _spans(current, known, image_size)
    return known[id(value)]


def _spans(value: Value, known: dict[int, _Spans], image_size: Sequence[int]) -> _Spans:
    if value.op == "input" and value.varies:
        return _Span(1, 1, 1, 0), _Span(2, 1, 1, 0)
    sources = [(i, operand) for i, operand in enumerate(value.inputs) if operand.varies]
    if not sources:
        raise ValueError("this layer does not depend on the images")
    passed = [
        tuple(_passed(value, i, span, n) for span, n in zip(known[id(x)], image_size, strict=True)) for i, x in sources
    ]
    shape = value.aval.shape
    return _union([spans[0] for spans in passed], shape), _union([spans[1] for spans in passed], shape)


def _union(spans: list[_Span], shape: Sequence[int]) -> _Span:
    """Return the smallest span that holds all; branches that differ in stride meet only where position is lost."""
    if any(span.axis < 0 for span in spans):  # of the others, then, what all positions see
        spans = [
            _anywhere(span._replace(size=span.size + (shape[span.axis] - 1) * span.stride)) if span.axis >= 0 else span
            for span in spans
        ]
    first = spans[0]
    if any((span.axis, span.stride) != (first.axis, first.stride) for span in spans):
        raise ValueError("branches of different strides are added here: their units see no common window")
    start = min(span.start for span in spans)
    return first._replace(start=start, size=max(span.start + span.size for span in spans) - start)


def _passed(value: Value, operand: int, span: _Span, length: int) -> _Span:
    """Return what one operand's span along one image axis becomes in the result of an equation."""
    if span.axis < 0:
        return span
    assert value.eqn is not None
    params, shape, axis = value.eqn.params, value.inputs[operand].aval.shape, span.axis
    whole = _Span(-1, length, 0, 0)
    rule = _RULES.get(value.op)
    if value.op in POINTWISE:
        return _anywhere(span) if shape and shape[axis] == 1 < value.aval.shape[axis] else span
    if rule is not None:
        return rule(span, params | {"kernel": value.inputs[-1].aval.shape, "operand": shape}, operand)
    if value.op == "reshape":
        return _reshaped(span, shape, value.aval.shape, whole)
    if value.op.startswith(("reduce_", "arg")) and "axes" in params:
        return whole if axis in params["axes"] else span._replace(axis=axis - sum(a < axis for a in params["axes"]))
    if value.op == "dot_general":
        return _multiplied(span, value, operand, whole)
    raise ValueError(
        f"receptive_field cannot follow `{value.op}`: it knows convolutions, pools, paddings, slices, reductions and "
        "functions of single values"
    )


def _windowed(span: _Span, window: int, stride: int, dilation: int, low: int) -> _Span:
    reach = (window - 1) * dilation
    return span._replace(
        size=span.size + reach * span.stride, stride=span.stride * stride, start=span.start - low * span.stride
    )


def _convolved(span: _Span, params: dict[str, Any], operand: int) -> _Span:
    numbers = params["dimension_numbers"]
    i = numbers.lhs_spec.index(span.axis) - 2
    if operand != 0 or i < 0 or params["lhs_dilation"][i] != 1:
        raise ValueError("receptive_field cannot follow a transposed convolution, or one whose kernel is computed")
    window = params["kernel"][numbers.rhs_spec[2 + i]]
    moved = _windowed(span, window, params["window_strides"][i], params["rhs_dilation"][i], params["padding"][i][0])
    return moved._replace(axis=numbers.out_spec[2 + i])


def _pooled(span: _Span, params: dict[str, Any], _: int) -> _Span:
    i = span.axis
    return _windowed(
        span,
        params["window_dimensions"][i],
        params["window_strides"][i],
        params["window_dilation"][i],
        params["padding"][i][0],
    )


def _padded(span: _Span, params: dict[str, Any], _: int) -> _Span:
    low, _high, interior = params["padding_config"][span.axis]
    if interior:
        raise ValueError("receptive_field cannot follow a padding between pixels")
    return span._replace(start=span.start - low * span.stride)


def _sliced(span: _Span, params: dict[str, Any], _: int) -> _Span:
    i = span.axis
    return _windowed(span, 1, params["strides"][i] if params["strides"] else 1, 1, -params["start_indices"][i])


def _transposed(span: _Span, params: dict[str, Any], _: int) -> _Span:
    return span._replace(axis=params["permutation"].index(span.axis))


def _broadcast(span: _Span, params: dict[str, Any], _: int) -> _Span:
    axis = params["broadcast_dimensions"][span.axis]
    grows = params["operand"][span.axis] == 1 < params["shape"][axis]
    return _anywhere(span) if grows else span._replace(axis=axis)


def _anywhere(span: _Span) -> _Span:
    """Return the span of the only unit along an axis for units that have no position there."""
    return span._replace(axis=-1, stride=0)


def _concatenated(span: _Span, params: dict[str, Any], _: int) -> _Span:
    if params["dimension"] == span.axis:
        raise ValueError("receptive_field cannot follow a concatenation along rows or columns")
    return span


def _squeezed(span: _Span, params: dict[str, Any], _: int) -> _Span:
    if span.axis in params["dimensions"]:
        return _anywhere(span)
    return span._replace(axis=span.axis - sum(a < span.axis for a in params["dimensions"]))


def _reshaped(span: _Span, before: Sequence[int], after: Sequence[int], whole: _Span) -> _Span:
    """Follow an axis that a reshape leaves whole; one that is merged into another, or split, loses its positions."""
    if before[span.axis] == 1:
        return _anywhere(span)
    ahead, size = _product(before[: span.axis]), before[span.axis]
    for axis, length in enumerate(after):
        if length == size and _product(after[:axis]) == ahead:
            return span._replace(axis=axis)
    return whole


def _product(lengths: Sequence[int]) -> int:
    result = 1
    for length in lengths:
        result *= length
    return result


def _multiplied(span: _Span, value: Value, operand: int, whole: _Span) -> _Span:
    assert value.eqn is not None
    contracting, batch = value.eqn.params["dimension_numbers"]
    if span.axis in contracting[operand]:
        return whole
    if span.axis in batch[operand]:
        return span._replace(axis=batch[operand].index(span.axis))
    free = [
        [a for a in range(len(x.aval.shape)) if a not in (*c, *b)]
        for x, c, b in zip(value.inputs, contracting, batch, strict=True)
    ]
    ahead = len(batch[0]) + (len(free[0]) if operand == 1 else 0)
    return span._replace(axis=ahead + free[operand].index(span.axis))


_RULES: dict[str, Callable[[_Span, dict[str, Any], int], _Span]] = {
    "conv_general_dilated": _convolved,
    "jaxviz_convolution": _convolved,
    "reduce_window_max": _pooled,
    "reduce_window_min": _pooled,
    "reduce_window_sum": _pooled,
    "pad": _padded,
    "slice": _sliced,
    "transpose": _transposed,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenated,
    "squeeze": _squeezed,
}
