"""Guided backprop where a network spells its ReLU in a way that hooks on PyTorch's modules meet badly, or not at all.

Captum hooks every `nn.ReLU` module; its trackers' #1082 and #199 report modules that are used twice or functions in
place of modules. Ours reads the program, so the spelling must not matter. What Captum does is asserted as measured, so
that a change is noticed.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import convolve

import jaxviz

torch = pytest.importorskip("torch")
attr = pytest.importorskip("captum.attr", reason="needs the oracle: pip install captum")
nn = torch.nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations"),
    pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients"),
]

FLOAT64 = 1e-8
TARGETS = np.array([1, 4])


@pytest.fixture(scope="module")
def weights():
    """Return three convolutions and a head, `(h, w, in, out)`."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (3, 3, 3, 8), "w2": (3, 3, 8, 8), "w3": (3, 3, 8, 6), "head": (6, 5)}
    return {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def photographs():
    return np.random.default_rng(1).uniform(size=(2, 24, 24, 3))


class Net(nn.Module):
    """The network, with a function or module for each ReLU."""

    def __init__(self, weights, *relus):
        super().__init__()
        self.relus = nn.ModuleList(relu for relu in relus if isinstance(relu, nn.Module))
        self.calls = relus
        for name, value in weights.items():
            kernel = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
            self.register_buffer(name, torch.tensor(np.ascontiguousarray(kernel)))

    def forward(self, x):
        for name, relu in zip(("w1", "w2", "w3"), self.calls, strict=True):
            x = relu(nn.functional.conv2d(x, getattr(self, name), padding=1))
        return x.mean((2, 3)) @ self.head


def net(relu, params, images):
    """Return the logits of the same network in JAX."""
    x = images
    for name in ("w1", "w2", "w3"):
        x = relu(convolve(x, params[name]))
    return x.mean((1, 2)) @ params["head"]


SPELLINGS = {
    "a reused jax.nn.relu": jax.nn.relu,
    "jnp.maximum": lambda x: jnp.maximum(x, 0),
    "jnp.where": lambda x: jnp.where(x > 0, x, 0),
    "inside a jitted helper": jax.jit(lambda x: jax.nn.relu(x)),
    "jnp.clip": lambda x: jnp.clip(x, 0),
}


def captums(method, weights, photographs, *relus, **options):
    images = torch.tensor(photographs.transpose(0, 3, 1, 2), requires_grad=True)
    maps = method(Net(weights, *relus)).attribute(images, target=torch.tensor(TARGETS), **options)
    return maps.detach().numpy().transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def clean(weights, photographs):
    """Return Captum's guided backprop with a module for each ReLU, which is right."""
    return captums(attr.GuidedBackprop, weights, photographs, nn.ReLU(), nn.ReLU(), nn.ReLU())


@pytest.fixture(scope="module")
def plain(weights, photographs):
    return captums(attr.Saliency, weights, photographs, nn.ReLU(), nn.ReLU(), nn.ReLU(), abs=False)


def difference(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_ours_does_not_depend_on_the_spelling(x64, weights, photographs, clean, spelling):
    score = jaxviz.logit(functools.partial(net, SPELLINGS[spelling]), TARGETS)
    error = difference(np.asarray(jaxviz.guided_backprop(score, weights, jnp.asarray(photographs))), clean)
    print(f"{error:.1e}")
    assert error <= FLOAT64


def test_captum_meets_a_reused_module_at_each_use(weights, photographs, clean):
    relu = nn.ReLU()
    assert difference(captums(attr.GuidedBackprop, weights, photographs, relu, relu, relu), clean) <= FLOAT64


@pytest.mark.parametrize("relu", [torch.relu, functools.partial(torch.clamp, min=0)], ids=["relu", "clamp"])
def test_captum_does_not_see_functions(weights, photographs, clean, plain, relu):
    """Without a word, what it returns as guided backprop is the plain gradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations")  # said of every module
        got = captums(attr.GuidedBackprop, weights, photographs, relu, relu, relu)
    assert difference(got, plain) <= FLOAT64
    assert difference(got, clean) > 1


def test_captum_does_not_see_the_functions_beside_a_module(weights, photographs, clean, plain):
    """Then it returns neither."""
    got = captums(attr.GuidedBackprop, weights, photographs, nn.ReLU(), torch.relu, torch.relu)
    assert min(difference(got, plain), difference(got, clean)) > 0.5


class Branches(nn.Module):
    """Two branches, each with its ReLU."""

    def __init__(self, weights, *relus):
        super().__init__()
        self.relus = nn.ModuleList(relus)
        for name in ("w1", "w2"):
            kernel = weights["w1"] if name == "w1" else -weights["w1"][::-1]
            self.register_buffer(name, torch.tensor(kernel.transpose(3, 2, 0, 1).copy()))

    def forward(self, x):
        one, other = (nn.functional.conv2d(x, w, padding=1) for w in (self.w1, self.w2))
        return (self.relus[0](one) - 2 * self.relus[1](other)).mean((2, 3))


def test_captums_deconvolution_confuses_the_uses_in_branches(x64, weights, photographs):
    """A hook of its remembers one gradient for each module, and takes that of another use."""

    def deconvolution(*relus):
        images = torch.tensor(photographs.transpose(0, 3, 1, 2), requires_grad=True)
        maps = attr.Deconvolution(Branches(weights, *relus)).attribute(images, target=torch.tensor(TARGETS))
        return maps.detach().numpy().transpose(0, 2, 3, 1)

    def branches(params, images):
        one, other = (convolve(images, w) for w in (params["w1"], -params["w1"][::-1]))
        return (jax.nn.relu(one) - 2 * jax.nn.relu(other)).mean((1, 2))

    clean = deconvolution(nn.ReLU(), nn.ReLU())
    ours = jaxviz.deconvnet(jaxviz.logit(branches, TARGETS), weights, jnp.asarray(photographs))
    assert difference(np.asarray(ours), clean) <= FLOAT64
    relu = nn.ReLU()
    print(difference(deconvolution(relu, relu), clean))
    assert difference(deconvolution(relu, relu), clean) > 0.5
