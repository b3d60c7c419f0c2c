"""Networks that people use, as functions of the weights of Hugging Face's PyTorch models: for `methods.py`.

ResNet-50, ConvNeXt-T and ViT-B/16, written as one writes them in JAX: convolutions by `jax.lax`, no line for jaxviz.
Their weights are random; only times are compared. `made(name)` gives the function, its parameters and PyTorch's model.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]
MODELS = {"resnet50": "ResNet", "convnext_tiny": "ConvNext", "vit_b16": "ViT"}  # as `transformers` calls them


def made(name: str, size: int = 224) -> tuple[Callable[[Params, Any], Any], Params, Any]:
    """Return a network as a function, its parameters, and the same in PyTorch, with random weights, for such images."""
    torch = importlib.import_module("torch")  # not in the test environment, so not imported by name
    library, kind = importlib.import_module("transformers"), MODELS[name]
    torch.manual_seed(0)
    config = getattr(library, f"{kind}Config")(num_labels=1000, image_size=size)
    module = getattr(library, f"{kind}ForImageClassification")(config).eval()
    params = {key: _as_here(key, value.numpy()) for key, value in module.state_dict().items()}
    return globals()[name], params, logits_of(module)


def logits_of(module: Any) -> Any:
    """Return a module that gives the logits alone."""
    torch = importlib.import_module("torch")

    class Only(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, images: Any) -> Any:
            return self.module(images).logits

    return Only()


def _as_here(key: str, value: np.ndarray) -> jax.Array:
    """Return PyTorch's weights in JAX's layout: kernels as (height, width, in, out), matrices as (in, out)."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    return jnp.asarray(value.T if value.ndim == 2 else value)


def conv(p: Params, name: str, x: Any, stride: int = 1, groups: int = 1) -> Any:
    """Return a convolution, padded by half the kernel as in ResNets; of as many pixels as its stride, not padded."""
    kernel = p[f"{name}.weight"]
    pad = 0 if kernel.shape[0] == stride else kernel.shape[0] // 2
    x = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
    return x + p[f"{name}.bias"] if f"{name}.bias" in p else x


def dense(p: Params, name: str, x: Any) -> Any:
    """Return a linear layer."""
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def layer_norm(p: Params, name: str, x: Any, epsilon: float) -> Any:
    """Return values normalized over channels."""
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + epsilon) * p[f"{name}.weight"] + p[f"{name}.bias"]


def resnet50(p: Params, images: Any) -> Any:
    """Return logits, (n, 1000), of He et al. 2016."""

    def unit(name: str, x: Any, stride: int = 1) -> Any:
        norm = f"{name}.normalization"
        scale = p[f"{norm}.weight"] * jax.lax.rsqrt(p[f"{norm}.running_var"] + 1e-5)
        return (conv(p, f"{name}.convolution", x, stride) - p[f"{norm}.running_mean"]) * scale + p[f"{norm}.bias"]

    x = jax.nn.relu(unit("resnet.embedder.embedder", images, 2))
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)
    for stage, depth in enumerate((3, 4, 6, 3)):
        for i in range(depth):
            name = f"resnet.encoder.stages.{stage}.layers.{i}"
            stride = 2 if stage and not i else 1
            y = jax.nn.relu(unit(f"{name}.layer.0", x))
            y = jax.nn.relu(unit(f"{name}.layer.1", y, stride))
            y = unit(f"{name}.layer.2", y)
            x = jax.nn.relu(y + (x if i else unit(f"{name}.shortcut", x, stride)))
    return dense(p, "classifier.1", x.mean((1, 2)))


def convnext_tiny(p: Params, images: Any) -> Any:
    """Return logits, (n, 1000), of Liu et al. 2022."""
    x = conv(p, "convnext.embeddings.patch_embeddings", images, 4)
    x = layer_norm(p, "convnext.embeddings.layernorm", x, 1e-6)
    for stage, (depth, width) in enumerate(zip((3, 3, 9, 3), (96, 192, 384, 768), strict=True)):
        name = f"convnext.encoder.stages.{stage}"
        if stage:
            x = layer_norm(p, f"{name}.downsampling_layer.0", x, 1e-6)
            x = conv(p, f"{name}.downsampling_layer.1", x, 2)
        for i in range(depth):
            block = f"{name}.layers.{i}"
            y = layer_norm(p, f"{block}.layernorm", conv(p, f"{block}.dwconv", x, groups=width), 1e-6)
            y = jax.nn.gelu(dense(p, f"{block}.pwconv1", y), approximate=False)
            x = x + dense(p, f"{block}.pwconv2", y) * p[f"{block}.layer_scale_parameter"]
    return dense(p, "classifier", layer_norm(p, "convnext.layernorm", x.mean((1, 2)), 1e-12))


def vit_b16(p: Params, images: Any) -> Any:
    """Return logits, (n, 1000), of Dosovitskiy et al. 2021."""
    x = conv(p, "vit.embeddings.patch_embeddings.projection", images, 16)
    number, width = x.shape[0], x.shape[-1]
    first = jnp.broadcast_to(p["vit.embeddings.cls_token"], (number, 1, width))
    x = jnp.concatenate([first, x.reshape(number, -1, width)], 1) + p["vit.embeddings.position_embeddings"]
    for i in range(12):
        name = f"vit.encoder.layer.{i}"
        y = layer_norm(p, f"{name}.layernorm_before", x, 1e-12)
        heads = (dense(p, f"{name}.attention.attention.{part}", y) for part in ("query", "key", "value"))
        y = jax.nn.dot_product_attention(*(h.reshape(number, -1, 12, width // 12) for h in heads))
        x = x + dense(p, f"{name}.attention.output.dense", y.reshape(x.shape))
        y = jax.nn.gelu(
            dense(p, f"{name}.intermediate.dense", layer_norm(p, f"{name}.layernorm_after", x, 1e-12)),
            approximate=False,
        )
        x = x + dense(p, f"{name}.output.dense", y)
    return dense(p, "classifier", layer_norm(p, "vit.layernorm", x, 1e-12)[:, 0])
