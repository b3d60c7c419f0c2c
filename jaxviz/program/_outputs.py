"""What a network returns, and the layers that a score reads of it, from one evaluation."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxviz._types import Net
from jaxviz.program._axes import Layout, image_axes, order_of
from jaxviz.program._channels import channel_axis
from jaxviz.program._image_channels import Size, accepted
from jaxviz.program._modules import named_by_default
from jaxviz.program._names import find
from jaxviz.program._returned import Layer, Output, array_of, arrays_in
from jaxviz.program._run import evaluate
from jaxviz.program._trace import Path, Value, trace


class Reading(NamedTuple):
    """What was read of a network."""

    layers: dict[Layer, tuple[Array, Value]]
    """The arrays, and what they are in the program; of what the network returns, too."""

    def arranged(self, name: Layer, layout: Layout, who: str) -> Array:
        """Return a layer, the images on its first axis and channels on its last; an error names `who` asked."""
        array, value = self.layers[name]
        return jnp.transpose(array, order_of(value, name, layout, who))

    def by_image(self, name: Layer) -> Array:
        """Return a layer with the images on its first axis, where the program tells which one that is."""
        array, value = self.layers[name]
        return jnp.moveaxis(array, image_axes(value).images or 0, 0)

    def as_map(self, name: Layer) -> Array:
        """Return a layer in the order of a map `(n, h, w, c)`, or as far as the program tells, with channels last."""
        array, value = self.layers[name]
        if array.ndim == 4 and image_axes(value).is_map:
            return self.arranged(name, "map", "")
        return jnp.moveaxis(array, channel_axis(value), -1)

    def classes(self, output: Output) -> tuple[Array, bool]:
        """Return what the network returns, and whether it ends in a softmax or a sigmoid, so that it is chances."""
        array, value = self.layers[output]
        _check_first_axis(value)
        return array, gives_chances(value)


def read(net: Net, params: Any, images: Any, layers: Sequence[Layer]) -> Reading:
    """Evaluate a network once; return the values of some layers, or of parts of what it returns."""
    names = [layer for layer in layers if isinstance(layer, str)]
    outputs = [layer for layer in layers if isinstance(layer, Output)]

    def called(params: Any, images: Any) -> Any:
        returned = named_by_default(net)(params, images)
        if outputs:
            return jax.lax.optimization_barrier([array_of(returned, output) for output in outputs])
        # All that it returns all the same: what a value becomes tells whether it is an activation.
        return arrays_in(returned)

    program = trace(called, params, images, turns=True)
    named = find(program, names) if names else {}
    found: dict[Layer, Value] = {**named}
    actions: dict[Path, Any] = taking(named)
    if outputs:
        ends = program.values[-len(outputs) :]  # the barrier, which shows what values are returned, and is not run
        found |= {output: end.inputs[i] for i, (output, end) in enumerate(zip(outputs, ends, strict=True))}
        actions[ends[0].path] = lambda operands, _: (operands, {})
    result, taken = evaluate(program, (params, images), actions)
    arrays = {**taken, **(dict(zip(outputs, result, strict=True)) if outputs else {})}
    return Reading({layer: (arrays[layer], value) for layer, value in found.items()})


def read_arranged(net: Net, layers: Mapping[Layer, Layout], who: str) -> Callable[[Any, Any], dict[Layer, Array]]:
    """Return a function that gives the values of layers, the images on the first axis and channels on the last."""

    def arranged(params: Any, images: Any) -> dict[Layer, Array]:
        reading = read(net, params, images, list(layers))
        return {name: reading.arranged(name, layout, who) for name, layout in layers.items()}

    return arranged


def arranged_shapes(
    net: Net, params: Any, layers: Mapping[Layer, Layout], size: Size, who: str
) -> tuple[jax.ShapeDtypeStruct, dict[Layer, tuple[int, ...]]]:
    """Return the shape of one image of this size, and those of layers so arranged."""
    use = functools.partial(jax.eval_shape, read_arranged(net, layers, who), params)
    image, values = accepted(use, params, size)
    return image, {name: value.shape for name, value in values.items()}


def taking(values: Mapping[str, Value]) -> dict[Path, Any]:
    """Return the actions of `evaluate` that take values out."""
    grouped: dict[Path, list[tuple[str, int]]] = {}
    for name, value in values.items():
        path, output = value.home
        grouped.setdefault(path, []).append((name, output))

    def take(here: list[tuple[str, int]], _: list[Any], run: Callable[[], list[Any]]) -> tuple[list[Any], dict]:
        results = run()
        return results, {name: results[output] for name, output in here}

    return {path: functools.partial(take, here) for path, here in grouped.items()}


def _check_first_axis(value: Value) -> None:
    """Refuse outputs whose first axis is known to be another than the images."""
    shape = value.aval.shape
    if len(shape) == 2 and shape[0] == shape[1] and image_axes(value).images == 1:  # of others the shape tells
        raise ValueError(
            f"a class score needs a network that returns (n, classes), got shape {shape} with the images on the last "
            "axis: wrap it, as in lambda params, images: net(params, images).T"
        )


# Logits or probabilities?

_MOVES = ("reshape", "squeeze", "broadcast_in_dim", "transpose", "convert_element_type", "copy", "name", "slice")


def gives_chances(value: Value) -> bool:
    """Tell values that are made as probabilities are: by a softmax or a sigmoid, or by mixing such with numbers.

    Means of them, as of several crops or networks, and `1 - p` are probabilities too; `10 p - 5` is none.
    """
    bounds = _bounds(value) if value.varies else None
    return bounds is not None and bounds[0] >= -1e-3 and bounds[1] <= 1 + 1e-3


def _bounds(value: Value) -> tuple[float, float] | None:
    """Return what a mixture of squashed values and numbers lies between; None for what is made of anything else."""
    value = _before_moves(value)
    if value.op == "constant" and not isinstance(value.constant, Tracer) and np.size(value.constant):
        return float(np.min(value.constant)), float(np.max(value.constant))
    if _is_softmax(value):
        return 0.0, 1.0
    if value.op in _SQUASHED:
        return _SQUASHED[value.op]
    mix = _MIXTURES.get(value.op)
    parts = [_bounds(operand) for operand in value.inputs] if mix and value.varies else [None]
    if mix is None or any(part is None for part in parts):
        return None
    times = math.prod(value.inputs[0].aval.shape) / max(1, math.prod(value.aval.shape))  # terms of a sum
    ends = [end for numbers in itertools.product(*parts) for end in mix(numbers, times)]  # type: ignore[arg-type]
    return min(ends), max(ends)


# What sigmoids are written with: 1 / (1 + exp(-x)), (1 + tanh(x / 2)) / 2.
_SQUASHED = {"logistic": (0.0, 1.0), "tanh": (-1.0, 1.0), "erf": (-1.0, 1.0), "exp": (0.0, math.inf)}

# Each is monotonic in every operand, so that its extremes are at the ends of theirs.
_MIXTURES: dict[str, Callable[[tuple[float, ...], float], Sequence[float]]] = {
    "add": lambda x, _: [x[0] + x[1]],
    "add_any": lambda x, _: [x[0] + x[1]],
    "sub": lambda x, _: [x[0] - x[1]],
    "mul": lambda x, _: [x[0] * x[1]],
    "div": lambda x, _: [x[0] / x[1] if x[1] else math.inf],
    "neg": lambda x, _: [-x[0]],
    "max": lambda x, _: [max(x)],
    "min": lambda x, _: [min(x)],
    "clamp": lambda x, _: [min(max(x[0], x[1]), x[2])],
    "concatenate": lambda x, _: x,
    "reduce_sum": lambda x, times: [x[0] * times],
    "reduce_max": lambda x, _: [x[0]],
    "reduce_min": lambda x, _: [x[0]],
}


def _before_moves(value: Value) -> Value:
    while value.op in _MOVES and value.inputs:
        value = value.inputs[0]
    return value


def _is_softmax(value: Value) -> bool:
    """Tell `e / sum(e)` with `e = exp(x)`, a product with the reciprocal, and `exp(x - logsumexp(x))`."""
    if value.op == "exp":
        inside = _before_moves(value.inputs[0])
        return inside.op == "sub" and _is_log_of_sum(_before_moves(inside.inputs[1]))
    if value.op not in ("div", "mul"):
        return False
    pairs = [value.inputs] if value.op == "div" else [value.inputs, value.inputs[::-1]]
    for upper, lower in ((_before_moves(a), _before_moves(b)) for a, b in pairs):
        if value.op == "mul" and lower.op in ("div", "integer_pow"):
            lower = _before_moves(lower.inputs[-1])
        if upper.op == "exp" and lower.op == "reduce_sum" and _is_same(upper, _before_moves(lower.inputs[0])):
            return True
    return False


def _is_same(value: Value, other: Value, depth: int = 6) -> bool:
    """Tell two values that are computed alike from the same ones, as where `exp(x)` is written twice."""
    if value is other:
        return True
    if value.op == other.op == "constant":
        constants = (value.constant, other.constant)
        return not any(isinstance(x, Tracer) for x in constants) and bool(np.array_equal(*constants))
    if value.eqn is None or other.eqn is None or value.op != other.op or not depth:
        return False
    if str(value.eqn.params) != str(other.eqn.params) or len(value.inputs) != len(other.inputs):
        return False
    return all(_is_same(a, b, depth - 1) for a, b in zip(value.inputs, other.inputs, strict=True))


def _is_log_of_sum(value: Value) -> bool:
    """Tell `log(sum(exp(x)))`, to which the maximum may have been added again."""
    if value.op == "add":
        return any(_is_log_of_sum(_before_moves(operand)) for operand in value.inputs)
    if value.op != "log":
        return False
    inside = _before_moves(value.inputs[0])
    return (_before_moves(inside.inputs[0]) if inside.op == "abs" else inside).op == "reduce_sum"
