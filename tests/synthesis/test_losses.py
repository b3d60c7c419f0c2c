"""Losses against closed forms and NumPy, and their gradients where the formula's own would be infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxviz.scores._likeness import gram, relative_error
from jaxviz.synthesis._penalties import total_variation

RNG = np.random.default_rng(0)


def test_gram_equals_numpy(x64):
    features = RNG.normal(size=(2, 5, 4, 3))
    expected = [f.reshape(20, 3).T @ f.reshape(20, 3) / 20 for f in features]
    np.testing.assert_allclose(gram(jnp.asarray(features)), expected, atol=1e-12)


def test_gram_of_a_region_equals_that_of_its_pixels(x64):
    features, mask = RNG.normal(size=(1, 6, 4, 3)), np.zeros((1, 6, 4))
    mask[:, 2:5, 1:3] = 1
    expected = gram(jnp.asarray(features[:, 2:5, 1:3]))
    np.testing.assert_allclose(gram(jnp.asarray(features), mask=jnp.asarray(mask)), expected, atol=1e-12)
    np.testing.assert_array_equal(gram(jnp.asarray(features), mask=jnp.zeros((1, 6, 4))), 0)


def test_gram_of_a_tiled_image_is_that_of_the_tile(x64):
    features = jnp.asarray(RNG.normal(size=(1, 4, 4, 3)))
    np.testing.assert_allclose(gram(jnp.tile(features, (1, 2, 3, 1))), gram(features), atol=1e-12)


def test_relative_error(x64):
    target = jnp.asarray(RNG.normal(size=(1, 3, 3, 2)))
    values = jnp.concatenate([target, 0 * target, -target])
    np.testing.assert_allclose(relative_error(values, target), [0, 1, 4], atol=1e-12)
    np.testing.assert_array_equal(relative_error(jnp.ones((1, 2)), jnp.zeros((1, 2))), 2)  # nothing to be relative to


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_total_variation_equals_numpy(x64, beta):
    images = RNG.uniform(size=(2, 5, 4, 3))
    across, down = np.zeros_like(images), np.zeros_like(images)
    across[:, :, :-1] = images[:, :, 1:] - images[:, :, :-1]
    down[:, :-1] = images[:, 1:] - images[:, :-1]
    expected = ((across**2 + down**2) ** (beta / 2)).mean((1, 2, 3))
    np.testing.assert_allclose(total_variation(jnp.asarray(images), beta=beta), expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_gradients(x64, beta):
    """Against differences; and none, rather than NaN, where nothing varies."""
    loss = lambda x: total_variation(x, beta=beta)[0] + relative_error(gram(x), gram(0.5 + 0 * x))[0]
    images = jnp.asarray(RNG.uniform(size=(1, 4, 4, 3)))
    check_grads(lambda x: loss(jnp.asarray(x)), (images,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)
    flat = jnp.full((1, 4, 4, 3), 0.5)
    np.testing.assert_array_equal(jax.grad(loss)(flat), 0)
