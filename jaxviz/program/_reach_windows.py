"""Windows of convolutions, pools, pads and slices, and what is seen through them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from jaxviz.program._constants import Constants
from jaxviz.program._trace import Value

NOTHING = np.iinfo(np.int32).max
Seen = np.ndarray


class Call(NamedTuple):
    """An equation, and what is known of the constants among its operands."""

    value: Value
    constants: Constants

    @property
    def params(self) -> dict[str, Any]:
        """Return the equation's parameters."""
        assert self.value.eqn is not None
        return self.value.eqn.params

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the operands."""
        return [operand.aval.shape for operand in self.value.inputs]

    @property
    def result(self) -> tuple[int, ...]:
        """Return the shape of the result."""
        return self.value.aval.shape


def regrouped(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the axes of a reshape in the smallest groups that hold as much before as after."""
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        start = i, j
        left, right = 1, 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if (left < right and i < len(before)) or j == len(after):
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        groups.append((list(range(start[0], i)), list(range(start[1], j))))
    return groups


# Windows


class UnknownOperationError(ValueError):
    """An operation moves pixels in a way that is not known here."""


class Window(NamedTuple):
    """Along an axis, the result at i is made of the operand at `(i * stride + k * dilation - low) / base`, k < size."""

    axis: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    low: int = 0
    base: int = 1


def windowed(seen: Seen, window: Window, before: int, after: int) -> Seen:
    """Follow a window that slides along an axis of length `before` and makes one of length `after`."""
    axis = window.axis + 1
    taps = np.arange(window.size) * window.dilation
    places = np.arange(after)[:, None] * window.stride + taps - window.low
    inside = (places >= 0) & (places <= (before - 1) * window.base) & (places % window.base == 0)
    if seen.shape[axis] == 1:
        some = inside.any(1)
        return seen if some.all() else np.where(_along(some, axis, seen.ndim), seen, NOTHING)
    result = np.full((*seen.shape[:axis], after, *seen.shape[axis + 1 :]), NOTHING, np.int32)
    for place, valid in zip(places.T // window.base, inside.T, strict=True):
        tap = seen.take(np.clip(place, 0, before - 1), axis)
        result = np.minimum(result, np.where(_along(valid, axis, seen.ndim), tap, NOTHING))
    return result


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return values.reshape([-1 if a == axis else 1 for a in range(ndim)])


def convolution_params(call: Call) -> dict[str, Any]:
    """Return the parameters of a convolution, whichever of the primitives it is."""
    if call.value.op != "jaxviz_winograd":
        return call.params
    channels = (2, 3) if call.params["adjoint"] else (3, 2)
    ones = (1, 1)
    numbers = lax.ConvDimensionNumbers((0, 3, 1, 2), (*channels, 0, 1), (0, 3, 1, 2))
    steps = {"window_strides": ones, "lhs_dilation": ones, "rhs_dilation": ones}
    groups = {"feature_group_count": 1, "batch_group_count": 1}
    return {"dimension_numbers": numbers, "padding": call.params["padding"], **steps, **groups}


def convolution_windows(call: Call) -> list[Window]:
    """Return the windows of a convolution along the axes of its images."""
    params, kernel = convolution_params(call), call.shapes[1]
    numbers = params["dimension_numbers"]
    return [
        Window(axis, kernel[place], stride, dilation, low, base)
        for axis, place, stride, dilation, (low, _), base in zip(
            numbers.lhs_spec[2:], numbers.rhs_spec[2:], params["window_strides"], params["rhs_dilation"],
            params["padding"], params["lhs_dilation"], strict=True,
        )
    ]  # fmt: skip


def pooling_windows(call: Call) -> list[Window]:
    """Return the windows of a pool along all axes."""
    p, ones = call.params, (1,) * len(call.result)
    dilations, bases = p.get("window_dilation", ones), p.get("base_dilation", ones)
    sizes = zip(p["window_dimensions"], p["window_strides"], dilations, p["padding"], bases, strict=True)
    return [Window(a, size, stride, apart, low, base) for a, (size, stride, apart, (low, _), base) in enumerate(sizes)]


def padding_windows(call: Call) -> list[Window]:
    """Return a padding as windows of one element."""
    if call.value.inputs[1].varies:
        raise UnknownOperationError("a padding with a value that depends on the images")
    config = call.params["padding_config"]
    return [Window(a, low=low, base=interior + 1) for a, (low, _high, interior) in enumerate(config)]


def slicing_windows(call: Call) -> list[Window]:
    """Return a slice as windows of one element."""
    starts = call.params["start_indices"]
    strides = call.params["strides"] or (1,) * len(starts)
    return [Window(a, stride=s, low=-at) for a, (at, s) in enumerate(zip(starts, strides, strict=True))]


CONVOLUTIONS = ("conv_general_dilated", "jaxviz_convolution", "jaxviz_winograd")
WINDOWS: dict[str, Callable[[Call], list[Window]]] = {
    **dict.fromkeys(CONVOLUTIONS, convolution_windows),
    "reduce_window": pooling_windows,
    "reduce_window_max": pooling_windows,
    "reduce_window_min": pooling_windows,
    "reduce_window_sum": pooling_windows,
    "pad": padding_windows,
    "slice": slicing_windows,
}
