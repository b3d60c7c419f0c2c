"""Convolutions and pools with faster derivatives: the same values and gradients, under every transformation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from nets import convolve

from jaxviz.fast._swap import accelerate

CASES = {
    "same": {"padding": "SAME"},
    "valid": {"padding": "VALID"},
    "strided": {"stride": 2, "padding": "SAME"},
    "strided valid": {"stride": 3, "padding": "VALID"},
    "asymmetric": {"stride": 2, "padding": [(0, 1), (2, 3)]},
    "cropping": {"padding": [(-1, -1), (0, -2)]},
    "dilated kernel": {"padding": "SAME", "rhs_dilation": (2, 3)},
    "transposed": {"padding": [(2, 2), (2, 2)], "lhs_dilation": (2, 2)},
}


def agree(fn, *args, rtol=1e-12):
    fast, plain = fn(accelerate), fn(lambda f: f)
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


@pytest.fixture
def data(x64):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (2, 11, 9, 4), jnp.float64), jax.random.normal(keys[1], (3, 3, 4, 6), jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True], ids=["few channels", "many"])
@pytest.mark.parametrize("case", list(CASES))
def test_convolution(case, wide, data):
    x, w = (jnp.tile(data[0], 4), jnp.tile(data[1], (1, 1, 4, 2))) if wide else data
    fn = lambda w, x: jnp.sum(jnp.sin(convolve(x, w, **CASES[case])))
    agree(lambda a: (a(fn)(w, x), jax.grad(a(fn), (0, 1))(w, x)))


@pytest.mark.parametrize(
    ("side", "stride", "padding"),
    [
        pytest.param(3, 1, "SAME", id="plain"),
        pytest.param(3, 2, "SAME", id="strided"),
        pytest.param(3, 2, [(1, 1), (1, 1)], id="strided as in ResNets"),
        pytest.param(5, 3, [(0, 4), (-1, 2)], id="asymmetric"),
        pytest.param(2, 3, "VALID", id="gaps"),
        pytest.param(1, 2, "VALID", id="shortcut"),
        pytest.param(1, 1, [(1, 0), (0, 2)], id="padded product"),
        pytest.param(4, 4, "VALID", id="patches"),
        pytest.param((3, 2), (3, 2), "VALID", id="patches, some pixels left"),
    ],
)
def test_gradients_of_few_positions_read_the_kernel_as_stored(side, stride, padding, x64):
    down, across = np.broadcast_to(side, 2)
    w = jax.random.normal(jax.random.key(0), (down, across, 4, 300), jnp.float64)
    x = jax.random.normal(jax.random.key(1), (2, 11, 9, 4), jnp.float64)
    strides = tuple(np.broadcast_to(stride, 2).tolist())
    convolved = lambda w, x: lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    loss = lambda w, x: jnp.sum(jnp.sin(convolved(w, x)))
    agree(lambda a: jax.grad(a(loss), (0, 1))(w, x))
    agree(lambda a: jax.jvp(jax.grad(a(loss), 1), (w, x), (w, x)))
    program = jax.jit(jax.grad(accelerate(loss), 1)).lower(w, x).as_text()
    assert "stablehlo.reverse" not in program
    with jax.default_matmul_precision("highest"):
        program = jax.jit(jax.grad(accelerate(loss), 1)).lower(w, x).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all("HIGHEST, HIGHEST" in line for line in products)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC")], ids="-".join)
def test_without_padding_some_is_spared(stride, layout, data):
    x, w = (as_in(to, value, names) for to, value, names in zip(layout, data, ("NHWC", "HWIO"), strict=False))
    fn = lambda w, x: lax.conv_general_dilated(x, w, (stride,) * 2, "VALID", dimension_numbers=layout)
    agree(lambda a: jax.jit(a(fn))(w, x))
    agree(lambda a: jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.sin(a(fn)(w, x))), (0, 1)))(w, x))
    assert "pad = [[0, 1], [0, 1]]" in jax.jit(accelerate(fn)).lower(w, x).as_text()
    assert "pad = [[0, 1], [0, 1]]" not in jax.jit(fn).lower(w, x).as_text()


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "out"), [(2, 6), (4, 4), (4, 8)])
@pytest.mark.parametrize("case", [case for case in CASES if case != "cropping"])
def test_grouped_and_depthwise_convolution(groups, out, case, data):
    x, w = data
    w = jnp.concatenate([w, -w], -1)[:, :, : 4 // groups, :out]
    fn = lambda w, x: jnp.sum(jnp.sin(convolve(x, w, feature_group_count=groups, **CASES[case])))
    agree(lambda a: (a(fn)(w, x), jax.grad(a(fn), (0, 1))(w, x)))


@pytest.mark.slow
def test_depthwise_convolution_in_another_layout(data):
    x, w = data
    x, w = x.transpose(0, 3, 1, 2), w[:, :, :1, :4].transpose(3, 2, 0, 1)
    numbers = ("NCHW", "OIHW", "NHWC")
    fn = lambda w, x: jnp.sum(
        jnp.sin(lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=numbers, feature_group_count=4))
    )
    agree(lambda a: jax.grad(a(fn), (0, 1))(w, x))


def test_another_layout(data):
    x, w = data
    x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    fn = lambda w, x: jnp.sum(jnp.sin(lax.conv_general_dilated(x, w, (2, 1), "SAME")))
    agree(lambda a: jax.grad(a(fn), (0, 1))(w, x))


@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")], ids="-".join)
@pytest.mark.parametrize("wide", [False, True], ids=["few channels", "many"])
def test_the_gradient_of_a_kernel_in_a_loop(wide, layout, data):
    """XLA has fast code for one order of axes only, and does not rewrite others inside of loops."""
    x, w = (jnp.tile(data[0], 4), jnp.tile(data[1], (1, 1, 4, 2))) if wide else data
    x, w = as_in(layout[0], x, "NHWC"), as_in(layout[1], w, "HWIO")

    def descend(a):
        plain = lambda w: lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=layout)
        loss = lambda w: jnp.sum(jnp.sin(a(plain)(w)))
        return jax.jit(lambda w: lax.fori_loop(0, 3, lambda _, w: w - 1e-3 * jax.grad(loss)(w), w))

    agree(lambda a: descend(a)(w))
    orders = {
        re.search(r"dim_labels=(\S+?)[, ]", line)[1] for line in lines_of(descend(accelerate), w, " convolution(")
    }
    assert "f01b_i01o->01bf" not in orders
    assert wide or "b01f_01io->b01f" in orders


def lines_of(fn, value, wanted):
    return [line for line in fn.lower(value).compile().as_text().splitlines() if wanted in line]


# A 1x1 convolution is a product of matrices


LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NCHW", "HWIO", "NHWC"), ("CWNH", "IOWH", "WHCN")]


def one_by_one(layout, stride=1, **options):
    def fn(w, x):
        return lax.conv_general_dilated(x, w, (stride, stride), "VALID", dimension_numbers=layout, **options)

    return fn


def as_in(layout, value, names):
    return value.transpose([names.index(name) for name in layout])


def primitives_of(fn, *args):
    program = str(jax.make_jaxpr(accelerate(fn))(*args))
    return {name for name in ("dot_general", "conv_general_dilated", "jaxviz_convolution") if name in program}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_a_1x1_convolution_is_written_as_a_product(layout, data):
    x, w = as_in(layout[0], data[0], "NHWC"), as_in(layout[1], data[1][:1, :1], "HWIO")
    plain = one_by_one(layout)
    assert primitives_of(plain, w, x) == {"dot_general"}
    expected = jnp.einsum("nhwi,io->nhwo", data[0], data[1][0, 0])
    np.testing.assert_allclose(accelerate(plain)(w, x), as_in(layout[2], expected, "NHWC"), atol=1e-12)
    fn = lambda w, x: jnp.sum(jnp.sin(plain(w, x)))
    agree(lambda a: (a(plain)(w, x), jax.grad(a(fn), (0, 1))(w, x)))
    agree(lambda a: jax.jvp(a(plain), (w, x), (w + 1, 2 - x)))
    agree(lambda a: jax.vmap(jax.grad(a(fn), 1), (None, 0))(w, jnp.stack([x, -x])))
    agree(lambda a: jax.vmap(a(plain), (0, None))(jnp.stack([w, -w]), x))


def test_a_1x1_convolution_keeps_the_type_it_is_asked_for(data):
    x, w = data[0].astype(jnp.bfloat16), data[1][:1, :1].astype(jnp.bfloat16)
    fn = one_by_one(LAYOUTS[0], preferred_element_type=jnp.float32, precision="highest")
    assert primitives_of(fn, w, x) == {"dot_general"}
    result = accelerate(fn)(w, x)
    assert result.dtype == jnp.float32
    exact = jnp.einsum("nhwi,io->nhwo", x.astype(jnp.float64), w[0, 0].astype(jnp.float64))
    np.testing.assert_allclose(result, exact, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"stride": 2}, id="strided"),
        pytest.param({"padding": [(1, 0), (0, 0)]}, id="padded"),
        pytest.param({"padding": [(0, -1), (0, 0)]}, id="cropping"),
        pytest.param({"lhs_dilation": (2, 1), "padding": [(0, 0), (0, 0)]}, id="transposed"),
        pytest.param({"feature_group_count": 2}, id="groups"),
        pytest.param({"batch_group_count": 2}, id="groups of images"),
    ],
)
def test_other_1x1_convolutions_stay_convolutions(options, data):
    x, w = data[0], data[1][:1, :1]
    w = w[:, :, : 4 // options.get("feature_group_count", 1)]
    plain = lambda w, x: convolve(x, w, **{"padding": "VALID"} | options)
    assert primitives_of(plain, w, x) == {"jaxviz_convolution"}
    fn = lambda w, x: jnp.sum(jnp.sin(plain(w, x)))
    agree(lambda a: (a(plain)(w, x), jax.grad(a(fn), (0, 1))(w, x)))
    agree(lambda a: jax.jvp(a(plain), (w, x), (w + 1, 2 - x)))
    agree(lambda a: jax.vmap(a(plain), (None, 0))(w, jnp.stack([x, -x])))


def test_a_depthwise_1x1_convolution(data):
    x, w = data[0], data[1][:1, :1, :1, :4]
    plain = lambda w, x: convolve(x, w, feature_group_count=4)
    np.testing.assert_allclose(accelerate(plain)(w, x), x * w[:1, :1], atol=1e-12)
    assert "convolution" not in jax.jit(accelerate(plain)).lower(w, x).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("padding", [[(1, 1), (0, 3)], [(0, 0), (0, 0)], [(4, 2), (1, 0)]], ids=str)
@pytest.mark.parametrize("side", [(3, 3), (5, 2), (1, 3)], ids=str)
def test_where_the_kernel_is_large_it_is_not_turned(side, padding, x64):
    images = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (*side, 3, 80))
    loss = lambda x: (convolve(x, kernel, padding=padding) ** 2).sum()
    fast = jax.grad(accelerate(loss))
    np.testing.assert_allclose(fast(images), jax.grad(loss)(images), rtol=1e-12, atol=1e-12)
    assert " rev[" not in str(jax.make_jaxpr(fast)(images))


@pytest.mark.slow
def test_every_transformation(data):
    x, w = data
    fn = lambda x: jnp.sum(jnp.sin(convolve(x, w, stride=2)))
    batch = jnp.stack([x, 2 * x, -x])
    kernels = jnp.stack([w, 2 * w, -w])
    agree(lambda a: jax.vmap(jax.grad(a(fn)))(batch))
    agree(lambda a: jax.vmap(lambda w: jax.grad(a(lambda x: jnp.sum(jnp.sin(convolve(x, w)))))(x))(kernels))
    agree(lambda a: jax.jvp(a(fn), (x,), (x,)))
    agree(lambda a: jax.jvp(jax.grad(a(fn)), (x,), (x,)))
    agree(lambda a: jax.grad(lambda x: jnp.sum(jax.grad(a(fn))(x) ** 2))(x))
    agree(lambda a: jax.jit(jax.grad(jax.checkpoint(a(fn))))(x))
    agree(lambda a: lax.scan(lambda c, _: (c - jax.grad(a(fn))(c), None), x, None, length=3)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(2, 2, "VALID"), (3, 2, "VALID"), (3, 2, "SAME"), (2, 1, "SAME"), (7, 1, "SAME"), (6, 2, "SAME"), (9, 9, "VALID")],
)
def test_max_pool(size, stride, padding, data):
    x, _ = data
    x = jnp.round(2 * x)  # many ties: the first maximum wins, as in select-and-scatter
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)
    fn = lambda x: jnp.sum(jnp.sin(pool(x) * jnp.arange(4.0)))
    agree(lambda a: (a(fn)(x), jax.grad(a(fn))(x), jax.jvp(a(fn), (x,), (x + 1,))[0]))


@pytest.mark.parametrize("size", [5, 13, 25, 56])
def test_pools_of_large_windows_are_few_operations(size):
    window = (1, size, size, 1)
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    program = str(jax.make_jaxpr(jax.grad(lambda x: accelerate(pool)(x).sum()))(jnp.zeros((1, 56, 56, 4))))
    assert program.count("\n") < 700
    assert ("select_and_scatter" in program) == (size == 56)


def test_depthwise_convolution_keeps_the_type_it_is_asked_for(data):
    x, w = data[0].astype(jnp.bfloat16), data[1][:, :, :1, :4].astype(jnp.bfloat16)
    options = {"feature_group_count": 4, "preferred_element_type": jnp.float32, "padding": "SAME"}
    fn = lambda w, x: convolve(x, w, **options) + jnp.ones((1, 1, 1, 4), jnp.float32)
    assert accelerate(fn)(w, x).dtype == jnp.float32
    agree(lambda a: a(fn)(w, x), rtol=1e-5)


def test_a_depthwise_kernel_that_is_too_large_stays_a_convolution(data):
    x, _ = data
    fn = lambda w, x: jnp.sum(jnp.sin(convolve(x, w, feature_group_count=4, padding="SAME")))
    for side, left_alone in ((11, False), (13, True)):
        w = jnp.tile(data[1][:1, :1, :1, :4], (side, side, 1, 1))
        assert ("stablehlo.convolution" in jax.jit(accelerate(fn)).lower(w, x).as_text()) == left_alone
    agree(lambda a: (a(fn)(w, x), jax.grad(a(fn), (0, 1))(w, x)))


def test_what_it_does_not_know_is_left_alone(data):
    x, _ = data
    dilated = lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", window_dilation=(1, 2, 2, 1)
    )
    agree(lambda a: a(dilated)(x))
    whole = jnp.arange(16).reshape(1, 4, 4, 1)
    integers = lambda x: lax.reduce_window(x, jnp.int32(-(2**31)), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    agree(lambda a: a(integers)(whole.astype(jnp.int32)))


def test_it_is_really_swapped(data):
    """A negative control: without it the other tests would compare a function with itself."""
    x, w = data
    assert "jaxviz_convolution" in str(jax.make_jaxpr(accelerate(convolve))(x, w))
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    assert "select_and_scatter" in str(jax.make_jaxpr(jax.grad(lambda x: pool(x).sum()))(x))
    assert "select_and_scatter" not in str(jax.make_jaxpr(jax.grad(lambda x: accelerate(pool)(x).sum()))(x))


def test_the_second_derivative_of_a_pool_where_values_are_equal():
    """The first of them is the one that the window passes, for the derivative of the derivative too."""
    plain = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    total = lambda x: jnp.sum(accelerate(plain)(x) ** 2)
    x, change = jnp.ones((1, 2, 2, 1)), jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    slope = jax.jvp(jax.grad(total), (x,), (change,))[1]
    np.testing.assert_array_equal(slope.ravel(), [2, 0, 0, 0])
    empty = jax.grad(total)(jnp.zeros((0, 4, 4, 3)))
    assert empty.shape == (0, 4, 4, 3)
