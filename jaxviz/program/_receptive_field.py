"""Which input pixels a unit sees, read from the jaxpr."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jaxviz._types import Net
from jaxviz.program._axes import tokens_of
from jaxviz.program._channels import channel_axis
from jaxviz.program._modules import named_by_default
from jaxviz.program._names import find
from jaxviz.program._reach import Kept, Reach, edges, seen_by
from jaxviz.program._reach_windows import UnknownOperationError
from jaxviz.program._spans import Span, spans_of
from jaxviz.program._tokens import Grid, Tokens, checked_tokens
from jaxviz.program._trace import Program, Value, trace


class _Closed(NamedTuple):
    size: tuple[int, int]
    stride: tuple[int | float, int | float]
    offset: tuple[int, int]


class ReceptiveField(_Closed):
    """What the units of a layer see: the unit in row `i` sees `size[0]` rows, from `offset[0] + i * stride[0]` on.

    Sizes, strides and offsets are (rows, columns) in input pixels. They hold for units away from the borders. At the
    borders a unit sees less, or more if the padding reflects or wraps: `boxes` has exactly what each unit sees.

    Attributes:
        size: how many rows and columns a unit sees.
        stride: the distance between the windows of adjacent units: below 1 after an enlargement, negative after a flip,
            and 0 for units without a position, as in a dense layer.
        offset: where the window of the first unit begins; negative if it includes padding.
        boxes: `(rows, columns, 4)`: top, left, bottom and right of what each unit sees of an image of `image_size`; all
            0 if it sees nothing. Units without a position share a row or a column. None for a field that was made by
            hand.
        image_size: height and width of the images that the field was read for; None likewise.
    """

    boxes: np.ndarray | None = None
    image_size: tuple[int, int] | None = None

    def window(self, position: tuple[int, int], image_size: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns that the unit at `position` sees of an image.

        It is exact if `boxes` are known for images of this size; for other sizes it follows from size, stride and
        offset.

        Args:
            position: the unit's row and column in the layer.
            image_size: the image's height and width, in pixels.

        Returns:
            Two slices, cut off at the image's borders: `image[rows, columns]` is what the unit sees.

        Raises:
            ValueError: for a position that the layer does not have, if `boxes` are known for images of this size.

        Example:
            >>> import jaxviz
            >>> jaxviz.ReceptiveField(size=(5, 5), stride=(2, 2), offset=(-1, -1)).window((0, 3), (8, 8))
            (slice(0, 4, None), slice(5, 8, None))
        """
        if self.boxes is not None and tuple(image_size) == self.image_size:
            top, left, bottom, right = self._box(position)
            return slice(top, bottom), slice(left, right)
        starts = [at * stride + first for at, stride, first in zip(position, self.stride, self.offset, strict=True)]
        rows, columns = (
            slice(max(math.floor(start), 0), min(math.ceil(start + size), side))
            for start, size, side in zip(starts, self.size, image_size, strict=True)
        )
        return rows, columns

    def _box(self, position: Sequence[int]) -> list[int]:
        assert self.boxes is not None
        units = self.boxes.shape[:2]
        if any(n > 1 and not 0 <= at < n for at, n in zip(position, units, strict=True)):
            raise ValueError(f"expected a position among {units[0]} x {units[1]} units, got {tuple(position)}")
        row, column = (at if n > 1 else 0 for at, n in zip(position, units, strict=True))
        return self.boxes[row, column].tolist()


def receptive_field(
    net: Net, params: Any, images: Any, layer: str, *, strict: bool = False, tokens: Tokens = None
) -> ReceptiveField:
    """Return the window of input pixels that the units of a layer see.

    By default it is the spatial field: a value that is the same at all positions of a map does not count if it is
    combined with one that is not. So gates such as squeeze-and-excitation, and the means and variances of
    normalizations over positions (GroupNorm, InstanceNorm, LayerNorm over rows and columns), are left out. So is what
    softmax attention gathers from other tokens: a token's window is that of its query, in a Vision Transformer its
    patch. A mean over all positions by itself, as before a classifier, sees the whole image, and so does a class token.
    With `strict`, the window holds everything that the unit can depend on.

    It is read from the program, element by element; nothing is run, and parameters count as nonzero. It is exact for
    the units at the borders, too: the smallest window that holds every pixel that a unit (any of its channels) depends
    on, except that terms which cancel, as in `x - x`, still count.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters, or their shapes (`jax.ShapeDtypeStruct`).
        images: `(n, h, w, c)`, or its shape, likewise.
        layer: a name that `layers` lists.
        strict: whether to count gates, normalizations and attention, too.
        tokens: `(rows, columns)` of a layer of tokens where the program does not show them, `(rows, columns, in
            front)` if it has more tokens than these: see `grad_cam`.

    Returns:
        The size, stride and offset of the windows, in pixels, and `boxes`, the window of each unit.

    Raises:
        ValueError: for a layer that is unknown or does not depend on the images, and for an operation on the way to it
            that moves pixels in a way that is not known here.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     x = jax.lax.conv_general_dilated(
        ...         images, params, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"))
        ...     return jax.nn.relu(x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)))
        >>> images = jnp.ones((1, 9, 9, 3))
        >>> field = jaxviz.receptive_field(net, jnp.ones((3, 3, 3, 8)), images, "relu_0")
        >>> print(field, field.boxes[0, 1])
        ReceptiveField(size=(3, 3), stride=(2, 2), offset=(-1, -1)) [0 1 2 4]
        >>> print(jaxviz.receptive_field(net, jnp.ones((3, 3, 3, 8)), images, "relu_0", strict=True))
        ReceptiveField(size=(9, 9), stride=(0, 0), offset=(0, 0))

    Araujo, Norris & Sim 2019, Computing Receptive Fields of Convolutional Neural Networks.
    """
    program, value, seen, kept = _read(net, params, images, layer, strict)
    grid = tokens_of(value, checked_tokens(tokens), "receptive_field")
    image_size = (int(images.shape[1]), int(images.shape[2]))
    if grid is not None:
        together = [x.min(axis=(grid.images + 1, grid.channels + 1), keepdims=True) for x in seen]
        boxes = np.stack(_of_grid(together, grid, value.aval.shape), -1)[:, :, 0]
        closed = [_from_boxes(boxes[..., plane::2], plane, image_size[plane]) for plane in (0, 1)]
        return _field(closed, boxes, image_size)
    maps = _maps(value, seen)
    spans = [spans_of(program, value, kept, plane) for plane in (0, 1)]
    places = _axes(value, maps, spans)
    boxes = _boxes(value, maps, places)
    closed = [
        _from_span(span) if span and span.axis == place else _from_boxes(boxes[..., plane::2], plane, n)
        for plane, (span, place, n) in enumerate(zip(spans, places, image_size, strict=True))
    ]
    return _field(closed, boxes, image_size)


def _field(closed: Sequence[Any], boxes: np.ndarray, image_size: tuple[int, int]) -> ReceptiveField:
    field = ReceptiveField(*zip(*closed, strict=True))
    field.boxes, field.image_size = boxes, image_size
    return field


def _of_grid(seen: Sequence[np.ndarray], grid: Grid, shape: Sequence[int]) -> list[np.ndarray]:
    """Return top, left, bottom and right of what each token's channels see of the first image."""
    order, count = (0, grid.images + 1, grid.tokens + 1, grid.channels + 1), shape[grid.tokens]
    sides = []
    for plane in seen:
        first = plane.transpose(order)[:, 0]
        of_tokens = np.broadcast_to(first, (2, count, first.shape[-1]))[:, grid.numbers]
        sides.append(list(edges(of_tokens)))
    (top, bottom), (left, right) = sides
    return list(np.broadcast_arrays(top, left, bottom, right))


def unit_edges(
    net: Net, params: Any, images: Any, layer: str, *, strict: bool = False, tokens: Tokens = None
) -> list[np.ndarray]:
    """Return top, left, bottom and right of what each unit of a layer sees of the first image, channels last."""
    _, value, seen, _ = _read(net, params, images, layer, strict)
    grid = tokens_of(value, tokens, "receptive_field")
    if grid is not None:
        sides = _of_grid(seen, grid, value.aval.shape)
        return [np.broadcast_to(side, (*side.shape[:2], value.aval.shape[grid.channels])) for side in sides]
    (top, bottom), (left, right) = (edges(plane) for plane in seen)
    sides = [np.broadcast_to(side, value.aval.shape) for side in (top, left, bottom, right)]
    return [np.moveaxis(side, channel_axis(value), -1)[0] for side in sides]


def _read(net: Net, params: Any, images: Any, layer: str, strict: bool) -> tuple[Program, Value, Reach, Kept]:
    program = trace(named_by_default(net), params, images, turns=True)
    value = find(program, [layer])[layer]
    if not value.varies:
        raise ValueError(f"the layer {layer!r} does not depend on the images, so it has no receptive field")
    try:
        return program, value, *seen_by(program, value, images.shape[1:3], strict=strict)
    except UnknownOperationError as error:
        raise ValueError(
            f"receptive_field cannot follow {error}, on the way from the images to {layer!r}: it knows convolutions, "
            "pools, paddings, slices, reductions, products, moves to places that are constant, and functions of single "
            "values; ask for a layer before it, or write it with those"
        ) from None


def _maps(value: Value, seen: Reach) -> list[np.ndarray]:
    """Return what units see, `(2, *shape)`, all channels of all images together."""
    together = {0, channel_axis(value)} if len(value.aval.shape) > 1 else {0}
    return [plane.min(axis=tuple(a + 1 for a in together), keepdims=True) for plane in seen]


def _axes(value: Value, maps: Sequence[np.ndarray], spans: Sequence[Span | None]) -> list[int | None]:
    """Return the axes along which units go down and across the images, None for no such axis."""
    varying = [{axis for axis, n in enumerate(seen.shape[1:]) if n > 1} for seen in maps]
    rest = [a for a in range(len(value.aval.shape)) if a not in (0, channel_axis(value))]
    places: list[int | None] = []
    for plane, span in enumerate(spans):
        own = varying[plane] - varying[1 - plane] if len(varying[plane]) > 1 else varying[plane]
        if span is not None:
            places.append(span.axis)
        elif len(own) == 1:
            places.append(own.pop())
        else:
            places.append(rest[plane] if varying[plane] and len(rest) == 2 else None)
    return [None, None] if places[0] == places[1] else places


def _boxes(value: Value, maps: Sequence[np.ndarray], places: Sequence[int | None]) -> np.ndarray:
    """Return `(rows, columns, 4)`: what units see; those that differ by other axes are taken together."""
    kept = [place for place in places if place is not None]
    sides = tuple(1 if place is None else value.aval.shape[place] for place in places)
    ends = []
    for seen in maps:
        small = seen.min(axis=tuple(a + 1 for a in range(len(value.aval.shape)) if a not in kept))
        small = small.transpose(0, *(sorted(kept).index(place) + 1 for place in kept))
        missing = tuple(i + 1 for i, place in enumerate(places) if place is None)
        ends.append([np.broadcast_to(end, sides) for end in edges(np.expand_dims(small, missing))])
    (top, bottom), (left, right) = ends
    return np.stack([top, left, bottom, right], axis=-1)


def _from_span(span: Span) -> tuple[int, int | float, int]:
    offset = math.floor(span.start)
    return math.ceil(span.size + span.start - offset), _number(span.stride), offset


def _number(stride: Fraction) -> int | float:
    return int(stride) if stride.denominator == 1 else float(stride)


def _from_boxes(ends: np.ndarray, plane: int, image_side: int) -> tuple[int, int | float, int]:
    """Return the size, stride and offset that hold what units see: of those away from the borders, if there are any."""
    starts, stops = np.moveaxis(ends, plane, 0).reshape(ends.shape[plane], -1, 2).transpose(2, 0, 1)
    starts = np.where(stops > starts, starts, image_side).min(axis=1)
    stops = stops.max(axis=1)
    units = np.flatnonzero(stops > starts)
    if not len(units):
        return 0, 0, 0
    if len({*zip(starts[units].tolist(), stops[units].tolist(), strict=True)}) == 1:
        return int(stops[units[0]] - starts[units[0]]), 0, int(starts[units[0]])
    stride = _step(units, starts[units], stops[units], image_side)
    uncut = [i for i in units.tolist() if starts[i] > 0 and stops[i] < image_side]
    units = np.array(uncut if len(uncut) > 1 else units)
    first = [start - i * stride for i, start in zip(units.tolist(), starts[units].tolist(), strict=True)]
    last = [stop - i * stride for i, stop in zip(units.tolist(), stops[units].tolist(), strict=True)]
    offset = math.floor(min(first))
    size, whole = math.ceil(max(last)) - offset, int(stops.max() - starts.min())
    return (size, _number(stride), offset) if size < whole else (whole, 0, int(starts.min()))


def _step(units: np.ndarray, starts: np.ndarray, stops: np.ndarray, image_side: int) -> Fraction:
    """Return the step between units, from the ends of their windows that the image does not cut off."""
    rises = []
    for ends, inside in ((starts, starts > 0), (stops, stops < image_side)):
        at, end = units[inside], ends[inside]
        apart = max(1, len(at) // 2)
        apart = next(apart - apart % n for n in (8, 4, 2, 1) if apart >= n)  # enlarged maps repeat after 2, 4, 8 units
        rises += ((end[apart:] - end[:-apart]) / (at[apart:] - at[:-apart])).tolist()
    return Fraction(float(np.median(rises or [0.0]))).limit_denominator(16)
