"""Averaged gradients: closed forms, the integral as a plain sum, noise by its statistics, batches, devices, errors."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net
from processes import on_eight_devices

import jaxviz

KEY = jax.random.key(11)

pytestmark = pytest.mark.filterwarnings("ignore:integrated_gradients. with")  # few steps are quick


def integrated(score, params, images, **options):
    return jaxviz.integrated_gradients(score, params, images, steps=5, **options).maps


def smoothed(score, params, images, **options):
    return jaxviz.smoothgrad(score, params, KEY, images, samples=5, **options)


METHODS = {"integrated_gradients": integrated, "smoothgrad": smoothed}
every_method = pytest.mark.parametrize("fn", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(7), (2, 12, 10, 3))


@pytest.fixture(scope="module")
def weights():
    return jax.random.normal(jax.random.key(1), (1, 12, 10, 3))


def linear(weights, images):
    return jnp.sum(weights * images, axis=(1, 2, 3))


def quadratic(weights, images):
    return jnp.sum(weights * images**2, axis=(1, 2, 3))


def score(target=1):
    return jaxviz.logit(small_net, target)


def threshold(params, images):
    """Class 0 if the first number of the image is above 0.2; else class 1, whose logit has no gradient."""
    first = images[:, 0, 0, 0]
    return jnp.stack([first, jnp.full_like(first, 0.2)], axis=-1)


# Integrated gradients


@pytest.mark.parametrize("baseline", ["black", "gray", "color", "image", "image each", "blur"])
def test_a_linear_score_is_shared_out_exactly(baseline, weights, images):
    values = {
        "black": 0.0,
        "gray": 0.5,
        "color": (0.1, 0.5, 0.9),
        "image": jnp.flip(images[0], 0),
        "image each": jnp.flip(images, 0),
        "blur": "blur",
    }[baseline]
    start = jaxviz.blur(images, 5.0, size=11) if baseline == "blur" else np.asarray(values)
    maps, gap = jaxviz.integrated_gradients(linear, weights, images, baseline=values, steps=3)
    np.testing.assert_allclose(maps, np.asarray(weights) * (np.asarray(images) - start), atol=1e-6)
    assert gap.shape == (2,)
    assert jnp.all(gap < 1e-4)


def test_the_baseline_is_black_unless_told(weights, images):
    maps, _ = jaxviz.integrated_gradients(linear, weights, images, steps=1)
    np.testing.assert_allclose(maps, weights * images, atol=1e-6)


def test_polynomials_are_exact_from_the_step_that_the_quadrature_says(x64, weights, images):
    """Gauss and Legendre's rule of s points is exact up to degree 2 s - 1, here of the gradient."""
    weights, images = weights.astype(jnp.float64), images.astype(jnp.float64)
    cubic = lambda weights, images: jnp.sum(weights * images**3, axis=(1, 2, 3))
    for fn, steps, power in ((quadratic, 1, 2), (cubic, 2, 3)):
        maps, gap = jaxviz.integrated_gradients(fn, weights, images, baseline=0.25, steps=steps)
        np.testing.assert_allclose(maps, weights * (images**power - 0.25**power), atol=1e-12)
        assert jnp.all(gap < 1e-12)
    assert jnp.all(jaxviz.integrated_gradients(cubic, weights, images, baseline=0.25, steps=1).gap > 1e-3)


def test_integrated_gradients_equal_the_integral_as_a_plain_sum(x64, images):
    images = images[:, :4, :4].astype(jnp.float64)
    weights = jax.random.normal(jax.random.key(2), (48, 3), jnp.float64)
    fn = lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w).sum(-1)
    gradient = jax.vmap(jax.grad(lambda x: fn(weights, x).sum()))
    places = (jnp.arange(2000.0) + 0.5) / 2000
    expected = (images - 0.5) * gradient(0.5 + places[:, None, None, None, None] * (images - 0.5)[None]).mean(0)
    maps, gap = jaxviz.integrated_gradients(fn, weights, images, baseline=0.5, steps=40)
    np.testing.assert_allclose(maps, expected, atol=1e-5 * jnp.abs(expected).max())
    assert jnp.all(gap < 1e-6)


def test_the_gap_is_what_the_shares_miss(small_params, images):
    maps, gap = jaxviz.integrated_gradients(score(), small_params, images, steps=5)
    change = score()(small_params, images) - score()(small_params, 0 * images)
    np.testing.assert_allclose(gap, jnp.abs(maps.sum((1, 2, 3)) - change) / jnp.abs(change), atol=1e-5)
    assert jnp.all(gap > 1e-3)  # five steps are too few for a network
    more = jaxviz.integrated_gradients(score(), small_params, images, steps=200).gap
    assert jnp.all(more < gap / 5)


def test_a_wide_gap_is_warned_of(weights, images):
    """Outside of jit, in which only the caller can look: of a cubic one step finds three quarters, two find all."""
    cubic = lambda weights, images: jnp.sum(weights * images**3, axis=(1, 2, 3))
    fn = functools.partial(jaxviz.integrated_gradients, cubic, weights)
    said = "with 1 steps the shares of 2 of 2 scores miss more than 5% .* at worst 25%: give more, such as steps=4"
    with pytest.warns(UserWarning, match=said):
        fn(images, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fn(images, steps=2)
        gap = jax.jit(lambda images: fn(images, steps=1).gap)(images)
    np.testing.assert_allclose(gap, 0.25, rtol=1e-3)


def test_a_score_that_sees_no_image_is_refused(images):
    with pytest.raises(ValueError, match="it does not depend on them"):
        jaxviz.integrated_gradients(lambda params, x: jnp.full(len(x), 3.0), None, images, steps=5)


def test_from_the_image_itself_nothing_is_shared_out(small_params, images):
    maps, gap = jaxviz.integrated_gradients(score(), small_params, images, baseline=images, steps=5)
    np.testing.assert_array_equal(maps, 0.0)
    np.testing.assert_array_equal(gap, 0.0)


# SmoothGrad


def test_noise_does_not_change_the_gradient_of_a_linear_score(weights, images):
    smooth = functools.partial(jaxviz.smoothgrad, linear, weights, KEY, images, samples=7)
    expected = np.broadcast_to(weights, images.shape)
    np.testing.assert_allclose(smooth(), expected, rtol=1e-6)
    np.testing.assert_allclose(smooth(statistic="squared"), expected**2, rtol=1e-6)
    np.testing.assert_allclose(smooth(statistic="variance"), 0, atol=1e-5)


def test_the_noise_of_a_quadratic_score_has_the_moments_it_should(weights):
    """A gradient 2 w (x + s e), with e normal: mean 2 w x, variance 4 w^2 s^2."""
    images = jax.random.uniform(jax.random.key(3), (2, 12, 10, 3)) * jnp.array([1.0, 0.3])[:, None, None, None]
    samples, noise = 2000, 0.2
    smooth = functools.partial(
        jaxviz.smoothgrad, quadratic, weights, KEY, images, noise=noise, samples=samples, batch_size=500
    )
    deviation = noise * (images.max((1, 2, 3)) - images.min((1, 2, 3)))[:, None, None, None]
    unit = 2 * weights * deviation
    errors = (smooth() - 2 * weights * images) / unit  # of variance 1 / samples: 360 numbers an image
    np.testing.assert_allclose(samples * (errors**2).mean((1, 2, 3)), 1, atol=5 * np.sqrt(2 / 360))
    assert jnp.abs(errors).max() < 6 / np.sqrt(samples)
    ratio = smooth(statistic="variance") / unit**2
    np.testing.assert_allclose(ratio.mean((1, 2, 3)), 1, atol=0.01)
    np.testing.assert_allclose(ratio, 1, atol=6 * np.sqrt(2 / samples))


def test_without_noise_it_is_the_gradient(small_params, images):
    plain = jaxviz.gradient(score(), small_params, images)
    np.testing.assert_allclose(smoothed(score(), small_params, images, noise=0.0), plain, atol=1e-6)
    assert jnp.abs(smoothed(score(), small_params, images) - plain).max() > 1e-3


def test_the_same_key_the_same_bits(small_params, images):
    smooth = lambda key: jaxviz.smoothgrad(score(), small_params, key, images, samples=5)
    first = smooth(KEY)
    np.testing.assert_array_equal(smooth(KEY), first)
    assert jnp.abs(smooth(jax.random.key(12)) - first).max() > 1e-4


def test_two_equal_images_get_different_noise(weights, images):
    twice = jnp.stack([images[0]] * 2)
    maps = jaxviz.smoothgrad(quadratic, weights, KEY, twice, samples=5)
    assert jnp.abs(maps[0] - maps[1]).max() > 1e-2


# Both


def test_the_gap_of_several_targets(small_params, images):
    gap_of = lambda i: jaxviz.integrated_gradients(score(i), small_params, images, steps=5).gap
    gap, each = gap_of(jnp.array([[1, 2, 0]])), [gap_of(i) for i in (1, 2, 0)]
    np.testing.assert_allclose(gap, jnp.stack(each, 1), atol=1e-5)


@every_method
def test_the_best_class_is_that_of_the_image_and_stays(fn, images):
    """The copies of the image are in part of class 1, which would take their share from the map."""
    images = images.at[:, 0, 0, 0].set(0.3)
    maps = fn(jaxviz.logit(threshold), None, images)
    expected = jnp.zeros_like(images).at[:, 0, 0, 0].set(0.3 if fn is integrated else 1.0)
    np.testing.assert_allclose(maps, expected, atol=1e-6)


@pytest.mark.usefixtures("users_view")
def test_errors_of_options(small_params, images):
    shared = functools.partial(jaxviz.integrated_gradients, score(), small_params, images)
    for steps in (0, 2.5):
        with pytest.raises(ValueError, match=f"steps: expected a whole number of at least 1, got {steps}"):
            shared(steps=steps)
    with pytest.raises(ValueError, match="baseline: expected 'blur', a number, a color or an image, got 'white'"):
        shared(baseline="white")
    with pytest.raises(ValueError, match=r"baseline: expected .* an image \(12, 10, 3\), got shape \(5,\)"):
        shared(baseline=jnp.ones(5))
    with pytest.raises(ValueError, match="baseline: expected finite numbers, got 1 that"):
        shared(baseline=(0.0, jnp.nan, 0.0))
    smooth = functools.partial(jaxviz.smoothgrad, score(), small_params, KEY, images)
    with pytest.raises(ValueError, match=r"samples: expected a whole number, got 2\.0"):
        smooth(samples=2.0)
    with pytest.raises(ValueError, match="samples: expected a whole number of at least 1, got 0"):
        smooth(samples=0)
    with pytest.raises(ValueError, match="statistic: expected one of mean, squared, variance, got 'median'"):
        smooth(statistic="median")


@pytest.mark.parametrize("number", [-0.3, float("nan"), float("inf")])
def test_strengths_are_numbers_of_at_least_0(number, small_params, images):
    score, message = jaxviz.logit(small_net, 1), f": expected a number of at least 0, got {number}"
    with pytest.raises(ValueError, match=f"noise{message}"):
        jaxviz.smoothgrad(score, small_params, KEY, images, noise=number)
    for name in ("epsilon", "gamma"):
        with pytest.raises(ValueError, match=f"{name}{message}"):
            jaxviz.lrp(score, small_params, images, **{name: number})


# Several devices


@pytest.mark.slow
def test_devices_that_share_images_each_go_through_their_own():
    """The same bits as on one device, and no word between devices in what is compiled, in its loops least of all."""
    script = r"""
        import re
        import jax, jax.numpy as jnp, numpy as np
        import jaxviz
        from jaxviz.program._compiled import Compiled
        from nets import small_net

        keys = jax.random.split(jax.random.key(0), 4)
        params = {"w1": 0.4 * jax.random.normal(keys[0], (3, 3, 3, 8)), "b1": jnp.linspace(-0.2, 0.2, 8),
                  "w2": 0.2 * jax.random.normal(keys[1], (3, 3, 8, 6)), "w3": jax.random.normal(keys[2], (6, 5))}
        images = jax.random.uniform(keys[3], (16, 12, 12, 3))
        mesh = jax.sharding.Mesh(np.array(jax.devices()), "n")
        put = lambda x, *spec: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
        programs, original = [], Compiled.__call__

        def watched(self, *args, **options):
            if "spread" in options:
                programs.append(self.lower(*args, **options).compile().as_text())
            return original(self, *args, **options)

        Compiled.__call__ = watched
        methods = [
            lambda *given: jaxviz.smoothgrad(*given[:2], jax.random.key(7), given[2], samples=5),
            lambda *given: jaxviz.integrated_gradients(*given, steps=400).maps,
            lambda *given: jaxviz.occlusion(*given, window=4, stride=4),
            lambda *given: jaxviz.rise(*given[:2], jax.random.key(7), given[2], masks=20),
            lambda *given: jaxviz.deletion(*given, given[2][..., 0], step=36).values,
        ]
        words = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
        for label in (np.arange(16) % 5, 3):
            score = jaxviz.logit(small_net, label)
            for method in methods:
                one, many = method(score, params, images), method(score, put(params), put(images, "n"))
                np.testing.assert_array_equal(many, one)
                assert many.addressable_shards[0].data.shape[0] == 2, many.sharding
                assert "num_partitions=8" in programs[-1] and " while(" in programs[-1]
                print(*re.findall(words, programs[-1]))
    """
    assert on_eight_devices(script).split() == []
