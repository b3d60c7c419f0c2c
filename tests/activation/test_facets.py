"""Facets: the clusters that there are, their mean images and directions, whatever the order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

RANDOM = np.random.default_rng(0)
KINDS = np.array([0, 2, 1, 0, 0, 1, 0, 2, 1, 0])  # five red ones, three green, two blue
IMAGES = (0.1 + 0.8 * np.eye(3)[KINDS][:, None, None] + 0.05 * RANDOM.random((10, 6, 5, 3))).astype(np.float32)


def net(params, images):
    return jax.nn.relu(images @ params)


def test_clusters_their_means_and_directions():
    found = jaxviz.facets(net, jnp.eye(3), IMAGES, layer="relu_0", count=3)
    np.testing.assert_array_equal(found.labels, KINDS)  # the largest first
    for i in range(3):
        np.testing.assert_allclose(found.images[i], IMAGES[i == KINDS].mean(0), rtol=1e-6)
        expected = IMAGES[i == KINDS].mean((0, 1, 2)) - IMAGES.mean((0, 1, 2))
        np.testing.assert_allclose(found.directions[i], expected, atol=1e-6)


def test_the_mean_of_the_nearest():
    found = jaxviz.facets(net, jnp.eye(3), IMAGES, layer="relu_0", count=3, nearest=1)
    for i in range(2):  # the third has two images, as near as each other
        colors = IMAGES.mean((1, 2))
        distances = np.linalg.norm(colors - colors[i == KINDS].mean(0), axis=1)
        np.testing.assert_array_equal(found.images[i], IMAGES[np.argmin(distances)])


def test_order_and_batches_do_not_matter():
    found = jaxviz.facets(net, jnp.eye(3), IMAGES, layer="relu_0", count=3)
    other = jaxviz.facets(net, jnp.eye(3), IMAGES[::-1], layer="relu_0", count=3, batch_size=3)
    np.testing.assert_array_equal(other.labels[::-1], found.labels)
    np.testing.assert_allclose(other.images, found.images, atol=1e-6)


def test_as_many_images_that_are_alike():
    with pytest.raises(ValueError, match="count: expected at most as many as there are different features in 'relu_0'"):
        jaxviz.facets(net, jnp.eye(3), np.repeat(IMAGES[:1], 5, 0), layer="relu_0", count=2)
    one = jaxviz.facets(net, jnp.eye(3), IMAGES, layer="relu_0", count=1)
    np.testing.assert_array_equal(one.labels, 0)
    np.testing.assert_allclose(one.directions, 0, atol=1e-6)
