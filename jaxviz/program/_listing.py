"""What the values are that can be named: their kinds, and how their axes lie."""

from typing import Any, Literal, NamedTuple

from jaxviz._types import Net
from jaxviz.program._axes import image_axes
from jaxviz.program._listed import kind_of, kinds_of
from jaxviz.program._modules import named_by_default
from jaxviz.program._names import values_by_name
from jaxviz.program._trace import Value, trace


class Listed(NamedTuple):
    """A value of a network that can be named."""

    name: str
    kind: str
    """As the table of `layers` says it."""
    shape: tuple[int, ...]
    layout: Literal["map", "tokens", "vector", "other"]
    """A map has an axis of images, one of rows, one of columns; tokens one of images, and three in all."""
    place: tuple[int, int] | None
    """Of a map, which axes are the rows and the columns."""

    @property
    def channels(self) -> int:
        """How many channels a map, or tokens, or a vector has."""
        at = 1 if self.layout == "map" and self.place == (2, 3) else -1
        return self.shape[at]


def listed(net: Net, params: Any, images: Any) -> list[Listed]:
    """Return what `layers` lists, in the same order, with what it is; runs nothing."""
    program = trace(named_by_default(net), params, images, turns=True)
    kinds, known = kinds_of(program), {}
    best, _ = values_by_name(program)
    return [_listed(name, value, kind_of(value, kinds), known) for name, value in best.items()]


def _listed(name: str, value: Value, kind: str, known: dict[int, Any]) -> Listed:
    shape, axes = tuple(value.aval.shape), image_axes(value, known)
    place, layout = None, "other"
    if len(shape) == 4 and axes.rows is not None and axes.columns is not None and axes.is_map:
        place, layout = (axes.rows, axes.columns), "map"
    elif len(shape) in (2, 3) and axes.images is not None:
        layout = "tokens" if len(shape) == 3 else "vector"
    return Listed(name, kind, shape, layout, place)
