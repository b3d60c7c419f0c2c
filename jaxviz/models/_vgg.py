"""VGG-11, 13, 16 and 19 (Simonyan & Zisserman 2014), and their convolutional base alone."""

import itertools
import re
from collections.abc import Mapping

import flax.linen as nn
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from jaxviz.models._layers import IMAGENET_MEAN, IMAGENET_STD, Classifier, Conv, named_relu, normalized

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}

# Keras trained on (255 * BGR - mean) without scaling; conversion reorders the kernels to RGB.
KERAS_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
KERAS_STD = (1 / 255, 1 / 255, 1 / 255)


class VGG(nn.Module):
    """VGG with values named `conv1_1 relu1_1 ... pool5 fc6 relu6 fc7 relu7 logits`; RGB in [0, 1], 32 px or more.

    `classes=None` gives the convolutional base alone, which ends with pool5.
    """

    depths: tuple[int, ...] = DEPTHS["vgg16"]
    classes: int | None = 1000
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Return logits, `(n, classes)`, or the last pool's map."""
        x = normalized(images, self.mean, self.std, smallest=32)
        for block, (depth, width) in enumerate(zip(self.depths, WIDTHS, strict=True), start=1):
            for i in range(1, depth + 1):
                x = Conv(width, (3, 3), padding=1, name=f"conv{block}_{i}")(x)
                x = named_relu(x, f"conv{block}_{i}", f"relu{block}_{i}")
            x = checkpoint_name(nn.max_pool(x, (2, 2), (2, 2)), f"pool{block}")
        if self.classes is None:
            return x
        head = Classifier(7, 4096, self.classes, name="head")
        nn.share_scope(self, head)
        return head(x)


def from_torch(tensors: Mapping[str, np.ndarray], depths: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Convert torchvision's state dict: `features.N` are the convolutions in order, `classifier.0/3/6` the head."""
    numbers = itertools.count()  # of torchvision's layers: a convolution and its ReLU, and a pool after each block
    convolutions = {}
    for block, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            convolutions[f"conv{block}_{i}"] = torch_layer(tensors, f"features.{next(numbers)}")
            next(numbers)
        next(numbers)
    return convolutions | torch_head(tensors, ("classifier.0", "classifier.3", "classifier.6"), grid=7)


def torch_layer(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Convert one layer: kernels from (out, in, h, w) to (h, w, in, out), matrices from (out, in) to (in, out)."""
    weight, bias = tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"]
    return {"kernel": weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T, "bias": bias}


def torch_head(
    tensors: Mapping[str, np.ndarray], prefixes: tuple[str, ...], grid: int
) -> dict[str, dict[str, np.ndarray]]:
    """Convert the classifier; PyTorch flattens a map as (c, h, w), Flax as (h, w, c)."""
    head = {name: torch_layer(tensors, prefix) for name, prefix in zip(("fc6", "fc7", "logits"), prefixes, strict=True)}
    kernel = head["fc6"]["kernel"]
    out = kernel.shape[1]
    head["fc6"]["kernel"] = kernel.reshape(-1, grid, grid, out).transpose(1, 2, 0, 3).reshape(-1, out)
    return head


def from_keras(tensors: Mapping[str, np.ndarray], depths: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Convert the convolutional base of Keras's VGG, from its .h5 file or from an ONNX export of it.

    Any head is left out: the one in the manifest's ONNX file was trained for another task.
    """
    params: dict[str, dict[str, np.ndarray]] = {}
    for key in tensors:
        if match := re.search(r"(?<![a-zA-Z0-9])block(\d)_conv(\d)(?!\d)", key):
            tensor = tensors[key]
            name, kind = "conv{}_{}".format(*match.groups()), "bias" if tensor.ndim == 1 else "kernel"
            layer = params.setdefault(name, {})
            if kind in layer:
                raise ValueError(f"expected one {kind} of {name}, got several, one of them {key!r}")
            layer[kind] = tensor
    expected = {f"conv{block}_{i}" for block, depth in enumerate(depths, start=1) for i in range(1, depth + 1)}
    if set(params) != expected or any(set(layer) != {"kernel", "bias"} for layer in params.values()):
        raise ValueError(f"expected kernels and biases of {sorted(expected)}, found {sorted(params)}")
    for layer in params.values():
        if layer["kernel"].ndim != 4:
            raise ValueError(f"expected kernels with four axes, got shape {list(layer['kernel'].shape)}")
        if layer["kernel"].shape[:2] != (3, 3):  # ONNX: (out, in, h, w)
            layer["kernel"] = layer["kernel"].transpose(2, 3, 1, 0)
    first = params["conv1_1"]
    first["kernel"] = first["kernel"][:, :, ::-1]  # BGR to RGB
    return params
