"""Layer-wise relevance propagation against Zennit's, on the same VGG-16 weights and the same photographs.

Zennit is given ours as a composite: its Gamma or Epsilon for convolutions, Epsilon for the first of them and for the
linear head. Both count a layer's bias as one term more, which takes a share, and in the gamma rule, that of its own
sign. Two differences are set aside:

- Zennit's rule for an average pool has a stabilizer too; ours shares a mean by value alone. With 1e-6 there, as by
  default, its maps move by 5e-6; here it only keeps 0 / 0 away.
- Zennit starts at the network's normalized input, ours hands on to `image - baseline`: equal where the baseline is the
  mean that the network takes away.

In float64 they agree to rounding (measured: 2e-13 of the largest value for the epsilon rule with 1e-6, 1e-14 and less
for the others). 1e-8 leaves five digits to spare. Windows of a max-pool with several equal and positive values are many
in flat parts of photographs (2161 of 294912 in the first pool here, none higher up); both give all to the first.
"""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from parity.vgg import classifier, torch_classifier

import jaxviz

torch = pytest.importorskip("torch")
# Zennit imports it for its canonizers of whole networks, of no use here, and with it torchvision, which needs its own
# version of PyTorch.
sys.modules.setdefault("zennit.torchvision", types.ModuleType("zennit.torchvision"))
rules = pytest.importorskip("zennit.rules", reason="needs the oracle: pip install zennit")
composites = pytest.importorskip("zennit.composites")
kinds = pytest.importorskip("zennit.types")
nn = torch.nn

pytestmark = pytest.mark.weights

FLOAT64 = 1e-8
SIZE = 96
CLASSES = np.array([281, 652])  # any would do: the head is random
MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # what the network takes away

# VGG's inner values are of the order of 100, so that an epsilon of 1 is seen and one of 1e-6 hardly.
CASES = {
    "epsilon": {"rule": "epsilon", "epsilon": 1e-6},
    "large epsilon": {"rule": "epsilon", "epsilon": 1.0},
    "gamma": {"rule": "gamma", "epsilon": 1e-6, "gamma": 0.25},
    "large gamma": {"rule": "gamma", "epsilon": 1.0, "gamma": 3.0},
}


@pytest.fixture(scope="module")
def weights():
    return classifier()


@pytest.fixture(scope="module")
def photographs():
    pictures = (skimage.data.chelsea(), skimage.data.astronaut())
    return np.stack([np.asarray(jaxviz.load_image(picture, size=SIZE)) for picture in pictures])


@pytest.fixture(scope="module")
def ours(weights, photographs):
    """Return a function of a case; what it has computed, it keeps."""

    @functools.cache
    def compute(name):
        net, params = weights
        with jax.enable_x64(True):
            params, images = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (params, photographs))
            return np.asarray(jaxviz.lrp(jaxviz.logit(net, CLASSES), params, images, baseline=MEAN, **CASES[name]).maps)

    return compute


@pytest.fixture(scope="module")
def zennits(weights, photographs):
    """Return a function of a case."""
    (preprocessing, *base), *head = torch_classifier(weights[1]).eval().double()
    module = nn.Sequential(*base, *head)
    inputs = preprocessing(torch.tensor(photographs.transpose(0, 3, 1, 2), dtype=torch.float64))

    def compute(name):
        images = inputs.clone().requires_grad_()
        with composite(**CASES[name]).context(module) as ruled:
            scores = ruled(images).gather(1, torch.tensor(CLASSES)[:, None])
            (relevance,) = torch.autograd.grad(scores, images, scores.detach())
        return relevance.numpy().transpose(0, 2, 3, 1)[..., ::-1]  # of BGR

    return compute


def composite(rule, epsilon, gamma=None):
    first = rules.Epsilon(epsilon)
    convolutions = first if rule == "epsilon" else rules.Gamma(gamma, stabilizer=epsilon)
    layers = [
        (kinds.Activation, rules.Pass()),
        (kinds.AvgPool, rules.Norm(lambda mean: torch.where(mean == 0, 1, mean))),
        (kinds.Convolution, convolutions),
        (kinds.Linear, first),
    ]
    return composites.SpecialFirstLayerMapComposite(layers, [(kinds.Convolution, first)])


@pytest.mark.parametrize("name", CASES)
def test_float64(ours, zennits, name):
    got, expected = ours(name), zennits(name)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    print(f"largest difference over largest value {error:.1e}")  # seen with pytest -rP
    assert got.shape == expected.shape
    assert error <= FLOAT64


def test_the_cases_differ(ours):
    """Negative control: what the test above tells apart is far more than what it lets pass."""
    maps = [ours(name) for name in CASES]
    for i, one in enumerate(maps):
        for other in maps[:i]:
            distances = np.linalg.norm((one - other).reshape(2, -1), axis=1)
            assert np.all(distances > 0.1 * np.linalg.norm(other.reshape(2, -1), axis=1))
