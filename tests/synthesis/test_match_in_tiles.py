"""Style and texture in tiles: the losses, gradients and pictures of the whole image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import convolve

import jaxviz
from jaxviz.scores._likeness import features_of, grams_of
from jaxviz.synthesis._match_in_tiles import InTiles, feature_match, gram_match, tiles_of

KEY = jax.random.key(7)
SIZES = [(301, 197), (256, 130), (90, 333)]


def pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")


def padded(params, images):
    """Zero padding, which depends on the parity of the sides, and strides of 1, 2 and 4."""
    x = jax.nn.relu(convolve(images, params[0]))
    x = jax.nn.relu(convolve(x, params[1], stride=2))
    return jax.nn.relu(convolve(x, params[2], stride=2))


def cut(params, images):
    """No padding at all, and pools that overlap, as AlexNet has them."""
    numbers = ("NHWC", "HWIO", "NHWC")
    for kernel, stride in zip(params, (2, 1, 1), strict=True):
        x = jax.lax.conv_general_dilated(images, kernel, (stride, stride), "VALID", dimension_numbers=numbers)
        images = pool(jax.nn.relu(x)) if stride == 1 else jax.nn.relu(x)
    return images


def drawn(dtype):
    shapes = [(5, 5, 3, 4), (3, 3, 4, 6), (3, 3, 6, 5)]
    keys = jax.random.split(KEY, 3)
    return [0.3 * jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def picture(seed, height, width, n=1):
    return jaxviz.blur(jax.random.uniform(jax.random.key(seed), (n, height, width, 3), jnp.float64), 1.0)


@pytest.mark.parametrize("net", [padded, cut])
@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_is_that_of_the_whole_image(net, size, x64):
    """Two images, a weight for each, regions of the picture and of the style, the style larger than a tile, too."""
    params, styles = drawn(jnp.float64), {"relu_0": 0.5, "relu_1": 0.3, "relu_2": 0.2}
    photo, images, style = picture(1, *size, n=2), picture(2, *size, n=2), picture(3, 170, 260)
    region, part = np.linspace(0, 1, size[0] * size[1]).reshape(1, *size), np.linspace(1, 0, 170 * 260)

    def score(tile):
        tiles = tiles_of(net, params, tuple(styles), photo, tile)
        found = 1.0 * feature_match(net, params, photo, {"relu_2": 1.0}, tiles)
        found += 20.0 * gram_match(net, params, style, styles, tile, mask=None, where=None)
        mask = part.reshape(1, 170, 260)
        found += jnp.array([3.0, 4.0]) * gram_match(net, params, style, styles, tile, mask=mask, where=region)
        assert (tiles is None) == (tile is None)
        return found if tiles is None else InTiles(found, tiles)

    of = lambda tile: jax.vjp(lambda x: score(tile)(params, x), images)
    (values, pull), (tiled, pull_tiled) = of(None), of(128)
    np.testing.assert_allclose(tiled, values, rtol=1e-12)
    for cotangent in ([1.0, 0.0], [0.3, 2.0]):  # a gradient of its own for each image
        (whole,), (found,) = (each(jnp.array(cotangent)) for each in (pull, pull_tiled))
        np.testing.assert_allclose(found, whole, atol=1e-12 * float(jnp.abs(whole).max()))


def test_features_and_grams_are_those_of_the_whole_image(x64):
    params, image = drawn(jnp.float64), picture(4, 210, 333)
    names = ("relu_0", "relu_2")
    tiles = tiles_of(cut, params, names, image, 128)
    found = feature_match(cut, params, image, dict.fromkeys(names, 1.0), tiles).targets
    for name, value in features_of(cut, names, params, image).items():
        np.testing.assert_allclose(found[name], value, atol=1e-13)
    mask = np.linspace(0, 1, 210 * 333).reshape(1, 210, 333)
    grams = gram_match(cut, params, image, dict.fromkeys(names, 1.0), 128, mask=mask, where=None).targets
    for name, value in grams_of(cut, names, params, image, mask).items():
        np.testing.assert_allclose(grams[name], value, rtol=1e-11, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("octaves", [1, 2])
def test_a_picture_in_tiles_is_that_of_the_whole_image(octaves, x64):
    params, content, style = drawn(jnp.float64), picture(5, 160, 200)[0], picture(6, 150, 100)[0] ** 2
    layers = {"content_layers": ["relu_2"], "style_layers": ["relu_0", "relu_1"]}
    # Its steps are not cut off by the bounds or its own length, where the last digit could decide.
    run = functools.partial(
        jaxviz.stylize, padded, params, KEY, content, style, **layers, steps=8, octaves=octaves, optimizer="adam"
    )
    whole, tiled = run(), run(tile=128)
    np.testing.assert_allclose(tiled.losses, whole.losses, rtol=1e-9)
    np.testing.assert_allclose(tiled.images, whole.images, atol=1e-7)


@pytest.mark.slow
def test_a_texture_in_tiles_is_larger_than_its_sample(x64):
    params, sample = drawn(jnp.float64), picture(6, 60, 50)[0] ** 2
    run = functools.partial(
        jaxviz.texture, cut, params, KEY, sample, layers=["relu_0", "relu_1"], size=(140, 260), steps=6, smoothness=0.1
    )
    whole, tiled = run(), run(tile=128)
    assert tiled.images.shape == (1, 140, 260, 3)
    np.testing.assert_allclose(tiled.losses, whole.losses, rtol=1e-6)


def test_images_within_one_tile_are_computed_at_once():
    params, image = drawn(jnp.float32), jnp.zeros((1, 90, 128, 3), jnp.float32)
    assert tiles_of(padded, params, ("relu_1",), image, 128) is None


def normalized(params, images):
    x = convolve(images, params[0])
    return jax.nn.relu(x - x.mean((1, 2), keepdims=True))


def thirds(params, images):
    return jax.nn.relu(convolve(images, params[0], stride=3))


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("net", "tile", "message"),
    [
        (normalized, 128, r"those of 'relu_0' are \(0, 0\) apart, or see the whole image: leave out tile"),
        (thirds, 128, r"those of 'relu_0' are \(3, 3\) apart, or see the whole image: leave out tile"),
        (padded, 66, "expected at least 68 px, so that a tile holds all that a position of 'relu_0' sees, got 66"),
    ],
)
def test_layers_that_no_tile_can_hold(net, tile, message):
    params, image = drawn(jnp.float32), np.zeros((200, 200, 3), np.float32)
    layers = {"content_layers": ["relu_0"], "style_layers": ["relu_0"]}
    with pytest.raises(ValueError, match=message):
        jaxviz.stylize(net, params, KEY, image, image, **layers, tile=tile)
    with pytest.raises(ValueError, match=message):
        jaxviz.texture(net, params, KEY, image, layers=["relu_0"], tile=tile)
