"""DeepDream: its octaves, a plain loop of the same steps, and what must not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import small_net

import jaxviz
from jaxviz.synthesis._dream import _framed
from jaxviz.synthesis._octaves import octave_sizes
from jaxviz.synthesis._smoothing import smoothed
from jaxviz.synthesis._tiles import Tiling, in_tiles

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


def damped_by_cosines(maps):
    """Frequencies above 1/16 cycle per pixel, divided by 16 times themselves, in matrices of cosines."""

    def cosines(length):
        k, x = np.meshgrid(np.arange(length), np.arange(length) + 0.5, indexing="ij")
        return np.cos(np.pi * k * x / length) * np.sqrt(np.where(k, 2, 1) / length)  # orthonormal

    rows, columns = (cosines(length) for length in maps.shape[1:3])
    spectrum = np.einsum("yh,nhwc,xw->nyxc", rows, maps, columns)
    waves = np.hypot(*np.meshgrid(*(np.arange(n) / (2 * n) for n in maps.shape[1:3]), indexing="ij"))
    return np.einsum("yh,nyxc,xw->nhwc", rows, spectrum / np.maximum(16 * waves, 1)[None, ..., None], columns)


@pytest.mark.slow
@pytest.mark.parametrize(("smoothing", "damped"), [(0.0, lambda maps: maps), (1.0, damped_by_cosines)])
def test_equals_a_plain_loop(x64, small_params, photo, smoothing, damped):
    """Each octave: resize, add what was dreamt so far, then steps along the scaled gradient of a framed image."""
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
            # At some place in a frame of mirror images, whose gradient comes back to the mirrored pixels.
            framed = functools.partial(np.pad, pad_width=((0, 0), (8, 8), (8, 8), (0, 0)), mode="symmetric")
            part = (slice(None), *(slice(4 - by, 12 - by + side) for by, side in zip((down, right), size, strict=True)))
            value, seen_slope = climb(framed(x)[part])
            losses.append(-float(value))
            slope, pixels = np.zeros(x.size), np.arange(x.size).reshape(x.shape)
            np.add.at(slope, framed(pixels)[part], np.asarray(seen_slope))
            slope = damped(slope.reshape(x.shape))
            x = x + 0.003 * slope / np.abs(slope).mean((1, 2, 3), keepdims=True)
        detail = x - base
    assert x.min() > 0
    assert x.max() < 1
    found = dream(SCORE, params, KEY, photo, step_size=0.003, smoothing=smoothing)
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


# Edges


def test_opposite_edges_do_not_meet():
    """Between a black top and a white bottom there is an edge only if the image is rolled around."""
    ramp = jnp.broadcast_to(jnp.linspace(0.2, 0.8, 16)[None, :, None, None], (1, 16, 16, 3))
    edges = lambda params, x: jnp.square(jnp.diff(x, axis=1)).max((1, 2, 3))
    found = dream(edges, None, KEY, ramp, octaves=1, step_size=0.0)
    np.testing.assert_allclose(found.losses, -np.full(5, (0.6 / 15) ** 2), rtol=1e-4)


@pytest.mark.parametrize("frame", [0, 1, 4, 9])
def test_a_frame_repeats_the_image_mirrored(frame):
    """The image lies in the middle, moved; without a frame, it is cut."""
    line = jnp.arange(4.0).reshape(1, 4, 1, 1)
    mirrored = [0, 1, 2, 3, 3, 2, 1, 0] * 8
    for shift in range(-(frame or 11), (frame or 11) + 1):
        found = _framed(line, frame, jnp.asarray(shift), 1).ravel()
        np.testing.assert_array_equal(found, mirrored[32 - shift - frame :][: 4 + 2 * frame])


@pytest.mark.slow
def test_a_network_of_one_size_sees_no_frame(photo):
    weights = jax.random.normal(KEY, (photo[0].size, 5))
    seen = []
    one_size = lambda params, images: seen.append(images.shape) or images.reshape(len(images), -1) @ params
    found = dream(jaxviz.logit(one_size, 1), weights, KEY, photo, octaves=1)
    assert found.losses[-1] < found.losses[0]
    assert photo.shape in seen


# Smoothing


def test_smoothing_damps_the_finest_detail_alone():
    x = (jnp.arange(64.0) + 0.5) / 64
    slow, fast = (jnp.broadcast_to(jnp.cos(n * jnp.pi * x)[None, :, None, None], (1, 64, 64, 3)) for n in (6, 32))
    np.testing.assert_allclose(smoothed(slow, 1.0), slow, atol=1e-5)
    np.testing.assert_allclose(smoothed(fast, 1.0), fast / 4, atol=1e-5)  # a quarter of a cycle per pixel
    np.testing.assert_allclose(smoothed(fast, 0.0), fast, atol=1e-5)


# Tiles


TILED = jax.random.uniform(jax.random.key(2), (2, 149, 101, 3), minval=0.3, maxval=0.7)


def test_tiles_cover_an_image():
    """Each pixel counts once; tiles begin at multiples of 32, end where the image ends, and see their overlap."""
    for height, width, size, overlap in [
        (300, 200, 128, 32),
        (2000, 3000, 512, 64),
        (129, 65, 128, 0),
        (97, 500, 96, 16),
    ]:
        tiling = Tiling(size, overlap)
        tall, wide = tiling.shape(height, width)
        counted = np.zeros((height, width), int)
        for (top, left), low, high in tiling.places(height, width):
            assert top % 32 == left % 32 == 0
            for start, side, least, most, length in zip(
                (top, left), (tall, wide), low, high, (height, width), strict=True
            ):
                assert side <= size
                assert start + side <= length
                assert least == 0 == start or least - start >= overlap
                assert most == length == start + side or start + side - most >= overlap
            counted[low[0] : high[0], low[1] : high[1]] += 1
        np.testing.assert_array_equal(counted, 1)


def test_tiles_give_the_gradient_of_the_whole_image(x64, small_params):
    """Where they see what it depends on: the net's units see 7 pixels, so 14 for each pixel's gradient."""
    params, images = jax.tree.map(lambda x: x.astype(jnp.float64), (small_params, TILED))
    score = jaxviz.channel(small_net, "relu_1", jnp.array([1, 4]))
    whole = jax.grad(lambda x: score(params, x).sum())(images)
    values, tiled = jax.value_and_grad(lambda x: in_tiles(Tiling(96, 14), score, params, x).sum())(images)
    ratio = jnp.sum(whole * tiled) / jnp.sum(whole**2)
    np.testing.assert_allclose(tiled, ratio * whole, atol=1e-9 * float(abs(tiled).max()))
    np.testing.assert_allclose(values, score(params, images).sum(), rtol=0.05)


@pytest.mark.slow
def test_a_dream_in_tiles_is_that_of_the_whole_image(x64, small_params):
    params, images = jax.tree.map(lambda x: x.astype(jnp.float64), (small_params, TILED))
    run = functools.partial(dream, jaxviz.channel(small_net, "relu_1", 2), params, KEY, images)
    whole, tiled = run(), run(tile=96, overlap=14)
    np.testing.assert_allclose(tiled.images, whole.images, atol=1e-9)
    np.testing.assert_allclose(tiled.losses, whole.losses, atol=0.01)  # borders count as often as tiles have them


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


@pytest.mark.parametrize(
    ("score", "framed"),
    [
        (lambda net: jaxviz.energy(net, "relu_0"), True),
        (lambda net: lambda params, images: net(params, images).mean((1, 2, 3)), True),
        (lambda net: jaxviz.channel(net, "relu_0", 1, where=np.eye(8)[None]), False),
        (lambda net: jaxviz.neuron(net, "relu_0", 1, position=(2, 3)), False),
    ],
)
def test_a_score_of_one_place_sees_no_frame(score, framed):
    """Which would stretch a mask, and move a position."""
    sides = set()

    def net(params, images):
        sides.add(images.shape[1])
        return jax.nn.relu(images @ params)

    jaxviz.dream(score(net), jnp.eye(3), jax.random.key(0), jnp.full((1, 16, 16, 3), 0.5), octaves=1, steps=1, jitter=3)
    assert sides == ({16, 22} if framed else {16})
