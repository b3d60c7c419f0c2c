"""Receptive fields: known numbers, and the support of a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from nets import convolve

import jaxviz
from jaxviz.models._networks import NETWORKS


def field_of(name, layer, size=224):
    network = NETWORKS[name]
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jaxviz.receptive_field(network.net, network.params(), images, layer)


@pytest.mark.parametrize(
    ("name", "layer", "size", "stride"),
    [
        ("vgg16_features", "relu5_3", 196, 16),
        ("vgg16_features", "pool5", 212, 32),
        ("vgg16_features", "conv1_1", 3, 1),
        ("alexnet", "relu5", 163, 16),
        ("alexnet", "pool5", 195, 32),
    ],
)
def test_known_numbers(name, layer, size, stride):
    field = field_of(name, layer)
    assert (field.size, field.stride) == ((size, size), (stride, stride))


def test_a_dense_layer_sees_everything():
    assert field_of("vgg16", "fc6") == ((224, 224), (0, 0), (0, 0))


def chain(params, images):
    """Rows and columns differ; kernels, strides, paddings, dilation, a pool, a residual branch, a crop."""
    x = lax.conv_general_dilated(
        images, params[0], (2, 1), [(3, 0), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = x + convolve(x, params[1])
    x = lax.reduce_window(x, 0.0, lax.add, (1, 3, 2, 1), (1, 2, 2, 1), "SAME")
    x = lax.pad(x, 0.0, [(0, 0, 0), (1, 2, 0), (0, 0, 0), (0, 0, 0)])[:, :, 1::2]
    return convolve(x.transpose(0, 2, 1, 3), params[1], rhs_dilation=(2, 1)).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("unit", [(3, 2), (5, 4), (6, 3)])
def test_equals_the_support_of_a_gradient(unit):
    params = (jnp.ones((4, 3, 3, 2)), jnp.ones((3, 3, 2, 2)))
    images = jnp.ones((1, 64, 56, 3))
    field = jaxviz.receptive_field(chain, params, images, "conv_2")
    score = lambda p, x: jaxviz.capture(chain, "conv_2")(p, x)[1]["conv_2"][:, unit[1], unit[0], 0]  # noqa: E731
    support = jnp.abs(jax.grad(lambda x: score(params, x).sum())(images))[0].sum(-1) > 0
    # conv_2 stands in a transposed map: its first axis runs along the image's columns.
    for axis in (0, 1):
        start = field.offset[axis] + unit[axis] * field.stride[axis]
        seen = np.flatnonzero(support.any(1 - axis))
        assert (seen[0], seen[-1]) == (max(start, 0), start + field.size[axis] - 1)


def test_vgg16_by_its_gradient():
    """The same on the real network, for a unit whose window lies inside the image."""
    network = NETWORKS["vgg16_features"]
    params = jax.tree.map(lambda s: jnp.full(s.shape, 1e-2), network.params())
    field = field_of("vgg16_features", "relu4_1", 160)
    images = jnp.ones((1, 160, 160, 3))
    grads = jaxviz.gradient(jaxviz.neuron(network.net, "conv4_1", 0, (8, 9)), params, images)[0]
    rows = np.flatnonzero(jnp.abs(grads).sum((1, 2)) > 0)
    columns = np.flatnonzero(jnp.abs(grads).sum((0, 2)) > 0)
    for seen, unit in ((rows, 8), (columns, 9)):
        # ReLU and max-pool can drop what a unit could see, never add to it; with equal weights the pool's first wins.
        start = field.offset[0] + unit * field.stride[0]
        assert start <= seen[0] <= start + 8
        assert start + field.size[0] - 8 <= seen[-1] + 1 <= start + field.size[0]


def squeezed(params, images):
    """Squeeze and excitation, as Flax writes it: a pool of everything, and a product that spreads it out again."""
    x = convolve(images, params)
    pooled = lax.reduce_window(x, 0.0, lax.add, (1, *x.shape[1:3], 1), (1, 1, 1, 1), "VALID")
    return jax.ad_checkpoint.checkpoint_name(x * jax.nn.sigmoid(1e-3 * pooled), "out")


ONE_POSITION = {
    "squeezed": (squeezed, (0, 11), (0, 8)),
    "a column": (lambda p, x: jax.ad_checkpoint.checkpoint_name(convolve(x, p)[:, :, 4], "out"), (4, 6), (3, 5)),
    "spread out": (
        lambda p, x: jax.ad_checkpoint.checkpoint_name(
            jnp.broadcast_to(convolve(x, p)[:, 2:3, 4:5], (*x.shape[:3], 2)), "out"
        ),
        (1, 3),
        (3, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("net", "rows", "columns"), ONE_POSITION.values(), ids=ONE_POSITION)
def test_units_that_share_a_position(net, rows, columns):
    """The window of a unit in row 5 is what its gradient is not zero in."""
    params, images = jnp.ones((3, 3, 3, 2)), jnp.ones((1, 12, 9, 3))
    field = jaxviz.receptive_field(net, params, images, "out")
    seen = lambda x: net(params, x)[0, 5].reshape(-1, 2)[-1, 0]  # noqa: E731
    support = jnp.abs(jax.grad(seen)(images))[0].sum(-1) > 0
    last = (5, 0 if net is ONE_POSITION["a column"][0] else 8)
    for window, axis, expected in zip(field.window(last, (12, 9)), (0, 1), (rows, columns), strict=True):
        places = np.flatnonzero(support.any(1 - axis))
        assert (places[0], places[-1]) == expected == (window.start, window.stop - 1)


def test_errors():
    images = jnp.ones((1, 16, 16, 3))
    with pytest.raises(ValueError, match="no layer 'nope'"):
        jaxviz.receptive_field(lambda p, x: jax.nn.relu(x), None, images, "nope")
    with pytest.raises(ValueError, match="cannot follow `rev`"):
        jaxviz.receptive_field(lambda p, x: jax.nn.relu(x[:, ::-1]), None, images, "relu_0")
    with pytest.raises(ValueError, match="transposed convolution"):
        jaxviz.receptive_field(
            lambda w, x: jax.nn.relu(convolve(x, w, padding=[(1, 1), (1, 1)], lhs_dilation=(2, 2))),
            jnp.ones((3, 3, 3, 3)),
            images,
            "relu_0",
        )
