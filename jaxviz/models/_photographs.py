"""Whether weights compute what their network should: a check that runs it on photographs.

Shapes do not reveal kernels rotated by 180 degrees (Theano's), nor inputs in another channel order (Caffe's BGR) or
range (0 to 255): such weights load silently, and still rank many photographs nearly as well. So every known mistake is
made on purpose, and weights that do better with it are refused.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz._extras import extra
from jaxviz.image._arrays import IMAGENET_MEAN
from jaxviz.image._files import load_image
from jaxviz.models._fetch import Expected

_SIZE = 224
_FIRST = 5  # one of a photograph's classes must rank among the first five
_MARGIN = 0.25  # nats by which another reading may do better; it does worse for correct weights (weights/README.md)
_TOLERANCE = 0.03  # of features, relative to their L2 norm: float16 changes them by 2e-4, bfloat16 by 1e-3, BGR by 0.3
_IMAGENET_STD = (0.229, 0.224, 0.225)


class _Reading(NamedTuple):
    """Another way to interpret the same weights, and what would explain it."""

    why: str
    turned: bool = False  # kernels rotated by 180 degrees
    reversed: bool = False  # input channels reversed
    range: tuple[Any, Any] | None = None  # mean and standard deviation of the input


_READINGS = (
    _Reading("its kernels were rotated by 180 degrees, as Theano's are", turned=True),
    _Reading("its input channels were in reverse order, BGR, as in Caffe's networks", reversed=True),
    _Reading("its kernels were rotated by 180 degrees and its inputs were BGR", turned=True, reversed=True),
    _Reading("its inputs ranged from 0 to 255", range=(0.0, 1 / 255)),
    _Reading("its inputs ranged from 0 to 255, in BGR", range=(0.0, 1 / 255), reversed=True),
    _Reading("its inputs were 0 to 255 minus the mean color", range=(IMAGENET_MEAN, 1 / 255)),
    _Reading("its inputs were 0 to 255 minus the mean color, in BGR", range=(IMAGENET_MEAN, 1 / 255), reversed=True),
    _Reading("its inputs ranged from 0 to 1 without further normalization", range=(0.0, 1.0)),
    _Reading("its inputs ranged from -1 to 1", range=(0.5, 0.5)),
    _Reading("its inputs were normalized by ImageNet's mean and deviation", range=(IMAGENET_MEAN, _IMAGENET_STD)),
)


def check(network: Any, params: Any, expected: Expected) -> None:
    """Raise ValueError unless weights give the results on photographs that the manifest states for their network."""
    if not expected.classes and not expected.features:
        return
    images = jnp.stack([_picture(name) for name in expected.classes or expected.features])
    run = jax.jit(network.net)

    def outputs(reading: _Reading) -> np.ndarray:
        taken = jax.tree.map(_turned, params) if reading.turned else params
        return np.asarray(run(taken, _read(images, reading, network.mean, network.std)), np.float64)

    verdict = _by_classes if expected.classes else _by_features
    verdict(outputs, expected)


def _by_classes(outputs: Callable[[_Reading], np.ndarray], expected: Expected) -> None:
    found = outputs(_Reading(""))
    photographs = [name for name in expected.classes if name in _PHOTOGRAPHS]
    right = [name for name in photographs if _rank(found, name, expected.classes) < _FIRST]
    best, gain = _best(lambda reading: _fit(outputs(reading), expected.classes), _fit(found, expected.classes))
    if 4 * len(right) >= 3 * len(photographs) and gain <= _MARGIN:
        return
    hint = f"; it does better as if {best}" if gain > _MARGIN else ""
    raise ValueError(
        f"expected an ImageNet classifier that ranks a photograph's class in its top {_FIRST}, got one that is "
        f"right on {len(right)} of {len(photographs)} ({', '.join(photographs)}){hint}"
    )


def _by_features(outputs: Callable[[_Reading], np.ndarray], expected: Expected) -> None:
    distance = lambda reading: _distance(outputs(reading), expected.features)
    found = distance(_Reading(""))
    if found <= _TOLERANCE:
        return
    best, gain = _best(lambda reading: -distance(reading), -found)
    hint = f"; they are closer as if {best}" if gain > found / 2 else ""
    raise ValueError(
        f"expected features on photographs within {_TOLERANCE:.0%} of those in the manifest, got a difference of "
        f"{found:.0%}{hint}"
    )


def _best(fit: Callable[[_Reading], float], found: float) -> tuple[str, float]:
    """Return the reading that fits best, and by how much better than the weights as they are."""
    fits = {reading.why: fit(reading) for reading in _READINGS}
    why = max(fits, key=lambda why: np.nan_to_num(fits[why], nan=-np.inf))
    return why, float(np.nan_to_num(fits[why] - found, nan=-np.inf))


def _fit(logits: np.ndarray, classes: Mapping[str, Sequence[int]]) -> float:
    """Return the mean log-probability that a picture has one of its classes."""
    chances = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float(
        np.mean([np.logaddexp.reduce(row[list(of)]) for row, of in zip(chances, classes.values(), strict=True)])
    )


def _rank(logits: np.ndarray, name: str, classes: Mapping[str, Sequence[int]]) -> int:
    """Return how many other classes rank above a photograph's, or tie with it, as all do when all logits are equal."""
    row = logits[list(classes).index(name)]
    own = row[list(classes[name])]
    return int(np.sum(~(row < own.max())) - np.sum(own >= own.max()))


def _distance(maps: np.ndarray, features: Mapping[str, Sequence[Any]]) -> float:
    """Return how far the recorded channels' means are from their recorded values, relative to those values' L2 norm."""
    means = maps.mean((1, 2))
    pairs = [(means[i, int(c)], value) for i, of in enumerate(features.values()) for c, value in of]
    found, recorded = np.array(pairs).T
    return float(np.linalg.norm(found - recorded) / np.linalg.norm(recorded))


def _turned(leaf: Any) -> Any:
    return jnp.asarray(leaf)[::-1, ::-1] if np.ndim(leaf) == 4 else leaf


def _read(images: Any, reading: _Reading, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Return images that a network normalizing by `mean` and `std` sees as another reading would present them."""
    own = [np.asarray(value, np.float32).reshape(1, 1, 1, 3) for value in (mean, std)]
    other = own if reading.range is None else [_color(value) for value in reading.range]
    seen = (images - other[0]) / other[1]
    return (seen[..., ::-1] if reading.reversed else seen) * own[1] + own[0]


def _color(value: Any) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float32), 3).reshape(1, 1, 1, 3)


def _photograph(name: str) -> Any:
    with extra("photos"):
        from skimage import data

    return data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()


_PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "motorcycle")
_FRUIT = {"orange": (1.0, 0.55, 0.05), "lemon": (0.98, 0.88, 0.1)}


@functools.cache
def _picture(name: str) -> Any:
    return jnp.asarray(_fruit(_FRUIT[name]) if name in _FRUIT else load_image(_photograph(name), size=_SIZE))


def _fruit(color: Sequence[float]) -> np.ndarray:
    """Draw a shaded ball on a light background: only its color makes it an orange or a lemon, and BGR turns it blue."""
    x, y = (np.asarray(axis, np.float64) for axis in np.meshgrid(np.arange(_SIZE), np.arange(_SIZE)))
    u, v = (x - 112) / 70, (y - 112) / 70
    light = np.clip(0.7 * np.sqrt(np.clip(1 - u**2 - v**2, 0, 1)) - 0.4 * u - 0.6 * v, 0, 1)
    skin = 1 + 0.06 * np.random.default_rng(0).standard_normal((_SIZE, _SIZE))
    ball = np.multiply.outer(0.35 + 0.75 * light * skin, color) + 0.5 * (light**20)[..., None]
    ground = 0.92 - 0.25 * np.exp(-(((x - 127) / 90) ** 2) - ((y - 187) / 20) ** 2)
    inside = (u**2 + v**2 < 1)[..., None]
    return np.clip(np.where(inside, ball, ground[..., None]), 0, 1).astype(np.float32)
