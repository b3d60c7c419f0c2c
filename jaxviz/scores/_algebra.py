"""Scores: functions `score(params, images) -> (n,)` that say what to explain or what to maximize.

Each is a pytree. Its structure, the network and the layer, is static; its numbers, a class or channel or position,
are traced. So `jax.jit(saliency)(logit(net, 3), params, images)` compiles once for all classes.

A score may also give `(n, k)`, k numbers for each image. Attribution then explains each of them from one forward pass,
with maps `(n, k, h, w)`: `saliency(logit(net, jnp.arange(1000)[None]), params, images)` has a map for every class.

Scores can be added and scaled, by one number or by one per image: `(1 - t) * channel(net, layer, 3) + t *
channel(net, layer, 8)` with `t = jnp.linspace(0, 1, 5)` moves from one channel to another in five images.
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
from jaxviz.program._returned import Layer
from jaxviz.program._tokens import Tokens
from jaxviz.show._brief import brief_fields

Index = int | np.integer | np.ndarray | Array | Sequence[Any]


def static(**options: Any) -> Any:
    return dataclasses.field(metadata={"static": True}, **options)


class Summable(HoldsFunctions):
    """The base class of all scores: they can be added, and multiplied or divided by one number or by one per image.

    Your own subclass, a frozen dataclass registered as a pytree, works the same way. Fields marked as static are
    compiled in; the others are data, and changing their values does not recompile.

    Example:
        >>> import dataclasses, jax, jax.numpy as jnp, jaxviz
        >>> @jax.tree_util.register_dataclass
        ... @dataclasses.dataclass(frozen=True)
        ... class Brightness(jaxviz.Summable):
        ...     color: int = dataclasses.field(metadata={"static": True})
        ...     power: float
        ...
        ...     def __call__(self, params, images):
        ...         return images[..., self.color].mean((1, 2)) ** self.power
        >>> score = Brightness(0, 2.0) - sum([Brightness(1, 1.0), Brightness(2, 1.0)]) / 2
        >>> print(score(None, jnp.full((1, 4, 4, 3), 0.5)))
        [-0.25]
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__repr__ in (object.__repr__, brief_fields):
            cls.__repr__ = brief_fields  # type: ignore[assignment]  # or a dataclass writes out the values of arrays

    __array_ufunc__ = None  # so that NumPy scalars defer to our multiplication

    def __call__(self, params: Any, images: Any) -> Array:
        """Return one number per image, `(n,)`, or k per image, `(n, k)`."""
        raise NotImplementedError

    def lengths(self) -> set[int]:
        """Tell how many images this score holds values for, which decides how many `ascend` makes.

        Returns:
            The lengths of its vectors; empty if it holds numbers only.
        """
        return {len(leaf) for leaf in jax.tree.leaves(self) if jnp.ndim(leaf) == 1}

    def of_parts(self) -> bool:
        """Tell whether the score of parts of an image, at their own scale or another, says something of the image.

        That of a channel or a class does; that of a neuron at a position or of likeness to a picture does not, and of
        your own function nothing is known. `ascend` by default shows random parts to a score that does.

        Returns:
            False, unless a subclass knows better.
        """
        return False

    def __add__(self, other: Any) -> "Sum":
        return Sum((self, score(other)), (1.0, 1.0)) if callable(other) else NotImplemented

    def __radd__(self, other: Any) -> "Summable":
        if callable(other):
            return Sum((score(other), self), (1.0, 1.0))
        return self if isinstance(other, int) and other == 0 else NotImplemented  # where `sum` begins

    def __mul__(self, weight: Any) -> "Sum":
        return NotImplemented if callable(weight) else Sum((self,), (numbers(weight),))

    __rmul__ = __mul__

    def __truediv__(self, number: Any) -> "Sum":
        return NotImplemented if callable(number) else Sum((self,), (1 / numbers(number),))

    def __neg__(self) -> "Sum":
        return -1.0 * self

    def __sub__(self, other: Any) -> "Sum":
        return self + -score(other) if callable(other) else NotImplemented

    def __rsub__(self, other: Any) -> "Sum":
        return score(other) + -self if callable(other) else NotImplemented


def score(fn: Score) -> Summable:
    """Turn a plain function into a score that can be added: `0.1 * score(fn) + channel(net, layer, 3)`.

    A function that is added to a score, as in `channel(net, layer, 3) + fn`, is converted automatically.

    Args:
        fn: `fn(params, images) -> (n,)`, one number per image, or `(n, k)`. As with `jax.jit`, any other state it
            depends on is read once, when the function is compiled. A score is returned unchanged.

    Returns:
        A score, `(n,)` or `(n, k)`.

    Raises:
        ValueError: if `fn` is not callable, and, when called, if it returns anything else.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> redness = jaxviz.score(lambda params, images: images[..., 0].mean((1, 2)))
        >>> print((2 * redness)(None, jnp.full((1, 4, 4, 3), 0.25)))
        [0.5]
    """
    if isinstance(fn, Summable):
        return fn
    if not callable(fn):
        raise ValueError(f"score: expected a function (params, images) -> (n,), got {fn!r}")
    return Function(fn) if jax.tree_util.all_leaves([fn]) else _Data(fn)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Function(Summable):
    """A user's function."""

    fn: Score = static()

    def __call__(self, params: Any, images: Any) -> Any:
        return self.fn(params, images)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Data(Summable):
    """A user's callable that is a pytree: its leaves are data."""

    fn: Any

    def __call__(self, params: Any, images: Any) -> Any:
        return self.fn(params, images)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Summable):
    scores: tuple[Any, ...]
    weights: tuple[Any, ...]

    def lengths(self) -> set[int]:
        """Return the lengths of all terms and of their weights."""
        weights = {len(weight) for weight in self.weights if jnp.ndim(weight) == 1}
        return weights.union(*(lengths_of(part) for part in self.scores))

    def of_parts(self) -> bool:
        """Tell whether all terms are scores of parts."""
        return all(part.of_parts() for part in self.scores)

    def __call__(self, params: Any, images: Any) -> Array:
        terms = list(terms_of(self))
        values = _read_together([term for term, _ in terms], params, images)
        parts = [some_per_image(value, images) for value in values]
        if len({part.shape for part in parts}) > 1:
            shapes = [part.shape for part in parts]
            raise ValueError(f"scores that are added: expected equal shapes for the same images, got {shapes}")
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


def terms_of(score: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the terms of a score, each with all weights that multiply it, the outermost first."""
    if not isinstance(score, Sum):
        yield score, ()
        return
    for part, weight in zip(score.scores, score.weights, strict=True):
        yield from ((term, (weight, *within)) for term, within in terms_of(part))


def _read_together(terms: Sequence[Any], params: Any, images: Any) -> list[Array]:
    """Return the value of each score, evaluating a network once even if several scores read it.

    So each layer and each ReLU occurs once, and what a method does to it applies to all terms.
    """
    reading = [term for term in terms if isinstance(term, Read)]
    values = dict(zip(map(id, reading), read_terms(reading, params, images), strict=True))
    return [term.pick(values[id(term)]) if id(term) in values else term(params, images) for term in terms]


def read_terms(terms: Sequence[Any], params: Any, images: Any) -> list[Any]:
    """Return what each score that reads a network picks from, evaluating each network once."""
    readers: dict[int, list[Any]] = {}
    for term in terms:
        readers.setdefault(id(term.net), []).append(term)
    values: dict[int, Any] = {}
    for same in readers.values():
        reading = _reading(same, params, images)
        values |= {id(term): term.taken(reading, images) for term in same}
    return [values[id(term)] for term in terms]


def _reading(terms: Sequence[Any], params: Any, images: Any) -> Reading:
    """Read the layers that some scores of one network need."""
    names = dict.fromkeys(name for term in terms for name in term.layers)
    return read(terms[0].net, params, images, list(names))


def lengths_of(score: Score) -> set[int]:
    """Return the numbers of images that a score holds values for: the lengths of its vectors, empty if it has none."""
    if isinstance(score, Summable):
        return score.lengths()
    return {len(leaf) for leaf in jax.tree.leaves(score) if not callable(leaf) and jnp.ndim(leaf) == 1}


def nets_of(score: Score) -> int:
    """Return how many networks a score reads, as far as is known."""
    return len({id(term.net) for term, _ in terms_of(score) if isinstance(term, Read)})


class Read(Summable):
    """A score that picks numbers from the values it takes from a network."""

    net: Net
    taken: Callable[[Reading, Any], Any]
    pick: Callable[[Any], Array]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What it reads: names of layers, or an output of the network."""
        return ()

    def measured(self, values: Any) -> Array:
        """Return the values taken as one array, to check whether a gradient reaches the images."""
        return values

    def read(self, params: Any, images: Any) -> Any:
        return self.taken(_reading([self], params, images), images)

    def __call__(self, params: Any, images: Any) -> Array:
        return self.pick(self.read(params, images))


class OfLayer(Read):
    """A score that takes one layer, with its axes arranged by its layout."""

    net: Net
    layer: Layer
    tokens: Tokens
    layout: ClassVar[Layout]
    name: ClassVar[str]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The one layer."""
        return (self.layer,)

    def taken(self, reading: Reading, images: Any) -> Array:
        return reading.arranged(self.layer, self.layout, self.name, self.tokens)


def numbers(index: Any) -> Any:
    """Return a list as an array: in a pytree it would be separate leaves."""
    return np.asarray(index) if isinstance(index, list | tuple) else index


def as_numbers(values: Any, dtype: Any = float) -> Array:
    """Return a score's values as floats, integers and booleans as `dtype`: true counts as 1."""
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise ValueError(f"a score must give real numbers, got {values.dtype}; take jnp.abs or jnp.real of it")
    return values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(dtype)


def one_per_image(values: Any, images: Any) -> Array:
    """Return a score's values as floats; raise ValueError unless there is one per image."""
    if not hasattr(values, "shape") or jnp.shape(values) != images.shape[:1]:
        got = jnp.shape(values) if hasattr(values, "shape") else f"a {type(values).__name__}"
        raise ValueError(
            f"a score must give one number per image, here {images.shape[:1]}; this one gave {got}; "
            "jaxviz.logit, probability, channel, neuron and energy make scores from a network"
        )
    return as_numbers(values, images.dtype)


def some_per_image(values: Any, images: Any) -> Array:
    """Return a score's values as floats; raise ValueError unless there is one per image, or k per image."""
    if hasattr(values, "shape") and len(jnp.shape(values)) == 2 and len(values) == len(images):
        return as_numbers(values, images.dtype)
    return one_per_image(values, images)
