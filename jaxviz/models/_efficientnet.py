"""EfficientNet-Lite0: EfficientNet-B0 (Tan & Le 2019) without squeeze-and-excitation, with ReLU6."""

from collections.abc import Iterator, Mapping

import flax.linen as nn
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from jaxviz.models._layers import Conv, Dense, normalized

# repeats, kernel, stride, expansion, width
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
_EPSILON = 1e-3  # of its batch normalization


def _blocks() -> Iterator[tuple[str, int, int, int, int]]:
    """Yield name, kernel, stride, expansion and width of every block."""
    for stage, (repeats, kernel, stride, expansion, width) in enumerate(_STAGES, start=1):
        for i in range(1, repeats + 1):
            yield f"block{stage}_{i}", kernel, stride if i == 1 else 1, expansion, width


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with values named `stem block1_1_depthwise block1_1 ... head pool logits`.

    A block's values are `_expand` and `_depthwise`, after their ReLU6, and the block's output. Batch normalization is
    folded into the convolutions, whose padding is TensorFlow's. Input RGB in [0, 1], any size from 32 px.
    """

    classes: int = 1000

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Return logits, `(n, classes)`."""
        x = normalized(images, MEAN, STD, smallest=32)
        x = checkpoint_name(nn.relu6(Conv(32, (3, 3), 2, name="stem")(x)), "stem")
        for name, kernel, stride, expansion, width in _blocks():
            x = checkpoint_name(self._block(x, name, kernel, stride, expansion, width), name)
        x = checkpoint_name(nn.relu6(Conv(1280, (1, 1), name="head")(x)), "head")
        x = checkpoint_name(x.mean(axis=(1, 2)), "pool")
        return checkpoint_name(Dense(self.classes, name="logits")(x), "logits")

    def _block(self, x: Array, name: str, kernel: int, stride: int, expansion: int, width: int) -> Array:
        hidden, inner = x, x.shape[-1] * expansion
        if expansion != 1:
            hidden = nn.relu6(Conv(inner, (1, 1), name=f"{name}_expand")(hidden))
            hidden = checkpoint_name(hidden, f"{name}_expand")
        depthwise = Conv(inner, (kernel, kernel), stride, feature_group_count=inner, name=f"{name}_depthwise")
        hidden = checkpoint_name(nn.relu6(depthwise(hidden)), f"{name}_depthwise")
        out = Conv(width, (1, 1), name=f"{name}_project")(hidden)
        return x + out if stride == 1 and x.shape[-1] == width else out


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Convert the state dict of `efficientnet-lite-pytorch`, folding batch normalization into the convolutions."""
    params = {"stem": _folded(tensors, "_conv_stem", "_bn0"), "head": _folded(tensors, "_conv_head", "_bn1")}
    for i, (name, _, _, expansion, _) in enumerate(_blocks()):
        if expansion != 1:
            params[f"{name}_expand"] = _folded(tensors, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        params[f"{name}_depthwise"] = _folded(tensors, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        params[f"{name}_project"] = _folded(tensors, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
    return params | {"logits": {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]}}


def _folded(tensors: Mapping[str, np.ndarray], convolution: str, norm: str) -> dict[str, np.ndarray]:
    """Fold `scale * (x - mean) / sqrt(variance + epsilon) + shift` into the kernel and a bias, in float64."""
    weight = tensors[f"{convolution}.weight"].astype(np.float64).transpose(2, 3, 1, 0)
    names = ("weight", "bias", "running_mean", "running_var")
    scale, shift, mean, variance = (tensors[f"{norm}.{name}"].astype(np.float64) for name in names)
    if (variance < 0).any():
        raise ValueError(f"expected variances of at least 0 in {norm}.running_var, got {variance.min():.3g}")
    factor = scale / np.sqrt(variance + _EPSILON)
    return {"kernel": weight * factor, "bias": shift - mean * factor}
