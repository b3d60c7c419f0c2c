"""Recipes against their sources: each program's own update rule, in its own units, written out in NumPy.

Only the gradient of the score is JAX's, of a function that takes images as the source's networks do. All in float64:
the two differ by rounding alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d

import jaxviz
from jaxviz.image._arrays import IMAGENET_MEAN
from jaxviz.synthesis._recipes import RECIPES

KEY = jax.random.key(3)
SIZE = (12, 10)
MEAN, STD = np.array(IMAGENET_MEAN), np.array([0.229, 0.224, 0.225])
COLORS = np.random.default_rng(0).normal(size=(3, 4))


def waves(strength, images):
    """A score that rises and falls with every pixel: `strength` is about its slope."""
    angles = images @ jnp.asarray(COLORS) + jnp.linspace(0, 3, SIZE[0])[:, None, None]
    return strength * jnp.sum(jnp.sin(angles), (1, 2, 3))


def found_by(name, strength, steps, **options):
    options = jaxviz.recipe(name, **options) | {"steps": steps, "size": SIZE}
    return np.asarray(jaxviz.ascend(waves, jnp.asarray(strength), KEY, **options).images[0])


def start_of(name):
    """What the recipe starts from, and the key of its steps."""
    start, steps = jax.random.split(KEY)
    return np.asarray(RECIPES[name](1.0)["basis"](*SIZE).init(start, 1)[0]), steps


# Yosinski et al.'s Table 1, by the program that they published (optimize/gradient_optimizer.py)


def caffes_ascent(x, strength, steps, *, decay, blur, every, norms=0, benefits=0, progress=None, rate):
    """Images `(3, h, w)` of blue, green and red from 0 to 255 without their mean, as Caffe has them."""
    mean = 255 * MEAN[::-1, None, None]

    def score(x):
        return waves(strength, ((x + mean) / 255)[::-1].transpose(1, 2, 0)[None])[0]

    slope = jax.jit(jax.grad(score))
    x = 255 * x.transpose(2, 0, 1)[::-1] - mean
    for i in range(steps):
        x = np.minimum(255.0, np.maximum(0.0, x + mean)) - mean
        g = np.asarray(slope(x))
        lr = rate if progress is None else min(rate, progress / np.sum(g**2))
        x = x + lr * g
        x = x * (1 - decay)
        if every and i % every == 0:
            x = np.stack([gaussian_filter(plane, blur) for plane in x])
        if norms:
            sizes = np.sqrt(np.sum(x**2, 0))
            x = np.where(sizes < np.percentile(sizes, norms), 0, x)
        if benefits:
            sizes = np.abs(np.sum(g * -x, 0))
            x = np.where(sizes < np.percentile(sizes, benefits), 0, x)
    return np.clip((x + mean)[::-1].transpose(1, 2, 0) / 255, 0, 1)


TABLE_1 = {
    "yosinski-1": {"decay": 0, "blur": 0.5, "every": 4, "norms": 50, "progress": 2.0, "rate": 100.0},
    "yosinski-2": {"decay": 0.3, "blur": 0, "every": 0, "norms": 20, "rate": 100.0},
    "yosinski-3": {"decay": 0.0001, "blur": 1.0, "every": 4, "rate": 100.0},
    "yosinski-4": {"decay": 0, "blur": 0.5, "every": 4, "benefits": 90, "progress": 2.0, "rate": 1e8},
}
ITERATIONS = {"yosinski-1": 500, "yosinski-2": 750, "yosinski-3": 1000, "yosinski-4": 1000}


# A slope of 0.5 has set 1 at its largest rate, one of 20 has sets 2 and 3 move pixels to black and white.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "strength"), [*((name, 20.0) for name in TABLE_1), ("yosinski-1", 0.5)])
def test_yosinskis_sets_are_their_programs(x64, name, strength):
    start, _ = start_of(name)
    expected = caffes_ascent(start, strength, 9, **TABLE_1[name])
    found = found_by(name, strength, 9)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.abs(found - start).max() > 1e-2
    if name == "yosinski-3":
        assert np.isin(found, (0, 1)).any()  # what is at a bound counts: it is blurred into its neighbors
    assert jaxviz.recipe(name)["steps"] == ITERATIONS[name]


# CS231n's assignment 3, NetworkVisualization: a ResNet's or SqueezeNet's normalized images


def assignments_ascent(x, strength, steps, key, *, l2=1e-3, rate=25.0):
    """The assignment's loop, in its units `(x - mean) / std`; the step along the gradient has the length `rate`."""

    def objective(image):
        return waves(strength, (image * STD + MEAN)[None])[0] - l2 * jnp.sum(image**2)

    slope = jax.jit(jax.grad(objective))
    image, low, high = (x - MEAN) / STD, -MEAN / STD, (1 - MEAN) / STD
    move = jaxviz.recipe("cs231n")["transform"]
    spot = jnp.zeros((1, *SIZE, 3)).at[0, 0, 0].set(1)
    for t in range(steps):
        shift = np.argwhere(np.asarray(move(jax.random.fold_in(key, t), spot)[0, ..., 0]))[0]
        image = np.roll(image, shift, (0, 1))
        g = np.asarray(slope(image))
        image = image + rate * g / np.sqrt(np.sum(g**2))
        image = np.clip(np.roll(image, -shift, (0, 1)), low, high)
        if t % 10 == 0:
            image = gaussian_filter1d(gaussian_filter1d(image, 0.5, axis=0), 0.5, axis=1)
    return image * STD + MEAN


@pytest.mark.slow
def test_cs231n_is_the_assignment(x64):
    start, key = start_of("cs231n")
    rate = 0.1  # of 25, which is for 420 times as many pixels
    found = found_by("cs231n", 0.02, 12, rate=rate)
    expected = assignments_ascent(start, 0.02, 12, key, rate=rate * 25)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    weaker = assignments_ascent(start, 0.02, 12, key, rate=rate * 25, l2=1e-3 / 3000)
    assert np.abs(found - weaker).max() > 1e-2  # the penalty can be seen
    assert jaxviz.recipe("cs231n")["steps"] == 100


@pytest.mark.slow
def test_cs231n_penalty(x64):
    """`1e-3 |I|²` of normalized images, gradient against gradient."""
    images = jax.random.uniform(KEY, (2, *SIZE, 3))
    ((weight, penalty),) = jaxviz.recipe("cs231n")["penalties"]
    found = jax.grad(lambda x: weight * penalty(x).sum())(images)
    np.testing.assert_allclose(found, 2e-3 * (images - MEAN) / STD / STD, rtol=1e-12)


@pytest.mark.slow
def test_cs231n_start_and_jitter():
    """Normal noise in normalized units, clipped to the range; whole pixels from 0 to 16 that come back in."""
    options = jaxviz.recipe("cs231n")
    noise = (np.asarray(options["basis"](128, 128).init(KEY, 1)[0]) - MEAN) / STD
    np.testing.assert_allclose(np.median(noise, (0, 1)), 0, atol=0.04)
    np.testing.assert_allclose((np.abs(noise) < 1).mean((0, 1)), 0.683, atol=0.015)
    ramp = jnp.broadcast_to(jnp.arange(24.0 * 20).reshape(1, 24, 20, 1), (1, 24, 20, 3))
    many = jnp.repeat(ramp, 400, 0)
    moved = np.asarray(options["transform"](KEY, many))
    shifts = np.array([np.argwhere(image[..., 0] == 0)[0] for image in moved])
    assert shifts.min() == 0
    assert shifts.max() == 16
    for image, shift in zip(moved[:20], shifts, strict=False):
        np.testing.assert_array_equal(image, np.roll(ramp[0], shift, (0, 1)))


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), "fast"])
def test_a_recipe_wants_a_rate(rate):
    with pytest.raises(ValueError, match="rate: expected a finite number above 0, got"):
        jaxviz.recipe("yosinski-3", rate=rate)
