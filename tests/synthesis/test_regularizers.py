"""What is done to pixels after each step, against NumPy; and the published sets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
from nets import small_net

import jaxviz
from jaxviz.image._arrays import IMAGENET_MEAN
from jaxviz.synthesis import _steps as parts
from jaxviz.synthesis._recipes import RECIPES

MEAN = np.array(IMAGENET_MEAN)
IMAGES = np.random.default_rng(0).uniform(size=(2, 12, 10, 3))
STEP = np.random.default_rng(1).normal(0, 0.01, IMAGES.shape)


def result(part, images=IMAGES, step=STEP, times=1):
    """Return the images after a step that a part has changed; of several times, the last."""
    images, step = jnp.asarray(images), jnp.asarray(step)
    state = part.init(images)
    for _ in range(times):
        updates, state = part.update(step, state, images)
    return np.asarray(images + updates)


def test_decay(x64):
    np.testing.assert_allclose(result(parts.decay(0.3)), MEAN + 0.7 * (IMAGES + STEP - MEAN), atol=1e-12)


@pytest.mark.slow
def test_blurring_comes_every_few_steps(x64):
    """At steps 0, 3, 6, ... as in the published programs, which use SciPy's filter."""
    plain = IMAGES + STEP
    blurred = np.stack([scipy.ndimage.gaussian_filter(image, (1.0, 1.0, 0)) for image in plain])
    for times in range(1, 8):
        expected = blurred if times % 3 == 1 else plain
        np.testing.assert_allclose(result(parts.blurring(1.0, 3), times=times), expected, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 4.0])
def test_blurring_equals_scipy(x64, sigma):
    """Also where the Gaussian is wider than the image."""
    expected = [scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0)) for image in IMAGES + STEP]
    np.testing.assert_allclose(result(parts.blurring(sigma, 1)), expected, atol=1e-12)


def test_small_norms(x64):
    moved = IMAGES + STEP - MEAN
    norms = np.linalg.norm(moved, axis=-1)
    found = result(parts.small_norms(40.0)) - MEAN
    for image, before, norm in zip(found, moved, norms, strict=True):
        gone = norm < np.percentile(norm, 40)
        np.testing.assert_allclose(image[gone], 0, atol=1e-12)
        np.testing.assert_allclose(image[~gone], before[~gone], atol=1e-12)
        assert gone.sum() == 48


def test_small_contributions(x64):
    moved = IMAGES + STEP - MEAN
    sizes = np.abs((moved * STEP).sum(-1))
    found = result(parts.small_contributions(90.0)) - MEAN
    for image, before, size in zip(found, moved, sizes, strict=True):
        gone = size < np.percentile(size, 90)
        np.testing.assert_allclose(image[gone], 0, atol=1e-12)
        np.testing.assert_allclose(image[~gone], before[~gone], atol=1e-12)
        assert gone.sum() == 108


def test_normalized_steps(x64):
    images = jnp.asarray(IMAGES)
    part = parts.normalized_steps(0.3)
    updates, _ = part.update(jnp.asarray(STEP), part.init(images), images)
    np.testing.assert_allclose(jnp.sqrt(jnp.sum(updates**2, (1, 2, 3))), 0.3, rtol=1e-12)
    assert jnp.all(jnp.sum(updates * STEP, (1, 2, 3)) < 0)
    np.testing.assert_array_equal(part.update(0 * images, part.init(images), images)[0], 0)


def test_l2(x64):
    np.testing.assert_allclose(jaxviz.l2(jnp.asarray(IMAGES)), ((IMAGES - MEAN) ** 2).mean((1, 2, 3)), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_climbs_and_stays_in_range(name, small_params):
    score = jaxviz.channel(small_net, "conv_0", jnp.array([2, 4]))
    rate = 3e3 if "yosinski" in name else 1.0  # theirs are for much larger gradients
    options = jaxviz.recipe(name, rate=rate) | {"steps": 16, "size": 16}
    found = jaxviz.ascend(score, small_params, jax.random.key(0), **options)
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert found.losses.min() < found.losses[0]
    assert jnp.any(found.images != found.images[:, :1, :1])


@pytest.mark.slow
def test_the_lectures_four_steps(x64, small_params):
    """Zeros (the mean color); forward; backward; a small update: written out."""
    params = jax.tree.map(lambda x: x.astype(jnp.float64), small_params)
    score = jaxviz.channel(small_net, "conv_0", 2)
    x = jnp.broadcast_to(jnp.asarray(MEAN), (1, 16, 16, 3))
    for _ in range(5):
        loss = lambda x: -score(params, x)[0] + 10 * jnp.mean((x - MEAN) ** 2)
        g = jax.grad(loss)(x)
        x = jnp.clip(x - 2 * g / jnp.sqrt(jnp.sum(g**2)), 0, 1)
    options = jaxviz.recipe("simonyan") | {"steps": 5, "size": 16}
    found = jaxviz.ascend(score, params, jax.random.key(0), **options).images
    np.testing.assert_allclose(found, x, atol=1e-9)


@pytest.mark.slow
def test_an_image_to_start_from(small_params):
    """In every basis the first image is the given one."""
    start = jaxviz.blur(jax.random.uniform(jax.random.key(3), (1, 16, 16, 3)), 1.0)[0]
    still = {"transform": None, "steps": 1, "size": 16, "optimizer": optax.sgd(0.0)}
    score = jaxviz.channel(small_net, "conv_0", 2)
    for basis, tolerance in ((jaxviz.pixels, 1e-6), (jaxviz.fourier, 1e-3)):
        found = jaxviz.ascend(score, small_params, jax.random.key(0), start=start, basis=basis, **still)
        np.testing.assert_allclose(found.images[0], start, atol=tolerance)


@pytest.mark.usefixtures("users_view")
def test_errors(small_params):
    score = jaxviz.channel(small_net, "conv_0", 2)
    with pytest.raises(ValueError, match=r"recipe: expected one of simonyan, .* got 'nope'"):
        jaxviz.recipe("nope")
    with pytest.raises(ValueError, match=r"start: expected a brightness, a color \(3,\), an image \(16, 16, 3\) or 1"):
        jaxviz.ascend(score, small_params, jax.random.key(0), size=16, start=jnp.ones((8, 8, 3)))
    with pytest.raises(ValueError, match="start: expected finite numbers, got 1"):
        jaxviz.ascend(score, small_params, jax.random.key(0), size=16, start=jnp.nan)
