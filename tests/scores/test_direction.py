"""Directions in the space of a layer's channels: dot products, cosines, and lucid's product of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net

import jaxviz

VECTOR = np.random.default_rng(0).normal(size=6).astype(np.float32)


def lucids(maps, vector, power):
    """`_dot_cossim` of lucid/optvis/objectives.py, in NumPy, without its 1e-4 in the denominators."""
    dots = (maps * vector).sum(-1)
    cosines = dots / np.sqrt((maps**2).sum(-1)) / np.sqrt((vector**2).sum(-1))
    return (dots * np.maximum(0.1, cosines) ** power).mean((1, 2))


@pytest.fixture(scope="module")
def maps(small_params, images):
    return np.asarray(jaxviz.capture(small_net, "conv_1")(small_params, images)[1]["conv_1"])


def test_dot_product(maps, small_params, images):
    found = jaxviz.direction(small_net, "conv_1", VECTOR)(small_params, images)
    np.testing.assert_allclose(found, (maps @ VECTOR).mean((1, 2)), rtol=1e-5)
    one = jaxviz.direction(small_net, "conv_1", jnp.eye(6)[2])(small_params, images)
    np.testing.assert_allclose(one, jaxviz.channel(small_net, "conv_1", 2)(small_params, images), rtol=1e-5)


@pytest.mark.parametrize("power", [0.0, 2.0, 4])
def test_with_a_power_of_the_cosine_as_in_lucid(power, maps, small_params, images):
    found = jaxviz.direction(small_net, "conv_1", VECTOR, power=power)(small_params, images)
    np.testing.assert_allclose(found, lucids(maps, VECTOR, power), rtol=1e-4, atol=1e-6)


def test_cosine_to_an_embedding(small_params, images):
    """As CLIP compares images and texts."""
    encoder = lambda params, images: {"image_embeds": small_net(params, images)}
    texts = np.random.default_rng(1).normal(size=(3, 5)).astype(images.dtype)
    embeds = np.asarray(small_net(small_params, images))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    expected = unit(embeds) @ unit(texts).T
    options = {"output": "image_embeds", "cosine": True}
    found = jaxviz.direction(encoder, None, texts[None], **options)(small_params, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one = jaxviz.direction(encoder, None, texts[1], **options)
    np.testing.assert_allclose(one(small_params, images), expected[:, 1], rtol=1e-5)
    each = jaxviz.direction(encoder, None, texts[1:], **options)
    np.testing.assert_allclose(each(small_params, images), np.diag(expected[:, 1:]), rtol=1e-5)
    plain = lambda x: jnp.sum(
        small_net(small_params, x) @ texts[1] / jnp.linalg.norm(small_net(small_params, x), axis=-1)
    )
    gradient = jaxviz.gradient(one, small_params, images)
    np.testing.assert_allclose(gradient, jax.grad(plain)(images) / np.linalg.norm(texts[1]), atol=1e-5)


def test_every_text_is_explained_from_one_pass(small_params, images):
    texts = np.random.default_rng(1).normal(size=(1, 3, 5)).astype(np.float32)
    maps = jaxviz.saliency(jaxviz.direction(small_net, None, texts, cosine=True), small_params, images)
    assert maps.shape == (2, 3, 32, 32)
    one = jaxviz.saliency(jaxviz.direction(small_net, None, texts[0, 2], cosine=True), small_params, images)
    np.testing.assert_allclose(maps[:, 2], one, atol=1e-6)


def test_a_zero_layer_has_no_direction_and_no_nan(small_params, images):
    blind = small_params | {"w2": 0 * small_params["w2"]}
    for options in ({"cosine": True}, {"power": 2.0}):
        score = jaxviz.direction(small_net, "conv_1", VECTOR, **options)
        np.testing.assert_array_equal(score(blind, images), 0.0)
        assert jnp.all(jnp.isfinite(jaxviz.gradient(score, blind, images)))


@pytest.mark.slow
def test_directions_are_maximized_and_explained_image_by_image(small_params, images):
    score = jaxviz.direction(small_net, "conv_1", np.stack([VECTOR, -VECTOR]), power=2)
    found = jaxviz.ascend(score, small_params, jax.random.key(0), size=16, steps=4, transform=None)
    assert found.images.shape == (2, 16, 16, 3)
    assert found.losses[-1] < found.losses[0]
    single = jaxviz.direction(small_net, "conv_1", VECTOR)
    assert jaxviz.ascend(single, small_params, jax.random.key(0), size=16, steps=1).images.shape == (1, 16, 16, 3)
    maps = jaxviz.occlusion(single, small_params, images, window=16, stride=16)
    one = jaxviz.occlusion(single, small_params, images[:1], window=16, stride=16)
    np.testing.assert_allclose(maps[:1], one, atol=1e-5)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("vector", "options", "message"),
    [
        (
            np.ones(5),
            {},
            r"vector: expected the 6 channels of 'conv_1', for one image or for each of 2, got shape \(1, 5\)",
        ),
        (np.ones((3, 6)), {}, r"for each of 2, got shape \(3, 6\)"),
        (np.ones((1, 1, 1, 6)), {}, r"vector: expected \(c,\), \(n, c\) or \(n, k, c\), got shape"),
        ([1.0], {}, "vector: expected a JAX or NumPy array, got a list"),
        (np.full(6, np.nan), {}, "vector: expected finite numbers"),
        (np.ones(6), {"power": -1}, "power: expected a finite number of at least 0, got -1"),
        (np.ones(6), {"power": np.ones(2)}, r"power: expected one number, got shape \(2,\)"),
        (np.ones(6), {"power": 2, "cosine": True}, "power: expected none beside cosine=True"),
    ],
)
def test_errors(vector, options, message, small_params, images):
    with pytest.raises(ValueError, match=message):
        jaxviz.direction(small_net, "conv_1", vector, **options)(small_params, images)
