"""Names by kind and number: activations, pools and sums that are plain functions, and what is none of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from nets import convolve

import jaxviz

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))
SHAPE = jax.ShapeDtypeStruct((2, 16, 16, 3), KERNEL.dtype)


def found_after(f, *, dtype=KERNEL.dtype):
    """Return what is listed of a function of a convolution's result, but for that."""
    net = lambda kernel, images: f(convolve(images, kernel).astype(dtype))
    names = list(jaxviz.layers(net, KERNEL, SHAPE))
    assert names[0] == "conv_0"
    return names[1:]


# Activations

GELU = lambda x: 0.5 * x * (1 + lax.erf(x / np.sqrt(2).astype(x.dtype)))
ACTIVATIONS = {
    "gelu": jax.nn.gelu,
    "gelu exact": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu written out": GELU,
    "gelu of what is scaled": lambda x: GELU(0.3 * x),
    "gelu scaled": lambda x: checkpoint_name(2.0 * jax.nn.gelu(x), "twice"),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "silu by exp": lambda x: x / (1 + jnp.exp(-x)),
    "silu rematerialized": jax.checkpoint(jax.nn.silu),
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "mish written out": lambda x: x * jnp.tanh(jnp.log1p(jnp.exp(x))),
    "sigmoid": jax.nn.sigmoid,
    "sigmoid by tanh": lambda x: (1 + jnp.tanh(x / 2)) / 2,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "squareplus": jax.nn.squareplus,
    "soft_sign": jax.nn.soft_sign,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
}


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, dtype):
    kind = name.split(" ")[0]
    assert found_after(ACTIVATIONS[name], dtype=dtype)[0] == f"{kind}_0"
    assert len(found_after(ACTIVATIONS[name], dtype=dtype)) == 1 + (name == "gelu scaled")


OTHERS = {
    "nothing": lambda x: x,
    "scaled": lambda x: 2 * x,
    "clipped": lambda x: jnp.clip(x, -1, 1),
    "exponential": jnp.exp,
    "gelu with another constant": lambda x: 0.5 * x * lax.erfc(-0.8 * x),
    "of two values": lambda x: x[..., :2] * lax.exp(x[..., 2:]),
    "shifted by a kernel": lambda x: x * lax.exp(jnp.arange(4.0, dtype=x.dtype)),
    "standardized": lambda x: jax.nn.standardize(x),
    "normalized": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "softmax": jax.nn.softmax,
}


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.parametrize("name", OTHERS)
def test_no_activations(name):
    assert found_after(OTHERS[name]) == []


@pytest.mark.usefixtures("users_promotions")
def test_a_part_of_another_activation_is_listed_only_if_it_is_used_by_itself():
    gated = lambda x: (lambda gate: (x * gate) + gate.mean((1, 2), keepdims=True))(jax.nn.sigmoid(x))
    assert found_after(gated)[:2] == ["sigmoid_0", "silu_0"]
    assert found_after(lambda x: x[..., :2] * jax.nn.sigmoid(x[..., 2:])) == ["sigmoid_0"]  # a gated linear unit
    assert found_after(lambda x: x * jax.nn.sigmoid(1.5 * x)) == ["sigmoid_0"]  # a function without a name
    assert found_after(lambda x: jnp.clip(jax.nn.silu(x), -20.0, 20.0)) == ["silu_0"]  # not what is bounded far away


def test_relus_keep_their_names_and_numbers():
    def net(kernel, images):
        x = jax.nn.relu(convolve(images, kernel))
        x = jax.nn.gelu(jax.nn.leaky_relu(convolve(x, kernel[:, :, :1].repeat(4, 2))))
        return jax.nn.relu6(convolve(jax.nn.hard_swish(x), kernel[:, :, :1].repeat(4, 2)))

    names = list(jaxviz.layers(net, KERNEL, SHAPE))
    assert names == ["conv_0", "relu_0", "conv_1", "relu_1", "gelu_0", "hard_swish_0", "conv_2", "relu_2"]


def test_captured_and_replaced(images):
    net = lambda kernel, images: jax.nn.silu(convolve(images, kernel)).mean((1, 2))
    outputs, values = jaxviz.capture(net, ["silu_0", "global_avg_pool_0"])(KERNEL, images)
    np.testing.assert_allclose(values["silu_0"], jax.nn.silu(convolve(images, KERNEL)), rtol=1e-6)
    np.testing.assert_array_equal(values["global_avg_pool_0"], outputs)
    ones = jaxviz.replace(net, {"silu_0": jnp.ones(())})(KERNEL, images)
    np.testing.assert_allclose(ones, jnp.ones((2, 4)), rtol=1e-6)


@jax.custom_jvp
def straight(x):
    return jnp.tanh(x) + x


straight.defjvp(lambda primals, tangents: (straight(*primals), tangents[0]))


@jax.custom_jvp
def straight_tanh(x):
    return jnp.tanh(x)


straight_tanh.defjvp(lambda primals, tangents: (straight_tanh(*primals), tangents[0]))


def test_derivatives_of_a_functions_own_are_kept(images):
    assert found_after(straight) == []
    assert found_after(straight_tanh) == ["tanh_0"]
    net = lambda kernel, images: straight_tanh(convolve(images, kernel)).sum()
    taken = lambda images: jaxviz.capture(net, "tanh_0")(KERNEL, images)[0]
    expected = jax.grad(lambda images: convolve(images, KERNEL).sum())(images)
    np.testing.assert_allclose(jax.grad(taken)(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("users_promotions")
def test_numbers_within_loops():
    def net(weights, images):
        turn = lambda x, w: (x + jax.nn.gelu(x @ w), None)
        return lax.scan(turn, images @ weights[0, :3], weights)[0]

    names = list(jaxviz.layers(net, jnp.ones((2, 4, 4)), SHAPE))
    assert names == [
        "dense_0", *(f"scan_0[{i}]/{name}" for i in range(2) for name in ("dense_0", "gelu_0", "add_0"))
    ]  # fmt: skip


# Pools


def pooled(x, reduce, start, window, strides=None, padding="VALID"):
    return lax.reduce_window(x, start, reduce, window, strides or window, padding)


def averaged(x):
    """Return means over windows in which padding does not count."""
    how = ((1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return pooled(x, lax.add, 0.0, *how) / pooled(jnp.ones((1, *x.shape[1:3], 1), x.dtype), lax.add, 0.0, *how)


POOLS = {
    "max_pool": lambda x: pooled(x, lax.max, -jnp.inf, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    "max_pool channels first": lambda x: pooled(x.transpose(0, 3, 1, 2), lax.max, -jnp.inf, (1, 1, 2, 2)),
    "avg_pool": lambda x: pooled(x, lax.add, 0.0, (1, 2, 2, 1)) / 4,
    "avg_pool less its source": lambda x: pooled(x, lax.add, 0.0, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9 - x,
    "avg_pool by the inverse": lambda x: pooled(x, lax.add, 0.0, (1, 2, 2, 1)) * 0.25,
    "avg_pool without padding": averaged,
    "global_avg_pool": lambda x: x.mean((1, 2)),
    "global_avg_pool as a map": lambda x: x.mean((1, 2), keepdims=True),
    "global_avg_pool in float32": lambda x: x.astype(jnp.bfloat16).mean((1, 2)),
    "global_avg_pool of tokens": lambda x: x.reshape(2, -1, 4).mean(1),
    "global_avg_pool of some tokens": lambda x: x.reshape(2, -1, 4)[:, 1:].mean(1),
    "global_avg_pool behind a gate": lambda x: x * jax.nn.softmax(x.mean((1, 2), keepdims=True) @ jnp.ones((4, 4))),
    "global_max_pool": lambda x: x.max((1, 2)),
}


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    assert found_after(POOLS[name])[0] == f"{name.split(' ')[0]}_0"


NO_POOLS = {
    "sums of windows": lambda x: pooled(x, lax.add, 0.0, (1, 2, 2, 1)),
    "sums of windows, halved": lambda x: pooled(x, lax.add, 0.0, (1, 2, 2, 1)) / 2,
    "sums": lambda x: x.sum((1, 2)),
    "over channels": lambda x: x.mean(-1),
    "over windows of channels": lambda x: pooled(x, lax.max, -jnp.inf, (1, 1, 1, 2)),
    "response normalization": lambda x: x / (1 + pooled(x * x, lax.add, 0.0, (1, 1, 1, 3), (1, 1, 1, 1), "SAME") / 3),
    "over rows": lambda x: x.mean(1),
    "over images": lambda x: x.mean(0),
    "over all": lambda x: x.mean(),
    "over images and positions": lambda x: x.mean((0, 1, 2)),
    "instance normalization": lambda x: (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True),
    "its fast variance": lambda x: x * lax.rsqrt((x * x).mean((1, 2), keepdims=True) - x.mean((1, 2), keepdims=True)),
    "repeated": lambda x: jnp.broadcast_to(x.sum((1, 2), keepdims=True), (2, 5, 5, 4)) / 256,
    "softmax over positions": lambda x: jax.nn.softmax(x, (1, 2)),
    "heads": lambda x: x.reshape(2, 256, 2, 2).mean((2, 3)),
}


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.parametrize("name", NO_POOLS)
def test_no_pools(name):
    assert found_after(NO_POOLS[name]) == []


def test_what_the_table_says_of_them():
    def net(kernel, images):
        x = POOLS["max_pool"](jax.nn.gelu(convolve(images, kernel)))
        x = x + jax.nn.sigmoid(convolve(x, kernel[:, :, :1].repeat(4, 2)))
        return pooled(x, lax.add, 0.0, (1, 2, 2, 1)).mean((1, 2)) / 4

    lines = repr(jaxviz.layers(net, KERNEL, SHAPE)).splitlines()[1:]
    assert [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines] == [
        ["conv_0", "conv", "2 x 16 x 16 x 4", "3 x 3"],
        ["gelu_0", "activation", "2 x 16 x 16 x 4", "3 x 3"],
        ["max_pool_0", "max pool", "2 x 8 x 8 x 4", "5 x 5"],
        ["conv_1", "conv", "2 x 8 x 8 x 4", "9 x 9"],
        ["sigmoid_0", "sigmoid", "2 x 8 x 8 x 4", "9 x 9"],
        ["add_0", "sum", "2 x 8 x 8 x 4", "9 x 9"],
        ["global_avg_pool_0", "mean", "2 x 4", "16 x 16"],
    ]


# Sums

SQUARE = jax.random.normal(jax.random.key(1), (4, 4))
SUMS = {
    "of a residual block": (lambda x: x + x @ SQUARE, 1),
    "of two layers": (lambda x: x @ SQUARE + x @ SQUARE.T, 1),
    "of three": (lambda x: x + x @ SQUARE + x @ SQUARE.T, 2),
    "with a gated branch": (lambda x: x + x * jnp.tanh(x @ SQUARE), 1),
    "with a bias": (lambda x: x + jnp.arange(4.0), 0),
    "within an activation": (lambda x: x + x**3, 0),
    "within a normalization": (lambda x: x * lax.rsqrt(x.var(-1, keepdims=True)) + (0 - x.mean(-1, keepdims=True)), 0),
    "rotary": (lambda x: x * jnp.cos(1.0) + jnp.roll(x, 1, -1) * jnp.sin(1.0), 0),
    "of two numbers for each image": (lambda x: x.sum((1, 2, 3)) + (x @ SQUARE).sum((1, 2, 3)), 0),
}


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.parametrize("name", SUMS)
def test_sums(name):
    f, count = SUMS[name]
    assert [each for each in found_after(f) if each.startswith("add_")] == [f"add_{i}" for i in range(count)]


@pytest.mark.usefixtures("users_promotions")
def test_what_comes_before_the_first_layer_is_not_listed():
    net = lambda params, x: jnp.tanh(x).mean((1, 2)) @ params + (x.max((1, 2)) @ params)
    assert list(jaxviz.layers(net, jnp.eye(3), SHAPE)) == ["dense_0", "dense_1", "add_0"]


@pytest.mark.usefixtures("users_promotions")
def test_scores_of_a_pooling_head_are_no_layer_but_have_a_number(images):
    """Its queries are parameters, so that their product with keys looks like a dense layer's."""

    def net(params, images):
        tokens = images.reshape(len(images), -1, 3) @ params["key"]
        scores = jnp.einsum("qc,ntc->nqt", params["probe"], tokens)
        return (jax.nn.softmax(scores) @ tokens)[:, 0] @ params["head"]

    params = {"key": jnp.eye(3), "probe": jnp.ones((1, 3)), "head": jnp.eye(3)}
    assert list(jaxviz.layers(net, params, images)) == ["dense_0", "attention_0", "dense_2"]
    _, values = jaxviz.capture(net, ["dense_1", "attention_0"])(params, images)
    weights = jax.nn.softmax(values["dense_1"].reshape(values["attention_0"].shape))
    np.testing.assert_allclose(values["attention_0"], weights, rtol=1e-6)
