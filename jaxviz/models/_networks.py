"""The networks that `load` knows: how each is built and how its published weights are converted."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxviz._types import Net
from jaxviz.models import _alexnet, _efficientnet, _vgg
from jaxviz.models._layers import IMAGENET_MEAN, IMAGENET_STD, as_net


class Published(NamedTuple):
    """A network whose weights are published, the conversion of its weight files, and the shapes that must come out."""

    net: Net
    convert: Callable[[Mapping[str, np.ndarray]], Any]
    params: Callable[[], Any]
    mean: tuple[float, ...]  # of the images that it subtracts, and what it divides them by
    std: tuple[float, ...]
    leaves_out: bool = False  # whether its files may hold more, such as a head
    classifies: bool = True  # into the classes of ImageNet


def _network(
    module: nn.Module,
    convert: Callable[[Mapping[str, np.ndarray]], Any],
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    *,
    leaves_out: bool = False,
) -> Published:
    def converted(tensors: Mapping[str, np.ndarray]) -> Any:
        return jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), convert(tensors))

    def shapes() -> Any:
        images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        return jax.eval_shape(module.init, jax.random.key(0), images)["params"]

    return Published(as_net(module), converted, shapes, mean, std, leaves_out, classifies=not leaves_out)


def _vggs() -> dict[str, Published]:
    return {
        name: _network(_vgg.VGG(depths), functools.partial(_vgg.from_torch, depths=depths))
        for name, depths in _vgg.DEPTHS.items()
    }


_VGG16 = _vgg.DEPTHS["vgg16"]

NETWORKS: dict[str, Published] = {
    "vgg16_features": _network(
        _vgg.VGG(_VGG16, classes=None, mean=_vgg.KERAS_MEAN, std=_vgg.KERAS_STD),
        functools.partial(_vgg.from_keras, depths=_VGG16),
        _vgg.KERAS_MEAN,
        _vgg.KERAS_STD,
        leaves_out=True,
    ),
    "efficientnet_lite0": _network(
        _efficientnet.EfficientNetLite0(), _efficientnet.from_torch, _efficientnet.MEAN, _efficientnet.STD
    ),
    "alexnet": _network(_alexnet.AlexNet(), _alexnet.from_torch),
    **_vggs(),
}
