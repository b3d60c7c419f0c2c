"""Scores: functions `score(params, images) -> (n,)` that say what to explain or what to maximise.

Each is a pytree. Its structure, the network and the layer, is static; its numbers, a class or channel or position,
are traced. So `jax.jit(saliency)(logit(net, 3), params, images)` compiles once for every class.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxviz._interpret import capture
from jaxviz._types import Net, Score

Index = int | np.integer | np.ndarray | Array


def _static() -> Any:
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Logit:
    net: Net = _static()
    target: Any = None

    def __call__(self, params: Any, images: Any) -> Array:
        logits = self.net(params, images)
        if jnp.ndim(logits) != 2:
            raise ValueError(f"logit needs a network that returns (n, classes), got shape {jnp.shape(logits)}")
        best = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))
        return _pick(logits, best if self.target is None else self.target, "class")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Channel:
    net: Net = _static()
    layer: str = _static()
    index: Any = 0

    def __call__(self, params: Any, images: Any) -> Array:
        value = _layer(self, params, images)
        return _pick(value.mean(axis=tuple(range(1, value.ndim - 1))), self.index, f"channel of {self.layer!r}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Neuron:
    net: Net = _static()
    layer: str = _static()
    index: Any = 0
    position: Any = None

    def __call__(self, params: Any, images: Any) -> Array:
        value = _layer(self, params, images)
        if value.ndim == 4:
            row, column = (value.shape[1] // 2, value.shape[2] // 2) if self.position is None else self.position
            along_row = _pick(jnp.swapaxes(value, 1, -1), row, f"row of {self.layer!r}")  # (n, c, w)
            value = _pick(along_row, column, f"column of {self.layer!r}")
        elif self.position is not None:
            raise ValueError(f"{self.layer!r} has shape {value.shape}, so its units have no position")
        return _pick(value, self.index, f"channel of {self.layer!r}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Energy:
    net: Net = _static()
    layer: str = _static()

    def __call__(self, params: Any, images: Any) -> Array:
        value = _layer(self, params, images)
        return jnp.mean(jnp.square(value), axis=tuple(range(1, value.ndim)))


def _layer(score: _Channel | _Neuron | _Energy, params: Any, images: Any) -> Array:
    return capture(score.net, score.layer)(params, images)[1][score.layer]


def _pick(values: Array, index: Any, what: str) -> Array:
    """Return `values[i, ..., index[i]]` for each image i; refuse an index out of range where it can be seen.

    A traced index cannot be: one out of range gives NaN, which no reader takes for a result.
    """
    count, size = values.shape[0], values.shape[-1]
    if not isinstance(index, Tracer):
        numbers = np.asarray(index)
        if not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"expected the number of a {what}, or one for each image, got {index!r}")
        if numbers.size and (numbers.min() < -size or numbers.max() >= size):
            raise ValueError(f"there is no {what} {index}: expected 0 to {size - 1}")
    if jnp.ndim(index) > 1 or (jnp.ndim(index) == 1 and jnp.shape(index)[0] != count):
        raise ValueError(f"expected one {what} or one for each of {count} images, got shape {jnp.shape(index)}")
    chosen = jnp.broadcast_to(jnp.asarray(index), (count,)).reshape((count,) + (1,) * (values.ndim - 1))
    return jnp.take_along_axis(values, chosen, axis=-1, mode="fill")[..., 0]


def logit(net: Net, target: Index | None = None) -> _Logit:
    """Score a class by its logit, before any softmax.

    Args:
        net: a classifier, `(n, classes)` out.
        target: a class, or one for each image, `(n,)`; None: the class that the network ranks first, held fixed.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.logit(net, 1)(jnp.eye(3), jnp.ones((2, 4, 4, 3)) * jnp.array([0.1, 0.5, 0.2])))
        [0.5 0.5]
    """
    return _Logit(net, target)


def channel(net: Net, layer: str, index: Index) -> _Channel:
    """Score one channel of a layer by its mean over positions; `index` may hold one channel for each image, `(n,)`.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.channel(net, "dense_0", jnp.array([0, 2]))(jnp.diag(jnp.arange(3.0)), jnp.ones((2, 4, 4, 3))))
        [0. 2.]
    """
    return _Channel(net, layer, index)


def neuron(net: Net, layer: str, index: Index, position: tuple[Index, Index] | None = None) -> _Neuron:
    """Score one unit: channel `index` at `position` (row, column), by default at the centre of the map.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.neuron(net, "dense_0", 1)(jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [1. 1.]
    """
    return _Neuron(net, layer, index, position)


def energy(net: Net, layer: str) -> _Energy:
    """Score a whole layer by the mean of its squares: what DeepDream maximises.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: images.mean((1, 2)) @ params
        >>> print(jaxviz.energy(net, "dense_0")(2 * jnp.eye(3), jnp.ones((2, 4, 4, 3))))
        [4. 4.]
    """
    return _Energy(net, layer)


# What the methods ask of any score


def is_pytree(score: Any) -> bool:
    """Tell a score that is data, such as `logit(net, 3)`, from a plain function."""
    return not jax.tree_util.all_leaves([score])


def as_data(score: Score) -> Any:
    """Return a score in a form that jit takes as an argument: itself if it is a pytree, else its function as static.

    A plain function is wrapped anew, and so compiled anew, each time: it may read what changes between calls.
    """
    return score if is_pytree(score) else jax.tree_util.Partial(functools.partial(score))


def one_per_image(values: Any, images: Any) -> Array:
    """Return a score's values; raise ValueError unless there is one for each image."""
    if jnp.shape(values) != images.shape[:1]:
        raise ValueError(
            f"a score must give one number per image, here {images.shape[:1]}; this one gave {jnp.shape(values)}; "
            "jaxviz.logit, channel, neuron and energy make scores of a network"
        )
    return values
