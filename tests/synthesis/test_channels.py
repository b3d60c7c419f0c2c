"""Synthesis of images that are no RGB: gray ones and bands; and how many channels a network's images have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import convolve

import jaxviz
from jaxviz.image._arrays import IMAGENET_MEAN
from jaxviz.program._image_channels import accepted
from jaxviz.synthesis._magnitudes import MACO_SPECTRUM
from jaxviz.synthesis._painting import noise_like
from jaxviz.synthesis._parameterization import COLOR_BASIS

KEY = jax.random.key(0)


def net(params, images):
    """Two convolutions and a classifier, for as many channels as its first kernel has."""
    x = jax.nn.relu(convolve(images - 0.5, params["w1"]))
    x = jax.nn.relu(convolve(x, params["w2"], stride=2))
    return x.mean((1, 2)) @ params["w3"]


@functools.cache
def params_of(channels):
    numbers = np.random.default_rng(1)
    shapes = {"w1": (3, 3, channels, 6), "w2": (3, 3, 6, 4), "w3": (4, 5)}
    return {name: jnp.asarray(numbers.normal(size=shape), jnp.result_type(float)) for name, shape in shapes.items()}


@functools.cache
def photo_of(channels):
    return jax.random.uniform(KEY, (2, 12, 10, channels))


BASES = {"fourier": jaxviz.fourier, "pixels": jaxviz.pixels, "maco": jaxviz.maco, "natural": jaxviz.natural}
every_basis = pytest.mark.parametrize("basis", BASES.values(), ids=BASES)


@every_basis
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_bases_show_each_channel_by_itself(basis, channels):
    form = basis(6, 5, channels=channels)
    variables = form.init(KEY, 2)
    images = form.images(variables)
    assert images.shape == (2, 6, 5, channels)
    assert 0 <= images.min() < images.max() <= 1
    axis = 3  # of channels, in images and in variables
    flipped = jnp.flip(variables, axis)
    np.testing.assert_allclose(form.images(flipped), jnp.flip(images, axis), atol=1e-6)
    if channels > 1:
        changed = form.images(variables.at[:, :, :, 0].multiply(-0.5))
        assert jnp.abs(changed - images)[..., 0].max() > 1e-4
        np.testing.assert_allclose(changed[..., 1:], images[..., 1:], atol=1e-6)
    if basis not in (jaxviz.maco, jaxviz.natural):  # which have their own magnitudes
        np.testing.assert_allclose(form.images(form.variables(images)), images, atol=1e-4)


def test_gray_has_the_contrast_of_gray_in_rgb():
    """The first decorrelated color alone, within its tint."""
    form, rgb = jaxviz.fourier(8, 8, channels=1), jaxviz.fourier(8, 8)
    variables = form.init(KEY, 1)
    in_rgb = rgb.images(jnp.pad(variables, ((0, 0),) * 3 + ((0, 2), (0, 0))))
    tint = np.abs(COLOR_BASIS[:, 0] / COLOR_BASIS[:, 0].mean() - 1).max()
    np.testing.assert_allclose(in_rgb - 0.5, jnp.repeat(form.images(variables), 3, -1) - 0.5, rtol=2 * tint)
    assert 0 < tint < 0.05


def test_maco_of_gray_has_the_magnitudes_of_the_first_color(x64):
    images = jaxviz.maco(16, 16, channels=2).images(jaxviz.maco(16, 16, channels=2).init(KEY, 1))
    logits = jnp.log(images) - jnp.log1p(-images)
    found = jnp.abs(jnp.fft.fft2(logits[0], axes=(0, 1)))[3, 4] / COLOR_BASIS[:, 0].mean() / 16
    amplitude, decay = MACO_SPECTRUM[0]
    np.testing.assert_allclose(found, amplitude / (5 / 16) ** decay, rtol=1e-6)


def test_a_basis_of_ones_own_for_rgb_only():
    score = jaxviz.logit(net, 1)
    with pytest.raises(
        ValueError, match=r"basis: expected a function \(height, width, \*, channels\) .* of 1 channels"
    ):
        jaxviz.ascend(score, params_of(1), KEY, size=12, basis=lambda h, w: jaxviz.pixels(h, w))
    with pytest.raises(ValueError, match="center: expected one number, or one for each of 1 channels"):
        jaxviz.pixels(4, 4, channels=1, center=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("channels", [1, 2, 5, 20])
def test_the_number_of_channels_is_learned_from_the_network(channels):
    use = lambda image: jax.eval_shape(net, params_of(channels), image)
    image, outputs = accepted(use, params_of(channels), 12, count=2)
    assert image.shape == (2, 12, 12, channels)
    assert outputs.shape == (2, 5)
    assert accepted(use, params_of(channels), (12, 10, channels))[0].shape == (1, 12, 10, channels)


def test_rgb_is_preferred_and_what_is_broadcast_does_not_count():
    anything = lambda image: jax.eval_shape(lambda x: x.mean((1, 2, 3)), image)
    assert accepted(anything, None, 8)[0].shape[-1] == 3
    mean = jnp.full((1, 1, 1, 5), 0.5)
    of_bands = lambda image: jax.eval_shape(lambda x: net(params_of(5), x - mean), image)
    assert accepted(of_bands, params_of(5), 8)[0].shape[-1] == 5


def test_a_network_without_one_number_of_channels():
    def halves(params, images):
        if images.shape[-1] % 2:
            raise TypeError("an even number of channels")
        return images.mean((1, 2, 3))

    with pytest.raises(ValueError, match=r"no RGB images, but some of 2, 4, 6.* channels: .*size=\(8, 8, 16\), got 8"):
        jaxviz.ascend(halves, None, KEY, size=8)
    flat = lambda params, images: images.reshape(len(images), -1) @ params
    weights = jnp.ones((28 * 28, 10))
    with pytest.raises(TypeError) as caught:
        jaxviz.ascend(jaxviz.logit(flat, 1), weights, KEY, size=100)
    assert "say which: size=(height, width, channels)" in caught.value.__notes__[-1]
    assert accepted(lambda x: jax.eval_shape(flat, weights, x), weights, 28)[0].shape == (1, 28, 28, 1)


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("size", [(8, 8, 3, 1), (8, 8, 0), "8", (8,), 0])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="expected an int or \\(height, width\\)"):
        jaxviz.ascend(jaxviz.logit(net, 1), params_of(3), KEY, size=size)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.slow
def test_ascent(channels):
    score = jaxviz.channel(net, "relu_1", jnp.array([1, 2]))
    found = jaxviz.ascend(score, params_of(channels), KEY, size=(12, 10), steps=6, transform=None)
    assert found.images.shape == (2, 12, 10, channels)
    assert found.losses[-1] < found.losses[0]
    told = jaxviz.ascend(score, params_of(channels), KEY, size=(12, 10, channels), steps=6, transform=None)
    np.testing.assert_array_equal(told.images, found.images)


@pytest.mark.parametrize("start", [0.3, (0.3,) * 5, np.full((12, 10, 5), 0.3)], ids=["brightness", "color", "image"])
def test_a_start_of_bands(start):
    score = lambda params, images: images[..., 0].mean((1, 2))
    size = (12, 10, 5) if np.ndim(start) == 0 else (12, 10)
    options = {"basis": jaxviz.pixels, "transform": None, "steps": 1, "learning_rate": 0.0}
    found = jaxviz.ascend(score, None, KEY, size=size, start=start, **options)
    np.testing.assert_allclose(found.images, np.full((1, 12, 10, 5), 0.3), atol=1e-6)


RUNS = {
    "dream": lambda p, x: jaxviz.dream(jaxviz.energy(net, "relu_0"), p, KEY, x, steps=2, octaves=2, jitter=2).images,
    "invert": lambda p, x: jaxviz.invert(net, p, KEY, x, layer="relu_0", steps=2).images,
    "texture": lambda p, x: jaxviz.texture(net, p, KEY, x, layers=["relu_0"], steps=2).images,
    "stylize": lambda p, x: (
        jaxviz.stylize(
            net, p, KEY, x, x[::-1], content_layers=["relu_1"], style_layers=["relu_0"], steps=2, colors="match"
        ).images
    ),
    "fool": lambda p, x: jaxviz.fool(net, p, x, target=1, steps=2).images,
    "sheet": lambda p, x: jaxviz.sheet(net, p, KEY, layer="relu_1", size=(12, 10), steps=2, channels=[0, 3]).images,
    "simonyan": lambda p, x: recipe_of(p, x, "simonyan"),
    "cs231n": lambda p, x: recipe_of(p, x, "cs231n"),
    "yosinski-1": lambda p, x: recipe_of(p, x, "yosinski-1"),
    "maco": lambda p, x: recipe_of(p, x, "maco"),
}


def recipe_of(params, images, name):
    score = jaxviz.channel(net, "relu_1", jnp.arange(len(images)))
    return jaxviz.ascend(score, params, KEY, **jaxviz.recipe(name) | {"size": images.shape[1:3], "steps": 2}).images


@pytest.mark.parametrize(("name", "channels"), [(name, 1 if i % 2 else 5) for i, name in enumerate(RUNS)])
@pytest.mark.slow
def test_every_synthesis(name, channels):
    params, photo = params_of(channels), photo_of(channels)
    made = RUNS[name](params, photo)
    assert made.shape == photo.shape
    assert jnp.all((made >= 0) & (made <= 1))
    assert jnp.abs(made - photo).max() > 1e-3
    assert channels == 1 or jnp.any(made[..., 0] != made[..., 1])


def test_recipes_start_around_the_mean_brightness():
    form = jaxviz.recipe("simonyan")["basis"](4, 4, channels=1)
    np.testing.assert_allclose(form.init(KEY, 1), np.mean(IMAGENET_MEAN), rtol=1e-6)
    noise = jaxviz.recipe("cs231n")["basis"](64, 64, channels=5).init(KEY, 1)
    assert abs(noise.mean() - np.mean(IMAGENET_MEAN)) < 0.01
    np.testing.assert_allclose(jaxviz.l2(jnp.full((1, 2, 2, 1), 0.949)), 0.5**2, rtol=1e-3)


@pytest.mark.parametrize("channels", [1, 4])
def test_texture_starts_from_noise_of_the_samples_colors(channels):
    sample = 0.5 + 0.1 * jax.random.normal(KEY, (1, 64, 64, channels)) * jnp.arange(1.0, channels + 1).reshape(
        1, 1, 1, -1
    )
    noise = noise_like(sample, KEY, (128, 128))
    np.testing.assert_allclose(noise.mean((1, 2)), sample.mean((1, 2)), atol=0.02)
    np.testing.assert_allclose(noise.std((1, 2)), sample.std((1, 2)), rtol=0.05)


def test_style_of_other_channels():
    options = {"content_layers": ["relu_1"], "style_layers": ["relu_0"], "steps": 1}
    with pytest.raises(ValueError, match="styles: expected 1 channels, as the content has, got 3"):
        jaxviz.stylize(net, params_of(1), KEY, photo_of(1)[0], photo_of(3)[0], **options)
    with pytest.raises(ValueError, match="colors: 'luminance' needs RGB, expected 3 channels, got 1"):
        jaxviz.stylize(net, params_of(1), KEY, photo_of(1)[0], photo_of(1)[1], colors="luminance", **options)


@pytest.mark.slow
def test_efros_leung_of_gray_is_that_of_gray_in_rgb():
    sample = jax.random.bernoulli(KEY, 0.5, (9, 9, 1)).astype(float)
    grown = jaxviz.efros_leung(KEY, sample, size=(6, 5), window=5)
    assert grown.shape == (6, 5, 1)
    in_rgb = jaxviz.efros_leung(KEY, jnp.repeat(sample, 3, -1), size=(6, 5), window=5)
    np.testing.assert_array_equal(in_rgb, jnp.repeat(grown, 3, -1))


@pytest.mark.usefixtures("users_view")
def test_images_of_another_number_of_channels_than_the_networks():
    message = r"\(n, h, w, 1\), which this network takes, got shape \(2, 12, 10, 3\) with 3 channels; colors as gray"
    for call in (
        lambda: jaxviz.dream(jaxviz.energy(net, "relu_0"), params_of(1), KEY, photo_of(3)),
        lambda: jaxviz.invert(net, params_of(1), KEY, photo_of(3), layer="relu_0"),
        lambda: jaxviz.match_grams(net, params_of(1), photo_of(3), ["relu_0"]),
        lambda: jaxviz.fool(net, params_of(1), photo_of(3), target=1),
        lambda: jaxviz.saliency(jaxviz.logit(net, 1), params_of(1), photo_of(3)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
