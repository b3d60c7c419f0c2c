"""Sources for networks of gray images and of bands: arrays, and folders of color photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxviz

RNG = np.random.default_rng(0)


def net(params, images):
    return jax.nn.relu(images @ params)


def read(channels, source, **options):
    weights = jnp.asarray(np.random.default_rng(1).random((channels, 4)), jnp.float32)
    found = jaxviz.features(net, weights, source, layer="relu_0", pool=None, **options)
    assert found.skipped == {}
    return found.values, weights


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_arrays_of_the_networks_number_of_channels(channels):
    images = RNG.random((3, 8, 6, channels)).astype(np.float32)
    for source in (images, list(images), (images, np.arange(3))):
        values, weights = read(channels, source)
        np.testing.assert_allclose(values, images @ weights, rtol=1e-5)


def test_gray_arrays_without_an_axis_of_channels():
    images = RNG.integers(0, 256, (3, 8, 6), np.uint8)
    values, weights = read(1, images)
    np.testing.assert_allclose(values, images[..., None] / 255 @ np.asarray(weights), rtol=1e-5)
    in_rgb, weights = read(3, images)
    np.testing.assert_allclose(in_rgb, np.repeat(images[..., None] / 255, 3, -1) @ np.asarray(weights), rtol=1e-5)


def test_a_folder_of_photographs_for_a_network_of_gray_images(folder, tmp_path):
    name = "b/0.png"
    color = np.asarray(Image.open(folder / name).resize((9, 9), Image.Resampling.NEAREST)) / 255
    Image.fromarray((255 * color).round().astype(np.uint8)).save(tmp_path / "a.png")
    values, weights = read(1, tmp_path, size=(9, 9))
    gray = (color @ np.array([0.299, 0.587, 0.114]))[..., None]
    np.testing.assert_allclose(values[0], gray @ np.asarray(weights), rtol=1e-5)


def test_bands_with_the_channels_first():
    images = RNG.random((3, 12, 16, 16)).astype(np.float32)
    values, weights = read(12, images)
    np.testing.assert_allclose(values, images.transpose(0, 2, 3, 1) @ np.asarray(weights), rtol=1e-5)
    oblong = RNG.random((3, 12, 16, 20)).astype(np.float32)
    values, weights = read(12, oblong, size=(16, 20))
    np.testing.assert_allclose(values, oblong.transpose(0, 2, 3, 1) @ np.asarray(weights), rtol=1e-5)


def test_bands_for_a_network_of_any_number_of_channels():
    anything = lambda params, images: jax.nn.relu(images)
    images = RNG.random((2, 8, 6, 5)).astype(np.float32)
    for size in (None, (8, 6, 5)):
        found = jaxviz.features(anything, None, images, layer="relu_0", size=size, pool=None)
        np.testing.assert_array_equal(found.values, images)
    gray = jaxviz.features(anything, None, images[..., :1], layer="relu_0", pool=None)
    np.testing.assert_array_equal(gray.values, np.repeat(images[..., :1], 3, -1))  # RGB where anything does


def test_images_that_have_other_channels_are_skipped():
    message = r"none of which can be read: .*expected shape \(h, w, 5\), got \(8, 6, 3\)"
    with pytest.raises(jaxviz.ImageError, match=message):
        read(5, RNG.random((2, 8, 6, 3)).astype(np.float32))


def test_a_store_of_a_network_of_gray_images(tmp_path):
    images = RNG.integers(0, 256, (3, 8, 6, 3), np.uint8)
    first, _ = read(1, images, store=tmp_path / "store")
    again, _ = read(1, images, store=tmp_path / "store")
    np.testing.assert_array_equal(first[:], again[:])
    assert first.shape == (3, 8, 6, 4)


def test_patches_of_bands():
    images = np.zeros((4, 8, 8, 5), np.float32)
    images[2, 5, 6] = [1.0, 0.5, 0.25, 0.0, 0.75]
    found = jaxviz.top_patches(net, jnp.eye(5), images, layer="relu_0", k=1).layers["relu_0"]
    assert found.values.ravel().tolist() == [1.0, 0.5, 0.25, 0.0, 0.75]
    assert found.positions[0].tolist() == [[5, 6]]


@pytest.mark.usefixtures("users_view")
def test_one_image_is_no_source():
    for channels in (1, 3):
        with pytest.raises(jaxviz.ImageError, match=rf"got one of shape \(8, 6, {channels}\): give image\[None\]"):
            jaxviz.open_source(np.zeros((8, 6, channels)))
