"""Pictures and images of any number of channels: gray, RGB, bands."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxviz
from jaxviz import ImageError, load_image, save_image
from jaxviz.image._checks import check_images

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (7, 9, 3), np.uint8)
BANDS = RNG.random((7, 9, 5)).astype(np.float32)


def test_colors_are_read_as_gray():
    """As PIL does, which rounds to 8 bits."""
    found = load_image(Image.fromarray(COLORS), channels=1)
    assert found.shape == (7, 9, 1)
    np.testing.assert_allclose(found[..., 0], COLORS @ np.array([0.299, 0.587, 0.114]) / 255, atol=1e-6)
    np.testing.assert_allclose(255 * found[..., 0], np.asarray(Image.fromarray(COLORS).convert("L")), atol=1)


@pytest.mark.parametrize("type", [np.uint8, np.uint16, np.float32])
def test_gray_keeps_its_values(type):
    gray = RNG.random((7, 9)).astype(type) if type == np.float32 else RNG.integers(0, 256, (7, 9), type)
    for source in (gray, gray[..., None], np.repeat(gray[..., None], 3, -1)):
        np.testing.assert_array_equal(load_image(source, channels=1)[..., 0], load_image(gray)[..., 1])


def test_bands_are_read_from_arrays():
    np.testing.assert_array_equal(load_image(BANDS, channels=5), BANDS)
    small = load_image(BANDS, channels=5, size=(3, 4))
    np.testing.assert_array_equal(small[..., 1:4], load_image(BANDS[..., 1:4], size=(3, 4)))
    assert load_image(np.zeros((4, 4, 4)), channels=4).shape == (4, 4, 4)
    with pytest.raises(ImageError, match=r"expected shape \(h, w, 5\), got \(7, 9, 3\)"):
        load_image(COLORS, channels=5)
    with pytest.raises(
        ImageError, match=r"5 channels is read from an array \(h, w, 5\), got PIL.*; files are read with 1"
    ):
        load_image(Image.fromarray(COLORS), channels=5)
    with pytest.raises(ValueError, match="channels: expected a whole number of at least 1, got 0"):
        load_image(COLORS, channels=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_pictures_of_any_number_of_channels(channels, tmp_path):
    """One channel is gray, of two the mean is, and of more than three the first three are shown."""
    image = BANDS[..., :channels]
    shown = image[..., :3] if channels > 2 else np.repeat(image.mean(-1, keepdims=True), 3, -1)
    close = lambda found: np.testing.assert_allclose(found, shown, atol=1e-6)
    close(jaxviz.montage([image]))
    close(jaxviz.montage(image[None]))
    close(jaxviz.montage([image, np.zeros((3, 3))], columns=1, gap=0)[:7])
    close(jaxviz.overlay(image, np.zeros((7, 9), np.float32)))
    heat = np.abs(RNG.normal(size=(7, 9))).astype(np.float32)
    np.testing.assert_allclose(jaxviz.overlay(image, heat), jaxviz.overlay(shown, heat), atol=1e-6)
    save_image(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as file:
        assert (file.mode == "L") == (channels == 1)
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), shown, atol=0.51 / 255)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_maps_are_drawn_by_the_sum_over_their_channels(channels):
    signed = BANDS[..., :channels] - 0.5
    picture = jaxviz.draw(signed, fine=True)
    expected = jaxviz.normalize(signed.sum(-1)[None], signed=True)[0]
    np.testing.assert_allclose(picture, np.repeat(np.asarray(expected)[..., None], 3, -1), atol=1e-6)
    over = jaxviz.draw(signed, over=BANDS)
    np.testing.assert_allclose(over, jaxviz.draw(np.abs(signed).max(-1), over=BANDS[..., :3]), atol=1e-6)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (2, 4, 9, 9), (2, 1, 28, 28)])
def test_channels_that_come_first_are_told(shape):
    with pytest.raises(ValueError, match=r"channels come last, images\.transpose\(0, 2, 3, 1\)"):
        check_images(jnp.zeros(shape))
    with pytest.raises(ImageError, match=r"montage: expected images \(h, w, c\)"):
        jaxviz.montage(jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 9, 7, 12), (1, 1, 50, 12), (1, 4, 4, 12), (1, 3, 30, 1), (1, 1, 1, 1)])
def test_images_of_any_shape_are_some(shape):
    check_images(jnp.zeros(shape))


def test_several_gray_images_are_no_picture(tmp_path):
    """`(n, h, w)` is not taken for one image of w channels."""
    with pytest.raises(
        ImageError, match=r"expected one image \(h, w, c\) or \(h, w\), got shape \(4, 28, 28\); montage"
    ):
        save_image(tmp_path / "a.png", np.zeros((4, 28, 28)))
