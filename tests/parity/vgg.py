"""VGG-16 on the real convolution weights, with a random head: in JAX, and the same as a PyTorch module."""

import jax
import numpy as np
import pytest

import jaxviz

torch = pytest.importorskip("torch")
nn = torch.nn

DEPTHS = (2, 2, 3, 3, 3)


def classifier():
    """Return a 1000-way net and its parameters as NumPy arrays, to be used in either precision."""
    base, params = jaxviz.load("vgg16_features")
    head = np.random.default_rng(0).normal(0, 0.05, (512, 1000)).astype(np.float32)

    def net(params, images):
        return base(params["base"], images).mean((1, 2)) @ params["head"]

    return net, {"base": jax.tree.map(np.asarray, params), "head": head}


class Preprocessing(nn.Module):
    """RGB in [0, 1] to what Keras trained VGG on, so that gradients on both sides are those of the same pixels."""

    def forward(self, images):
        mean = images.new_tensor([103.939, 116.779, 123.68])
        return 255 * images[:, [2, 1, 0]] - mean[:, None, None]


def torch_vgg(params, last):
    """Return VGG-16 up to a layer; Captum needs each ReLU to be a module of its own that is not in place."""
    modules, channels = [Preprocessing()], 3
    for block, depth in enumerate(DEPTHS, start=1):
        for i in range(1, depth + 1):
            kernel, bias = (np.asarray(params[f"conv{block}_{i}"][name]) for name in ("kernel", "bias"))
            if channels == 3:
                kernel = kernel[:, :, ::-1]  # ours are for RGB
            convolution = nn.Conv2d(channels, len(bias), 3, padding=1)
            convolution.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
            convolution.bias.data = torch.tensor(bias)
            modules += [convolution, nn.ReLU(inplace=False)]
            channels = len(bias)
            if last == f"relu{block}_{i}":
                return nn.Sequential(*modules)
        modules.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*modules)


def relu_values(modules, images):
    """Run VGG-16's modules on images, and return what each ReLU gives, by name."""
    found, block, i = {}, 1, 1
    for module in modules:
        images = module(images)
        if isinstance(module, nn.ReLU):
            found[f"relu{block}_{i}"] = images
            i += 1
        elif isinstance(module, nn.MaxPool2d):
            block, i = block + 1, 1
    return found


def torch_classifier(params):
    head = nn.Linear(512, 1000, bias=False)
    head.weight.data = torch.tensor(params["head"].T)
    return nn.Sequential(torch_vgg(params["base"], "pool5"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
