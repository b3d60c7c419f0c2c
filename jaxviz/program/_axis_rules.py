"""How each operation carries axes of images, rows and columns from its operands to its result."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

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
from jaxviz.program._known import known_array
from jaxviz.program._trace import POINTWISE, Value, trace


def follow(wanted: Sequence[Value], known: dict[int, Operand]) -> list[Operand]:
    """Return the axes of values, working through what they are made from without recursion: networks are deep."""
    stack = list(wanted)
    while stack:
        current = stack[-1]
        waiting = [operand for operand in current.inputs if operand.varies and id(operand) not in known]
        if waiting and id(current) not in known:
            stack += waiting
            continue
        stack.pop()
        if id(current) not in known:
            known[id(current)] = _axes_of(current, [known.get(id(operand)) for operand in current.inputs])
    return [known[id(value)] for value in wanted]


def _axes_of(value: Value, operands: list[Operand]) -> Operand:
    if not value.varies:
        return None
    shape = value.aval.shape
    if value.op == "input":
        if len(shape) != 4:
            return unknown(shape, "nhw")
        places = [from_line(letter, np.arange(size, dtype=float)) for letter, size in zip("nhw", shape, strict=False)]
        return (*places, plain_axis(shape[3]))
    rule = _RULES.get(value.op)
    if rule is None and value.op.startswith("reduce_window"):
        rule = _pooled
    if rule is None and value.op.startswith(("reduce", "arg")):
        rule = _reduced
    axes = None if rule is None else rule(value, operands)
    if axes is None:
        return unknown(shape, "".join(letters_of(axis) for operand in operands if operand for axis in operand))
    assert len(axes) == len(shape)
    assert all(math.prod(part.size for part in axis) == size for axis, size in zip(axes, shape, strict=True))
    return axes


def _fill(value: Value, operands: Sequence[Operand]) -> list[Axes]:
    """Return the operands' axes, those of what does not depend on the images too."""
    return [
        tuple(plain_axis(size) for size in operand.aval.shape) if axes is None else axes
        for operand, axes in zip(value.inputs, operands, strict=True)
    ]


# What each operation does to the axes; None where that is not known


def _pointwise(value: Value, operands: list[Operand]) -> Operand:
    shape = value.aval.shape
    same = [axes for axes in operands if axes is not None and tuple(map(size_of, axes)) == shape]
    return tuple(functools.reduce(met, axes) for axes in zip(*same, strict=True)) if same else unknown(shape, "nhw")


def _transposed(value: Value, operands: list[Operand]) -> Operand:
    return tuple(_fill(value, operands)[0][i] for i in value.eqn.params["permutation"])  # type: ignore[union-attr]


def _broadcast(value: Value, operands: list[Operand]) -> Operand:
    result = [plain_axis(size) for size in value.aval.shape]
    places = value.eqn.params["broadcast_dimensions"]  # type: ignore[union-attr]
    for axis, place in zip(_fill(value, operands)[0], places, strict=True):
        if size_of(axis) == value.aval.shape[place]:
            result[place] = axis
    return tuple(result)


def _squeezed(value: Value, operands: list[Operand]) -> Operand:
    gone = value.eqn.params["dimensions"]  # type: ignore[union-attr]
    return tuple(axis for i, axis in enumerate(_fill(value, operands)[0]) if i not in gone)


def _reshaped(value: Value, operands: list[Operand]) -> Operand:
    return _regrouped(_fill(value, operands)[0], value.aval.shape)


def _regrouped(axes: Axes, shape: Sequence[int]) -> Axes:
    parts = merged([part for axis in axes for part in axis])
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


def _reduced(value: Value, operands: list[Operand]) -> Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    gone = params.get("axes", params.get("dimensions"))
    if gone is None:
        return None
    kept = [
        [axis for i, axis in enumerate(axes) if i not in gone]
        for axes in _fill(value, operands)
        if len(axes) == len(value.aval.shape) + len(gone)
    ]
    return tuple(functools.reduce(met, axes) for axes in zip(*kept, strict=True))


def _kept(value: Value, operands: list[Operand]) -> Operand:
    return _fill(value, operands)[0]


def _placed(axis: Axis, out: int, places: Callable[[np.ndarray], np.ndarray]) -> Axis:
    """Return an axis whose places are others of it: `places` of the line, if that is known."""
    if not letters_of(axis):
        return plain_axis(out)
    line = line_of(axis)
    return lost(out, letters_of(axis)) if line is None else from_line(letters_of(axis), places(line))


def _windowed(
    axis: Axis, out: int, *, window: int = 1, stride: int = 1, dilation: int = 1, low: int = 0, spread: int = 1
) -> Axis:
    """Return the axis of a convolution's or pool's results: each lies where the middle of its window does."""
    if (out, window, stride, low, spread) == (size_of(axis), 1, 1, 0, 1):
        return axis

    def places(line: np.ndarray) -> np.ndarray:
        at = np.arange(out) * stride - low + (window - 1) // 2 * dilation
        inside = (at >= 0) & (at <= (len(line) - 1) * spread)
        return np.where(inside, line[np.clip(at // spread, 0, len(line) - 1)], np.nan)

    return _placed(axis, out, places)


def _pooled(value: Value, operands: list[Operand]) -> Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    names = ("window_dimensions", "window_strides", "window_dilation", "padding", "base_dilation")
    if not all(name in params for name in names):
        return None
    each = zip(_fill(value, operands)[0], value.aval.shape, *(params[name] for name in names), strict=True)
    return tuple(
        _windowed(axis, out, window=window, stride=stride, dilation=dilation, low=low, spread=spread)
        for axis, out, window, stride, dilation, (low, _), spread in each
    )


def _padded(value: Value, operands: list[Operand]) -> Operand:
    each = zip(
        _fill(value, operands)[0],
        value.aval.shape,
        value.eqn.params["padding_config"],  # type: ignore[union-attr]
        strict=True,
    )
    return tuple(_windowed(axis, out, low=low, spread=inner + 1) for axis, out, (low, _, inner) in each)


def _sliced(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, _fill(value, operands)[0]  # type: ignore[union-attr]
    steps = params["strides"] or (1,) * len(axes)
    each = zip(axes, params["start_indices"], params["limit_indices"], steps, value.aval.shape, strict=True)
    return tuple(_cut(axis, slice(start, limit, step), out) for axis, start, limit, step, out in each)


def _cut(axis: Axis, part: slice, out: int) -> Axis:
    whole = out == size_of(axis) and (part.step or 1) == 1
    return axis if whole else _placed(axis, out, lambda line: line[part])


def _split(value: Value, operands: list[Operand]) -> Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    at, start = params["axis"], int(sum(params["sizes"][: _output(value)]))
    axes = list(_fill(value, operands)[0])
    axes[at] = _cut(axes[at], slice(start, start + value.aval.shape[at]), value.aval.shape[at])
    return tuple(axes)


def _output(value: Value) -> int:
    """Return which of its equation's results a value is."""
    users = {id(user): user for operand in value.inputs for user in operand.users if user.path == value.path}
    return [user for user in users.values() if user.eqn is value.eqn].index(value)


def _reversed(value: Value, operands: list[Operand]) -> Operand:
    turned = value.eqn.params["dimensions"]  # type: ignore[union-attr]
    axes = _fill(value, operands)[0]
    return tuple(_placed(a, size_of(a), lambda line: line[::-1]) if i in turned else a for i, a in enumerate(axes))


def _concatenated(value: Value, operands: list[Operand]) -> Operand:
    at, parts = value.eqn.params["dimension"], _fill(value, operands)  # type: ignore[union-attr]
    result = [functools.reduce(met, axes) for axes in zip(*parts, strict=True)]
    along = [axes[at] for axes in parts]
    letters = "".join({letter for axis in along for letter in letters_of(axis)})
    lines = [line_of(axis) if letters_of(axis) else np.full(size_of(axis), np.nan) for axis in along]
    size = value.aval.shape[at]
    if not letters:
        result[at] = plain_axis(size)
    elif len(letters) > 1 or any(line is None for line in lines):
        result[at] = lost(size, letters)
    else:
        result[at] = from_line(letters, np.concatenate(lines))  # type: ignore[arg-type]
    return tuple(result)


def _convolved(value: Value, operands: list[Operand]) -> Operand:
    params, (images, kernel) = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    if params["batch_group_count"] != 1 or (value.inputs[1].varies and any(map(letters_of, kernel))):
        return None
    shape, numbers = value.aval.shape, params["dimension_numbers"]
    (row, channel, *space), places, (out_row, out_channel, *out_space) = numbers
    result: list[Axis] = [()] * len(shape)
    result[out_row] = images[row]
    groups = params["feature_group_count"]
    by_group = _regrouped((images[channel],), (groups, size_of(images[channel]) // groups))[0]
    result[out_channel] = tuple(merged([*by_group, Part(shape[out_channel] // groups)]))
    for i, (axis, out) in enumerate(zip(space, out_space, strict=True)):
        result[out] = _windowed(
            images[axis],
            shape[out],
            window=size_of(kernel[places[2 + i]]),
            stride=params["window_strides"][i],
            dilation=params["rhs_dilation"][i],
            low=params["padding"][i][0],
            spread=params["lhs_dilation"][i],
        )
    return tuple(result)


def _multiplied(value: Value, operands: list[Operand]) -> Operand:
    contracting, batch = value.eqn.params["dimension_numbers"]  # type: ignore[union-attr]
    both = _fill(value, operands)
    result = [met(both[0][i], both[1][j]) for i, j in zip(*batch, strict=True)]
    for side in (0, 1):
        free = [i for i in range(len(both[side])) if i not in (*contracting[side], *batch[side])]
        resized = None
        if not value.inputs[side].varies and len(both[side]) == 2 and len(free) == len(contracting[side]) == 1:
            resized = _resized(value.inputs[side], contracting[side][0], both[1 - side][contracting[1 - side][0]])
        result += [resized or both[side][i] for i in free]
    return tuple(result)


def _resized(matrix: Value, summed: int, axis: Axis) -> Axis | None:
    """Return the axis that a product with a constant matrix makes of another: resizing and pooling are written so."""
    line = line_of(axis)
    weights = None if line is None or np.isnan(line).any() else known_array(matrix)
    if weights is None or line is None:
        return None
    weights = np.moveaxis(weights, summed, -1).astype(float)
    total = weights.sum(-1)
    used = np.abs(total) > 1e-6 * np.abs(weights).sum(-1)  # what is beyond the image has weights of zero
    return from_line(letters_of(axis), np.where(used, weights @ line / np.where(used, total, 1), np.nan))


def _gathered(value: Value, operands: list[Operand]) -> Operand:
    """Follow indices along one axis, as in `x[:, rows]` and in resizing to the nearest."""
    params, (source, places) = value.eqn.params, _fill(value, operands)[:2]  # type: ignore[union-attr]
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
            result[out] = _placed(source[at], shape[out], lambda line, where=where: line[where])
    return tuple(result)


def _windows_of_one(value: Value, operands: list[Operand]) -> Operand:
    """Follow a slice whose place is computed: what is taken whole stays what it was."""
    axes = _fill(value, operands)[0]
    each = zip(axes, value.aval.shape, strict=True)
    return tuple(a if size_of(a) == out else lost(out, letters_of(a)) for a, out in each)


def _updated(value: Value, operands: list[Operand]) -> Operand:
    """Follow a value into which another is written."""
    if operands[0] is not None:
        return operands[0]
    axes, new = _fill(value, operands)[0], _fill(value, operands)[1]
    if value.op != "dynamic_update_slice":
        return None
    each = zip(axes, new, strict=True)
    return tuple(n if size_of(a) == size_of(n) else lost(size_of(a), letters_of(n)) for a, n in each)


def _sorted(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    at = params.get("dimension", len(axes[0]) - 1)
    result = [functools.reduce(met, each) for each in zip(*axes, strict=True)]
    result[at] = lost(value.aval.shape[at], letters_of(result[at]))
    return tuple(result)


def _transformed(value: Value, operands: list[Operand]) -> Operand:
    axes, count = _fill(value, operands)[0], len(value.eqn.params["fft_lengths"])  # type: ignore[union-attr]
    changed = [lost(out, letters_of(axis)) for axis, out in zip(axes, value.aval.shape, strict=True)]
    return (*axes[: len(axes) - count], *changed[len(axes) - count :])


# Loops and branches


def _body(jaxpr: ClosedJaxpr, inputs: Sequence[Axes]) -> list[Axes]:
    """Return the axes of what a body returns."""
    run = jaxpr_as_fun(jaxpr)
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in jaxpr.in_avals]
    program = trace(lambda *args: jax.lax.optimization_barrier(run(*args)), *shapes, last_only=False)
    known: dict[int, Operand] = {id(v): axes for v, axes in zip(program.inputs, inputs, strict=True)}
    outputs = program.values[-1].inputs
    found = follow(outputs, known)
    return [
        tuple(plain_axis(size) for size in value.aval.shape) if axes is None else axes
        for value, axes in zip(outputs, found, strict=True)
    ]


def _settled(step: Callable[[list[Axes]], list[Axes]], carry: list[Axes]) -> list[Axes]:
    """Return the axes of what a loop carries: such as each turn leaves as they are."""
    for _ in range(4):
        after = [tuple(map(met, *pair)) for pair in zip(carry, step(carry), strict=True)]
        if _signature(after) == _signature(carry):
            return after
        carry = after
    return [unknown(tuple(map(size_of, axes)), "nhw") for axes in carry]


def _signature(carry: list[Axes]) -> Any:
    return [[(letters_of(axis), line_of(axis) is None, len(axis)) for axis in axes] for axes in carry]


def _scanned(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    fixed, carried = params["num_consts"], params["num_carry"]
    constants, carry, slices = axes[:fixed], axes[fixed : fixed + carried], axes[fixed + carried :]
    turns = functools.reduce(met, [each[0] for each in slices], plain_axis(params["length"]))
    turn = lambda carry: _body(params["jaxpr"], [*constants, *carry, *(each[1:] for each in slices)])  # noqa: E731
    carry = _settled(lambda carry: turn(carry)[:carried], carry)
    at = _output(value)
    return carry[at] if at < carried else (turns, *turn(carry)[at])


def _repeated(value: Value, operands: list[Operand]) -> Operand:
    params, axes = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    first = params["cond_nconsts"]
    constants, carry = axes[first : first + params["body_nconsts"]], axes[first + params["body_nconsts"] :]
    return _settled(lambda carry: _body(params["body_jaxpr"], [*constants, *carry]), carry)[_output(value)]


def _branched(value: Value, operands: list[Operand]) -> Operand:
    branches = value.eqn.params["branches"]  # type: ignore[union-attr]
    found = [_body(branch, _fill(value, operands)[1:])[_output(value)] for branch in branches]
    return tuple(functools.reduce(met, axes) for axes in zip(*found, strict=True))


_MORE_POINTWISE = """
    acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cosh clz complex conj copy_p digamma imag lgamma mesh_cast
    population_count pvary sharding_constraint shift_left shift_right_arithmetic shift_right_logical sinh
""".split()
_RULES: dict[str, Callable[[Value, list[Operand]], Operand]] = {
    **dict.fromkeys([*POINTWISE, *_MORE_POINTWISE], _pointwise),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _kept),
    **dict.fromkeys(("sort", "top_k", "approx_top_k"), _sorted),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add", "dynamic_update_slice"), _updated),
    **dict.fromkeys(("conv_general_dilated", "jaxviz_convolution"), _convolved),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenated,
    "cond": _branched,
    "dot_general": _multiplied,
    "dynamic_slice": _windows_of_one,
    "fft": _transformed,
    "gather": _gathered,
    "pad": _padded,
    "reshape": _reshaped,
    "rev": _reversed,
    "scan": _scanned,
    "slice": _sliced,
    "split": _split,
    "squeeze": _squeezed,
    "transpose": _transposed,
    "while": _repeated,
}
