"""Feature inversion: what it minimizes, by hand; what it finds; that it goes on; what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import small_net

import jaxviz
from jaxviz.scores._likeness import relative_error

KEY = jax.random.key(0)


def features(params, images, layer="relu_0"):
    return jaxviz.capture(small_net, layer)(params, images)[1][layer]


def invert(params, images, **options):
    return jaxviz.invert(small_net, params, KEY, images, **{"layer": "relu_0", "steps": 40} | options)


@pytest.mark.slow
def test_the_loss_is_mahendrans_and_vedaldis(small_params, images):
    start = jax.random.uniform(jax.random.key(3), images.shape, minval=0.1, maxval=0.9)
    weights = {"smoothness": 0.3, "norm": 0.2, "alpha": 4.0, "beta": 1.5}
    options = {"basis": jaxviz.pixels, "optimizer": optax.sgd(0.0), "steps": 1}
    found = invert(small_params, images, start=start, **weights, **options)
    x, y = (np.asarray(features(small_params, values), np.float64) for values in (start, images))
    error = ((x - y) ** 2).sum((1, 2, 3)) / (y**2).sum((1, 2, 3))
    far = np.abs(np.asarray(start, np.float64) - [0.485, 0.456, 0.406]) / 0.5
    rough = 0.3 * jaxviz.total_variation(start, beta=1.5) + 0.2 * (far**4).mean((1, 2, 3))
    np.testing.assert_allclose(found.losses, [(error + rough).sum()], rtol=1e-5)


@pytest.mark.slow
def test_features_are_met(small_params, images):
    smooth = jaxviz.blur(images, 2.0)
    found = invert(small_params, smooth, steps=300, smoothness=0.0, norm=0.0)
    errors = relative_error(features(small_params, found.images), features(small_params, smooth))
    assert jnp.all(errors < 1e-3)
    start = invert(small_params, smooth, steps=1)
    assert jnp.all(relative_error(features(small_params, start.images), features(small_params, smooth)) > 0.01)
    assert found.images.min() >= 0
    assert found.images.max() <= 1


@pytest.mark.slow
def test_what_is_shown_is_what_was_compared():
    """Pixels stay between 0 and 1 on the way: else a loss of zero would be one of an image that is cut off."""
    net, start = lambda params, images: images.mean((1, 2)) @ params, jnp.zeros((1, 4, 4, 3)).at[:, :, 2:].set(1.0)
    options = {"layer": "dense_0", "basis": jaxviz.pixels, "start": start, "smoothness": 0.0, "norm": 0.0, "steps": 40}
    found = jaxviz.invert(net, jnp.eye(3), KEY, jnp.full((1, 4, 4, 3), 0.9), **options)
    np.testing.assert_allclose(net(jnp.eye(3), found.images), 0.9, atol=1e-3)


@pytest.mark.slow
def test_each_image_is_inverted_by_itself(small_params, images):
    options = {"start": jnp.full(images.shape, 0.5), "steps": 10}
    both = invert(small_params, images, **options)
    alone = invert(small_params, images[1:], start=options["start"][1:], steps=10)
    np.testing.assert_allclose(both.images[1:], alone.images, atol=1e-4)


@pytest.mark.slow
def test_copies_start_from_different_noise(small_params, images):
    first, second = invert(small_params, jnp.repeat(images[:1], 2, axis=0), steps=1).images
    assert jnp.abs(first - second).max() > 1e-3


@pytest.mark.slow
def test_other_weights_compile_nothing(small_params, images):
    invert(small_params, images, smoothness=0.1)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("jaxviz.scores._likeness.relative_error", lambda *args: compiled.append(args))
        invert(small_params, images, smoothness=0.7, norm=0.3)
    assert compiled == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "relu_9"}, "'relu_9'"),
        ({"start": jnp.zeros((1, 8, 8, 3))}, r"start: expected the images' shape \(2, 32, 32, 3\), got \(1, 8, 8, 3\)"),
        ({"steps": 0}, "steps: expected 1 step or more, got 0"),
    ],
)
@pytest.mark.usefixtures("users_view")
def test_errors(small_params, images, options, message):
    with pytest.raises(ValueError, match=message):
        invert(small_params, images, **options)


def test_images_must_be_images(small_params):
    with pytest.raises(ValueError, match=r"NaN|finite"):
        invert(small_params, jnp.full((1, 8, 8, 3), jnp.nan))
