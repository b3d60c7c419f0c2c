"""What each operation does to axes of images, rows and columns; None where that is not known."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxviz.program._axis_lines import (
    Axes,
    Axis,
    Operand,
    Part,
    from_line,
    letters_of,
    line_of,
    lost,
    merged,
    met,
    plain_axis,
    size_of,
    unknown,
)
from jaxviz.program._axis_places import from_places, joined, places_of
from jaxviz.program._known import known_array
from jaxviz.program._trace import Value


def filled(value: Value, operands: Sequence[Operand]) -> list[Axes]:
    """Return the operands' axes, those of what does not depend on the images too."""
    return [
        tuple(plain_axis(size) for size in operand.aval.shape) if axes is None else axes
        for operand, axes in zip(value.inputs, operands, strict=True)
    ]


# What each operation does to the axes; None where that is not known


def pointwise(value: Value, operands: list[Operand]) -> Operand:
    """Follow what is done position by position; an operand may be of length 1 where another is longer."""
    shape = value.aval.shape
    ranked = [axes for axes in operands if axes is not None and len(axes) == len(shape)]
    if not ranked:
        return unknown(shape, "nhw")
    found = [[axes[i] for axes in ranked if size_of(axes[i]) == size] for i, size in enumerate(shape)]
    return tuple(
        functools.reduce(met, axes) if axes else plain_axis(size) for axes, size in zip(found, shape, strict=True)
    )


def transposed(value: Value, operands: list[Operand]) -> Operand:
    return tuple(filled(value, operands)[0][i] for i in value.eqn.params["permutation"])  # type: ignore[union-attr]


def broadcast(value: Value, operands: list[Operand]) -> Operand:
    result = [plain_axis(size) for size in value.aval.shape]
    places = value.eqn.params["broadcast_dimensions"]  # type: ignore[union-attr]
    for axis, place in zip(filled(value, operands)[0], places, strict=True):
        if size_of(axis) == value.aval.shape[place]:
            result[place] = axis
    return tuple(result)


def squeezed(value: Value, operands: list[Operand]) -> Operand:
    gone = value.eqn.params["dimensions"]  # type: ignore[union-attr]
    return tuple(axis for i, axis in enumerate(filled(value, operands)[0]) if i not in gone)


def reshaped(value: Value, operands: list[Operand]) -> Operand:
    return regrouped(filled(value, operands)[0], value.aval.shape)


def regrouped(axes: Axes, shape: Sequence[int]) -> Axes:
    parts = merged([part for axis in axes for part in axis])
    if 0 in shape:  # nothing is anywhere
        return unknown(shape, "".join(part.of for part in parts))
    result: list[Axis] = []
    for size in shape:
        taken: list[Part] = []
        left = size
        while parts and (left > 1 or (not taken and parts[0].size == 1)):
            part = parts.pop(0)
            if left % part.size and part.size % left:  # digits of another radix
                letters = "".join(p.of for p in (*taken, part, *parts))
                return (*result, *unknown(shape[len(result) :], letters))
            if left % part.size:
                inner = part.size // left
                parts.insert(0, part._replace(size=inner))
                part = part._replace(size=left, stride=part.stride * inner)
            taken.append(part)
            left //= part.size
        result.append(tuple(merged(taken)) or plain_axis(size))
    return tuple(result)


def reduced(value: Value, operands: list[Operand]) -> Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    gone = params.get("axes", params.get("dimensions"))
    if gone is None:
        return None
    kept = [
        [axis for i, axis in enumerate(axes) if i not in gone]
        for axes in filled(value, operands)
        if len(axes) == len(value.aval.shape) + len(gone)
    ]
    return tuple(functools.reduce(met, axes) for axes in zip(*kept, strict=True))


def kept(value: Value, operands: list[Operand]) -> Operand:
    return filled(value, operands)[0]


def placed(axis: Axis, out: int, places: Callable[[np.ndarray], np.ndarray]) -> Axis:
    """Return an axis whose places are others of it: `places` of the line, or of the tokens, if those are known."""
    letters = letters_of(axis)
    if not letters:
        return plain_axis(out)
    line, plane = line_of(axis), places_of(axis)
    if plane is not None:
        return from_places(np.stack([places(along) for along in plane.T], -1))
    return lost(out, letters) if line is None else from_line(letters, places(line))


def windowed(
    axis: Axis, out: int, *, window: int = 1, stride: int = 1, dilation: int = 1, low: int = 0, spread: int = 1
) -> Axis:
    """Return the axis of a convolution's or pool's results: each lies where the middle of its window does."""
    if (out, window, stride, low, spread) == (size_of(axis), 1, 1, 0, 1):
        return axis

    def places(line: np.ndarray) -> np.ndarray:
        at = np.arange(out) * stride - low + (window - 1) // 2 * dilation
        inside = (at >= 0) & (at <= (len(line) - 1) * spread)
        return np.where(inside, line[np.clip(at // spread, 0, len(line) - 1)], np.nan)

    return placed(axis, out, places)


def pooled(value: Value, operands: list[Operand]) -> Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    names = ("window_dimensions", "window_strides", "window_dilation", "padding", "base_dilation")
    if not all(name in params for name in names):
        return None
    each = zip(filled(value, operands)[0], value.aval.shape, *(params[name] for name in names), strict=True)
    return tuple(
        windowed(axis, out, window=window, stride=stride, dilation=dilation, low=low, spread=spread)
        for axis, out, window, stride, dilation, (low, _), spread in each
    )


def padded(value: Value, operands: list[Operand]) -> Operand:
    each = zip(
        filled(value, operands)[0],
        value.aval.shape,
        value.eqn.params["padding_config"],  # type: ignore[union-attr]
        strict=True,
    )
    # jnp.pad writes some of the numbers as NumPy's.
    return tuple(windowed(axis, out, low=int(low), spread=int(inner) + 1) for axis, out, (low, _, inner) in each)


def sliced(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, filled(value, operands)[0]  # type: ignore[union-attr]
    steps = params["strides"] or (1,) * len(axes)
    each = zip(axes, params["start_indices"], params["limit_indices"], steps, value.aval.shape, strict=True)
    return tuple(cut(axis, slice(start, limit, step), out) for axis, start, limit, step, out in each)


def cut(axis: Axis, part: slice, out: int) -> Axis:
    whole = out == size_of(axis) and (part.step or 1) == 1
    return axis if whole else placed(axis, out, lambda line: line[part])


def split(value: Value, operands: list[Operand]) -> Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    at, start = params["axis"], int(sum(params["sizes"][: output_of(value)]))
    axes = list(filled(value, operands)[0])
    axes[at] = cut(axes[at], slice(start, start + value.aval.shape[at]), value.aval.shape[at])
    return tuple(axes)


def output_of(value: Value) -> int:
    """Return which of its equation's results a value is."""
    users = {id(user): user for operand in value.inputs for user in operand.users if user.path == value.path}
    return [user for user in users.values() if user.eqn is value.eqn].index(value)


def in_reverse(value: Value, operands: list[Operand]) -> Operand:
    turned = value.eqn.params["dimensions"]  # type: ignore[union-attr]
    axes = filled(value, operands)[0]
    return tuple(placed(a, size_of(a), lambda line: line[::-1]) if i in turned else a for i, a in enumerate(axes))


def concatenated(value: Value, operands: list[Operand]) -> Operand:
    at, parts = value.eqn.params["dimension"], filled(value, operands)  # type: ignore[union-attr]
    parts = [axes for axes in parts if size_of(axes[at])] or parts[:1]  # what is empty is nowhere
    result = [functools.reduce(met, axes) for axes in zip(*parts, strict=True)]
    result[at] = joined([axes[at] for axes in parts])
    return tuple(result)


def convolved(value: Value, operands: list[Operand]) -> Operand:
    params, (images, kernel) = value.eqn.params, filled(value, operands)  # type: ignore[union-attr]
    if params["batch_group_count"] != 1 or (value.inputs[1].varies and any(map(letters_of, kernel))):
        return None
    shape, numbers = value.aval.shape, params["dimension_numbers"]
    (row, channel, *space), places, (out_row, out_channel, *out_space) = numbers
    result: list[Axis] = [()] * len(shape)
    result[out_row] = images[row]
    groups = params["feature_group_count"]
    by_group = regrouped((images[channel],), (groups, size_of(images[channel]) // groups))[0]
    result[out_channel] = tuple(merged([*by_group, Part(shape[out_channel] // groups)]))
    for i, (axis, out) in enumerate(zip(space, out_space, strict=True)):
        result[out] = windowed(
            images[axis],
            shape[out],
            window=size_of(kernel[places[2 + i]]),
            stride=params["window_strides"][i],
            dilation=params["rhs_dilation"][i],
            low=params["padding"][i][0],
            spread=params["lhs_dilation"][i],
        )
    return tuple(result)


def multiplied(value: Value, operands: list[Operand]) -> Operand:
    contracting, batch = value.eqn.params["dimension_numbers"]  # type: ignore[union-attr]
    both = filled(value, operands)
    result = [met(both[0][i], both[1][j]) for i, j in zip(*batch, strict=True)]
    for side in (0, 1):
        free = [i for i in range(len(both[side])) if i not in (*contracting[side], *batch[side])]
        along = None
        if not value.inputs[side].varies and len(both[side]) == 2 and len(free) == len(contracting[side]) == 1:
            along = resized(value.inputs[side], contracting[side][0], both[1 - side][contracting[1 - side][0]])
        result += [along or both[side][i] for i in free]
    return tuple(result)


def resized(matrix: Value, summed: int, axis: Axis) -> Axis | None:
    """Return the axis that a product with a constant matrix makes of another: resizing and pooling are written so."""
    line = line_of(axis)
    weights = None if line is None or np.isnan(line).any() else known_array(matrix)
    if weights is None or line is None:
        return None
    weights = np.moveaxis(weights, summed, -1).astype(float)
    total = weights.sum(-1)
    used = np.abs(total) > 1e-6 * np.abs(weights).sum(-1)  # what is beyond the image has weights of zero
    return from_line(letters_of(axis), np.where(used, weights @ line / np.where(used, total, 1), np.nan))


def gathered(value: Value, operands: list[Operand]) -> Operand:
    """Follow indices along one axis, as in `x[:, rows]` and in resizing to the nearest."""
    params, (source, places) = value.eqn.params, filled(value, operands)[:2]  # type: ignore[union-attr]
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if numbers.operand_batching_dims or len(numbers.start_index_map) != 1:
        return None
    at = numbers.start_index_map[0]
    kept = [i for i in range(len(source)) if i not in numbers.collapsed_slice_dims]
    if any(i != at and sizes[i] != size_of(source[i]) for i in range(len(source))):
        return None
    shape = value.aval.shape
    new = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    result: list[Axis] = [plain_axis(size) for size in shape]
    for out, i in zip(numbers.offset_dims, kept, strict=True):
        result[out] = source[i] if sizes[i] == size_of(source[i]) else lost(shape[out], letters_of(source[i]))
    if at in kept:
        return tuple(result)
    indices = None if value.inputs[1].varies else known_array(value.inputs[1])
    for out, axis in zip(new, places, strict=False):
        letters = letters_of(source[at])
        if not letters:
            result[out] = axis
        elif indices is None or len(new) != 1:
            result[out] = lost(shape[out], letters + letters_of(axis))
        else:
            where = np.clip(indices.reshape(-1), 0, size_of(source[at]) - 1)
            result[out] = placed(source[at], shape[out], lambda line, where=where: line[where])
    return tuple(result)


def windows_of_one(value: Value, operands: list[Operand]) -> Operand:
    """Follow a slice whose place is computed: what is taken whole stays what it was."""
    axes = filled(value, operands)[0]
    each = zip(axes, value.aval.shape, strict=True)
    return tuple(a if size_of(a) == out else lost(out, letters_of(a)) for a, out in each)


def updated(value: Value, operands: list[Operand]) -> Operand:
    """Follow a value into which another is written."""
    if operands[0] is not None:
        return operands[0]
    axes, new = filled(value, operands)[0], filled(value, operands)[1]
    if value.op != "dynamic_update_slice":
        return None
    each = zip(axes, new, strict=True)
    return tuple(n if size_of(a) == size_of(n) else lost(size_of(a), letters_of(n)) for a, n in each)


def in_sorted(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, filled(value, operands)  # type: ignore[union-attr]
    at = params.get("dimension", len(axes[0]) - 1)
    result = [functools.reduce(met, each) for each in zip(*axes, strict=True)]
    result[at] = lost(value.aval.shape[at], letters_of(result[at]))
    return tuple(result)


def transformed(value: Value, operands: list[Operand]) -> Operand:
    axes, count = filled(value, operands)[0], len(value.eqn.params["fft_lengths"])  # type: ignore[union-attr]
    changed = [lost(out, letters_of(axis)) for axis, out in zip(axes, value.aval.shape, strict=True)]
    return (*axes[: len(axes) - count], *changed[len(axes) - count :])
