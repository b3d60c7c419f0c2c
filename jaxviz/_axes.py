"""Which axis of a value inside a network is the images, and which are an image's rows and columns.

Read from the traced program, from the images `(n, h, w, 3)` on, and never guessed from a shape: attention's
`(n, tokens, heads, dim)` and windowed attention's `(n * windows, h, w, c)` look like image maps and are none.

An axis is a sequence of parts, the outermost first, as a reshape merges and splits them. A part is a digit, in a mixed
radix, of a place on a line: where each place of the line lies among the images, the rows or the columns of what the
network was given. So a map that is cut into windows and put together again is known to be one, and one that is rolled
or turned over is known to be none.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxviz._interpret import POINTWISE, Value, bind, trace

LARGEST_CONSTANT = 2**22  # of entries: resizing matrices and indices are far smaller


class _Part(NamedTuple):
    """One digit of an axis. `of` has the letters of what may lie along it: n for images, h for rows, w for columns."""

    size: int
    of: str = ""
    line: np.ndarray | None = None  # where each place lies, NaN for padding; None: unknown
    stride: int = 1  # of this digit in the line


_Axis = tuple[_Part, ...]
_Axes = tuple[_Axis, ...]
_Operand = _Axes | None
"""The axes of an operand; None for one that does not depend on the images."""


class ImageAxes(NamedTuple):
    """What is known of a value's axes; None for what is none of them, or for several that might be."""

    images: int | None
    rows: int | None
    columns: int | None
    letters: tuple[str, ...]
    """Of each axis: what may lie along it, of n (images), h (rows) and w (columns)."""

    @property
    def is_map(self) -> bool:
        """Whether all three are there."""
        return self.images is not None and self.rows is not None and self.columns is not None


def image_axes(value: Value) -> ImageAxes:
    """Return which of a value's axes are the images, and which one image's rows and columns."""
    axes = _follow([value], {})[0]
    if axes is None:
        return ImageAxes(None, None, None, ("",) * len(value.aval.shape))
    count = next(source.aval.shape[0] for source in _ancestors(value) if source.op == "input" and source.varies)
    letters = tuple(_letters(axis) for axis in axes)
    images = _only(i for i, axis in enumerate(axes) if _is_images(axis, count))
    rows, columns = (
        _only(i for i, axis in enumerate(axes) if letters[i] == letter and _in_order(_line(axis))) for letter in "hw"
    )
    return _with_single_places(ImageAxes(images, rows, columns, letters), value.aval.shape)


def _with_single_places(axes: ImageAxes, shape: Sequence[int]) -> ImageAxes:
    """Take axes of length 1 for rows and columns if that makes a map: what was averaged over them has one place."""
    if len(shape) != 4 or axes.images is None:
        return axes
    used = {axes.images, axes.rows, axes.columns}
    single = [i for i, size in enumerate(shape) if size == 1 and i not in used]
    rows, columns = axes.rows, axes.columns
    if rows is None and single:
        rows = single.pop(0)
    if columns is None and single:
        columns = single.pop(0)
    return axes if rows is None or columns is None else axes._replace(rows=rows, columns=columns)


def _only(found: Any) -> int | None:
    found = list(found)
    return found[0] if len(found) == 1 else None


Layout = Literal["images", "channels", "units", "map"]
"""What is asked of a layer: an axis of images; one of channels too; a map or a vector; a map `(n, h, w, c)`."""

_EXPECTED = {
    "images": "a layer with one axis of images",
    "channels": "a layer with one axis of images and one of channels, such as a map (n, h, w, c) or tokens (n, t, c),",
    "units": "a map (n, h, w, c) or a vector (n, c)",
    "map": "a layer of image maps (n, h, w, channels)",
}


def order_of(value: Value, name: str, layout: Layout, who: str) -> tuple[int, ...]:
    """Return the order of axes that puts the images first, then rows and columns, and channels last.

    Raises ValueError, in the name of the function `who`, for a layer that does not have what the layout asks for.
    """
    shape, axes = value.aval.shape, image_axes(value)
    rest = [i for i in range(len(shape)) if i != axes.images]
    if axes.images is not None:
        if axes.is_map and len(shape) == 4:
            places = [axes.images, axes.rows, axes.columns]
            return tuple(places + [i for i in rest if i not in places])  # type: ignore[arg-type]
        if len(shape) == 2 and layout != "map":
            return (axes.images, *rest)
        channel = _channel_axis(axes, shape)
        if channel is not None and layout in ("channels", "images"):
            return (axes.images, *(i for i in rest if i != channel), channel)
        if layout == "images":
            return (axes.images, *rest)
    found = f"{shape}, {_described(axes)}; layers(net, params, images) lists them all"
    if layout == "map":
        raise ValueError(f"{who} needs {_EXPECTED[layout]}; {name!r} has shape {found}")
    raise ValueError(f"{who}: expected {_EXPECTED[layout]} at {name!r}, got shape {found}")


def _channel_axis(axes: ImageAxes, shape: Sequence[int]) -> int | None:
    """Return the only axis that is neither of images nor of places."""
    free = [i for i in range(len(shape)) if i not in (axes.images, axes.rows, axes.columns) and not axes.letters[i]]
    return _only(i for i in free if shape[i] > 1) if any(shape[i] > 1 for i in free) else (free or [None])[-1]


def _described(axes: ImageAxes) -> str:
    found = {axes.images: "the images", axes.rows: "an image's rows", axes.columns: "an image's columns"}
    words = {"n": "images", "h": "rows", "w": "columns"}
    parts = []
    for i, letters in enumerate(axes.letters):
        mixed = " and ".join(words[letter] for letter in letters)
        if i in found:
            parts.append(f"axis {i} is {found[i]}")
        elif len(letters) > 1:
            parts.append(f"axis {i} has {mixed} together")
        elif letters:
            parts.append(f"axis {i} has {mixed} in part or in another order")
    return "of which " + ", ".join(parts) if parts else "of which no axis is the images"


# The walk through the program


def _ancestors(value: Value) -> list[Value]:
    seen: dict[int, Value] = {}
    stack = [value]
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen[id(current)] = current
            stack += [operand for operand in current.inputs if operand.varies]
    return list(seen.values())


def _follow(wanted: Sequence[Value], known: dict[int, _Operand]) -> list[_Operand]:
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


def _axes_of(value: Value, operands: list[_Operand]) -> _Operand:
    if not value.varies:
        return None
    shape = value.aval.shape
    if value.op == "input":
        if len(shape) != 4:
            return _unknown(shape, "nhw")
        places = [_from_line(letter, np.arange(size, dtype=float)) for letter, size in zip("nhw", shape, strict=False)]
        return (*places, _plain(shape[3]))
    rule = _RULES.get(value.op)
    if rule is None and value.op.startswith("reduce_window"):
        rule = _pooled
    if rule is None and value.op.startswith(("reduce", "arg")):
        rule = _reduced
    axes = None if rule is None else rule(value, operands)
    if axes is None:
        return _unknown(shape, "".join(_letters(axis) for operand in operands if operand for axis in operand))
    assert len(axes) == len(shape)
    assert all(math.prod(part.size for part in axis) == size for axis, size in zip(axes, shape, strict=True))
    return axes


def _fill(value: Value, operands: Sequence[_Operand]) -> list[_Axes]:
    """Return the operands' axes, those of what does not depend on the images too."""
    return [
        tuple(_plain(size) for size in operand.aval.shape) if axes is None else axes
        for operand, axes in zip(value.inputs, operands, strict=True)
    ]


def known_array(value: Value) -> np.ndarray | None:
    """Return a value that depends on constants only, computed now; None for one that depends on arguments."""
    with jax.ensure_compile_time_eval():
        result = _evaluated(value, {})
    return None if result is None else np.asarray(result)


def _evaluated(value: Value, known: dict[int, Any]) -> Any:
    if id(value) not in known:
        known[id(value)] = None if isinstance(value.constant, Tracer) else value.constant
        small = value.eqn is not None and math.prod(value.aval.shape) <= LARGEST_CONSTANT
        if small and not value.varies and len(value.eqn.outvars) == 1:  # type: ignore[union-attr]
            operands = [_evaluated(operand, known) for operand in value.inputs]
            if all(operand is not None for operand in operands):
                known[id(value)] = bind(value.eqn, operands)[0][0]  # type: ignore[arg-type]
    return known[id(value)]


# Axes and lines


def _plain(size: int) -> _Axis:
    return (_Part(size),)


def _unknown(shape: Sequence[int], letters: str) -> _Axes:
    return tuple(_lost(size, letters) for size in shape)


def _lost(size: int, letters: str) -> _Axis:
    return (_Part(size, "".join(letter for letter in "nhw" if letter in letters)),)


def _from_line(letter: str, line: np.ndarray) -> _Axis:
    return (_Part(len(line), letter, line),)


def _letters(axis: _Axis) -> str:
    return "".join(letter for letter in "nhw" if any(letter in part.of for part in axis))


def _size(axis: _Axis) -> int:
    return math.prod(part.size for part in axis)


def _line(axis: _Axis) -> np.ndarray | None:
    """Return where each place of an axis lies, if that is known and only one thing lies along it."""
    told = [part for part in axis if part.of]
    if len(told) != 1 or told[0].line is None:
        return None
    part, at = told[0], axis.index(told[0])
    digits = np.asarray(part.line).reshape(-1, part.size, part.stride)
    if not all(np.array_equal(digits[0], other, equal_nan=True) for other in digits[1:]):
        return None  # the same digit stands for several places
    if part.of == "n" and part.stride > 1 and not np.all(digits == digits[..., :1]):
        return None
    before, after = (_size(parts) for parts in (axis[:at], axis[at + 1 :]))
    return np.tile(np.repeat(_mean(digits[0]), after), before)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN if there is nothing else."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    return np.where(count > 0, np.where(there, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def _is_images(axis: _Axis, count: int) -> bool:
    line = _line(axis) if _letters(axis) == "n" else None
    return line is not None and np.array_equal(line, np.arange(count))


def _in_order(line: np.ndarray | None) -> bool:
    """Tell rows from top to bottom, or columns from left to right, as they lie in the image.

    Beyond the image's edges anything may stand, such as a mirrored border: what counts is one stretch that rises, has
    all that there is, and is most of the line; in a mixture of rows the first may come right before the last by chance.
    """
    if line is None:
        return False
    places = line[~np.isnan(line)]
    if not len(places) or (len(places) > 1 and places.min() == places.max()):
        return False
    stretches = np.split(places, np.flatnonzero(np.diff(places) < 0) + 1)
    return any(
        stretch.min() == places.min() and stretch.max() == places.max() and 2 * len(stretch) >= len(places)
        for stretch in stretches
    )


def _met(first: _Axis, second: _Axis) -> _Axis:
    """Return the axis along which two values meet, position by position."""
    if not _letters(second):
        return first
    if not _letters(first):
        return second
    if len(first) == len(second) and all(map(_agree, first, second)):
        return first
    letters = "".join({*_letters(first), *_letters(second)})
    if letters in ("h", "w") and _in_order(_line(first)) and _in_order(_line(second)):
        return first
    return _lost(_size(first), letters)


def _agree(first: _Part, second: _Part) -> bool:
    if (first.size, first.of, first.stride) != (second.size, second.of, second.stride):
        return False
    if first.line is second.line:
        return True
    if first.line is None or second.line is None or len(first.line) != len(second.line):
        return False
    same = np.allclose(first.line, second.line, equal_nan=True)
    return same or (first.of in ("h", "w") and _in_order(first.line) and _in_order(second.line))


def _merged(parts: Sequence[_Part]) -> list[_Part]:
    """Put digits of one line together that follow each other, and what nothing is known to lie along."""
    result: list[_Part] = []
    for part in parts:
        last = result[-1] if result else None
        if last is not None and not last.of and not part.of:
            result[-1] = _Part(last.size * part.size)
        elif (
            last is not None
            and last.line is not None
            and last.line is part.line
            and last.stride == part.stride * part.size
        ):
            result[-1] = part._replace(size=last.size * part.size)
        else:
            result.append(part)
    return result


# What each operation does to the axes; None where that is not known


def _pointwise(value: Value, operands: list[_Operand]) -> _Operand:
    shape = value.aval.shape
    same = [axes for axes in operands if axes is not None and tuple(map(_size, axes)) == shape]
    return tuple(functools.reduce(_met, axes) for axes in zip(*same, strict=True)) if same else _unknown(shape, "nhw")


def _transposed(value: Value, operands: list[_Operand]) -> _Operand:
    return tuple(_fill(value, operands)[0][i] for i in value.eqn.params["permutation"])  # type: ignore[union-attr]


def _broadcast(value: Value, operands: list[_Operand]) -> _Operand:
    result = [_plain(size) for size in value.aval.shape]
    places = value.eqn.params["broadcast_dimensions"]  # type: ignore[union-attr]
    for axis, place in zip(_fill(value, operands)[0], places, strict=True):
        if _size(axis) == value.aval.shape[place]:
            result[place] = axis
    return tuple(result)


def _squeezed(value: Value, operands: list[_Operand]) -> _Operand:
    gone = value.eqn.params["dimensions"]  # type: ignore[union-attr]
    return tuple(axis for i, axis in enumerate(_fill(value, operands)[0]) if i not in gone)


def _reshaped(value: Value, operands: list[_Operand]) -> _Operand:
    return _regrouped(_fill(value, operands)[0], value.aval.shape)


def _regrouped(axes: _Axes, shape: Sequence[int]) -> _Axes:
    parts = _merged([part for axis in axes for part in axis])
    result: list[_Axis] = []
    for size in shape:
        taken: list[_Part] = []
        left = size
        while parts and (left > 1 or (not taken and parts[0].size == 1)):
            part = parts.pop(0)
            if left % part.size and part.size % left:  # digits of another radix
                letters = "".join(p.of for p in (*taken, part, *parts))
                return (*result, *_unknown(shape[len(result) :], letters))
            if left % part.size:
                inner = part.size // left
                parts.insert(0, part._replace(size=inner))
                part = part._replace(size=left, stride=part.stride * inner)
            taken.append(part)
            left //= part.size
        result.append(tuple(_merged(taken)) or _plain(size))
    return tuple(result)


def _reduced(value: Value, operands: list[_Operand]) -> _Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    gone = params.get("axes", params.get("dimensions"))
    if gone is None:
        return None
    kept = [
        [axis for i, axis in enumerate(axes) if i not in gone]
        for axes in _fill(value, operands)
        if len(axes) == len(value.aval.shape) + len(gone)
    ]
    return tuple(functools.reduce(_met, axes) for axes in zip(*kept, strict=True))


def _kept(value: Value, operands: list[_Operand]) -> _Operand:
    return _fill(value, operands)[0]


def _placed(axis: _Axis, out: int, places: Callable[[np.ndarray], np.ndarray]) -> _Axis:
    """Return an axis whose places are others of it: `places` of the line, if that is known."""
    if not _letters(axis):
        return _plain(out)
    line = _line(axis)
    return _lost(out, _letters(axis)) if line is None else _from_line(_letters(axis), places(line))


def _windowed(
    axis: _Axis, out: int, *, window: int = 1, stride: int = 1, dilation: int = 1, low: int = 0, spread: int = 1
) -> _Axis:
    """Return the axis of a convolution's or pool's results: each lies where the middle of its window does."""
    if (out, window, stride, low, spread) == (_size(axis), 1, 1, 0, 1):
        return axis

    def places(line: np.ndarray) -> np.ndarray:
        at = np.arange(out) * stride - low + (window - 1) // 2 * dilation
        inside = (at >= 0) & (at <= (len(line) - 1) * spread)
        return np.where(inside, line[np.clip(at // spread, 0, len(line) - 1)], np.nan)

    return _placed(axis, out, places)


def _pooled(value: Value, operands: list[_Operand]) -> _Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    names = ("window_dimensions", "window_strides", "window_dilation", "padding", "base_dilation")
    if not all(name in params for name in names):
        return None
    each = zip(_fill(value, operands)[0], value.aval.shape, *(params[name] for name in names), strict=True)
    return tuple(
        _windowed(axis, out, window=window, stride=stride, dilation=dilation, low=low, spread=spread)
        for axis, out, window, stride, dilation, (low, _), spread in each
    )


def _padded(value: Value, operands: list[_Operand]) -> _Operand:
    each = zip(
        _fill(value, operands)[0],
        value.aval.shape,
        value.eqn.params["padding_config"],  # type: ignore[union-attr]
        strict=True,
    )
    return tuple(_windowed(axis, out, low=low, spread=inner + 1) for axis, out, (low, _, inner) in each)


def _sliced(value: Value, operands: list[_Operand]) -> _Operand:
    params, axes = value.eqn.params, _fill(value, operands)[0]  # type: ignore[union-attr]
    steps = params["strides"] or (1,) * len(axes)
    each = zip(axes, params["start_indices"], params["limit_indices"], steps, value.aval.shape, strict=True)
    return tuple(_cut(axis, slice(start, limit, step), out) for axis, start, limit, step, out in each)


def _cut(axis: _Axis, part: slice, out: int) -> _Axis:
    whole = out == _size(axis) and (part.step or 1) == 1
    return axis if whole else _placed(axis, out, lambda line: line[part])


def _split(value: Value, operands: list[_Operand]) -> _Operand:
    params = value.eqn.params  # type: ignore[union-attr]
    at, start = params["axis"], int(sum(params["sizes"][: _output(value)]))
    axes = list(_fill(value, operands)[0])
    axes[at] = _cut(axes[at], slice(start, start + value.aval.shape[at]), value.aval.shape[at])
    return tuple(axes)


def _output(value: Value) -> int:
    """Return which of its equation's results a value is."""
    users = {id(user): user for operand in value.inputs for user in operand.users if user.path == value.path}
    return [user for user in users.values() if user.eqn is value.eqn].index(value)


def _reversed(value: Value, operands: list[_Operand]) -> _Operand:
    turned = value.eqn.params["dimensions"]  # type: ignore[union-attr]
    axes = _fill(value, operands)[0]
    return tuple(_placed(a, _size(a), lambda line: line[::-1]) if i in turned else a for i, a in enumerate(axes))


def _concatenated(value: Value, operands: list[_Operand]) -> _Operand:
    at, parts = value.eqn.params["dimension"], _fill(value, operands)  # type: ignore[union-attr]
    result = [functools.reduce(_met, axes) for axes in zip(*parts, strict=True)]
    along = [axes[at] for axes in parts]
    letters = "".join({letter for axis in along for letter in _letters(axis)})
    lines = [_line(axis) if _letters(axis) else np.full(_size(axis), np.nan) for axis in along]
    size = value.aval.shape[at]
    if not letters:
        result[at] = _plain(size)
    elif len(letters) > 1 or any(line is None for line in lines):
        result[at] = _lost(size, letters)
    else:
        result[at] = _from_line(letters, np.concatenate(lines))  # type: ignore[arg-type]
    return tuple(result)


def _convolved(value: Value, operands: list[_Operand]) -> _Operand:
    params, (images, kernel) = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    if params["batch_group_count"] != 1 or (value.inputs[1].varies and any(map(_letters, kernel))):
        return None
    shape, numbers = value.aval.shape, params["dimension_numbers"]
    (row, channel, *space), places, (out_row, out_channel, *out_space) = numbers
    result: list[_Axis] = [()] * len(shape)
    result[out_row] = images[row]
    groups = params["feature_group_count"]
    by_group = _regrouped((images[channel],), (groups, _size(images[channel]) // groups))[0]
    result[out_channel] = tuple(_merged([*by_group, _Part(shape[out_channel] // groups)]))
    for i, (axis, out) in enumerate(zip(space, out_space, strict=True)):
        result[out] = _windowed(
            images[axis],
            shape[out],
            window=_size(kernel[places[2 + i]]),
            stride=params["window_strides"][i],
            dilation=params["rhs_dilation"][i],
            low=params["padding"][i][0],
            spread=params["lhs_dilation"][i],
        )
    return tuple(result)


def _multiplied(value: Value, operands: list[_Operand]) -> _Operand:
    contracting, batch = value.eqn.params["dimension_numbers"]  # type: ignore[union-attr]
    both = _fill(value, operands)
    result = [_met(both[0][i], both[1][j]) for i, j in zip(*batch, strict=True)]
    for side in (0, 1):
        free = [i for i in range(len(both[side])) if i not in (*contracting[side], *batch[side])]
        resized = None
        if not value.inputs[side].varies and len(both[side]) == 2 and len(free) == len(contracting[side]) == 1:
            resized = _resized(value.inputs[side], contracting[side][0], both[1 - side][contracting[1 - side][0]])
        result += [resized or both[side][i] for i in free]
    return tuple(result)


def _resized(matrix: Value, summed: int, axis: _Axis) -> _Axis | None:
    """Return the axis that a product with a constant matrix makes of another: resizing and pooling are written so."""
    line = _line(axis)
    weights = None if line is None or np.isnan(line).any() else known_array(matrix)
    if weights is None or line is None:
        return None
    weights = np.moveaxis(weights, summed, -1).astype(float)
    total = weights.sum(-1)
    used = np.abs(total) > 1e-6 * np.abs(weights).sum(-1)  # what is beyond the image has weights of zero
    return _from_line(_letters(axis), np.where(used, weights @ line / np.where(used, total, 1), np.nan))


def _gathered(value: Value, operands: list[_Operand]) -> _Operand:
    """Follow indices along one axis, as in `x[:, rows]` and in resizing to the nearest."""
    params, (source, places) = value.eqn.params, _fill(value, operands)[:2]  # type: ignore[union-attr]
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if numbers.operand_batching_dims or len(numbers.start_index_map) != 1:
        return None
    at = numbers.start_index_map[0]
    kept = [i for i in range(len(source)) if i not in numbers.collapsed_slice_dims]
    if any(i != at and sizes[i] != _size(source[i]) for i in range(len(source))):
        return None
    shape = value.aval.shape
    new = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    result: list[_Axis] = [_plain(size) for size in shape]
    for out, i in zip(numbers.offset_dims, kept, strict=True):
        result[out] = source[i] if sizes[i] == _size(source[i]) else _lost(shape[out], _letters(source[i]))
    if at in kept:
        return tuple(result)
    indices = None if value.inputs[1].varies else known_array(value.inputs[1])
    for out, axis in zip(new, places, strict=False):
        letters = _letters(source[at])
        if not letters:
            result[out] = axis
        elif indices is None or len(new) != 1:
            result[out] = _lost(shape[out], letters + _letters(axis))
        else:
            where = np.clip(indices.reshape(-1), 0, _size(source[at]) - 1)
            result[out] = _placed(source[at], shape[out], lambda line, where=where: line[where])
    return tuple(result)


def _windows_of_one(value: Value, operands: list[_Operand]) -> _Operand:
    """Follow a slice whose place is computed: what is taken whole stays what it was."""
    axes = _fill(value, operands)[0]
    each = zip(axes, value.aval.shape, strict=True)
    return tuple(a if _size(a) == out else _lost(out, _letters(a)) for a, out in each)


def _updated(value: Value, operands: list[_Operand]) -> _Operand:
    """Follow a value into which another is written."""
    if operands[0] is not None:
        return operands[0]
    axes, new = _fill(value, operands)[0], _fill(value, operands)[1]
    if value.op != "dynamic_update_slice":
        return None
    each = zip(axes, new, strict=True)
    return tuple(n if _size(a) == _size(n) else _lost(_size(a), _letters(n)) for a, n in each)


def _sorted(value: Value, operands: list[_Operand]) -> _Operand:
    params, axes = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    at = params.get("dimension", len(axes[0]) - 1)
    result = [functools.reduce(_met, each) for each in zip(*axes, strict=True)]
    result[at] = _lost(value.aval.shape[at], _letters(result[at]))
    return tuple(result)


def _transformed(value: Value, operands: list[_Operand]) -> _Operand:
    axes, count = _fill(value, operands)[0], len(value.eqn.params["fft_lengths"])  # type: ignore[union-attr]
    changed = [_lost(out, _letters(axis)) for axis, out in zip(axes, value.aval.shape, strict=True)]
    return (*axes[: len(axes) - count], *changed[len(axes) - count :])


# Loops and branches


def _body(jaxpr: ClosedJaxpr, inputs: Sequence[_Axes]) -> list[_Axes]:
    """Return the axes of what a body returns."""
    run = jaxpr_as_fun(jaxpr)
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in jaxpr.in_avals]
    program = trace(lambda *args: jax.lax.optimization_barrier(run(*args)), *shapes, last_only=False)
    known: dict[int, _Operand] = {id(v): axes for v, axes in zip(program.inputs, inputs, strict=True)}
    outputs = program.values[-1].inputs
    found = _follow(outputs, known)
    return [
        tuple(_plain(size) for size in value.aval.shape) if axes is None else axes
        for value, axes in zip(outputs, found, strict=True)
    ]


def _settled(step: Callable[[list[_Axes]], list[_Axes]], carry: list[_Axes]) -> list[_Axes]:
    """Return the axes of what a loop carries: such as each turn leaves as they are."""
    for _ in range(4):
        after = [tuple(map(_met, *pair)) for pair in zip(carry, step(carry), strict=True)]
        if _signature(after) == _signature(carry):
            return after
        carry = after
    return [_unknown(tuple(map(_size, axes)), "nhw") for axes in carry]


def _signature(carry: list[_Axes]) -> Any:
    return [[(_letters(axis), _line(axis) is None, len(axis)) for axis in axes] for axes in carry]


def _scanned(value: Value, operands: list[_Operand]) -> _Operand:
    params, axes = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    fixed, carried = params["num_consts"], params["num_carry"]
    constants, carry, slices = axes[:fixed], axes[fixed : fixed + carried], axes[fixed + carried :]
    turns = functools.reduce(_met, [each[0] for each in slices], _plain(params["length"]))
    turn = lambda carry: _body(params["jaxpr"], [*constants, *carry, *(each[1:] for each in slices)])  # noqa: E731
    carry = _settled(lambda carry: turn(carry)[:carried], carry)
    at = _output(value)
    return carry[at] if at < carried else (turns, *turn(carry)[at])


def _repeated(value: Value, operands: list[_Operand]) -> _Operand:
    params, axes = value.eqn.params, _fill(value, operands)  # type: ignore[union-attr]
    first = params["cond_nconsts"]
    constants, carry = axes[first : first + params["body_nconsts"]], axes[first + params["body_nconsts"] :]
    return _settled(lambda carry: _body(params["body_jaxpr"], [*constants, *carry]), carry)[_output(value)]


def _branched(value: Value, operands: list[_Operand]) -> _Operand:
    branches = value.eqn.params["branches"]  # type: ignore[union-attr]
    found = [_body(branch, _fill(value, operands)[1:])[_output(value)] for branch in branches]
    return tuple(functools.reduce(_met, axes) for axes in zip(*found, strict=True))


_MORE_POINTWISE = """
    acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cosh clz complex conj copy_p digamma imag lgamma mesh_cast
    population_count pvary sharding_constraint shift_left shift_right_arithmetic shift_right_logical sinh
""".split()
_RULES: dict[str, Callable[[Value, list[_Operand]], _Operand]] = {
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
