"""Scores of a network's units: a class, a channel, a neuron, a layer's energy."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxviz._types import Net
from jaxviz.program._axes import Layout
from jaxviz.program._outputs import Reading
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.scores._algebra import Index, OfLayer, Read, numbers, static


class _Outputs(NamedTuple):
    """What a network returns, and what is to be picked from: the same, or probabilities."""

    returned: Float[Array, "n k"]
    values: Float[Array, "n k"]

    def best(self) -> Array:
        return jax.lax.stop_gradient(jnp.argmax(self.returned, axis=-1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Logit(Read):
    """The output of a class, or its probability."""

    net: Net = static()
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

    def measured(self, values: _Outputs) -> Array:
        return values.values

    def pick(self, outputs: _Outputs) -> Array:
        return _pick(outputs.values, outputs.best() if self.target is None else self.target, "class", several=True)


def _chances(logits: Array) -> Array:
    """Return probabilities: by a softmax over the classes or, of a single output, by a sigmoid."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Channel(OfLayer):
    layout: ClassVar[Layout] = "channels"
    name: ClassVar[str] = "channel"
    net: Net = static()
    layer: str = static()
    index: Any = 0
    tokens: Tokens = static(default=None)

    def pick(self, value: Array) -> Array:
        means = value.mean(axis=tuple(range(1, value.ndim - 1)))
        return _pick(means, self.index, f"channel of {self.layer!r}", several=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Neuron(OfLayer):
    layout: ClassVar[Layout] = "units"
    name: ClassVar[str] = "neuron"
    net: Net = static()
    layer: str = static()
    index: Any = 0
    position: Any = None
    tokens: Tokens = static(default=None)

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
class Energy(OfLayer):
    layout: ClassVar[Layout] = "images"
    name: ClassVar[str] = "energy"
    net: Net = static()
    layer: str = static()
    tokens: Tokens = static(default=None)

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


def logit(net: Net, target: Index | None = None) -> Logit:
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
        >>> images = jnp.full((2, 4, 4, 3), jnp.array([0.25, 0.5, 1.0]))
        >>> print(jaxviz.logit(net, 1)(jnp.eye(3), images))
        [0.5 0.5]
        >>> print(jaxviz.logit(net, jnp.array([[0, 2]]))(jnp.eye(3), images))  # two classes of every image
        [[0.25 1.  ]
         [0.25 1.  ]]
    """
    return Logit(net, numbers(target))


def probability(net: Net, target: Index | None = None) -> Logit:
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
        >>> print(jaxviz.probability(net, 1)(jnp.eye(3), jnp.full((1, 4, 4, 3), jnp.log(jnp.array([1.0, 2.0, 1.0])))))
        [0.5]
    """
    return Logit(net, numbers(target), softmax=True)


def channel(net: Net, layer: str, index: Index, *, tokens: Tokens = None) -> Channel:
    """Score one channel of a layer by its mean over positions: those of a map, or the tokens of `(n, tokens, c)`.

    `index` may hold one channel for each image, `(n,)`, or k for each, `(n, k)` or `(1, k)`; -1 is the last. Class and
    register tokens lie nowhere and do not count, where the network's program shows which they are, or `tokens` does
    (see `grad_cam`).

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
    return Channel(net, layer, numbers(index), checked_tokens(tokens))


def neuron(
    net: Net, layer: str, index: Index, position: tuple[Index, Index] | None = None, *, tokens: Tokens = None
) -> Neuron:
    """Score one unit: channel `index` at `position` (row, column), by default at the center of the map.

    Each may hold one number for each image, `(n,)`; `index` also k for each, `(n, k)` or `(1, k)`. -1 is the last.
    Tokens `(n, tokens, c)` are a map of what the network's program shows, or `tokens` says (see `grad_cam`), to be
    their rows and columns.

    Raises:
        ValueError: when called, for a layer, channel or position that there is not, and for a layer that is neither a
            vector `(n, c)` nor, as the network's program shows, a map of the images' rows and columns or tokens of it.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.neuron(net, "dense_0", 1)(jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [1. 1.]
    """
    at = position and tuple(numbers(x) for x in position)
    return Neuron(net, layer, numbers(index), at, checked_tokens(tokens))


def energy(net: Net, layer: str, *, tokens: Tokens = None) -> Energy:
    """Score a whole layer by the mean of its squares: what DeepDream maximizes.

    Of tokens, those count that count for `channel`.

    Raises:
        ValueError: when called, for a layer that there is not, or that has no axis of the images.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.energy(net, "dense_0")(2 * jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [4. 4.]
    """
    return Energy(net, layer, checked_tokens(tokens))
