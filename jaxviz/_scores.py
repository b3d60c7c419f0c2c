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
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxviz._axes import Layout
from jaxviz._differentiable import check_reaches
from jaxviz._outputs import Reading, read
from jaxviz._programs import HoldsFunctions, compiled
from jaxviz._types import Net, Score

Index = int | np.integer | np.ndarray | Array | Sequence[Any]


def _static() -> Any:
    return dataclasses.field(metadata={"static": True})


class Summable(HoldsFunctions):
    """What all scores made here can do: be added, and be multiplied by a number or by one for each image."""

    __array_ufunc__ = None  # so that NumPy's numbers leave the multiplication to us

    def __add__(self, other: Any) -> "_Sum":
        return _Sum((self, other), (1.0, 1.0)) if isinstance(other, Summable) else NotImplemented

    def __mul__(self, weight: Any) -> "_Sum":
        return NotImplemented if callable(weight) else _Sum((self,), (_numbers(weight),))

    __rmul__ = __mul__

    def __neg__(self) -> "_Sum":
        return -1.0 * self

    def __sub__(self, other: Any) -> "_Sum":
        return self + -other if isinstance(other, Summable) else NotImplemented


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Sum(Summable):
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
    if not isinstance(score, _Sum):
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
        if isinstance(term, _Read):
            readers.setdefault(id(term.net), []).append(term)
    values: dict[int, Any] = {}
    for same in readers.values():
        reading = _reading(same, params, images)
        values |= {id(term): term.taken(reading, images) for term in same}
    return [term.pick(values[id(term)]) if id(term) in values else term(params, images) for term in terms]


def _reading(terms: Sequence[Any], params: Any, images: Any) -> Reading:
    """Read what some scores of one network want of it."""
    names = dict.fromkeys(term.layer for term in terms if isinstance(term, _OfLayer))
    return read(terms[0].net, params, images, list(names), outputs=any(term.reads_outputs for term in terms))


def nets_of(score: Score) -> int:
    """Return how many networks a score reads, as far as that is known."""
    return len({id(term.net) for term, _ in _terms(score) if isinstance(term, _Read)})


class _Read(Summable):
    """A score that picks from what it takes of the network."""

    net: Net
    taken: Callable[[Reading, Any], Any]
    pick: Callable[[Any], Array]
    reads_outputs: ClassVar[bool] = False

    def read(self, params: Any, images: Any) -> Any:
        return self.taken(_reading([self], params, images), images)

    def __call__(self, params: Any, images: Any) -> Array:
        return self.pick(self.read(params, images))


class _Outputs(NamedTuple):
    """What a network returns, and what is to be picked from: the same, or probabilities."""

    returned: Float[Array, "n k"]
    values: Float[Array, "n k"]

    def best(self) -> Array:
        return jax.lax.stop_gradient(jnp.argmax(self.returned, axis=-1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Class(_Read):
    """The output of a class, or its probability."""

    net: Net = _static()
    target: Any = None
    softmax: bool = dataclasses.field(default=False, metadata={"static": True})
    reads_outputs: ClassVar[bool] = True

    def taken(self, reading: Reading, images: Any) -> _Outputs:
        returned: Any = reading.outputs
        if jnp.ndim(returned) != 2 or len(returned) != len(images):
            hint = (
                "; add an axis of classes, net(params, images)[:, None]"
                if jnp.shape(returned) == (len(images),)
                else ""
            )
            raise ValueError(
                f"a class score needs a network that returns (n, classes), got shape {jnp.shape(returned)} for "
                f"{len(images)} images{hint}"
            )
        if not self.softmax and reading.are_chances:
            raise ValueError(
                "logit: this network ends in a softmax or a sigmoid, so it returns probabilities, which are no logits; "
                "use jaxviz.probability, or the network without its last function"
            )
        as_they_are = reading.are_chances or not self.softmax
        return _Outputs(returned, returned if as_they_are else _chances(returned))

    def pick(self, outputs: _Outputs) -> Array:
        return _pick(outputs.values, outputs.best() if self.target is None else self.target, "class", several=True)


def _chances(logits: Array) -> Array:
    """Return probabilities: by a softmax over the classes or, of a single output, by a sigmoid."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


class _OfLayer(_Read):
    """A score that takes a layer, its axes in the order that its layout says."""

    net: Net
    layer: str
    layout: ClassVar[Layout]
    name: ClassVar[str]

    def taken(self, reading: Reading, images: Any) -> Array:
        return reading.arranged(self.layer, self.layout, self.name)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Channel(_OfLayer):
    layout: ClassVar[Layout] = "channels"
    name: ClassVar[str] = "channel"
    net: Net = _static()
    layer: str = _static()
    index: Any = 0

    def pick(self, value: Array) -> Array:
        means = value.mean(axis=tuple(range(1, value.ndim - 1)))
        return _pick(means, self.index, f"channel of {self.layer!r}", several=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Neuron(_OfLayer):
    layout: ClassVar[Layout] = "units"
    name: ClassVar[str] = "neuron"
    net: Net = _static()
    layer: str = _static()
    index: Any = 0
    position: Any = None

    def pick(self, value: Array) -> Array:
        if value.ndim == 4:
            row, column = (value.shape[1] // 2, value.shape[2] // 2) if self.position is None else self.position
            along_row = _pick(jnp.swapaxes(value, 1, -1), row, f"row of {self.layer!r}")  # (n, c, w)
            value = _pick(along_row, column, f"column of {self.layer!r}")
        elif self.position is not None:
            raise ValueError(f"{self.layer!r} has shape {value.shape}, so its units have no position")
        return _pick(value, self.index, f"channel of {self.layer!r}", several=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Energy(_OfLayer):
    layout: ClassVar[Layout] = "images"
    name: ClassVar[str] = "energy"
    net: Net = _static()
    layer: str = _static()

    def pick(self, value: Array) -> Array:
        return jnp.mean(jnp.square(value), axis=tuple(range(1, value.ndim)))


def _pick(values: Array, index: Any, what: str, *, several: bool = False) -> Array:
    """Return `values[i, ..., index[i]]` for each image i; refuse an index out of range where it can be seen.

    A traced index cannot be: one out of range gives NaN, as score and as gradient, which no reader takes for a result.
    With `several`, `index` may be `(n, k)` or `(1, k)`, k of them for each image.
    """
    count, size = values.shape[0], values.shape[-1]
    if not isinstance(index, Tracer):
        numbers = np.asarray(index)
        if not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"expected the number of a {what}, or one for each image, got {index!r}")
        if numbers.size and (numbers.min() < -size or numbers.max() >= size):
            raise ValueError(f"there is no {what} {index}: expected 0 to {size - 1}, or -{size} to -1 from the end")
    shape = jnp.shape(index)
    if not (shape in ((), (count,)) or (several and len(shape) == 2 and shape[0] in (1, count))):
        more = ", or several for each, (1, k) or (n, k)" if several else ""
        raise ValueError(f"expected one {what} or one for each of {count} images{more}, got shape {shape}")
    wanted = (count, *(1,) * (values.ndim - 2), *(shape[1:] or (1,)))
    rows = jnp.asarray(index).reshape(-1, *wanted[1:])
    chosen = jnp.take_along_axis(values, jnp.broadcast_to(rows % size, wanted), axis=-1)
    if isinstance(index, Tracer):
        chosen = chosen * jnp.where((rows >= -size) & (rows < size), 1, jnp.nan).astype(chosen.dtype)
    return chosen if len(shape) == 2 else chosen[..., 0]


def logit(net: Net, target: Index | None = None) -> _Class:
    """Score a class by its logit, before any softmax.

    Args:
        net: a classifier that returns logits, `(n, classes)`.
        target: a class; one for each image, `(n,)`; k for each image, `(n, k)`, or the same k for all, `(1, k)`; None:
            the class that the network ranks first, held fixed. Negative numbers count from the end: -1 is the last.

    Raises:
        ValueError: when called, for a class that there is not, for a network that returns anything but one array of
            that shape, and for one that ends in a softmax or a sigmoid: it returns probabilities.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> images = jnp.ones((2, 4, 4, 3)) * jnp.array([0.25, 0.5, 1.0])
        >>> print(jaxviz.logit(net, 1)(jnp.eye(3), images))
        [0.5 0.5]
        >>> print(jaxviz.logit(net, jnp.array([[0, 2]]))(jnp.eye(3), images))  # two classes of every image
        [[0.25 1.  ]
         [0.25 1.  ]]
    """
    return _Class(net, _numbers(target))


def probability(net: Net, target: Index | None = None) -> _Class:
    """Score a class by its probability, the softmax of the logits: what RISE and the deletion curves are about.

    Of a network with a single output, `(n, 1)`, it is the sigmoid: the probability of the one class, number 0, that the
    network tells from all else. A network that ends in a softmax or a sigmoid, as its traced program shows, has its
    outputs taken as they are.

    Args:
        net: a classifier, `(n, classes)` out.
        target: as for `logit`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.probability(net, 1)(jnp.eye(3), jnp.ones((1, 4, 4, 3)) * jnp.log(jnp.array([1.0, 2.0, 1.0]))))
        [0.5]
    """
    return _Class(net, _numbers(target), softmax=True)


def channel(net: Net, layer: str, index: Index) -> _Channel:
    """Score one channel of a layer by its mean over positions: those of a map, or the tokens of `(n, tokens, c)`.

    `index` may hold one channel for each image, `(n,)`, or k for each, `(n, k)` or `(1, k)`; -1 is the last.

    Raises:
        ValueError: when called, for a layer or channel that there is not, and for a layer of which the network's
            program does not show one axis to be the images and one other to be channels, such as `(n, tokens, heads,
            dim)` or windows `(n * windows, h, w, c)`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.channel(net, "dense_0", jnp.array([0, 2]))(jnp.diag(jnp.arange(3.0)), jnp.ones((2, 4, 4, 3))))
        [0. 2.]
    """
    return _Channel(net, layer, _numbers(index))


def neuron(net: Net, layer: str, index: Index, position: tuple[Index, Index] | None = None) -> _Neuron:
    """Score one unit: channel `index` at `position` (row, column), by default at the centre of the map.

    Each may hold one number for each image, `(n,)`; `index` also k for each, `(n, k)` or `(1, k)`. -1 is the last.

    Raises:
        ValueError: when called, for a layer, channel or position that there is not, and for a layer that is neither a
            vector `(n, c)` nor, as the network's program shows, a map of the images' rows and columns.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.neuron(net, "dense_0", 1)(jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [1. 1.]
    """
    return _Neuron(net, layer, _numbers(index), position and tuple(_numbers(x) for x in position))


def energy(net: Net, layer: str) -> _Energy:
    """Score a whole layer by the mean of its squares: what DeepDream maximises.

    Raises:
        ValueError: when called, for a layer that there is not, or that has no axis of the images.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.energy(net, "dense_0")(2 * jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [4. 4.]
    """
    return _Energy(net, layer)


def _numbers(index: Any) -> Any:
    """Return a list as an array: in a pytree it would be several numbers, each by itself."""
    return np.asarray(index) if isinstance(index, list | tuple) else index


# What the methods ask of any score


def is_pytree(score: Any) -> bool:
    """Tell a score that is data, such as `logit(net, 3)`, from a plain function."""
    return not jax.tree_util.all_leaves([score])


def as_data(score: Score) -> Any:
    """Return a score in a form that jit takes as an argument: itself if it is a pytree, else its function as static.

    A plain function is wrapped anew, and so compiled anew, each time: it may read what changes between calls.
    """
    return score if is_pytree(score) else _Plain(functools.partial(score))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Plain(HoldsFunctions):
    fn: Score = _static()

    def __call__(self, params: Any, images: Any) -> Any:
        return self.fn(params, images)


def check_score(score: Score, params: Any, images: Any, *, differentiable: bool = True) -> None:
    """Complain about numbers of a score that tracing would hide, such as a class that is not there.

    And, unless told that none is needed, about a score without a gradient with respect to the images. The network is
    traced once for all numbers: that takes a tenth of a second or two, as long as a small image's map.
    """
    if isinstance(score, _Sum):
        for part in score.scores:
            check_score(part, params, images, differentiable=differentiable)
    elif isinstance(score, _Read):
        # Without its numbers, so that what was traced for one class is found again for all.
        without_numbers = jax.tree.map(lambda _: 0, score)
        jax.eval_shape(score.pick, _read.eval_shape(differentiable, without_numbers, params, images))
    else:
        jax.eval_shape(_checked(score) if differentiable else functools.partial(score), params, images)


@compiled(static_argnums=0)
def _read(differentiable: bool, score: _Read, params: Any, images: Any) -> Any:
    if not differentiable:
        return score.read(params, images)
    part = (lambda values: values.values) if isinstance(score, _Class) else (lambda values: values)
    return _checked(score.read, part)(params, images)


def _checked(read: Callable[..., Any], part: Callable[[Any], Array] = lambda values: values) -> Callable[..., Any]:
    """Return a function that complains, when it is traced, if no gradient of its values reaches the images."""

    def checked(params: Any, images: Any) -> Any:
        found = lambda params, images: as_numbers(part(read(params, images)))  # noqa: E731
        values, pull = jax.vjp(functools.partial(found, params), images)
        check_reaches(pull, values, found, params, images)
        return read(params, images)

    return checked


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


def fixed(score: Score, params: Any, images: Any) -> Score:
    """Return a score that keeps the class which `images` are ranked as, when it is asked about changed ones."""
    if isinstance(score, _Class) and score.target is None:
        return dataclasses.replace(score, target=score.read(params, images).best())
    if isinstance(score, _Sum):
        return dataclasses.replace(score, scores=tuple(fixed(part, params, images) for part in score.scores))
    return score


def one_by_one(score: Score, count: int) -> Any:
    """Return one of our scores with its numbers repeated for each of `count` images; None for any other score.

    Each slice of the result, with the axis kept, is the score of that image alone. What a function of the user's has
    for each image is not known, so it must always be given all images.
    """
    if not _knows_each_image(score):
        return None
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)[1:])), score)


def _knows_each_image(score: Score) -> bool:
    if isinstance(score, _Sum):
        return all(_knows_each_image(part) for part in score.scores)
    return isinstance(score, _Read)
