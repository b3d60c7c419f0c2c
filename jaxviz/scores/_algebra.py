"""Scores: functions `score(params, images) -> (n,)` that say what to explain or what to maximise.

Each is a pytree. Its structure, the network and the layer, is static; its numbers, a class or channel or position,
are traced. So `jax.jit(saliency)(logit(net, 3), params, images)` compiles once for every class.

A score may also give `(n, k)`, k numbers for each image. Attribution then explains each of them from one forward pass,
with maps `(n, k, h, w)`: `saliency(logit(net, jnp.arange(1000)[None]), params, images)` has a map for every class.

Scores add, and numbers multiply them, also a number for each image: `(1 - t) * channel(net, layer, 3) + t *
channel(net, layer, 8)` with `t = jnp.linspace(0, 1, 5)` goes from one channel to another in five images.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxviz._types import Net, Score
from jaxviz.program._axes import Layout
from jaxviz.program._compiled import HoldsFunctions
from jaxviz.program._outputs import Reading, read

Index = int | np.integer | np.ndarray | Array | Sequence[Any]


def static() -> Any:
    return dataclasses.field(metadata={"static": True})


class Summable(HoldsFunctions):
    """What all scores made here can do: be added, and be multiplied by a number or by one for each image."""

    __array_ufunc__ = None  # so that NumPy's numbers leave the multiplication to us

    def __add__(self, other: Any) -> "Sum":
        return Sum((self, other), (1.0, 1.0)) if isinstance(other, Summable) else NotImplemented

    def __mul__(self, weight: Any) -> "Sum":
        return NotImplemented if callable(weight) else Sum((self,), (numbers(weight),))

    __rmul__ = __mul__

    def __neg__(self) -> "Sum":
        return -1.0 * self

    def __sub__(self, other: Any) -> "Sum":
        return self + -other if isinstance(other, Summable) else NotImplemented


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Summable):
    scores: tuple[Any, ...]
    weights: tuple[Any, ...]

    def __call__(self, params: Any, images: Any) -> Array:
        terms = list(_terms(self))
        values = _read_together([term for term, _ in terms], params, images)
        parts = [some_per_image(value, images) for value in values]
        if len({part.shape for part in parts}) > 1:
            shapes = [part.shape for part in parts]
            raise ValueError(f"scores that are added: expected as many numbers for the same images, got {shapes}")
        for i, (_, weights) in enumerate(terms):
            for weight in reversed(weights):
                parts[i] = self._weighted(weight, parts[i], len(images))
        return functools.reduce(jnp.add, parts)

    def _weighted(self, weight: Any, values: Array, count: int) -> Any:
        if jnp.shape(weight) not in ((), (count,)):
            raise ValueError(
                f"a score's weight: expected a number, or one for each of {count} images, got shape {jnp.shape(weight)}"
            )
        return jnp.reshape(jnp.asarray(weight, values.dtype), (-1, *(1,) * (values.ndim - 1))) * values


def _terms(score: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield what a score is the sum of, each term with all weights that multiply it, the outermost first."""
    if not isinstance(score, Sum):
        yield score, ()
        return
    for part, weight in zip(score.scores, score.weights, strict=True):
        yield from ((term, (weight, *within)) for term, within in _terms(part))


def _read_together(terms: Sequence[Any], params: Any, images: Any) -> list[Array]:
    """Return the value of each score, from one evaluation of a network that several read.

    So a layer, or a ReLU, is there once, and what a method does to it, it does for all terms.
    """
    readers: dict[int, list[Any]] = {}
    for term in terms:
        if isinstance(term, Read):
            readers.setdefault(id(term.net), []).append(term)
    values: dict[int, Any] = {}
    for same in readers.values():
        reading = _reading(same, params, images)
        values |= {id(term): term.taken(reading, images) for term in same}
    return [term.pick(values[id(term)]) if id(term) in values else term(params, images) for term in terms]


def _reading(terms: Sequence[Any], params: Any, images: Any) -> Reading:
    """Read what some scores of one network want of it."""
    names = dict.fromkeys(term.layer for term in terms if isinstance(term, OfLayer))
    return read(terms[0].net, params, images, list(names), outputs=any(term.reads_outputs for term in terms))


def nets_of(score: Score) -> int:
    """Return how many networks a score reads, as far as that is known."""
    return len({id(term.net) for term, _ in _terms(score) if isinstance(term, Read)})


class Read(Summable):
    """A score that picks from what it takes of the network."""

    net: Net
    taken: Callable[[Reading, Any], Any]
    pick: Callable[[Any], Array]
    reads_outputs: ClassVar[bool] = False

    def read(self, params: Any, images: Any) -> Any:
        return self.taken(_reading([self], params, images), images)

    def __call__(self, params: Any, images: Any) -> Array:
        return self.pick(self.read(params, images))


class OfLayer(Read):
    """A score that takes a layer, its axes in the order that its layout says."""

    net: Net
    layer: str
    layout: ClassVar[Layout]
    name: ClassVar[str]

    def taken(self, reading: Reading, images: Any) -> Array:
        return reading.arranged(self.layer, self.layout, self.name)


def numbers(index: Any) -> Any:
    """Return a list as an array: in a pytree it would be several numbers, each by itself."""
    return np.asarray(index) if isinstance(index, list | tuple) else index


def as_numbers(values: Any, dtype: Any = float) -> Array:
    """Return a score's values as floats, those that are none as `dtype`: truth counts as 1 and 0."""
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise ValueError(f"a score must give real numbers, got {values.dtype}; take jnp.abs or jnp.real of it")
    return values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(dtype)


def one_per_image(values: Any, images: Any) -> Array:
    """Return a score's values as floats; raise ValueError unless there is one for each image."""
    if not hasattr(values, "shape") or jnp.shape(values) != images.shape[:1]:
        got = jnp.shape(values) if hasattr(values, "shape") else f"a {type(values).__name__}"
        raise ValueError(
            f"a score must give one number per image, here {images.shape[:1]}; this one gave {got}; "
            "jaxviz.logit, probability, channel, neuron and energy make scores of a network"
        )
    return as_numbers(values, images.dtype)


def some_per_image(values: Any, images: Any) -> Array:
    """Return a score's values as floats; raise ValueError unless there is one for each image, or k of them."""
    if hasattr(values, "shape") and len(jnp.shape(values)) == 2 and len(values) == len(images):
        return as_numbers(values, images.dtype)
    return one_per_image(values, images)
