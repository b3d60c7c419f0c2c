"""Layer-wise relevance propagation of networks with BatchNorm against Zennit's, which folds it first (a canonizer).

Zennit's `SequentialMergeBatchNorm` writes each BatchNorm into the convolution or dense layer before it; ours reads the
same off the traced program. Random weights, scales of both signs, float64. 1e-8 of the largest value is allowed and
1e-13 or less was measured; without its canonizer Zennit's own maps are 10% and more away.
"""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from nets import convolve

import jaxviz

torch = pytest.importorskip("torch")
# Zennit imports it for its canonizers of whole networks, of no use here, and with it torchvision, which needs its own
# version of PyTorch.
sys.modules.setdefault("zennit.torchvision", types.ModuleType("zennit.torchvision"))
rules = pytest.importorskip("zennit.rules", reason="needs the oracle: pip install zennit")
canonizers = pytest.importorskip("zennit.canonizers")
composites = pytest.importorskip("zennit.composites")
kinds = pytest.importorskip("zennit.types")
zennit_layers = pytest.importorskip("zennit.layer")
nn = torch.nn

FLOAT64 = 1e-8
# What Zennit leaves of a BatchNorm that it has folded still divides by sqrt(1 + EPS), 5e-6 with PyTorch's 1e-5: each
# one moved its maps by as much.
EPS = 1e-14
CLASS = 2
CASES = {
    "epsilon": {"rule": "epsilon", "epsilon": 0.1},
    "gamma": {"rule": "gamma", "epsilon": 0.1, "gamma": 0.5},
}


class BasicBlock(nn.Module):
    """Torchvision's, with its sum as a module, as Zennit's canonizer for ResNets writes it."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(*normed(inputs, outputs, 3, stride), nn.ReLU(), *normed(outputs, outputs, 3))
        self.shortcut = nn.Sequential(*normed(inputs, outputs, 1, stride))
        self.sum, self.relu = zennit_layers.Sum(), nn.ReLU()

    def forward(self, x):
        return self.relu(self.sum(torch.stack([self.shortcut(x), self.body(x)], dim=-1)))


def normed(inputs, outputs, size, stride=1, groups=1, bias=False):
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=bias)
    return conv, nn.BatchNorm2d(outputs, eps=EPS)


def vgg():
    first, second, third = normed(3, 8, 3), normed(8, 8, 3, bias=True), normed(8, 12, 3)
    dense = nn.Linear(12, 10), nn.BatchNorm1d(10, eps=EPS), nn.ReLU(), nn.Linear(10, 5)
    pooled = nn.MaxPool2d(2), *third, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), *pooled, *dense)


def resnet():
    blocks = BasicBlock(8, 8, 1), BasicBlock(8, 12, 2)
    return nn.Sequential(*normed(3, 8, 3), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def separable():
    """Depthwise convolutions and a linear bottleneck, as in MobileNetV2."""
    first = *normed(3, 8, 3, 2), nn.ReLU(), *normed(8, 8, 3, groups=8), nn.ReLU()
    last = *normed(8, 6, 1), *normed(6, 16, 1), nn.ReLU()
    return nn.Sequential(*first, *last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


NETS = {"vgg": vgg, "resnet": resnet, "separable": separable}


@functools.cache
def made(name):
    """Return a network with random weights, and the images to explain, `(2, 3, 16, 14)`."""
    module, generator = NETS[name]().eval().double(), torch.Generator().manual_seed(3)
    random = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            size = layer.weight.shape
            layer.weight.data, layer.bias.data = random(size) / 2 + 0.5, random(size) / 4
            layer.running_mean, layer.running_var = random(size) / 4, random(size).square() / 4 + 0.1
    return module, torch.rand(2, 3, 16, 14, generator=generator, dtype=torch.float64)


def applied(module, params, x, path=""):
    """Compute in JAX, in NHWC, what a module of PyTorch's does with such parameters."""
    inner = functools.partial(applied, params=params)
    value = lambda name: params[f"{path}{name}"]
    match module:
        case nn.Sequential():
            for name, layer in module.named_children():
                x = inner(layer, x=x, path=f"{path}{name}.")
            return x
        case BasicBlock():
            body, shortcut = (inner(getattr(module, n), x=x, path=f"{path}{n}.") for n in ("body", "shortcut"))
            return jax.nn.relu(shortcut + body)
        case nn.Conv2d():
            x = convolve(
                x, value("weight").transpose(2, 3, 1, 0), module.stride[0], [(p, p) for p in module.padding],
                feature_group_count=module.groups,
            )  # fmt: skip
            return x if module.bias is None else x + value("bias")
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            centered = x - value("running_mean")
            return centered / jnp.sqrt(value("running_var") + module.eps) * value("weight") + value("bias")
        case nn.Linear():
            return x @ value("weight").T + value("bias")
        case nn.ReLU():
            return jax.nn.relu(x)
        case nn.MaxPool2d():
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        case nn.AdaptiveAvgPool2d():
            return x.mean((1, 2))
        case nn.Flatten():
            return x
    raise TypeError(f"no translation of {module}")


def composite(rule, epsilon, gamma=None, canonical=True):
    first = rules.Epsilon(epsilon)
    convolutions = first if rule == "epsilon" else rules.Gamma(gamma, stabilizer=epsilon)
    shared = rules.Norm(lambda value: torch.where(value == 0, 1, value))
    layers = [
        (kinds.Activation, rules.Pass()),
        ((kinds.AvgPool, zennit_layers.Sum), shared),
        (kinds.Convolution, convolutions),
        (kinds.Linear, first),
    ]
    merge = [canonizers.SequentialMergeBatchNorm()] if canonical else []
    return composites.SpecialFirstLayerMapComposite(layers, [(kinds.Convolution, first)], canonizers=merge)


def zennits(module, inputs, **options):
    images = inputs.clone().requires_grad_()
    with composite(**options).context(module) as ruled:
        scores = ruled(images)[:, CLASS]
        (relevance,) = torch.autograd.grad(scores, images, scores.detach())
    return relevance.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NETS)
def test_float64(x64, name, case):
    module, inputs = made(name)
    params = {key: jnp.asarray(value.numpy()) for key, value in module.state_dict().items()}
    images = jnp.asarray(inputs.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(applied(module, params, images), module(inputs).detach(), atol=1e-12)
    score = lambda params, images: applied(module, params, images)[:, CLASS]
    got = jaxviz.lrp(score, params, images, baseline=0.0, **CASES[case]).maps
    expected = zennits(module, inputs, **CASES[case])
    error = np.abs(got - expected).max() / np.abs(expected).max()
    print(f"largest difference over largest value {error:.1e}")  # seen with pytest -rP
    assert error <= FLOAT64
    apart = zennits(module, inputs, **CASES[case], canonical=False)
    assert np.abs(apart - expected).max() > 0.1 * np.abs(expected).max()
