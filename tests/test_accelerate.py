"""Convolutions and pools with faster derivatives: the same values and gradients, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from nets import convolve

from jaxviz._accelerate import accelerate

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


@pytest.mark.parametrize("case", list(CASES))
def test_convolution(case, data):
    x, w = data
    fn = lambda w, x: jnp.sum(jnp.sin(convolve(x, w, **CASES[case])))  # noqa: E731
    agree(lambda a: (a(fn)(w, x), jax.grad(a(fn), (0, 1))(w, x)))


@pytest.mark.parametrize(("groups", "out"), [(2, 6), (4, 4), (4, 8)])
@pytest.mark.parametrize("case", [case for case in CASES if case != "cropping"])
def test_grouped_and_depthwise_convolution(groups, out, case, data):
    x, w = data
    w = jnp.concatenate([w, -w], -1)[:, :, : 4 // groups, :out]
    fn = lambda w, x: jnp.sum(jnp.sin(convolve(x, w, feature_group_count=groups, **CASES[case])))  # noqa: E731
    agree(lambda a: (a(fn)(w, x), jax.grad(a(fn), (0, 1))(w, x)))


def test_depthwise_convolution_in_another_layout(data):
    x, w = data
    x, w = x.transpose(0, 3, 1, 2), w[:, :, :1, :4].transpose(3, 2, 0, 1)
    numbers = ("NCHW", "OIHW", "NHWC")
    fn = lambda w, x: jnp.sum(  # noqa: E731
        jnp.sin(lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=numbers, feature_group_count=4))
    )
    agree(lambda a: jax.grad(a(fn), (0, 1))(w, x))


def test_another_layout(data):
    x, w = data
    x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    fn = lambda w, x: jnp.sum(jnp.sin(lax.conv_general_dilated(x, w, (2, 1), "SAME")))  # noqa: E731
    agree(lambda a: jax.grad(a(fn), (0, 1))(w, x))


def test_every_transformation(data):
    x, w = data
    fn = lambda x: jnp.sum(jnp.sin(convolve(x, w, stride=2)))  # noqa: E731
    batch = jnp.stack([x, 2 * x, -x])
    kernels = jnp.stack([w, 2 * w, -w])
    agree(lambda a: jax.vmap(jax.grad(a(fn)))(batch))
    agree(lambda a: jax.vmap(lambda w: jax.grad(a(lambda x: jnp.sum(jnp.sin(convolve(x, w)))))(x))(kernels))
    agree(lambda a: jax.jvp(a(fn), (x,), (x,)))
    agree(lambda a: jax.jvp(jax.grad(a(fn)), (x,), (x,)))
    agree(lambda a: jax.grad(lambda x: jnp.sum(jax.grad(a(fn))(x) ** 2))(x))
    agree(lambda a: jax.jit(jax.grad(jax.checkpoint(a(fn))))(x))
    agree(lambda a: lax.scan(lambda c, _: (c - jax.grad(a(fn))(c), None), x, None, length=3)[0])


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, "VALID"), (3, 2, "VALID"), (3, 2, "SAME"), (2, 1, "SAME")]
)
def test_max_pool(size, stride, padding, data):
    x, _ = data
    x = jnp.round(2 * x)  # many ties: the first maximum wins, as in select-and-scatter
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)  # noqa: E731
    fn = lambda x: jnp.sum(jnp.sin(pool(x) * jnp.arange(4.0)))  # noqa: E731
    agree(lambda a: (a(fn)(x), jax.grad(a(fn))(x), jax.jvp(a(fn), (x,), (x + 1,))[0]))


def test_what_it_does_not_know_is_left_alone(data):
    x, _ = data
    dilated = lambda x: lax.reduce_window(  # noqa: E731
        x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", window_dilation=(1, 2, 2, 1)
    )
    agree(lambda a: a(dilated)(x))
    whole = jnp.arange(16).reshape(1, 4, 4, 1)
    integers = lambda x: lax.reduce_window(x, jnp.int32(-(2**31)), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")  # noqa: E731
    agree(lambda a: a(integers)(whole.astype(jnp.int32)))


def test_it_is_really_swapped(data):
    """A negative control: without it the other tests would compare a function with itself."""
    x, w = data
    assert "jaxviz_convolution" in str(jax.make_jaxpr(accelerate(convolve))(x, w))
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")  # noqa: E731
    assert "select_and_scatter" in str(jax.make_jaxpr(jax.grad(lambda x: pool(x).sum()))(x))
    assert "select_and_scatter" not in str(jax.make_jaxpr(jax.grad(lambda x: accelerate(pool)(x).sum()))(x))
