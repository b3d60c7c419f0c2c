"""DeepDream: its octaves, a plain loop of the same steps, and what must not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net

import jaxviz
from jaxviz.synthesis._octaves import octave_sizes

KEY = jax.random.key(5)
SCORE = jaxviz.energy(small_net, "conv_0")
dream = functools.partial(jaxviz.dream, octaves=2, steps=5, jitter=4)


@pytest.fixture
def photo():
    """Smooth images with nothing near black or white: no step meets the edge of [0, 1]."""
    noise = jax.random.uniform(jax.random.key(1), (2, 3, 3, 3), minval=0.4, maxval=0.6)
    return jax.image.resize(noise, (2, 21, 16, 3), "linear")


@pytest.mark.parametrize(
    ("size", "octaves", "scale", "expected"),
    [
        ((100, 60), 3, 2.0, [(25, 15), (50, 30), (100, 60)]),
        ((224, 224), 4, 1.4, [(82, 82), (114, 114), (160, 160), (224, 224)]),
        ((7, 5), 1, 1.4, [(7, 5)]),
        ((2, 9), 2, 2.5, [(1, 4), (2, 9)]),
    ],
)
def testoctave_sizes(size, octaves, scale, expected):
    assert octave_sizes(size, octaves, scale) == expected


@pytest.mark.slow
def test_equals_a_plain_loop(x64, small_params, photo):
    """Each octave: resize, add what was dreamt so far, then steps along the scaled gradient of a rolled image."""
    params, photo = jax.tree.map(lambda x: x.astype(jnp.float64), (small_params, photo))
    climb = jax.jit(jax.value_and_grad(lambda x: SCORE(params, x).sum()))
    losses, detail = [], np.zeros((2, 15, 11, 3))
    for octave, size in enumerate([(15, 11), (21, 16)]):  # 21 and 16 over 1.4 and 1
        resized = lambda x, size=size: np.asarray(jax.image.resize(x, (2, *size, 3), "cubic", antialias=True))
        base = resized(photo)
        x = base + resized(detail)
        for i in range(5):
            key = jax.random.fold_in(jax.random.fold_in(KEY, octave), i)
            down, right = np.asarray(jax.random.randint(key, (2,), -4, 5))
            rolled = np.roll(x, (down, right), (1, 2))
            value, slope = climb(rolled)
            losses.append(-float(value))
            slope = np.roll(np.asarray(slope), (-down, -right), (1, 2))
            x = x + 0.003 * slope / np.abs(slope).mean((1, 2, 3), keepdims=True)
        detail = x - base
    assert x.min() > 0
    assert x.max() < 1
    found = dream(SCORE, params, KEY, photo, step_size=0.003)
    np.testing.assert_allclose(found.images, x, atol=1e-10)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    assert found.images.dtype == jnp.float64


@pytest.mark.slow
def test_the_score_rises_and_images_stay_in_range(small_params, images):
    images = images[:, :16, :19]
    found = jaxviz.dream(SCORE, small_params, KEY, images, octaves=2, steps=20, step_size=0.05, jitter=4)
    assert found.images.shape == images.shape
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert found.losses.shape == (40,)
    assert jnp.all(SCORE(small_params, found.images) > 2 * SCORE(small_params, images))
    assert found.losses[-1] < found.losses[20] < 0


@pytest.mark.slow
def test_detail_is_carried_from_octave_to_octave(small_params, photo):
    """What the coarse octave dreamt is in the result: not to be had from the fine one alone, with its key."""
    two = dream(SCORE, small_params, KEY, photo)
    one = dream(SCORE, small_params, KEY, photo, octaves=1)
    assert jnp.abs(two.images - one.images).mean() > 1e-3
    coarse = lambda x: jax.image.resize(x, (2, 8, 6, 3), "cubic", antialias=True)
    moved = [jnp.abs(coarse(found.images) - coarse(photo)).mean() for found in (one, two)]
    assert moved[1] > 1.3 * moved[0]


@pytest.mark.slow
def test_no_gradient_leaves_the_images_alone(photo):
    dead = lambda params, x: jax.nn.relu(x - 2.0).sum((1, 2, 3))
    found = dream(dead, None, KEY, photo)
    np.testing.assert_array_equal(found.images, photo)
    np.testing.assert_array_equal(found.losses, 0)


@pytest.mark.slow
def test_steps_of_no_size_leave_the_images_alone(small_params, photo):
    np.testing.assert_array_equal(dream(SCORE, small_params, KEY, photo, step_size=0.0).images, photo)


@pytest.mark.slow
def test_black_and_white_survive_an_octave():
    """Where nothing is dreamt nothing changes, however sharp the edges of the image."""
    stripes = jnp.broadcast_to((jnp.arange(20) // 5 % 2)[None, :, None, None], (1, 20, 20, 3)).astype(jnp.float32)
    constant = lambda params, x: 0.0 * x.sum((1, 2, 3))
    np.testing.assert_array_equal(dream(constant, None, KEY, stripes, octave_scale=1.5).images, stripes)


def test_a_step_changes_pixels_by_its_size_on_average(small_params, photo):
    found = dream(SCORE, small_params, KEY, photo, octaves=1, steps=1, step_size=0.02)
    np.testing.assert_allclose(jnp.abs(found.images - photo).mean((1, 2, 3)), 0.02, rtol=1e-4)


def test_the_same_key_gives_the_same_bits(small_params, photo):
    first, again, other = (dream(SCORE, small_params, key, photo) for key in (KEY, KEY, jax.random.key(6)))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert jnp.any(first.images != other.images)
    alike = [dream(SCORE, small_params, key, photo, jitter=0).images for key in (KEY, jax.random.key(6))]
    np.testing.assert_array_equal(*alike)  # the jitter is all that is random


def test_callback(small_params, photo):
    seen = []
    found = dream(SCORE, small_params, KEY, photo, steps=10, callback=seen.append)
    assert [len(now.losses) for now in seen] == [8, 10, 18, 20]
    assert [now.images.shape[1:3] for now in seen] == [(15, 11)] * 2 + [(21, 16)] * 2
    assert [now.finished for now in seen] == [False, False, False, True]
    for now in seen:
        np.testing.assert_array_equal(now.losses, found.losses[: len(now.losses)])


@pytest.mark.parametrize("at", [3, 5, 7])
def test_a_dream_that_is_stopped_and_resumed_equals_one_that_is_not(at, small_params, photo):
    """Within an octave, at the end of one, and within the next."""
    whole = dream(SCORE, small_params, KEY, photo)
    half = dream(SCORE, small_params, KEY, photo, every=1, callback=lambda now: len(now.losses) == at)
    assert len(half.losses) == at
    assert not half.finished
    rest = dream(SCORE, small_params, KEY, photo, resume=[np.array(x) for x in half.state])
    np.testing.assert_array_equal(rest.images, whole.images)
    np.testing.assert_array_equal(rest.losses, whole.losses)
    assert rest.finished


@pytest.mark.slow
def test_under_jit_and_other_numbers(small_params, photo):
    score = jaxviz.channel(small_net, "conv_0", jnp.array([2, 4]))
    raw = dream(score, small_params, KEY, photo)
    jitted = jax.jit(dream)(score, small_params, KEY, photo)
    np.testing.assert_allclose(jitted.images, raw.images, atol=1e-4)
    other = dream(jaxviz.channel(small_net, "conv_0", jnp.array([2, 5])), small_params, KEY, photo)
    np.testing.assert_array_equal(other.images[0], raw.images[0])
    assert jnp.abs(other.images[1] - raw.images[1]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda i: jaxviz.energy(small_net, "conv_0"), id="energy"),
        pytest.param(lambda i: jaxviz.channel(small_net, "conv_0", i), id="channel"),
        pytest.param(lambda i: jaxviz.logit(small_net), id="logit of the best"),
    ],
)
def test_a_second_call_compiles_nothing(make, small_params, photo, caplog):
    part = photo[:, :15]  # a shape that no other test has compiled

    def compiled(score, step_size=0.01):
        caplog.clear()
        with jax.log_compiles():
            dream(score, small_params, KEY, part, octaves=1, steps=1, step_size=step_size)
        return [message for message in caplog.messages if "XLA compilation" in message]

    assert compiled(make(1))  # counting works
    assert compiled(make(2)) == []
    assert compiled(make(2), step_size=0.02) == []  # a step size is data too


@pytest.mark.slow
@pytest.mark.usefixtures("users_view")
def test_errors(small_params, photo):
    run = functools.partial(dream, SCORE, small_params, KEY)
    with pytest.raises(ValueError, match=r"expected images \(n, h, w, c\), got shape \(21, 16, 3\); one image is imag"):
        run(photo[0])
    with pytest.raises(ValueError, match=r"expected images of floats in \[0, 1\], got uint8; divide bytes by 255"):
        run(jnp.zeros((1, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"expected 1 octave or more and a scale above 1, got 0 and 1\.4"):
        run(photo, octaves=0)
    with pytest.raises(ValueError, match="expected 1 octave or more and a scale above 1, got 2 and 1"):
        run(photo, octave_scale=1.0)
    with pytest.raises(ValueError, match=r"12 octaves of scale 1\.4 leave no pixels of 21x16; use fewer"):
        run(photo, octaves=12)
    weights = jnp.ones((photo[0].size, 5))
    one_size = jaxviz.logit(lambda params, images: images.reshape(len(images), -1) @ params, 1)
    with pytest.raises(ValueError, match=r"the smallest of 2 octaves, \(15, 11\): .*; use fewer octaves"):
        jaxviz.dream(one_size, weights, KEY, photo, octaves=2)
    with pytest.raises(ValueError, match="steps: expected 1 step or more, got 0"):
        run(photo, steps=0)
    with pytest.raises(ValueError, match=r"one number per image, here \(2,\); this one gave \(2, 5\); jaxviz.logit"):
        dream(small_net, small_params, KEY, photo)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        dream(lambda p, x: jnp.log(-x.mean((1, 2, 3))), None, KEY, photo)
