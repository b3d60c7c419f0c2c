"""Gradients through max-pools with many ties against PyTorch's: in both, the first maximum of a window gets it all.

Everything is a small integer, so that the arithmetic is exact and what ties on one side ties on the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from nets import convolve

import jaxviz

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_ties(x64, window, stride, padding):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (2, 15, 18, 3)).astype(np.float64)
    kernel = rng.integers(-1, 2, (3, 3, 3, 4)).astype(np.float64)

    features = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    hidden = torch.relu(torch.nn.functional.conv2d(features, torch.tensor(kernel.transpose(3, 2, 0, 1)), padding=1))
    pooled = torch.nn.functional.max_pool2d(hidden, window, stride, padding)
    weights = rng.integers(-3, 4, (pooled.shape[2], pooled.shape[3], pooled.shape[1])).astype(np.float64)
    (pooled * torch.tensor(weights.transpose(2, 0, 1))).sum().backward()
    assert features.grad is not None

    def score(params, images):
        x = nn.max_pool(jax.nn.relu(convolve(images, params)), (window,) * 2, (stride,) * 2, [(padding,) * 2] * 2)
        return (x * weights).sum((1, 2, 3))

    got = jaxviz.gradient(score, jnp.asarray(kernel), jnp.asarray(images))
    np.testing.assert_array_equal(got, features.grad.numpy().transpose(0, 2, 3, 1))
    assert tied(hidden, window, stride, padding) > 0.05


def tied(hidden, window, stride, padding):
    """Return the share of windows whose maximum, above zero, stands in more than one place: the ties that matter."""
    padded = torch.nn.functional.pad(hidden, (padding,) * 4, value=-torch.inf)
    windows = padded.unfold(2, window, stride).unfold(3, window, stride).flatten(4)
    largest = windows.amax(-1, keepdim=True)
    return float((((windows == largest).sum(-1) > 1) & (largest[..., 0] > 0)).double().mean())
