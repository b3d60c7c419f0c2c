"""The style net against a PyTorch twin: `ReflectionPad2d`, `InstanceNorm2d`, `Upsample`, on the same weights.

In float64, where sums in another order differ by rounding alone: 1e-8 of the largest value, of the images and of the
gradient of every parameter.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

torch = pytest.importorskip("torch")
nn = torch.nn

BLOCKS, STYLES, STYLE = 2, 2, 1
TOLERANCE = 1e-8


def made_up():
    """Return parameters whose scales and offsets are no ones and zeros."""
    params = jaxviz.init_style_net(jax.random.key(0), width=4, blocks=BLOCKS, styles=STYLES)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x, np.float64) + 0.2 * rng.normal(size=x.shape), params)


def tensor(x):
    return torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=True)


def twin(weights, images):
    """Return the images that PyTorch makes of `images`, (n, 3, h, w) with sides that are multiples of 4."""

    def layer(name, x, stride=1):
        kernel = weights[name]["kernel"].permute(3, 2, 0, 1)
        x = nn.functional.conv2d(nn.ReflectionPad2d(kernel.shape[-1] // 2)(x), kernel, stride=stride)
        scale, offset = (weights[name][what][STYLE][:, None, None] for what in ("scale", "offset"))
        return scale * nn.InstanceNorm2d(x.shape[1], eps=1e-5)(x) + offset

    double = nn.Upsample(scale_factor=2, mode="nearest")
    x = torch.relu(layer("first", images - 0.5))
    x = torch.relu(layer("down2", torch.relu(layer("down1", x, 2)), 2))
    for i in range(1, sum(name.startswith("block") for name in weights) // 2 + 1):
        x = x + layer(f"block{i}_2", torch.relu(layer(f"block{i}_1", x)))
    x = torch.relu(layer("up2", double(torch.relu(layer("up1", double(x))))))
    return torch.sigmoid(layer("last", x))


@pytest.mark.usefixtures("x64")
def test_images_and_gradients():
    params, images = made_up(), np.random.default_rng(1).random((2, 24, 32, 3))
    weights = jax.tree.map(tensor, params)
    theirs = twin(weights, torch.tensor(images.transpose(0, 3, 1, 2)))
    (theirs**2).sum().backward()

    @jax.jit
    def ours(params):
        made = jaxviz.style_net(params, jnp.asarray(images), style=STYLE)
        return jnp.sum(made**2), made

    (_, made), grads = jax.value_and_grad(ours, has_aux=True)(params)
    np.testing.assert_allclose(made, theirs.detach().numpy().transpose(0, 2, 3, 1), atol=TOLERANCE)
    expected = jax.tree.map(lambda x: x.grad.numpy(), weights)
    # Of all gradients together: that of an offset which another normalization removes again is zero.
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=TOLERANCE * largest), grads, expected)
