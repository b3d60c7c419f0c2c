"""What a network returns, and the layers that a score reads of it, from one evaluation."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxviz._axes import Layout, image_axes, order_of
from jaxviz._interpret import Path, Value, dtype_of, evaluate, find, trace
from jaxviz._types import Net


class Reading(NamedTuple):
    """What was read of a network."""

    outputs: Array | None
    """None if nobody asked."""
    are_chances: bool
    """Whether the network ends in a softmax or a sigmoid, so that its outputs are probabilities."""
    layers: dict[str, tuple[Array, Value]]
    """The arrays, and what they are in the program."""

    def arranged(self, name: str, layout: Layout, who: str) -> Array:
        """Return a layer, the images on its first axis and channels on its last; an error names `who` asked."""
        array, value = self.layers[name]
        return jnp.transpose(array, order_of(value, name, layout, who))


def read(net: Net, params: Any, images: Any, layers: Sequence[str], *, outputs: bool = False) -> Reading:
    """Evaluate a network once; return the values of some layers and, if asked for, its outputs, then one array."""

    def called(params: Any, images: Any) -> Any:
        returned = net(params, images)
        return jax.lax.optimization_barrier(one_array(returned)) if outputs else ()

    program = trace(called, params, images)
    found = find(program, layers) if layers else {}
    actions: dict[Path, Any] = taking(found)
    chances = False
    if outputs:
        last = program.values[-1]  # the barrier, which shows what value is returned, and is not run
        chances = gives_chances(last.inputs[0])
        _check_first_axis(last.inputs[0])
        actions[last.path] = lambda operands, _: (operands, {})
    result, taken = evaluate(program, (params, images), actions)
    return Reading(result if outputs else None, chances, {name: (taken[name], value) for name, value in found.items()})


def read_arranged(net: Net, layers: Mapping[str, Layout], who: str) -> Callable[[Any, Any], dict[str, Array]]:
    """Return a function that gives the values of layers, the images on the first axis and channels on the last."""

    def arranged(params: Any, images: Any) -> dict[str, Array]:
        reading = read(net, params, images, list(layers))
        return {name: reading.arranged(name, layout, who) for name, layout in layers.items()}

    return arranged


def arranged_shapes(
    net: Net, params: Any, layers: Mapping[str, Layout], size: tuple[int, int], who: str
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layers so arranged, for one image of this size."""
    image = jax.ShapeDtypeStruct((1, *size, 3), dtype_of(params))
    values = jax.eval_shape(read_arranged(net, layers, who), params, image)
    return {name: value.shape for name, value in values.items()}


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


# What a network returns


def one_array(returned: Any) -> Array:
    """Return what a network returned if it is one array; raise ValueError that says what else it is."""
    if isinstance(returned, jax.Array | np.ndarray):
        return jnp.asarray(returned)
    parts = dict(_parts(returned, ""))
    arrays = {place: part for place, part in parts.items() if hasattr(part, "shape")}
    logits = next((place for place, part in arrays.items() if len(part.shape) == 2), next(iter(arrays), ""))
    listed = ", ".join(f"{place or 'itself'}: {_shown(part)}" for place, part in parts.items())
    advice = f"; wrap it, as in lambda params, images: net(params, images){logits}" if arrays else ""
    raise ValueError(
        f"a class score needs a network that returns one array (n, classes), got a {type(returned).__name__} "
        f"({listed}){advice}"
    )


def _parts(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield what a nested result is made of, each with the Python that takes it out."""
    if hasattr(tree, "shape"):
        yield place, tree
    elif isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from _parts(part, f'{place}["{key}"]' if isinstance(key, str) else f"{place}[{key!r}]")
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        for name, part in zip(tree._fields, tree, strict=True):
            yield from _parts(part, f"{place}.{name}")
    elif isinstance(tree, list | tuple):
        for i, part in enumerate(tree):
            yield from _parts(part, f"{place}[{i}]")
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from _parts(getattr(tree, field.name), f"{place}.{field.name}")
    elif getattr(tree, "__dict__", None):
        for name, part in vars(tree).items():
            yield from _parts(part, f"{place}.{name}")
    else:
        yield place, tree


def _shown(part: Any) -> str:
    return str(tuple(part.shape)) if hasattr(part, "shape") else type(part).__name__


# Logits or probabilities?

_MOVES = ("reshape", "squeeze", "broadcast_in_dim", "transpose", "convert_element_type", "copy", "name", "slice")
_LINEAR = ("add", "sub", "mul", "div", "neg", "max", "min", "clamp", "concatenate", "reduce_sum", "reduce_max")


def gives_chances(value: Value) -> bool:
    """Tell values that are made as probabilities are: by a softmax or a sigmoid, or by mixing such with numbers.

    Means of them, as of several crops or networks, and `1 - p` are probabilities too.
    """
    value = _before_moves(value)
    if not value.varies:
        return False
    if value.op == "logistic" or _is_softmax(value) or _is_sigmoid(value):
        return True
    parts = [_before_moves(operand) for operand in value.inputs]
    varying = [part for part in parts if part.varies]
    others = all(part.varies or part.op == "constant" for part in parts)
    return value.op in _LINEAR and bool(varying) and others and all(map(gives_chances, varying))


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
        if upper.op == "exp" and lower.op == "reduce_sum" and _before_moves(lower.inputs[0]) is upper:
            return True
    return False


def _is_log_of_sum(value: Value) -> bool:
    """Tell `log(sum(exp(x)))`, to which the maximum may have been added again."""
    if value.op == "add":
        return any(_is_log_of_sum(_before_moves(operand)) for operand in value.inputs)
    return value.op == "log" and _before_moves(value.inputs[0]).op == "reduce_sum"


def _is_sigmoid(value: Value) -> bool:
    """Tell `1 / (1 + exp(-x))` and `(1 + tanh(x / 2)) / 2`, spelled out."""
    if value.op == "div" and not value.inputs[0].varies:
        lower = _before_moves(value.inputs[1])
        return lower.op == "add" and any(_before_moves(operand).op == "exp" for operand in lower.inputs)
    if value.op not in ("div", "mul") or all(operand.varies for operand in value.inputs):
        return False
    inside = _before_moves(next(operand for operand in value.inputs if operand.varies))
    parts = [_before_moves(operand).op for operand in inside.inputs]
    return inside.op == "add" and sorted(parts) == ["constant", "tanh"]
