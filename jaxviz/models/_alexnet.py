"""AlexNet as in torchvision (Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks)."""

from collections.abc import Mapping

import flax.linen as nn
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from jaxviz.models._layers import IMAGENET_MEAN, IMAGENET_STD, Classifier, Conv, named_relu, normalized
from jaxviz.models._vgg import torch_head, torch_layer

# width, kernel, stride, padding, followed by a pool?
_LAYERS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(nn.Module):
    """AlexNet with values named `conv1 relu1 pool1 ... conv5 relu5 pool5 fc6 relu6 fc7 relu7 logits`; 63 px or more."""

    classes: int = 1000

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Return logits, `(n, classes)`."""
        x = normalized(images, IMAGENET_MEAN, IMAGENET_STD, smallest=63)
        for i, (width, kernel, stride, padding, pooled) in enumerate(_LAYERS, start=1):
            x = Conv(width, (kernel, kernel), stride, padding=padding, name=f"conv{i}")(x)
            x = named_relu(x, f"conv{i}", f"relu{i}")
            if pooled:
                x = checkpoint_name(nn.max_pool(x, (3, 3), (2, 2)), f"pool{i}")
        head = Classifier(6, 4096, self.classes, name="head")
        nn.share_scope(self, head)
        return head(x)


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Convert torchvision's state dict."""
    indices = (0, 3, 6, 8, 10)
    convolutions = {f"conv{i}": torch_layer(tensors, f"features.{n}") for i, n in enumerate(indices, start=1)}
    return convolutions | torch_head(tensors, ("classifier.1", "classifier.4", "classifier.6"), grid=6)
