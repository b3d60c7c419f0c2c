"""Depthwise convolutions in machine code, against JAX's own in float64."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from nets import convolve

from jaxviz.fast import accelerate
from jaxviz.fast.machine_code import _machine

pytestmark = pytest.mark.skipif(_machine.machine() is None, reason="no machine code for this processor")

# A sum of 25 products, each rounded: at most 25 times 6e-8 of the largest; measured 2.4e-7.
TOLERANCE = 1.5e-6


@pytest.fixture(params=[None, _machine.Machine(8, 6)], ids=["this processor", "AVX2"])
def processor(request, monkeypatch):
    """Compute as on this processor, and as on one of shorter vectors."""
    if request.param:
        monkeypatch.setattr(_machine, "machine", lambda: request.param)
    jax.clear_caches()
    yield
    jax.clear_caches()


def is_code(fn, *args):
    return "jaxviz_depthwise" in jax.jit(accelerate(fn)).lower(*args).as_text()


def agree(fn, *args, derivative=True):
    """Values, derivatives with respect to both, and the derivative of that of the images."""
    loss = lambda fn: lambda *args: jnp.sum(jnp.sin(fn(*args)))
    ways = [lambda a: a(fn)]
    if derivative:
        ways += [
            lambda a: jax.grad(loss(a(fn)), (0, 1)),
            lambda a: jax.grad(lambda x, *k: (jax.grad(loss(a(fn)))(x, *k) ** 2).sum()),
        ]
    for way in ways:
        found = jax.jit(way(accelerate))(*args)
        with jax.enable_x64(True):
            exact = way(lambda fn: fn)(*(jnp.asarray(np.asarray(x), jnp.float64) for x in args))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert a.dtype == jnp.float32
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * float(np.abs(b).max() + 1e-9) * 4)


def data(channels, sides=(3, 3), size=(13, 10), n=2):
    images, kernel = jax.random.split(jax.random.key(channels))
    kinds = (n, *size, channels), (*sides, 1, channels)
    images, kernel = (jax.random.normal(k, s, jnp.float32) for k, s in zip((images, kernel), kinds, strict=True))
    return images, 0.3 * kernel


@pytest.mark.parametrize("channels", [16, 17, 40, 64, 144])
def test_numbers_of_channels(channels, processor):
    images, kernel = data(channels)
    fn = lambda x, k: convolve(x, k, feature_group_count=channels)
    assert is_code(fn, images, kernel)
    agree(fn, images, kernel)


CASES = {
    "stride": {"window_strides": (2, 2), "padding": "SAME"},
    "unequal strides": {"window_strides": (1, 3), "padding": "VALID"},
    "dilated": {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
    "dilated and stride": {"window_strides": (2, 1), "padding": [(1, 2), (0, 3)], "rhs_dilation": (2, 3)},
    "transposed": {"window_strides": (1, 1), "padding": [(1, 1), (2, 0)], "lhs_dilation": (2, 3)},
    "cropped": {"window_strides": (1, 1), "padding": [(-2, 3), (4, -1)]},
    "all border": {"window_strides": (4, 4), "padding": [(9, 9), (9, 9)]},
}


@pytest.mark.parametrize("sides", [pytest.param((3, 3), marks=pytest.mark.slow), (5, 2)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_strides_dilation_and_borders(case, sides, processor):
    images, kernel = data(24, sides)
    numbers = ("NHWC", "HWIO", "NHWC")
    fn = lambda x, k: lax.conv_general_dilated(x, k, **CASES[case], dimension_numbers=numbers, feature_group_count=24)
    assert is_code(fn, images, kernel)
    agree(fn, images, kernel)


def test_threads_share_rows():
    images, kernel = data(256, (5, 5), (56, 56), 3)
    fn = lambda x, k: convolve(x, k, feature_group_count=256)
    assert _machine.threads_for(images.size * 25, 1e6) == len(os.sched_getaffinity(0))
    agree(fn, images, kernel, derivative=False)


def test_mapped_images_and_kernels():
    images, kernel = data(32)
    fn = accelerate(lambda x, k: convolve(x, k, feature_group_count=32))
    some, kernels = jnp.stack([images, -images]), jnp.stack([kernel, 2 * kernel])
    plain = lambda x, k: convolve(x, k, feature_group_count=32)
    for axes, args in (((0, None), (some, kernel)), ((None, 0), (images, kernels)), ((0, 0), (some, kernels))):
        expected = jax.vmap(plain, axes)(*args)
        np.testing.assert_allclose(jax.jit(jax.vmap(fn, axes))(*args), expected, atol=3e-6)
        np.testing.assert_allclose(jax.vmap(fn, axes)(*args), expected, atol=3e-6)


def test_what_there_is_no_code_for():
    images, kernel = data(32)
    plain = lambda x, k: convolve(x, k, feature_group_count=32)
    with jax.enable_x64(True):
        double = jnp.asarray(np.asarray(images), jnp.float64), jnp.asarray(np.asarray(kernel), jnp.float64)
        assert not is_code(plain, *double)
        agree_exactly = jax.jit(accelerate(plain))(*double)
        np.testing.assert_allclose(agree_exactly, plain(*double), rtol=1e-12, atol=1e-12)
    assert not is_code(lambda x, k: convolve(x, k, feature_group_count=7), *data(7))
    with jax.default_matmul_precision("highest"):
        assert not is_code(plain, images, kernel)
    half = images.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    assert not is_code(plain, *half)
    empty = jnp.zeros((0, 13, 10, 32), jnp.float32)
    assert jax.jit(accelerate(plain))(empty, kernel).shape == (0, 13, 10, 32)


def test_a_value_that_is_not_finite_stays_within_its_windows():
    images, kernel = data(32)
    images = images.at[0, 6, 5, 3].set(jnp.nan)
    found = jax.jit(accelerate(lambda x, k: convolve(x, k, feature_group_count=32)))(images, kernel)
    there = jnp.zeros(found.shape, bool).at[0, 5:8, 4:7, 3].set(True)
    assert (jnp.isnan(found) == there).all()
