"""What a network returns: the parts of a tuple, a dictionary or an object, by key, attribute or index."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxviz._types import Net

Key = str | int


@dataclasses.dataclass(frozen=True)
class Output:
    """What a network returns, or the part of it to which keys, attributes and indices lead, one after another.

    It stands where a layer's name can.
    """

    path: tuple[Key, ...] = ()

    @classmethod
    def of(cls, output: Any) -> "Output":
        """Return the part that `output` says: a key, an attribute or an index, several of them, or None for all."""
        path = () if output is None else output if isinstance(output, tuple | list) else (output,)
        if not all(isinstance(key, str | int) and not isinstance(key, bool) for key in path):
            raise ValueError(
                f"output: expected a key, an attribute, an index, or a tuple that leads to a part, got {output!r}"
            )
        return cls(tuple(path))

    def __repr__(self) -> str:
        return "the output" + (f" {_option(self.path)}" if self.path else "")

    __str__ = __repr__


Layer = str | Output


def layer_or_output(layer: Any, output: Any) -> Layer:
    """Return a layer's name, or what the network returns if it is None."""
    if layer is None:
        return Output.of(output)
    if output is not None:
        raise ValueError(f"output: expected none beside the layer {layer!r}; layer=None is what the network returns")
    return layer


def array_of(returned: Any, output: Output) -> Array:
    """Return a part of what a network returned if it is one array; raise ValueError that says what else it is."""
    found = returned
    for key in output.path:
        found = _part(found, key, returned, output)
    if isinstance(found, jax.Array | np.ndarray):
        return jnp.asarray(found)
    parts = list(_parts(found, (), ""))
    arrays = [(path, place, part) for path, place, part in parts if hasattr(part, "shape")]
    path, place, _ = next((x for x in arrays if len(x[2].shape) == 2), next(iter(arrays), ((), "", None)))
    listed = ", ".join(f"{place or 'itself'}: {_shown(part)}" for _, place, part in parts)
    where = f" at {_option(output.path)}" if output.path else ""
    advice = f"; say output={_option((*output.path, *path))}" if path else ""
    advice += f", or wrap it, as in lambda params, images: net(params, images){place}" if path and not where else ""
    raise ValueError(
        f"a class score needs a network that returns one array (n, classes), got a {type(found).__name__}{where} "
        f"({listed}){advice}"
    )


def _part(found: Any, key: Key, returned: Any, output: Output) -> Any:
    if isinstance(found, Mapping) and key in found:
        return found[key]
    if isinstance(key, str) and not hasattr(found, "shape") and hasattr(found, key):
        return getattr(found, key)
    if isinstance(key, int) and isinstance(found, list | tuple) and -len(found) <= key < len(found):
        return found[key]
    there = ", ".join(f"{place or 'itself'}: {_shown(part)}" for _, place, part in _parts(returned, (), ""))
    raise ValueError(
        f"output: the network returns nothing at {_option(output.path)}, where {key!r} is missing, but a "
        f"{type(returned).__name__} ({there})"
    )


def _option(path: tuple[Key, ...]) -> str:
    return repr(path[0] if len(path) == 1 else path)


def arrays_in(returned: Any) -> list[Any]:
    """Return all arrays in what a network returned."""
    return [part for _, _, part in _parts(returned, (), "") if hasattr(part, "shape")]


class Returned(NamedTuple):
    """What a network returns, as far as it can be told without running it."""

    kind: str
    """The name of its type."""
    arrays: dict[str, tuple[Output, str, tuple[int, ...]]]
    """By the keys that lead to each, joined by dots: which part it is, the Python that takes it out, its shape."""

    def __str__(self) -> str:
        return ", ".join(f"{name}: {shape}" for name, (_, _, shape) in self.arrays.items())


def returned_by(net: Net, params: Any, images: Any) -> Returned:
    """Return what a network returns, traced and not run."""
    found = []

    def noted(params: Any, images: Any) -> list[Any]:
        returned = net(params, images)
        parts = [(path, place, part) for path, place, part in _parts(returned, (), "") if hasattr(part, "shape")]
        named = {".".join(map(str, path)): (Output(path), place, tuple(part.shape)) for path, place, part in parts}
        found.append(Returned(type(returned).__name__, named))
        return [part for _, _, part in parts]

    jax.eval_shape(noted, params, images)
    return found[0]


def _parts(tree: Any, path: tuple[Any, ...], place: str) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """Yield what a nested result is made of, each with its path and the Python that takes it out."""
    if hasattr(tree, "shape"):
        yield path, place, tree
        return
    if isinstance(tree, Mapping):
        steps = [(key, f'["{key}"]' if isinstance(key, str) else f"[{key!r}]", part) for key, part in tree.items()]
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        steps = [(name, f".{name}", part) for name, part in zip(tree._fields, tree, strict=True)]
    elif isinstance(tree, list | tuple):
        steps = [(i, f"[{i}]", part) for i, part in enumerate(tree)]
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        steps = [(field.name, f".{field.name}", getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    elif getattr(tree, "__dict__", None):
        steps = [(name, f".{name}", part) for name, part in vars(tree).items()]
    else:
        yield path, place, tree
        return
    for key, step, part in steps:
        yield from _parts(part, (*path, key), place + step)


def _shown(part: Any) -> str:
    return str(tuple(part.shape)) if hasattr(part, "shape") else type(part).__name__
