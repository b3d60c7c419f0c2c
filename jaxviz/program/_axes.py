"""Which axis of a value inside a network is the images, and which are an image's rows and columns.

Read from the traced program, from the images `(n, h, w, c)` on, and never guessed from a shape: attention's
`(n, tokens, heads, dim)` and windowed attention's `(n * windows, h, w, c)` look like image maps and are none. Tokens
`(n, tokens, c)` are put in rows and columns where the program shows where each lies, and are maps then.

An axis is a sequence of parts, the outermost first, as a reshape merges and splits them. A part is a digit, in a mixed
radix, of a place on a line: where each place of the line lies among the images, the rows or the columns of what the
network was given. So a map that is cut into windows and put together again is known to be one, and one that is rolled
or turned over is known to be none.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxviz.program._axis_lines import Operand, in_order, is_images, letters_of, line_of, size_of
from jaxviz.program._axis_rules import follow
from jaxviz.program._tokens import Grid, Tokens, grid_of
from jaxviz.program._trace import Value


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


def image_axes(value: Value, known: dict[int, Any] | None = None) -> ImageAxes:
    """Return which of a value's axes are the images, and which one image's rows and columns.

    What is found of other values on the way is kept in `known`, for the next one of the same program.
    """
    return _image_axes(value, follow([value], {} if known is None else known)[0])


def _image_axes(value: Value, axes: Operand) -> ImageAxes:
    if axes is None:
        return ImageAxes(None, None, None, ("",) * len(value.aval.shape))
    count = next(source.aval.shape[0] for source in ancestors_of(value) if source.op == "input" and source.varies)
    letters = tuple(letters_of(axis) for axis in axes)
    images = _only(i for i, axis in enumerate(axes) if is_images(axis, count))
    if images is None and count == 1:  # jnp.matmul removes an axis of one image, and puts another one there
        images = next((i for i, axis in enumerate(axes) if size_of(axis) == 1 and not letters[i]), None)
    rows, columns = (
        _only(i for i, axis in enumerate(axes) if letters[i] == letter and in_order(line_of(axis))) for letter in "hw"
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
    "units": "a map (n, h, w, c), tokens (n, t, c) of known places or a vector (n, c)",
    "map": "a layer of image maps (n, h, w, channels), or of tokens (n, t, channels) of known places",
}


def tokens_of(value: Value, tokens: Tokens = None, who: str = "") -> Grid | None:
    """Return the grid of a layer's tokens, None for any other layer."""
    if len(value.aval.shape) != 3 and tokens is None:
        return None
    axes = follow([value], {})[0]
    return grid_of(value, axes, _image_axes(value, axes).images, tokens, who)


def arranging(value: Value, name: Any, layout: Layout, who: str, tokens: Tokens = None) -> Callable[[Array], Array]:
    """Return a function that puts a layer's images first, then rows and columns, and channels last.

    Raises ValueError, in the name of the function `who`, for a layer that does not have what the layout asks for.
    """
    grid = tokens_of(value, tokens, who)
    if grid is not None:
        return grid.map_of
    order = order_of(value, name, layout, who)
    return lambda array: jnp.transpose(array, order)


def order_of(value: Value, name: Any, layout: Layout, who: str) -> tuple[int, ...]:
    """Return the order of axes that does so, of what is no layer of tokens in rows and columns."""
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
    told = "; tokens=(rows, columns) says where tokens lie" if len(shape) == 3 and layout != "images" else ""
    found = f"{shape}, {_described(axes)}{told}; layers(net, params, images) lists them all"
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


def ancestors_of(value: Value) -> list[Value]:
    seen: dict[int, Value] = {}
    stack = [value]
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen[id(current)] = current
            stack += [operand for operand in current.inputs if operand.varies]
    return list(seen.values())
