"""What the networks here share: names, input normalization, pooling to a fixed grid, a plain function from a module."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from jaxviz._types import Net
from jaxviz.image._arrays import IMAGENET_MEAN as IMAGENET_MEAN
from jaxviz.image._checks import check_images

IMAGENET_STD = (0.229, 0.224, 0.225)

# Weights come from files. Initializers only tell shapes, and Flax traces those of each layer whenever it is called:
# random ones took half of the time of `load`, and a third of that of tracing a network.
Conv = functools.partial(nn.Conv, kernel_init=nn.initializers.zeros)
Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.zeros)


def normalized(images: Array, mean: tuple[float, ...], std: tuple[float, ...], smallest: int) -> Array:
    """Return `(images - mean) / std`; refuse what is no batch of RGB images, or too small for the network."""
    check_images(images, channels=3)
    if min(images.shape[1:3]) < smallest:
        raise ValueError(f"images of {images.shape[1]}x{images.shape[2]} px: this network needs {smallest} px or more")
    wide = lambda numbers: jnp.asarray(numbers, images.dtype).reshape(1, 1, 1, 3)
    return (images - wide(mean)) / wide(std)


def named_relu(x: Array, layer: str, relu: str) -> Array:
    """Name a layer's result, apply a ReLU and name that."""
    return checkpoint_name(nn.relu(checkpoint_name(x, layer)), relu)


def adaptive_average_pool(x: Array, size: int) -> Array:
    """Average `(n, h, w, c)` into `(n, size, size, c)`, over the windows of PyTorch's AdaptiveAvgPool2d."""
    rows, columns = (_averaging(length, size) for length in x.shape[1:3])
    # Sums of products, and not matrix products: `layers` would take those for dense layers.
    if rows is not None:
        x = jnp.sum(x[:, None] * jnp.asarray(rows, x.dtype)[None, :, :, None, None], axis=2)
    if columns is not None:
        x = jnp.sum(x[:, :, None] * jnp.asarray(columns, x.dtype)[None, None, :, :, None], axis=3)
    return x


def _averaging(length: int, size: int) -> np.ndarray | None:
    if length == size:
        return None
    weights = np.zeros((size, length))
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


class Classifier(nn.Module):
    """AlexNet's and VGG's head: fc6, fc7 and the logits, from features on a fixed grid."""

    grid: int
    width: int
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return logits, `(n, classes)`."""
        x = adaptive_average_pool(x, self.grid)
        x = x.reshape(x.shape[0], -1)
        x = named_relu(Dense(self.width, name="fc6")(x), "fc6", "relu6")
        x = named_relu(Dense(self.width, name="fc7")(x), "fc7", "relu7")
        return checkpoint_name(Dense(self.classes, name="logits")(x), "logits")


@functools.cache
def as_net(module: nn.Module) -> Net:
    """Return a Linen module as a function `net(params, images)`: the same one each time, so that jit knows it again."""

    def net(params: Any, images: Any) -> Any:
        return module.apply({"params": params}, images)

    net.__name__ = net.__qualname__ = type(module).__name__
    return net
