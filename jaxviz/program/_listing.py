"""What the values are that can be named: their kinds, as people call them, and how their axes lie."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from jaxviz._types import Net
from jaxviz.program._axes import image_axes
from jaxviz.program._modules import named_by_default
from jaxviz.program._names import is_layer, values_by_name
from jaxviz.program._relus import find_relus
from jaxviz.program._trace import KINDS, MOVES, POINTWISE, Value, trace


class Listed(NamedTuple):
    """A value of a network that can be named."""

    name: str
    kind: str
    """What makes it, such as "convolution" or "ReLU"; of a module, what it does last."""
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
    relus = {id(relu.value) for relu in find_relus(program)}
    known: dict[int, Any] = {}
    return [_listed(name, value, relus, known) for name, value in values_by_name(program).items()]


def _listed(name: str, value: Value, relus: set[int], known: dict[int, Any]) -> Listed:
    shape, axes = tuple(value.aval.shape), image_axes(value, known)
    place, layout = None, "other"
    if len(shape) == 4 and axes.rows is not None and axes.columns is not None and axes.is_map:
        place, layout = (axes.rows, axes.columns), "map"
    elif len(shape) in (2, 3) and axes.images is not None:
        layout = "tokens" if len(shape) == 3 else "vector"
    return Listed(name, _kind(value, relus), shape, layout, place)


_STEPS = {*MOVES, "name", "convert_element_type", "copy", "optimization_barrier"}
_WORDS = {
    "reduce_window_max": "max pool",
    "reduce_window_sum": "average pool",
    "reduce_max": "maximum",
    "reduce_sum": "sum over places",
    "logistic": "sigmoid",
    "concatenate": "concatenation",
    "mul": "product",
    "add": "sum",
    "add_any": "sum",
    "sub": "difference",
    "div": "quotient",
}
_POOLS = ("reduce_window_sum", "reduce_sum")


def _kind(value: Value, relus: set[int]) -> str:
    """Return what made a value, looking through names, moves and what does not depend on the images."""
    while True:
        if id(value) in relus:
            return "ReLU"
        if value.op in KINDS:
            return ("convolution" if KINDS[value.op] == "conv" else "dense") if is_layer(value) else "product"
        if value.op not in _STEPS:
            break
        value = value.inputs[0]
    varying = [operand for operand in value.inputs if operand.varies]
    if value.op in ("add", "sub", "mul", "div") and len(varying) == 1:
        inner = _kind(varying[0], relus)
        if value.op in ("div", "mul") and _before_steps(varying[0]).op in _POOLS:
            return "average pool" if "pool" in inner else "mean"
        if _has(value, ("rsqrt", "sqrt")):
            return "normalization"
        return inner if inner in ("convolution", "dense", "normalization") and value.op == "add" else "scaling"
    if value.op in ("mul", "div", "sub") and _has(value, ("rsqrt", "sqrt")):
        return "normalization"
    if value.op in ("mul", "div") and _has(value, ("erf", "erfc", "tanh", "logistic")):
        return "activation"
    if value.op == "div" and _before_steps(value.inputs[0]).op == "exp":
        return "softmax"
    return _WORDS.get(value.op, value.op)


def _before_steps(value: Value) -> Value:
    while value.op in _STEPS:
        value = value.inputs[0]
    return value


def _has(value: Value, ops: Sequence[str], depth: int = 12) -> bool:
    """Tell whether one of some operations, on each unit by itself or on a mean, is a part of what made a value."""
    if value.op in ops:
        return True
    if depth == 0 or not (value.op in POINTWISE or value.op in _STEPS or value.op.startswith("reduce_")):
        return False
    return any(_has(operand, ops, depth - 1) for operand in value.inputs)
