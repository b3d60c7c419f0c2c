"""List, capture and replace the values inside a network: functions that take a function and return one."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz._types import Net
from jaxviz.program._channels import channel_axis
from jaxviz.program._listed import Layers
from jaxviz.program._modules import named_by_default
from jaxviz.program._names import _left_out, find, values_by_name
from jaxviz.program._run import Action, evaluate
from jaxviz.program._trace import Path, Value, trace


def layers(net: Net, params: Any, images: Any) -> Layers:
    """List the values inside a network that can be named, in forward order; runs nothing.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters, or their shapes (`jax.ShapeDtypeStruct`).
        images: `(n, h, w, c)`, or its shape, likewise.

    Returns:
        A mapping of name to shape and dtype. Printed, and in a notebook, it is a table, also of kinds and of how many
        rows and columns of the image each layer's units see. Of a Linen model's own method and of a `named` network,
        modules' paths come before numbers; values in the turns of a `scan` are called as in `"blocks[3]/Dense_0"`. The
        numbers stay valid. The weights of softmax attention are called `attention_0` or
        `"blocks/3/attention/attention_weights"`.

        What has neither path nor `checkpoint_name` is numbered by its kind: `conv_0`, `dense_0`, `relu_0` (leaky ones
        too), other activations by what they compute (`gelu_0`, `silu_0`, `hard_swish_0`, `elu_0`, `sigmoid_0`, ...),
        pools over positions (`max_pool_0`, `avg_pool_0`, `global_max_pool_0`, `global_avg_pool_0`), and sums of
        branches, such as a residual block's (`add_0`). Normalizations that are no modules have no name, nor has what
        comes before the first layer.

    Raises:
        ValueError: if a name stands for more than one value.

    Warns:
        UserWarning: if there are layers or ReLUs in a `while`, a `scan` of over 128 turns, a branch or a `shard_map`:
            they have no name.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return jax.nn.relu(images.mean((1, 2)) @ params["w1"]) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 10))}
        >>> for name, value in jaxviz.layers(net, params, jnp.ones((2, 8, 8, 3))).items():
        ...     print(name, value.shape)
        dense_0 (2, 4)
        relu_0 (2, 4)
        dense_1 (2, 10)
        >>> print(jaxviz.layers(net, params, jnp.ones((2, 8, 8, 3))))
        name     kind   shape   sees
        dense_0  dense  2 x 4   8 x 8
        relu_0   relu   2 x 4   8 x 8
        dense_1  dense  2 x 10  8 x 8
    """
    program = trace(named_by_default(net), params, images, turns=True)
    best, others = values_by_name(program)
    if left_out := _left_out(program):
        warnings.warn(f"layers lists what can be named{left_out} and named outside", stacklevel=2)
    return Layers(program, best, others)


def dtype_of(params: Any) -> Any:
    """Return the type that a network computes in: of its parameters, whatever images are made in."""
    types = {leaf.dtype for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")}
    floats = [t for t in types if jnp.issubdtype(t, jnp.floating)] or [jnp.result_type(float)]
    with jax.numpy_dtype_promotion("standard"):  # nothing is promoted here but a question answered
        return jnp.result_type(*floats)


def capture(net: Net, names: str | Sequence[str]) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
    """Return the network as a function that also returns some of its inner values.

    If a value lies inside a function with a `custom_vjp`, that function's own derivative applies neither to the value
    nor to what is computed from it there.

    Args:
        net: any JAX function `net(params, images)`.
        names: a name that `layers` lists, or several.

    Returns:
        `fn(params, images) -> (outputs, {name: array})`, which composes with jit, vmap, grad and remat. The arrays have
        the shapes that `layers` lists.

    Raises:
        ValueError: if there are no names; when called, for a name that is unknown, stands for several values, or lies
            in a loop whose iterations have no names.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return jax.nn.relu(images.mean((1, 2)) @ params)
        >>> outputs, values = jaxviz.capture(net, "dense_0")(-jnp.ones((3, 2)), jnp.ones((1, 8, 8, 3)))
        >>> print(outputs, values["dense_0"])
        [[0. 0.]] [[-3. -3.]]
    """
    wanted = _as_names(names)

    def captured(params: Any, images: Any) -> tuple[Any, dict[str, jax.Array]]:
        outputs, taken, _ = _taken(net, wanted, params, images)
        return outputs, taken

    return captured


def _taken(net: Net, wanted: Sequence[str], params: Any, images: Any) -> tuple[Any, dict[str, jax.Array], Any]:
    """Return the outputs, and the arrays called `wanted` with what they are in the program."""
    program = trace(named_by_default(net), params, images, turns=True)
    values = find(program, wanted)
    edits = {name: (value, lambda x: x) for name, value in values.items()}
    outputs, taken = evaluate(program, (params, images), changing(edits))
    return outputs, {name: taken[name] for name in wanted}, values


def read_layers(net: Net, names: str | Sequence[str]) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """Return a function that gives the values called `names`, their channels on the last axis."""
    read = read_with_outputs(net, _as_names(names))
    return lambda params, images: read(params, images)[1]


def read_with_outputs(net: Net, names: Sequence[str]) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
    """Return a function that gives what the network returns, and those values."""

    def read(params: Any, images: Any) -> tuple[Any, dict[str, jax.Array]]:
        if not names:
            return net(params, images), {}
        outputs, taken, values = _taken(net, names, params, images)
        return outputs, {name: jnp.moveaxis(x, channel_axis(values[name]), -1) for name, x in taken.items()}

    return read


def replace(net: Net, replacements: Mapping[str, Any]) -> Callable[[Any, Any], Any]:
    """Return the network with some of its inner values replaced: ablate, clamp, add, patch.

    Args:
        net: any JAX function `net(params, images)`.
        replacements: for each name that `layers` lists, a function of the value that returns one of the same shape, or
            an array that broadcasts to that shape. The result is converted to the value's dtype.

    Returns:
        `fn(params, images) -> outputs`, which composes with jit, vmap and grad.

    Raises:
        ValueError: if there are no replacements; when called, for a replacement of another shape, and for a name that
            is unknown, stands for several values, or lies in a loop whose iterations have no names.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> def net(params, images):
        ...     return images.mean((1, 2)) @ params
        >>> ablated = jaxviz.replace(net, {"dense_0": lambda x: x.at[:, 0].set(0.0)})
        >>> print(ablated(jnp.ones((3, 2)), jnp.ones((1, 8, 8, 3))))
        [[0. 3.]]
    """
    wanted = _as_names(list(replacements))

    def edited(params: Any, images: Any) -> Any:
        program = trace(named_by_default(net), params, images, turns=True)
        edits = {
            name: (value, functools.partial(_substitute, name, replacements[name]))
            for name, value in find(program, wanted).items()
        }
        return evaluate(program, (params, images), changing(edits))[0]

    return edited


def _as_names(names: str | Sequence[str]) -> tuple[str, ...]:
    wanted = (names,) if isinstance(names, str) else tuple(names)
    if not wanted or not all(isinstance(name, str) for name in wanted):
        raise ValueError(f"expected the name of a layer or several of them, got {names!r}; `layers` lists them")
    return wanted


def _substitute(name: str, new: Any, value: jax.Array) -> jax.Array:
    result: Any = new(value) if callable(new) else jnp.asarray(new)
    shape = jnp.shape(result)
    if not (shape == value.shape or (not callable(new) and _broadcasts(shape, value.shape))):
        raise ValueError(f"the replacement of {name!r} has shape {shape}; the network needs {value.shape}")
    return jnp.broadcast_to(result, value.shape).astype(value.dtype)


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, wanted) == wanted
    except ValueError:
        return False


def changing(edits: Mapping[str, tuple[Value, Callable]]) -> dict[Path, Action]:
    """Turn `{name: (value, change)}` into actions that change each value at its home and take it out."""
    grouped: dict[Path, list[tuple[str, int, Callable]]] = {}
    for name, (value, change) in edits.items():
        path, output = value.home
        grouped.setdefault(path, []).append((name, output, change))

    def action(here: list[tuple[str, int, Callable]], _: list[Any], run: Callable) -> tuple[list[Any], dict[str, Any]]:
        results, taken = list(run()), {}
        for name, output, change in here:
            results[output] = taken[name] = change(results[output])
        return results, taken

    return {path: functools.partial(action, here) for path, here in grouped.items()}
