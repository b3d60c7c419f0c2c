"""Caricatures: lucid's product of a dot product and a power of the cosine, and what `ascend` makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net

import jaxviz

KEY = jax.random.key(0)


def lucids(values, target, power):
    """`dot_compare` of lucid's notebook on caricatures in NumPy, in units of what the target gets."""
    value, target = values.ravel().astype(float), target.ravel().astype(float)
    cosine = value @ target / np.linalg.norm(value) / np.linalg.norm(target)
    return value @ target / (target @ target) * max(cosine, 0.1) ** power


@pytest.mark.parametrize("power", [0.0, 1.0, 2])
@pytest.mark.parametrize("layer", ["conv_1", "relu_0", "dense_0"])
def test_dot_product_times_a_power_of_the_cosine(layer, power, small_params, images):
    values = np.asarray(jaxviz.capture(small_net, layer)(small_params, images)[1][layer])
    score = jaxviz.caricature(small_net, small_params, images[:1], layer, power=power)
    expected = [lucids(value, values[0], power) for value in values]
    np.testing.assert_allclose(score(small_params, images), expected, rtol=1e-4)
    each = jaxviz.caricature(small_net, small_params, images, layer, power=power)
    np.testing.assert_allclose(each(small_params, images), 1, rtol=1e-5)  # each its own


def test_features_of_any_size_and_none():
    """Of float16, whose squares end at 65504; and a layer that is silent has a score and a gradient of 0."""
    net = lambda params, images: jax.nn.relu(params * images)
    image = jnp.full((1, 4, 4, 3), 0.5, jnp.float16)
    score = jaxviz.caricature(net, jnp.float16(30000), image, "relu_0")
    np.testing.assert_allclose(score(jnp.float16(30000), image), 1, rtol=1e-2)
    silent = jaxviz.caricature(net, -jnp.ones(()), jnp.ones((1, 4, 4, 3)), "relu_0")
    value, slope = jax.value_and_grad(lambda x: silent(-jnp.ones(()), x).sum())(jnp.ones((1, 4, 4, 3)))
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


def test_it_adds_and_decides_how_many_images(small_params, images):
    score = jaxviz.caricature(small_net, small_params, images, "relu_0") + 0.1 * jaxviz.channel(small_net, "conv_1", 2)
    size = images.shape[1:3]
    found = jaxviz.ascend(score, small_params, KEY, size=size, steps=1, transform=None)
    assert found.images.shape == images.shape


@pytest.mark.slow
def test_more_of_what_there_is_where_it_is(small_params, images):
    """Stronger than the images themselves, and of each image its own."""
    image = 0.5 + 0.2 * (images[:2, :16, :16] - 0.5)  # pale, so that there can be more
    score = jaxviz.caricature(small_net, small_params, image, "relu_0")
    how = {"size": 16, "steps": 64, "transform": None}
    made = jaxviz.ascend(score, small_params, KEY, **how).images
    assert np.all(score(small_params, made) > 1.2)
    assert np.all(score(small_params, made[::-1]) < 0.97 * score(small_params, made))


def test_errors(small_params, images):
    with pytest.raises(ValueError, match="relu_7"):
        jaxviz.caricature(small_net, small_params, images, "relu_7")
    score = jaxviz.caricature(small_net, small_params, images, "relu_0")
    with pytest.raises(ValueError, match=r"compares 'relu_0' with other images: expected their shape, .* of the same"):
        score(small_params, images[:, :12, :12])
    with pytest.raises(ValueError, match="make as many images"):
        score(small_params, jnp.concatenate([images, images]))
