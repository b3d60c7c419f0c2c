"""The channel axis of a value, traced back to the layer that produced it."""

import functools
from collections.abc import Callable, Sequence

from jaxviz.program._names import is_layer, longer
from jaxviz.program._trace import KINDS, POINTWISE, Value

_KEEPS_AXES = POINTWISE | {"pad", "slice", "concatenate"}


def channel_axis(value: Value) -> int:
    """Return the channel axis: where the convolution or product that the value comes from puts it, else the last."""
    last = len(value.aval.shape) - 1
    moves: list[Callable[[int], int]] = []
    while KINDS.get(value.op) != "conv" and not _is_mapped_product(value):
        sources = [
            operand for operand in value.inputs if operand.varies and len(operand.aval.shape) >= min(3, last + 1)
        ]
        if value.eqn is None or not sources:
            return last
        # When a gate multiplies a map, follow the map.
        sources.sort(key=lambda source: source.aval.shape != value.aval.shape)
        before, after = sources[0].aval.shape, value.aval.shape
        if value.op == "transpose":
            moves.append(value.eqn.params["permutation"].index)
        elif value.op in ("reshape", "squeeze", "broadcast_in_dim") and longer(before) == longer(after):
            moves.append(functools.partial(_among_longer, before, after))
        elif free := _free_axes(value, sources[0]):
            moves.append(free.index)
        elif len(before) != len(after) or not (value.op in _KEEPS_AXES or value.op.startswith("reduce_window")):
            return last
        value = sources[0]
    numbers = value.eqn.params.get("dimension_numbers") if value.eqn else None
    axis = 0 if _is_mapped_product(value) else numbers.out_spec[1] if numbers else len(value.aval.shape) - 1
    for move in reversed(moves):
        axis = move(axis)
    return axis


def _is_mapped_product(value: Value) -> bool:
    """Return whether this is a matrix times vectors of vmapped images, which are on the last axis."""
    return (
        KINDS.get(value.op) == "dense" and len(value.aval.shape) == 2 and is_layer(value) and not value.inputs[0].varies
    )


def _free_axes(value: Value, source: Value) -> list[int]:
    """Return where the axes of a product of a map and a matrix come from, as in resizing; none for other values.

    The matrix's free axis replaces the contracted one, which was resized, or holds channels before and after.
    """
    if value.op != "dot_general" or value.eqn is None:
        return []
    at = value.inputs.index(source)
    contracted, batch = value.eqn.params["dimension_numbers"]
    matrix = value.inputs[1 - at]
    if matrix.varies or len(matrix.aval.shape) != 2 or any(batch) or len(contracted[at]) != 1:
        return []
    kept = [axis for axis in range(len(source.aval.shape)) if axis != contracted[at][0]]
    return [*kept, contracted[at][0]] if at == 0 else [contracted[at][0], *kept]


def _among_longer(before: Sequence[int], after: Sequence[int], axis: int) -> int:
    """Return where an axis goes when only axes of length 1 are added or removed; the last if it has length 1 itself."""
    if before[axis] == 1:
        return len(after) - 1
    place = len(longer(before[:axis]))
    return [i for i, size in enumerate(after) if size > 1][place]
