"""Ascent: the Fourier basis, the random transformations, and what comes out when a score is maximized."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
import scipy.special
from nets import convolve, small_net

import jaxviz
from jaxviz.synthesis._magnitudes import MACO_SPECTRUM
from jaxviz.synthesis._parameterization import COLOR_BASIS, fourier
from jaxviz.synthesis._transforms import jitter_scale_rotate, resample, rolls
from jaxviz.synthesis._views import canvas

KEY = jax.random.key(5)
UNMIXED = np.linalg.inv(COLOR_BASIS.T)
SIZES = [(16, 16), (15, 13), (12, 17), (1, 6)]


def still(key, images):
    """No transformation."""
    return images


def bits(synthesis):
    return b"".join(np.asarray(part).tobytes() for part in jax.tree.leaves(synthesis))


ascend = functools.partial(jaxviz.ascend, size=16, steps=24)


# The Fourier basis


@pytest.mark.parametrize("size", SIZES)
def test_variables_become_images(size):
    """An independent implementation: numpy's transform, one image and color at a time."""
    height, width = size
    basis = fourier(height, width)
    variables = basis.init(KEY, 2)
    show = jax.jit(basis.images)
    images = show(100 * variables)  # far from gray
    assert images.shape == (2, height, width, 3)
    assert images.dtype == jnp.result_type(float)
    frequency = np.array([
        [max(np.hypot(y, x), 1 / max(size)) for x in np.fft.rfftfreq(width)] for y in np.fft.fftfreq(height)
    ])  # fmt: skip
    spectrum = 100 * np.asarray(variables) @ [1, 1j] * (np.sqrt(height * width) / frequency)[..., None]
    planes = [[np.fft.irfft2(image[..., c], s=size) / 4 for c in range(3)] for image in spectrum]
    expected = scipy.special.expit(np.einsum("nchw,rc->nhwr", planes, COLOR_BASIS))
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert np.ptp(expected) > 0.5
    np.testing.assert_array_equal(show(0 * variables), 0.5)
    for spread in (1e6, -1e6):
        assert 0 <= show(spread * variables).min() <= show(spread * variables).max() <= 1


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (3, 4)])
def test_every_image_can_be_reached(size):
    """The derivative at gray has full rank: no frequency and no color is missing."""
    basis = fourier(*size)
    variables = basis.init(KEY, 1)
    slope = jax.jit(jax.jacfwd(lambda v: basis.images(v).ravel()))(0 * variables).reshape(size[0] * size[1] * 3, -1)
    assert np.linalg.matrix_rank(slope) == size[0] * size[1] * 3


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_the_start_has_the_spectrum_of_natural_images(decay):
    """Power falls as frequency to minus twice the decay: for the default as over photographs."""
    basis = fourier(64, 64) if decay == 1 else fourier(64, 64, decay=decay)
    colors = scipy.special.logit(np.asarray(basis.images(basis.init(KEY, 24)), np.float64))
    planes = colors @ UNMIXED
    power = (np.abs(np.fft.fft2(planes, axes=(1, 2))) ** 2).mean((0, 3))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij"))
    band = (frequency > 2 / 64) & (frequency < 0.5)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert abs(slope + 2 * decay) < 0.1


def test_colors_are_correlated_as_in_photographs():
    images = np.asarray(fourier(32, 32).images(50 * fourier(32, 32).init(KEY, 8))).reshape(-1, 3)
    correlation = np.corrcoef(scipy.special.logit(images.clip(1e-6, 1 - 1e-6)).T)
    assert correlation.min() > 0.5
    assert correlation[0, 2] < min(correlation[0, 1], correlation[1, 2])  # red and blue are the farthest apart


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES[:3])
def test_maco_keeps_the_magnitudes_of_photographs(size):
    """A power of the frequency for each decorrelated color, whatever the phases; gray on average."""
    basis = jaxviz.maco(*size)
    signal = scipy.special.logit(np.asarray(basis.images(basis.init(KEY, 2)), np.float64)) @ UNMIXED
    found = np.abs(np.fft.rfft2(signal, axes=(1, 2)))
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    inner = slice(1, (size[1] + 1) // 2)  # the other columns' halves must mirror each other, and random ones do not
    for color, (amplitude, decay) in enumerate(MACO_SPECTRUM):
        expected = np.sqrt(np.prod(size)) * amplitude / np.maximum(frequency, 1 / max(size)) ** decay
        np.testing.assert_allclose(found[:, :, inner, color], [expected[:, inner]] * 2, rtol=1e-3)
    np.testing.assert_allclose(found[:, 0, 0], 0, atol=1e-3)


@pytest.mark.parametrize("size", SIZES[:3])
def test_natural_is_the_middle_of_standardized_photographs(size, x64):
    """Phases and the larger image are standardized; magnitudes are those of `maco`, scaled."""
    height, width = size
    basis = jaxviz.natural(height, width, margin=0.25, contrast=1.5, spread=0.8)
    variables = 3 * basis.init(KEY, 2) + 1
    rows, columns = variables.shape[1], width + 2 * round(0.25 * width)
    assert variables.shape == (2, height + 2 * round(0.25 * height), columns // 2 + 1, 3)
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns))
    frequency = np.maximum(frequency, 1 / max(rows, columns))
    magnitude = np.stack([amplitude / frequency**decay for amplitude, decay in MACO_SPECTRUM], -1)
    magnitude[0, 0] = 0
    deviation = np.sqrt(np.square(magnitude).sum() / 3) / (rows * columns)
    for image, phases in zip(basis.images(variables), np.asarray(variables), strict=True):
        standardized = (phases - phases.mean((0, 1))) / phases.std((0, 1))
        spectrum = magnitude[:, : columns // 2 + 1] * np.exp(0.8j * standardized)
        signal = 1.5 * np.fft.irfft2(spectrum, (rows, columns), axes=(0, 1)) / deviation
        top, left = (rows - height) // 2, (columns - width) // 2
        expected = signal[top : top + height, left : left + width]
        np.testing.assert_allclose(scipy.special.logit(np.asarray(image)) @ UNMIXED, expected, atol=1e-9)


def test_natural_is_calm_where_nothing_is_asked_for():
    """Its noise keeps most of its energy out of sight, as the fixed magnitudes of random phases cannot."""
    images = lambda basis: basis.images(basis.init(KEY, 8))
    calm, clouds = images(jaxviz.natural(48, 48, spread=0.5)), images(jaxviz.natural(48, 48, spread=100.0))
    assert float(calm.std()) < 0.7 * float(clouds.std())


def test_natural_cannot_show_an_image():
    with pytest.raises(ValueError, match=r"start: expected none: the basis natural .* basis=jaxviz\.fourier"):
        jaxviz.ascend(lambda p, x: x.mean((1, 2, 3)), None, KEY, size=8, steps=1, basis=jaxviz.natural, start=0.5)


# The transformations


@pytest.mark.parametrize(("size", "part"), [(24, 1.0), ((10, 15), 1.0), (24, 0.5), (7, 0.4)])
def test_crops_are_cut_and_resized(size, part, x64):
    image = jax.random.uniform(KEY, (1, 24, 30, 3))
    found = jaxviz.crops(least=part, most=part, noise=0.0, spread=0.0, size=size)(KEY, image)
    height, width = (size, size) if isinstance(size, int) else size
    top, left = 24 * (1 - part) / 2, 30 * (1 - part) / 2
    scale = jnp.array([height / (24 * part), width / (30 * part)])
    expected = jax.image.scale_and_translate(
        image[0], (height, width, 3), (0, 1), scale, -scale * jnp.array([top, left]), "linear"
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


def test_crops_may_be_a_fraction_of_the_images_size():
    image = jax.random.uniform(KEY, (2, 24, 31, 3))
    found, expected = (jaxviz.crops(**how)(KEY, image) for how in ({"zoom": 0.5}, {"size": (12, 16)}))
    np.testing.assert_array_equal(found, expected)


def test_crops_stay_inside_and_differ():
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 50)[:, None, None], (64, 50, 50, 3))
    found = jaxviz.crops(least=0.3, most=0.6, noise=0.0, spread=5.0, size=20)(KEY, ramp)
    steps = jnp.diff(found[:, :, 0, 0], axis=1)
    assert found.shape == (64, 20, 20, 3)
    assert bool((steps > 0.3 / 20 - 0.01).all())  # none repeats the image's edge
    assert bool((found[:, 0, 0, 0] < 0.02).any())
    assert bool((found[:, -1, 0, 0] > 0.98).any())


def test_the_loss_is_the_mean_over_views():
    """Each with a key of its own; the canvas is larger than what the score sees."""
    sees = lambda images: images[:, :, :, 0].mean((1, 2))

    def score(params, images):
        assert images.shape[1:] == (6, 6, 3)
        return sees(images)

    move = jaxviz.crops(least=0.2, most=0.5, size=6, noise=0.3)
    run = functools.partial(jaxviz.ascend, score, None, KEY, size=16, steps=1, transform=move)
    start = jax.random.uniform(KEY, (1, 16, 16, 3))
    losses = [run(views=n, start=start, basis=jaxviz.pixels).losses[0] for n in (1, 40)]
    each = jax.vmap(lambda key: sees(move(key, start)))(jax.random.split(jax.random.key(5), 4000))
    assert abs(losses[1] + each.mean()) < 4 * each.std() / 40**0.5
    assert losses[0] != losses[1]


MIX = jnp.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]])
GRAY = jnp.full((1, 6, 6, 3), 0.5)
PARTS = {"basis": jaxviz.natural, "transform": jaxviz.crops(least=0.7, most=0.9, noise=0.05, spread=0.2)}
TURNED = PARTS | {
    "transform": jaxviz.compose(
        jaxviz.crops(least=0.75, most=1.0, noise=0.05, spread=0.2), jaxviz.jitter_scale_rotate(scale=0.15)
    )
}
WHOLE = {"transform": jaxviz.jitter_scale_rotate(), "basis": fourier}
NATURAL = WHOLE | {"basis": jaxviz.natural, "learning_rate": 1.0}
MASK = np.eye(6)[None]


@pytest.mark.parametrize(
    ("score", "given", "same"),
    [
        (lambda net: jaxviz.channel(net, "relu_0", 1), {}, PARTS | {"views": 2, "learning_rate": 1.0}),
        (lambda net: 2 * jaxviz.logit(net, 1) - jaxviz.energy(net, "relu_0"), {}, TURNED),
        (lambda net: jaxviz.probability(net, 1), {}, TURNED),
        (lambda net: jaxviz.direction(net, "relu_0", np.eye(3)[1]), {}, PARTS),
        (lambda net: jaxviz.channel(net, "relu_0", [0, 1]) + jaxviz.diversity(net, "relu_0"), {}, PARTS),
        (lambda net: jaxviz.neuron(net, "relu_0", 1), {}, WHOLE),
        (lambda net: jaxviz.channel(net, "relu_0", 1, where=MASK), {}, WHOLE | {"learning_rate": 0.05}),
        (lambda net: jaxviz.channel(net, "relu_0", 1) + (lambda p, x: x.mean((1, 2, 3))), {}, WHOLE),
        (lambda net: jaxviz.match_features(net, MIX, GRAY, ["relu_0"]), {"size": 6}, WHOLE | {"views": 1}),
        (lambda net: jaxviz.channel(net, "relu_0", 1), {"start": 0.5}, WHOLE),
        (lambda net: jaxviz.channel(net, "relu_0", 1), {"basis": fourier}, WHOLE | {"learning_rate": 0.05, "views": 1}),
        (lambda net: jaxviz.neuron(net, "relu_0", 1), {"basis": jaxviz.natural}, NATURAL | {"views": 2}),
        (lambda net: jaxviz.channel(net, "relu_0", 1), {"transform": None}, {"views": 1, "learning_rate": 1.0}),
    ],
)
def test_what_is_chosen_by_default(score, given, same):
    """Parts of the image where they say something about the score, all of it where they do not."""
    net = lambda params, images: jax.nn.relu(images @ params).mean((1, 2))
    run = functools.partial(jaxviz.ascend, score(net), MIX, KEY, **{"size": 12, "steps": 3} | given)
    found, expected = run(), run(**same | {"steps": 3})
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.losses, expected.losses)


@pytest.mark.parametrize(("basis", "steps"), [(None, 128), (jaxviz.natural, 128), (fourier, 512)])
def test_steps_by_default(basis, steps):
    score = jaxviz.channel(lambda params, images: jax.nn.relu(images), "relu_0", 1)
    assert jaxviz.ascend(score, None, KEY, size=8, basis=basis).losses.shape == (steps,)


def test_several_images_have_views_of_their_own():
    net = lambda params, images: jax.nn.relu(images @ params)
    options = {"size": 12, "steps": 24, "views": 3, "transform": jaxviz.crops(size=8, noise=0.0), "revive": False}
    found = jaxviz.ascend(jaxviz.channel(net, "relu_0", jnp.arange(3)), jnp.eye(3), KEY, **options).images
    assert found.mean((1, 2)).argmax(-1).tolist() == [0, 1, 2]


# What moves


def test_no_range_is_no_change(images):
    transform = jitter_scale_rotate(jitter=0.0, scale=0.0, degrees=0.0)
    for part in (images, images[:, :31, :16]):
        np.testing.assert_array_equal(jax.jit(transform)(KEY, part), part)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(24, 24), (25, 18), (18, 25)])
@pytest.mark.parametrize(
    ("degrees", "zoom", "shift"), [(0, 1, (3.0, -2.25)), (17, 1.2, (0.0, 0.0)), (-40, 0.8, (5.5, 1.0))]
)
def test_resampling_equals_scipy(x64, size, degrees, zoom, shift):
    image = np.random.default_rng(0).random((*size, 3))
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    center = (np.array(size) - 1) / 2
    offset = center + shift - matrix @ center
    found = resample(jnp.asarray(image), jnp.asarray(matrix), jnp.asarray(shift))
    scipys = functools.partial(scipy.ndimage.affine_transform, matrix=matrix, offset=offset, order=1, cval=0.5)
    whole = np.stack([scipys(image[..., c], mode="grid-constant") for c in range(3)], -1)
    np.testing.assert_allclose(found, whole, atol=1e-12)
    # and where the mode of the edge cannot matter, with the plain mode too
    y, x = np.moveaxis(np.indices(size).reshape(2, -1).T @ matrix.T + offset, -1, 0).reshape(2, *size)
    inside = (y > 0) & (y < size[0] - 1) & (x > 0) & (x < size[1] - 1)
    assert inside.mean() > 0.4
    plain = np.stack([scipys(image[..., c], mode="constant") for c in range(3)], -1)
    np.testing.assert_allclose(found[inside], plain[inside], atol=1e-12)
    far = (y < -1) | (y > size[0]) | (x < -1) | (x > size[1])
    np.testing.assert_allclose(found[far], 0.5, atol=1e-15)


@pytest.mark.slow
def test_each_image_is_transformed_its_own_way(images):
    transform = jax.jit(jitter_scale_rotate())
    same = transform(KEY, jnp.stack([images[0]] * 3))
    assert all(jnp.abs(same[i] - same[j]).mean() > 0.01 for i, j in ((0, 1), (1, 2), (0, 2)))
    np.testing.assert_allclose(transform(KEY, images[:1])[0], same[0], atol=1e-6)  # whoever stands beside it
    assert jnp.abs(transform(jax.random.key(6), images) - transform(KEY, images)).mean() > 0.01
    assert transform(KEY, images).dtype == images.dtype


def test_transformations_stay_in_their_ranges():
    """Read back from where a plane's slope goes: shift, scale and turn within bounds, and about all of them used."""
    size = 64
    ramps = jnp.stack(
        [*jnp.meshgrid(jnp.arange(float(size)), jnp.arange(float(size)), indexing="ij"), jnp.zeros((size, size))], -1
    )
    batch = jnp.broadcast_to(ramps.astype(jnp.float32), (200, size, size, 3))
    shown = np.asarray(jax.jit(jitter_scale_rotate(jitter=4.0))(KEY, batch), np.float64)[:, 24:41, 24:41, :2]
    down, right = (
        (shown[:, -1:] - shown[:, :1]).mean((1, 2)) / 16,
        (shown[:, :, -1:] - shown[:, :, :1]).mean((1, 2)) / 16,
    )
    zoom, turn = 1 / np.hypot(*down.T), np.rad2deg(np.arctan2(down[:, 1], down[:, 0]))
    np.testing.assert_allclose(right, np.stack([-down[:, 1], down[:, 0]], 1), atol=1e-4)  # a turn and a scale, no shear
    middle = shown.mean((1, 2)) - 31.5 - 0.5 * (down + right)  # pixel 32 stands half a pixel off the center
    for values, low, high in ((zoom, 0.9, 1.1), (turn, -10, 10), (middle[:, 0], -4, 4), (middle[:, 1], -4, 4)):
        slack, span = 2e-3 * (high - low), high - low
        assert low - slack <= values.min() < low + 0.05 * span
        assert high - 0.05 * span < values.max() <= high + slack


@pytest.mark.slow
def test_gradients_flow_through_the_transformation(x64):
    """Pixel by pixel as finite differences say; the map is affine, so that any step will do."""
    image, weights = np.random.default_rng(0).random((2, 1, 5, 6, 3))
    transform = jitter_scale_rotate(jitter=1.0)
    value = jax.jit(lambda x: (transform(KEY, x) * weights).sum())
    steps = np.eye(image.size).reshape(-1, *image.shape)
    expected = jax.jit(jax.vmap(value))(image + steps) - value(jnp.asarray(image))
    grads = jax.jit(jax.grad(value))(jnp.asarray(image))
    np.testing.assert_allclose(grads.ravel(), expected, atol=1e-12)
    assert jnp.all(grads[:, 1:-1, 1:-1] > 0)


# Ascent


@pytest.mark.slow
def test_the_score_rises_far_above_chance(small_params):
    score = jaxviz.channel(small_net, "conv_0", 2)  # before its ReLU
    found = ascend(score, small_params, KEY, steps=64, transform=still, basis=fourier)
    assert found.images.shape == (1, 16, 16, 3)
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert found.losses.shape == (64,)
    reached = score(small_params, found.images)[0]
    random = jax.jit(score)(small_params, jax.random.uniform(KEY, (256, 16, 16, 3)))
    assert reached > -found.losses[0] + 8 * random.std()
    assert reached > random.max() + 4 * random.std()


@pytest.mark.slow
def test_losses_are_the_negative_scores_before_each_step(small_params):
    score = jaxviz.channel(small_net, "conv_0", jnp.array([2, 4]))
    seen = []
    found = ascend(score, small_params, KEY, transform=still, callback=seen.append)
    assert [len(losses) for _, losses, *_ in seen] == [8, 16, 24]
    for images, losses, *_ in seen:
        step = len(losses)
        assert images.shape == (2, 16, 16, 3)
        assert 0 <= images.min() <= images.max() <= 1
        np.testing.assert_array_equal(losses, found.losses[:step])
        if step < 24:
            np.testing.assert_allclose(-score(small_params, images).sum(), found.losses[step], rtol=1e-5)
    np.testing.assert_array_equal(seen[-1].images, found.images)


@pytest.mark.slow
def test_the_same_key_gives_the_same_bits(small_params):
    score = jaxviz.channel(small_net, "conv_0", jnp.array([2, 4]))
    first = ascend(score, small_params, KEY)
    assert bits(first) == bits(ascend(score, small_params, KEY))
    other = ascend(score, small_params, jax.random.key(6))
    assert jnp.abs(first.images - other.images).mean() > 0.01


@pytest.mark.slow
def test_side_by_side_as_alone(small_params):
    """An image depends on its place in the batch, which numbers its randomness, and on nothing else of the batch."""
    channels = lambda *index: jaxviz.channel(small_net, "conv_0", jnp.array(index))
    alone = ascend(jaxviz.channel(small_net, "conv_0", 2), small_params, KEY)
    pair, other = (ascend(channels(*c), small_params, KEY).images for c in ((2, 4), (1, 4)))
    np.testing.assert_allclose(pair[0], alone.images[0], atol=2e-4)
    np.testing.assert_allclose(other[1], pair[1], atol=2e-4)
    assert jnp.abs(other[0] - pair[0]).mean() > 0.01
    twice = ascend(channels(2, 2), small_params, KEY).images
    assert jnp.abs(twice[0] - twice[1]).mean() > 0.01  # two starts, two pictures


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, (9, 13)])
def test_sizes(size, small_params):
    found = ascend(jaxviz.channel(small_net, "conv_0", 2), small_params, KEY, size=size, steps=2, transform=still)
    assert found.images.shape == (1, *((size, size) if isinstance(size, int) else size), 3)
    assert jnp.all(jnp.isfinite(found.images))


def dark_net(params, images):
    """A net whose ReLU is off for every image in [0, 1] that is not bright: for gray it is off everywhere."""
    return jax.nn.relu(convolve(images, params, padding="VALID") - 0.75 * params.sum((0, 1, 2))[None, None, None])


@pytest.mark.slow
def test_a_dead_channel_is_revived():
    params = jnp.ones((3, 3, 3, 2)) / 27
    score = jaxviz.channel(dark_net, "relu_0", 1)
    gray = jnp.full((1, 16, 16, 3), 0.5)
    assert jnp.all(jaxviz.gradient(score, params, gray) == 0)  # nothing to climb, but for the revival
    found = ascend(score, params, KEY, steps=64, transform=still, basis=fourier)
    assert found.losses[0] == 0
    assert found.losses[-1] < -0.02
    assert score(params, found.images)[0] > 0.02


def test_a_dead_channel_that_would_lower_the_score_stays_off():
    params = jnp.ones((3, 3, 3, 2)) / 27
    score = lambda p, x: -jaxviz.channel(dark_net, "relu_0", 1)(p, x)
    found = ascend(score, params, KEY, steps=16, transform=still, basis=fourier)
    np.testing.assert_array_equal(found.losses, 0)


def test_another_channel_compiles_nothing(small_params, caplog):
    def compiled(index, **options):
        caplog.clear()
        with jax.log_compiles():
            found.append(ascend(jaxviz.channel(net, "conv_0", index), small_params, KEY, transform=still, **options))
        compiled = [message for message in caplog.messages if "XLA compilation" in message]
        return [message for message in compiled if "jit(concatenate)" not in message]  # of the chunks' losses

    # A program of its own: others may have compiled that of `small_net`, and equal ones are compiled once.
    net, found = lambda params, images: small_net(params, 0.7 * images), []
    assert compiled(0)  # counting works
    assert compiled(1) == compiled(2) == compiled(0, steps=16) == []
    assert all(jnp.any(found[0].images != other.images) for other in found[1:])


def test_a_plain_function_is_a_score(small_params):
    plain = lambda params, x: jaxviz.channel(small_net, "conv_0", 2)(params, x)
    run = functools.partial(ascend, params=small_params, key=KEY, transform=still, basis=fourier)
    expected = run(jaxviz.channel(small_net, "conv_0", 2))
    np.testing.assert_allclose(run(plain).images, expected.images, atol=2e-4)


@pytest.mark.slow
def test_under_jit(small_params):
    score = jaxviz.channel(small_net, "conv_0", jnp.array([2, 4]))
    jitted = jax.jit(functools.partial(ascend, transform=still))(score, small_params, KEY)
    raw = ascend(score, small_params, KEY, transform=still)
    np.testing.assert_allclose(jitted.images, raw.images, atol=2e-4)
    np.testing.assert_allclose(jitted.losses, raw.losses, atol=1e-4)


def test_a_transform_of_ones_own(small_params):
    score = jaxviz.channel(small_net, "conv_0", 2)
    mirrored = lambda key, images: images[:, :, ::-1]
    found = ascend(score, small_params, KEY, transform=mirrored)
    assert score(small_params, found.images[:, :, ::-1])[0] > 1.01 * score(small_params, found.images)[0]
    assert jnp.any(ascend(score, small_params, KEY, transform=still).images != found.images)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_a_network_is_given_images_of_its_own_type(dtype, x64, small_params):
    """Whatever type JAX makes numbers of by default: convolutions refuse two types."""
    params = jax.tree.map(lambda x: x.astype(dtype), small_params)
    seen = []
    net = lambda params, images: (seen.append(images.dtype), small_net(params, images))[1]
    photo = jnp.full((1, 16, 16, 3), 0.5, dtype)
    runs = [
        ascend(jaxviz.logit(net, 1), params, KEY),
        jaxviz.fool(net, params, photo, target=2, steps=3),
        jaxviz.invert(net, params, KEY, photo, layer="relu_1", steps=3),
        jaxviz.sheet(net, params, KEY, layer="relu_1", channels=[1, 2], size=16, steps=3),
    ]
    assert {str(each) for each in seen} == {dtype}
    assert all(jnp.all(jnp.isfinite(found.images)) for found in runs)


def test_images_of_bytes_are_refused(small_params):
    score = jaxviz.logit(small_net, 1)
    with pytest.raises(ValueError, match=r"start: expected values in \[0, 1\], got 60 to 60; divide 0 to 255 by 255"):
        ascend(score, small_params, KEY, start=np.full((16, 16, 3), 60))
    with pytest.raises(ValueError, match=r"images: expected values in \[0, 1\], got 0 to 255"):
        jaxviz.dream(score, small_params, KEY, jnp.linspace(0, 255, 768).reshape(1, 16, 16, 3))


@pytest.mark.slow
def test_any_optimizer_in_any_basis(small_params):
    """Optax's L-BFGS takes more than gradients; pixels keep it between 0 and 1."""
    score = jaxviz.logit(small_net, 1)
    for basis in (jaxviz.fourier, jaxviz.pixels):
        found = ascend(score, small_params, KEY, basis=basis, optimizer=optax.lbfgs(), steps=5, transform=None)
        assert found.losses[-1] < found.losses[0]
        assert 0 <= found.images.min() < found.images.max() <= 1


@pytest.mark.usefixtures("users_view")
def test_errors(small_params):
    with pytest.raises(ValueError, match=r"numbers of this score are for \[2, 3\] images: expected one length"):
        ascend(
            jaxviz.neuron(small_net, "relu_1", jnp.arange(2), (jnp.arange(3), 0)), small_params, KEY, transform=still
        )
    with pytest.raises(ValueError, match=r"one number per image, here \(1,\); this one gave \(1, 5\); jaxviz.logit"):
        ascend(small_net, small_params, KEY, transform=still)
    with pytest.raises(ValueError, match="'relu_9'"):
        ascend(jaxviz.channel(small_net, "relu_9", 0), small_params, KEY, transform=still)
    with pytest.raises(ValueError, match="steps: expected 1 step or more, got 0"):
        ascend(jaxviz.logit(small_net, 1), small_params, KEY, steps=0)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0; a smaller learning rate may help"):
        ascend(lambda p, x: jnp.log(-x.mean((1, 2, 3))), small_params, KEY, transform=still)


# What blocked ReLUs pass


def test_blocked_relus_are_revived_unless_told():
    """A unit that is off on the whole image: its gradient is none, or that which would switch it on."""
    net = lambda params, images: jax.nn.relu(images @ params - 2.0)
    options = {"size": 8, "steps": 4, "basis": jaxviz.pixels, "start": 0.5, "transform": None}
    run = functools.partial(jaxviz.ascend, jaxviz.channel(net, "relu_0", 0), jnp.eye(3), KEY, **options)
    np.testing.assert_array_equal(run(revive=False).images, 0.5)
    assert bool((run().images[..., 0] > 0.5).all())


# Equal by value


@pytest.mark.parametrize(
    "make",
    [
        lambda: jaxviz.fourier(8, 10, decay=1.5),
        lambda: jaxviz.pixels(8, 10, spread=(0.1, 0.2, 0.3)),
        lambda: jaxviz.maco(8, 10),
        lambda: jaxviz.natural(8, 10, margin=1.0),
        lambda: jaxviz.crops(spread=0.1, size=8),
        lambda: jaxviz.jitter_scale_rotate(jitter=2.0),
        lambda: jaxviz.compose(jaxviz.crops(size=8), jaxviz.jitter_scale_rotate()),
        lambda: jaxviz.crops(noise=0.1),
        lambda: jaxviz.decay(0.1),
        lambda: jaxviz.blurring(1.0, 2),
        lambda: jaxviz.small_norms(20.0),
        lambda: jaxviz.small_contributions(20.0),
        lambda: jaxviz.lbfgs(longest=0.1),
    ],
)
def test_what_returns_functions_returns_values(make):
    first, again = make(), make()
    assert first is not again
    assert first == again
    assert hash(first) == hash(again)
    assert re.search(r"\w+\(\w+=[\d(]", repr(first))
    assert first != jaxviz.fourier(8, 10)


def test_the_canvas_is_as_large_as_what_units_see():
    """A convolution of 3x3 after one of 5x5 with stride 2 sees 9 pixels, a third with stride 8 many more."""

    def net(params, images):
        x = jax.nn.relu(convolve(images, jnp.ones((5, 5, 3, 4)), 2))
        x = jax.nn.relu(convolve(x, jnp.ones((3, 3, 4, 4))))
        return jax.nn.relu(convolve(x, jnp.ones((21, 21, 4, 4)), 8)).mean((1, 2))

    small, large = jaxviz.channel(net, "relu_1", 1), jaxviz.channel(net, "relu_2", 1)
    assert [canvas(score, None, 224) for score in (small, large, small + 2 * large, small - 0.5 * small)] == [
        32, 80, 80, 32
    ]  # fmt: skip
    whole = jaxviz.logit(net, 1), small + jaxviz.logit(net, 1), lambda _, x: x.mean((1, 2, 3))
    assert [canvas(score, None, 224) for score in (*whole, jaxviz.neuron(net, "relu_1", 1))] == [224] * 4
    assert canvas(jaxviz.channel(net, "nowhere", 1), None, 96) == 96
    run = functools.partial(jaxviz.ascend, small, None, KEY, steps=1)
    assert run().images.shape == (1, 32, 32, 3)
    assert run(start=jnp.full((40, 48, 3), 0.5)).images.shape == (1, 40, 48, 3)
    assert jaxviz.sheet(net, None, KEY, layer="relu_1", channels=[0, 2], steps=1).images.shape == (2, 32, 32, 3)


def test_transforms_one_after_the_other():
    """Each with a key of its own: two shifts of the same kind are not the same shift."""
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 32)[None, :, None], (2, 32, 32, 3))
    roll = rolls(most=31)
    first = roll(jax.random.fold_in(KEY, 0), ramp)
    both = jaxviz.compose(roll, jaxviz.crops(size=8, noise=0.0))(KEY, ramp)
    assert jnp.array_equal(both, jaxviz.crops(size=8, noise=0.0)(jax.random.fold_in(KEY, 1), first))
    assert not jnp.array_equal(jaxviz.compose(roll, roll)(KEY, ramp), roll(jax.random.fold_in(KEY, 0), first))
    assert jaxviz.compose()(KEY, ramp) is ramp


@pytest.mark.slow
def test_equal_options_compile_nothing(caplog):
    def compiled(**options):
        caplog.clear()
        with jax.log_compiles():
            climb = optax.GradientTransformationExtraArgs(*jaxviz.decay(0.1))
            move = jaxviz.jitter_scale_rotate(jitter=1.0)
            basis = functools.partial(jaxviz.pixels, spread=0.2)
            score = jaxviz.channel(redness, "relu_0", 0)
            options = {"size": 8, "steps": 1, "basis": basis, "transform": move, "optimizer": climb} | options
            jaxviz.ascend(score, jnp.eye(3), KEY, **options)
        return [message for message in caplog.messages if "XLA compilation of jit(_take_steps)" in message]

    assert compiled() != []
    assert compiled() == []
    assert compiled(transform=jaxviz.jitter_scale_rotate(jitter=2.0)) != []


def redness(params, images):
    return jax.nn.relu(images @ params)
