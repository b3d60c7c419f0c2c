"""Receptive fields: known numbers, the support of a gradient, and what changes when each pixel does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fields import GATES, LAYERS, NAME, bend, both, edges_by_trial, weights
from jax import lax
from nets import convolve

import jaxviz
from jaxviz.fast._swap import accelerate
from jaxviz.models._networks import NETWORKS
from jaxviz.program._receptive_field import unit_edges


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
    score = lambda p, x: jaxviz.capture(chain, "conv_2")(p, x)[1]["conv_2"][:, unit[1], unit[0], 0]
    support = jnp.abs(jax.grad(lambda x: score(params, x).sum())(images))[0].sum(-1) > 0
    # conv_2 stands in a transposed map: its first axis runs along the image's columns.
    for axis in (0, 1):
        start = field.offset[axis] + unit[axis] * field.stride[axis]
        seen = np.flatnonzero(support.any(1 - axis))
        assert (seen[0], seen[-1]) == (max(start, 0), start + field.size[axis] - 1)


@pytest.mark.slow
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
    field = jaxviz.receptive_field(net, params, images, "out", strict=True)
    seen = lambda x: net(params, x)[0, 5].reshape(-1, 2)[-1, 0]
    support = jnp.abs(jax.grad(seen)(images))[0].sum(-1) > 0
    last = (5, 0 if net is ONE_POSITION["a column"][0] else 8)
    for window, axis, expected in zip(field.window(last, (12, 9)), (0, 1), (rows, columns), strict=True):
        places = np.flatnonzero(support.any(1 - axis))
        assert (places[0], places[-1]) == expected == (window.start, window.stop - 1)


SHAPE = jax.ShapeDtypeStruct((1, 12, 10, 3), jnp.float64)


def named(fn):
    return lambda params, x: NAME(fn(params, x), "out")


def assert_sees(net, params, expected, **options):
    """Compare every element of every channel, wherever the layer has its channels."""
    edges = unit_edges(named(net), params, SHAPE, "out", **options)
    for got, right in zip(edges, expected, strict=True):
        if got.shape != right.shape:  # channels are not on the last axis
            right = next(np.moveaxis(right, a, -1) for a in range(right.ndim) if right.shape[a] == got.shape[-1])
        np.testing.assert_array_equal(got, right)


# Siblings of others in the table, and the slowest to compile.
SLOW = ("cubic", "lanczos3", "symmetric", "mean padding", "linear resize to (24", "nearest resize to (24", "attention")


def slowly(table):
    return [pytest.param(net, marks=[pytest.mark.slow] * name.startswith(SLOW), id=name) for name, net in table.items()]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("net", slowly(LAYERS))
def test_each_unit_sees_the_pixels_that_change_it(net):
    """Exactly, at the borders too; without gates and attention the spatial field is the same."""
    expected = edges_by_trial(net, weights())
    assert_sees(net, weights(), expected, strict=True)
    if net is LAYERS["attention within windows"]:
        expected = edges_by_trial(lambda p, x: bend(x), weights())
    assert_sees(net, weights(), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", GATES.values(), ids=GATES)
def test_gates_and_normalizations(make):
    """The spatial field is that of the network with its gates and statistics held still; strictly, they count."""
    net = both(make)
    assert_sees(net, weights(), edges_by_trial(net, weights(), frozen=True))
    whole = jaxviz.receptive_field(named(net), weights(), SHAPE, "out", strict=True)
    np.testing.assert_array_equal(whole.boxes, np.broadcast_to([0, 0, 12, 10], whole.boxes.shape))
    assert jaxviz.receptive_field(named(net), weights(), SHAPE, "out").stride in ((1, 1), (2, 2))


def random_net(seed):
    """Return a chain of random layers with a branch that joins again."""
    rng = np.random.default_rng(seed)
    kinds = ["reflect padding", "wrap padding", "convolution", "max-pool", "average pool", "roll", "flip", "cumsum",
             "transposed convolution", "strided slice", "masked convolution", "padding beyond the kernel"]  # fmt: skip
    first, second, third = (LAYERS[name] for name in rng.choice(kinds, 3, replace=False))
    halves = rng.random() < 0.5

    def fitted(x):
        x = x[:, :12, :10]
        return bend(jnp.pad(x, ((0, 0), (12 - x.shape[1], 0), (0, 10 - x.shape[2]), (0, 0))))

    def net(p, x):
        x = fitted(first(p, x)) + x[:, ::-1]
        if halves:
            x = jnp.concatenate([x[:, :, :5], convolve(x, p["w"])[:, :, 5:]], 2)
        return third(p, fitted(second(p, x)))

    return net


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_random_networks(seed):
    """A chain of layers is as exact as each one."""
    assert_sees(random_net(seed), weights(), edges_by_trial(random_net(seed), weights()), strict=True)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("vgg16_features", "relu4_1"), pytest.param("efficientnet_lite0", "block5_1", marks=pytest.mark.slow)],
)
def test_accelerated_networks_see_the_same(name, layer):
    """Winograd's convolutions, sums of shifted images and pools as strided slices are followed too."""
    network, images = NETWORKS[name], jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
    plain, fast = (
        jaxviz.receptive_field(net, network.params(), images, layer) for net in (network.net, accelerate(network.net))
    )
    assert plain == fast
    np.testing.assert_array_equal(plain.boxes, fast.boxes)


@pytest.mark.parametrize("name", ["two, with strides", "dilated", "reflect padding", "flip", "pixel shuffle"])
def test_three_numbers_hold_what_units_see(name):
    """By themselves they give windows that hold the boxes, and away from the borders are the boxes."""
    images = jnp.ones((1, 36, 40, 3))
    net = LAYERS[name]
    field = jaxviz.receptive_field(named(net), weights(), images, "out")
    rows, columns = field.boxes.shape[:2]
    for at in np.ndindex(rows, columns):
        exact, held = field.window(at, (36, 40)), jaxviz.ReceptiveField(*field).window(at, (36, 40))
        if name != "reflect padding":  # at its border, units look back into the image
            assert all(h.start <= e.start and e.stop <= h.stop for e, h in zip(exact, held, strict=True))
    middle = rows // 2, columns // 2
    if name != "pixel shuffle":  # behind which units see 3 or 4 rows in turn
        assert field.window(middle, (36, 40)) == jaxviz.ReceptiveField(*field).window(middle, (36, 40))


def test_borders_see_less_than_three_numbers_say():
    """A unit whose window reaches into the padding of an inner layer sees only what is there."""
    net = lambda p, x: convolve(convolve(x, p["w"], 4, "VALID"), p["w"])
    field = jaxviz.receptive_field(named(net), weights(), jnp.ones((1, 12, 12, 3)), "out")
    assert (field.size, field.stride, field.offset) == ((11, 11), (4, 4), (-4, -4))
    assert field.window((2, 0), (12, 12)) == (slice(4, 11), slice(0, 7))
    assert jaxviz.ReceptiveField(*field).window((2, 0), (12, 12)) == (slice(4, 12), slice(0, 7))
    with pytest.raises(ValueError, match=r"expected a position among 3 x 3 units, got \(3, 0\)"):
        field.window((3, 0), (12, 12))


def test_weights_that_are_zero_count():
    """A network before training: zeros in it are weights, whether parameters or not."""
    zeros, images = jnp.zeros(3), jnp.ones((1, 12, 10, 3))
    net = lambda p, x: x + zeros[None, None, None] * convolve(x, p["w"])
    assert jaxviz.receptive_field(named(net), weights(), images, "out").size == (3, 3)


def test_it_is_read_while_another_program_is_traced():
    resized = LAYERS["linear resize to (7, 13)"]
    expected = jaxviz.receptive_field(named(resized), weights(), jnp.ones((1, 12, 10, 3)), "out").boxes

    @jax.jit
    def traced(params, images):
        return jnp.asarray(jaxviz.receptive_field(named(resized), params, images, "out").boxes)

    np.testing.assert_array_equal(traced(weights(), jnp.ones((1, 12, 10, 3))), expected)


def spread_by_loop(params, x):
    return jax.lax.scan(lambda c, _: (convolve(c, params["w"]), None), x, length=200)[0]


UNKNOWN = {
    "loop": (spread_by_loop, "cannot follow `scan`"),
    "branch": (lambda p, x: lax.cond(x.sum() > 0, lambda x: x, lambda x: x[:, ::-1], x), "cannot follow `cond`"),
    "while": (lambda p, x: lax.while_loop(lambda x: x.sum() < 1, lambda x: 2 * x, x), "cannot follow `while`"),
    "places": (lambda p, x: x[:, jnp.argmax(x[0, :, 0, 0])], "at places that depend on the images"),
    "linear algebra": (lambda p, x: jnp.linalg.qr(x[0, :, :, 0])[0][None, :, :, None], "cannot follow `qr`"),
    "padding": (lambda p, x: lax.pad(x, x.max(), [(0, 0, 0), (1, 1, 0)] + [(0, 0, 0)] * 2), "a padding with a value"),
}  # fmt: skip


@pytest.mark.parametrize(("net", "match"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_followed_is_named(net, match):
    with pytest.raises(ValueError, match=match) as error:
        jaxviz.receptive_field(named(net), weights(), jnp.ones((1, 12, 10, 3)), "out")
    assert "on the way from the images to 'out'" in str(error.value)


def test_errors():
    images = jnp.ones((1, 16, 16, 3))
    with pytest.raises(ValueError, match="no layer 'nope'"):
        jaxviz.receptive_field(lambda p, x: jax.nn.relu(x), None, images, "nope")
    with pytest.raises(ValueError, match="'fixed' does not depend on the images"):
        jaxviz.receptive_field(lambda p, x: x + NAME(p * 2, "fixed"), jnp.ones((1, 1, 1, 3)), images, "fixed")
