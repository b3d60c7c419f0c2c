"""A network with what is known of it: a small value that unpacks as `(net, params)`."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxviz._options import check_count, check_function, check_number
from jaxviz._types import Net
from jaxviz.image._checks import sides_of
from jaxviz.program._compiled import StandIn, original
from jaxviz.program._modules import named_by_default
from jaxviz.show._brief import brief_value


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network and what is known about it; unpacks as `net, params`, the first arguments of most functions here.

    Images are floats in [0, 1] everywhere in jaxviz. **If your network was trained on normalized images, give `mean`
    and `std`**: if you forget them, nothing fails, but every map and every picture is wrong.

    `load` returns one, and the function that `jaxviz VERB --model FILE.py:FUNCTION` names may return one, too.

    Args:
        net: any JAX function `net(params, images)`, with images `(n, h, w, channels)`.
        params: its parameters, any pytree of arrays.
        size: what images are resized to before the network sees them: a side in pixels, or `(height, width)`. None: it
            takes any size.
        mean, std: if given, the attribute `net` is a function of images in [0, 1] that calls the given one with
            `(images - mean) / std`. A number, or one for each channel; if only one of the two is given, the mean is 0
            or the standard deviation 1. None: `net` normalizes by itself.
        classes: the names of its outputs, in order. The attribute `net` knows them, too: `logit(net, "cat")`.
        channels: the number of channels of its images: 3 is RGB, 1 is gray. With a number other than 3, the attribute
            `net` refuses images with any other number of channels.

    Raises:
        ValueError: for a size, mean, standard deviation, number of channels or names of another kind or range.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> network = jaxviz.Network(
        ...     lambda params, images: images.mean((1, 2)) @ params,
        ...     jnp.eye(3),
        ...     mean=(0.5, 0.5, 0.5),
        ...     std=0.25,
        ...     classes=["red", "green", "blue"],
        ... )
        >>> net, params = network
        >>> print(net(params, jnp.ones((1, 8, 8, 3))), network.classes)
        [[2. 2. 2.]] ('red', 'green', 'blue')
    """

    net: Net
    params: Any = dataclasses.field(repr=False)
    _: dataclasses.KW_ONLY
    size: int | tuple[int, int] | None = None
    mean: Any = None
    std: Any = None
    classes: Sequence[str] | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        check_function("net", self.net, "a function net(params, images)")
        check_count("channels", self.channels)
        if self.size is not None:
            sides_of(self.size)
        assign = lambda name, value: object.__setattr__(self, name, value)
        assign("classes", _as_names(self.classes))
        assign("mean", _of_channels("mean", self.mean, self.channels))
        assign("std", _of_channels("std", self.std, self.channels))
        assign("net", _of_images(self.net, _Taken(self.channels, self.mean, self.std, _as_names(self.classes))))

    def __repr__(self) -> str:
        known = {"size": self.size, "mean": self.mean, "std": self.std, "classes": self.classes}
        parts = [f"{name}={brief_value(value)}" for name, value in known.items() if value is not None]
        name = getattr(self.net, "__name__", type(self.net).__name__)
        return f"Network({', '.join([name, brief_value(self.params), *parts, f'channels={self.channels}'])})"

    def __iter__(self) -> Iterator[Any]:
        return iter((self.net, self.params))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return (self.net, self.params)[index]


def _as_names(names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    found = () if isinstance(names, str) else tuple(names)
    if not found or not all(isinstance(name, str) for name in found):
        raise ValueError(f"classes: expected a name for each of the outputs, as in ['cat', 'dog'], got {names!r}")
    return found


def _of_channels(name: str, numbers: Any, channels: int) -> tuple[float, ...] | None:
    """Return a number for each channel."""
    if numbers is None:
        return None
    expected, holds = ("above 0", lambda x: x > 0) if name == "std" else ("", lambda x: x == x)
    check_number(name, numbers, expected, holds)
    each = np.asarray(numbers, float)
    if each.shape not in ((), (channels,)):
        raise ValueError(
            f"{name}: expected a number, or one for each of {channels} channels, got shape {each.shape}: {numbers}"
        )
    return tuple(np.broadcast_to(each, channels).tolist())


class _Taken(NamedTuple):
    """What is done to images before a network gets them, and what its outputs are called."""

    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None


def _of_images(net: Any, taken: _Taken) -> Net:
    """Return a network of images in [0, 1], of one of images that are normalized, which knows its classes' names.

    What is one already is no part of it.

    A copy of a `Network` with other parameters has the same function, so that its programs are found again.
    """
    inner, before = getattr(net, "__jaxviz_takes__", (net, _Taken()))
    if before == taken:
        return net
    if taken == _Taken():
        return inner
    outer = _composed(named_by_default(inner), taken)
    outer.__jaxviz_takes__ = (inner, taken)  # type: ignore[attr-defined]
    return outer


def classes_of(net: Any) -> tuple[str, ...] | None:
    """Return the names of a network's outputs, None if it has none: of the attribute `net` of a `Network`."""
    net = net.net if isinstance(net, Network) else original(net)
    net = net.fn if isinstance(net, StandIn) else net
    return getattr(net, "__jaxviz_takes__", (None, _Taken()))[1].classes


def _composed(net: Net, taken: _Taken) -> Callable[[Any, Any], Any]:
    if taken._replace(classes=None) == _Taken():
        return _renamed(lambda params, images: net(params, images), net)

    def normalized(params: Any, images: Any) -> Any:
        if not jnp.issubdtype(images.dtype, jnp.floating) or images.shape[-1] != taken.channels:
            raise ValueError(
                f"expected images of floats in [0, 1] with {taken.channels} channels, last, got {images.dtype} of "
                f"shape {images.shape}"
            )
        wide = lambda numbers: jnp.asarray(numbers, images.dtype).reshape(1, 1, 1, -1)
        images = images if taken.mean is None else images - wide(taken.mean)
        return net(params, images if taken.std is None else images / wide(taken.std))

    return _renamed(normalized, net)


def _renamed(function: Callable[[Any, Any], Any], net: Net) -> Callable[[Any, Any], Any]:
    function.__name__ = function.__qualname__ = getattr(net, "__name__", type(net).__name__)
    return function
