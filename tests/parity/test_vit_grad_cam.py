"""Grad-CAM on a Vision Transformer equals pytorch-grad-cam's, with its own reshape_transform, on the same weights."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, gelu, interpolate
from vits import HEADS, PATCH, SIZE, WIDTH, make_vit, vit_params

import jaxviz

# pytorch-grad-cam imports torchvision for pictures and detectors, of no use here; that needs its own build of PyTorch.
try:
    import torchvision
except (ImportError, RuntimeError):
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("Compose", "Normalize", "ToTensor"):
        setattr(sys.modules["torchvision.transforms"], name, None)
    sys.modules["torchvision.transforms.functional"].resize = None
else:
    assert torchvision

from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform

ROWS, COLUMNS = (side // PATCH for side in SIZE)


class Twin(torch.nn.Module):
    """`make_vit()` in PyTorch: a class token, and what goes into each block's attention as a module."""

    def __init__(self, params):
        super().__init__()
        self.params = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
        self.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in params["blocks"])
        self.patch = torch.nn.Parameter(self.params["patch"].permute(3, 2, 0, 1))

    def forward(self, images):
        p = self.params
        x = conv2d(images - 0.5, self.patch, stride=PATCH).flatten(2).transpose(1, 2)
        x = torch.cat([p["extra"].expand(len(x), 1, WIDTH), x], 1) + p["places"]
        for norm, block in zip(self.norms, p["blocks"], strict=True):
            x = x + attention(block, norm(normalized(x, block["gain"])))
            hidden = normalized(x, block["gain"]) @ block["up"] + block["bias"]
            x = x + gelu(hidden, approximate="tanh") @ block["down"]
        return normalized(x, 1.0)[:, 0] @ p["head"]


def normalized(x, gain):
    return torch.nn.functional.layer_norm(x, (WIDTH,), eps=1e-6) * gain


def attention(block, x):
    n, t, _ = x.shape
    q, k, v = (x @ block["qkv"]).reshape(n, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(-1, -2) / np.sqrt(WIDTH // HEADS), -1)
    return (weights @ v).transpose(1, 2).reshape(n, t, WIDTH) @ block["out"]


class Unscaled(GradCAM):
    """Pytorch-grad-cam before it scales each map to [0, 1], in float32."""

    def get_cam_image(self, *args, **options):
        self.maps = np.maximum(super().get_cam_image(*args, **options), 0)
        return self.maps


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("number", [0, 1])
def test_grad_cam(number):
    images = np.random.default_rng(0).random((2, *SIZE, 3))
    params = vit_params(dtype=np.float64)
    twin, targets = Twin(params).double(), np.array([1, 3])
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(make_vit()(params, images), twin(pixels).detach(), rtol=1e-10)
    reshape = functools.partial(vit_reshape_transform, height=ROWS, width=COLUMNS)
    cam = Unscaled(model=twin, target_layers=[twin.norms[number]], reshape_transform=reshape)
    scaled = cam(input_tensor=pixels, targets=[ClassifierOutputTarget(target) for target in targets])
    expected = interpolate(torch.tensor(cam.maps)[:, None], SIZE, mode="bilinear")[:, 0].numpy()
    score = jaxviz.logit(make_vit(), targets)
    found = np.asarray(jaxviz.grad_cam(score, params, jnp.asarray(images), layer=f"norm{number}"))
    assert expected.max() > 1e-4
    np.testing.assert_allclose(found, expected, atol=1e-8 * expected.max())
    shown = found - found.min((1, 2), keepdims=True)
    np.testing.assert_allclose(scaled, shown / shown.max((1, 2), keepdims=True), atol=1e-5)  # of which it makes float32
