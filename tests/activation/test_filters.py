"""First-layer kernels as tiles: their places, their scale, and parameters in which they cannot be told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz


@pytest.fixture
def kernel():
    return jax.random.normal(jax.random.key(0), (5, 7, 3, 4))


@pytest.fixture
def params(kernel):
    return {
        "conv1": {"kernel": kernel, "bias": jnp.zeros(4)},
        "conv2": {"kernel": jnp.ones((3, 3, 4, 3)), "bias": jnp.zeros(3)},
        "dense": {"kernel": jnp.ones((3, 3))},
        "steps": 3,
    }


def test_each_tile_is_one_kernel(kernel, params):
    tiles = jaxviz.filters(params, normalize=False)
    assert tiles.shape == (4, 5, 7, 3)
    for i in range(4):
        np.testing.assert_array_equal(tiles[i], kernel[..., i])
    np.testing.assert_array_equal(jaxviz.filters(kernel, normalize=False), tiles)


def test_each_tile_is_scaled_by_itself_with_zero_at_gray(kernel, params):
    tiles = jaxviz.filters(params)
    for i in range(4):
        weights = np.asarray(kernel[..., i])
        np.testing.assert_allclose(tiles[i], 0.5 + 0.5 * weights / np.abs(weights).max(), atol=1e-6)
        assert max(tiles[i].max() - 0.5, 0.5 - tiles[i].min()) == pytest.approx(0.5, abs=1e-7)
    grown = kernel * jnp.array([1.0, 10.0, 1e-3, 5.0], kernel.dtype).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(jaxviz.filters(grown), tiles, atol=1e-6)
    np.testing.assert_allclose(jaxviz.filters(-kernel), 1 - tiles, atol=1e-6)  # a sign shows


def test_a_kernel_of_zeros_is_gray(kernel):
    tiles = jaxviz.filters(kernel.at[..., 2].set(0))
    np.testing.assert_array_equal(tiles[2], 0.5)
    assert jnp.any(tiles[1] != 0.5)


def test_raw_equals_jit(params):
    np.testing.assert_allclose(jax.jit(jaxviz.filters)(params), jaxviz.filters(params), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_follows_the_kernel(x64, kernel, dtype):
    for normalize in (True, False):
        assert jaxviz.filters(kernel.astype(dtype), normalize=normalize).dtype == dtype


def test_numpy_parameters(params):
    """As a file of weights gives them."""
    arrays = jax.tree.map(np.asarray, params)
    np.testing.assert_array_equal(jaxviz.filters(arrays), jaxviz.filters(params))


@pytest.mark.usefixtures("users_view")
def test_no_kernel_or_several(params, kernel):
    with pytest.raises(ValueError, match=r"one kernel \(kh, kw, 3, out\) in the parameters, found none; pass the ker"):
        jaxviz.filters({"conv2": params["conv2"]})
    with pytest.raises(
        ValueError, match=r"found \['a'\] \(5, 7, 3, 4\), \['b'\] \(5, 7, 3, 4\); pass the kernel itself"
    ):
        jaxviz.filters({"a": kernel, "b": kernel})
    with pytest.raises(ValueError, match="found none"):
        jaxviz.filters(kernel.transpose(3, 2, 0, 1))  # PyTorch's order


def test_kernels_of_other_channels_are_found_where_they_are_asked_for(kernel):
    some = {"gray": kernel[:, :, :1], "deep": jnp.ones((3, 3, 4, 8)), "bands": jnp.ones((5, 5, 6, 2))}
    np.testing.assert_array_equal(
        jaxviz.filters(some, channels=1, normalize=False), jnp.moveaxis(kernel[:, :, :1], -1, 0)
    )
    assert jaxviz.filters(some, channels=6).shape == (2, 5, 5, 6)
    assert jaxviz.montage(jaxviz.filters(some, channels=1), columns=4, gap=1).shape == (5, 31, 3)
    with pytest.raises(
        ValueError, match=r"\(kh, kw, 3, out\) .*none; .* among .*\['gray'\] \(5, 7, 1, 4\).*channels=\.\.\."
    ):
        jaxviz.filters(some)


def test_kernels_in_pytorchs_order(kernel):
    square = kernel[:, :5]  # (5, 5, 3, 4)
    layers = {"conv1": jnp.transpose(square, (3, 2, 0, 1)), "conv2": jnp.ones((64, 64, 3, 3))}
    np.testing.assert_array_equal(jaxviz.filters(layers), jaxviz.filters(square))
    assert jaxviz.filters(jnp.ones((16, 3, 3, 3))).shape == (16, 3, 3, 3)
