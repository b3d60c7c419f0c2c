"""Diversity, resemblance, fooling images, zooms and sheets: closed forms, and that each does what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from nets import small_net
from processes import on_eight_devices

import jaxviz

KEY = jax.random.key(0)


def maps_of(params, images, layer="relu_0"):
    return jaxviz.capture(small_net, layer)(params, images)[1][layer]


# Diversity


def test_diversity_is_the_mean_cosine_of_gram_matrices(small_params):
    images = jax.random.uniform(KEY, (3, 8, 8, 3))
    values = np.asarray(maps_of(small_params, images), np.float64).reshape(3, 64, -1)
    grams = np.einsum("npi,npj->nij", values, values).reshape(3, -1)
    cosines = np.corrcoef(grams) * 0 + [[a @ b / np.sqrt(a @ a * (b @ b)) for b in grams] for a in grams]
    expected = [-(cosines[i].sum() - 1) / 2 for i in range(3)]
    np.testing.assert_allclose(jaxviz.diversity(small_net, "relu_0")(small_params, images), expected, rtol=1e-5)


@pytest.mark.slow
def test_diversity_of_one_image_and_of_none_that_responds(small_params):
    score = jaxviz.diversity(small_net, "relu_0")
    assert score(small_params, jnp.ones((1, 8, 8, 3))) == 0
    off = small_params | {"b1": jnp.full(8, -100.0)}
    gradient = jax.grad(lambda x: score(off, x).sum())(jnp.ones((2, 8, 8, 3)))
    assert jnp.all(gradient == 0)
    flat = jaxviz.diversity(lambda params, images: checkpoint_name(images * params, "there"), "there")
    gradient = jax.grad(lambda x: flat(jnp.zeros(()), x).sum())(jnp.ones((2, 8, 8, 3)))
    assert jnp.all(gradient == 0)


@pytest.mark.slow
def test_diversity_makes_a_batch_differ(small_params):
    def difference(weight):
        same = jaxviz.channel(small_net, "relu_1", jnp.full(3, 1))
        score = same + weight * jaxviz.diversity(small_net, "relu_0")
        images = jaxviz.ascend(score, small_params, KEY, size=16, steps=60, transform=None).images
        return 1 + jaxviz.diversity(small_net, "relu_0")(small_params, images).mean()

    assert difference(500.0) > 10 * difference(0.0)


# Resemblance


def test_resemblance_is_the_best_match_of_each_place(small_params):
    images, guide = (jax.random.uniform(KEY, (1, side, side, 3)) for side in (6, 9))
    found, wanted = (np.asarray(maps_of(small_params, x)).reshape(-1, 8) for x in (images, guide))
    score = jaxviz.resemblance(small_net, small_params, guide, layer="relu_0")
    np.testing.assert_allclose(score(small_params, images), [(found @ wanted.T).max(1).mean()], rtol=1e-5)


@pytest.mark.slow
def test_a_guided_dream_resembles_its_guide(small_params, images):
    guide = jax.random.uniform(KEY, (1, 12, 12, 3))
    score = jaxviz.resemblance(small_net, small_params, guide, layer="relu_0")
    found = jaxviz.dream(score, small_params, KEY, images, octaves=1)
    assert jnp.all(score(small_params, found.images) > score(small_params, images))


def test_resemblance_needs_maps(small_params, images):
    with pytest.raises(ValueError, match=r"resemblance needs a layer of image maps .*'dense_0' has shape \(2, 5\)"):
        jaxviz.resemblance(small_net, small_params, images, layer="dense_0")


# Fooling images


def test_fool_stops_as_soon_as_the_network_is_fooled(images):
    def net(params, images):
        return jnp.tanh(images.reshape(len(images), -1) - 0.5) @ params

    params = jax.random.normal(KEY, (32 * 32 * 3, 5))
    target = np.asarray(net(params, images)).argmin(-1)
    found = jaxviz.fool(net, params, images, target=target, steps=300)
    np.testing.assert_array_equal(net(params, found.images).argmax(-1), target)
    assert not found.finished
    assert 2 <= len(found.losses) < 300
    one_less = jaxviz.fool(net, params, images, target=target, steps=len(found.losses) - 1)
    assert one_less.finished
    assert jnp.any(net(params, one_less.images).argmax(-1) != target)


def test_the_last_class_may_be_called_minus_one(images):
    net = lambda params, images: images.mean((1, 2)) @ params
    last, minus_one = (jaxviz.fool(net, jnp.eye(3), images, target=target) for target in (2, -1))
    assert not minus_one.finished
    np.testing.assert_array_equal(minus_one.images, last.images)


def test_classes_and_channels_may_be_small_integers():
    """As those of a data set often are; the number of classes or channels need not be one."""
    net = lambda params, images: images.mean((1, 2)) @ params
    images, params = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 300)).at[:, 200].set(2.0)
    for target in (np.uint8(200), np.array([200], np.uint8)):
        assert jaxviz.fool(net, params, images, target=target).succeeded.tolist() == [True]
    maps = lambda params, images: jax.nn.relu(images @ params)
    options = {"layer": "relu_0", "size": 4, "steps": 1, "transform": None, "basis": jaxviz.pixels}
    found = jaxviz.sheet(maps, params, KEY, channels=np.array([200], np.uint8), **options)
    assert found.channels.tolist() == [200]


@pytest.mark.slow
def test_a_step_has_the_length_that_was_asked_for(small_params):
    gray = jnp.full((1, 16, 16, 3), 0.5)
    target = int(small_net(small_params, gray).argmin())
    found = jaxviz.fool(small_net, small_params, gray, target=target, steps=1, step_size=0.1)
    np.testing.assert_allclose(jnp.sqrt(jnp.sum((found.images - gray) ** 2)), 0.1, rtol=1e-4)


# Zoom


def test_a_zoom_goes_on_from_its_last_frame(small_params, images):
    score = jaxviz.energy(small_net, "relu_0")
    frames = list(jaxviz.dream_zoom(score, small_params, KEY, images, frames=3, octaves=1, steps=2))
    rest = list(jaxviz.dream_zoom(score, small_params, KEY, frames[0], frames=3, first=1, octaves=1, steps=2))
    assert [frame.shape for frame in frames] == [images.shape] * 3
    for frame, again in zip(frames[1:], rest, strict=True):
        np.testing.assert_array_equal(frame, again)


@pytest.mark.slow
def test_a_zoom_looks_closer():
    """Without a step of the dream: a square in the middle grows by the factor, and stays in the middle."""
    images = jnp.zeros((1, 40, 40, 3)).at[:, 15:25, 15:25].set(1.0)
    flat = lambda params, x: 0 * x.mean((1, 2, 3))
    *_, last = jaxviz.dream_zoom(flat, None, KEY, images, frames=2, zoom=0.5, octaves=1, steps=1)
    expected = jnp.zeros((1, 40, 40, 3)).at[:, 10:30, 10:30].set(1.0)
    assert jnp.abs(last - expected).mean() < 0.06
    np.testing.assert_allclose(last, last[:, ::-1, ::-1], atol=1e-5)


def test_a_zoom_refuses_what_would_leave_nothing(small_params, images):
    score = jaxviz.energy(small_net, "relu_0")
    with pytest.raises(ValueError, match="zoom: expected a fraction of the side, at least 0 and below 1, got 1"):
        next(jaxviz.dream_zoom(score, small_params, KEY, images, zoom=1.0))


# Sheets


def sheet_of(params, **options):
    options = {"layer": "relu_1", "size": 16, "steps": 12, "batch_size": 4} | options
    return jaxviz.sheet(small_net, params, KEY, **options)


@pytest.mark.slow
def test_a_sheet_is_the_layers_channels_in_order(small_params):
    whole = sheet_of(small_params)
    assert whole.images.shape == (6, 16, 16, 3)
    assert whole.finished
    score = jaxviz.channel(small_net, "relu_1", np.arange(6))
    np.testing.assert_allclose(whole.losses, -score(small_params, whole.images), rtol=1e-4, atol=1e-6)
    start = sheet_of(small_params, steps=1)
    alive = start.losses < 0
    assert 3 <= alive.sum() < 6  # some cannot be switched on by any image of this network
    assert jnp.all(whole.losses[alive] < start.losses[alive])


@pytest.mark.slow
def test_a_sheet_goes_on_after_the_last_batch(small_params):
    whole = sheet_of(small_params)
    half = sheet_of(small_params, callback=lambda found: len(found.images) == 4)
    assert (half.finished, len(half.images)) == (False, 4)
    rest = sheet_of(small_params, resume=half.state)
    np.testing.assert_array_equal(rest.images, whole.images)
    np.testing.assert_array_equal(rest.losses, whole.losses)


@pytest.mark.slow
def test_a_sheet_by_a_recipe(small_params):
    found = sheet_of(small_params, **jaxviz.recipe("simonyan") | {"steps": 20})
    assert found.finished
    assert found.losses[3] < sheet_of(small_params, steps=1).losses[3]


@pytest.mark.slow
def test_a_sheet_that_diverges_keeps_what_was_done(small_params):
    net = lambda params, images: jax.nn.relu(images @ params)
    params = jnp.eye(3).at[:, 2].set(1e38)
    with pytest.raises(jaxviz.DivergedError) as raised:
        jaxviz.sheet(net, params, KEY, layer="relu_0", size=8, steps=4, batch_size=2)
    assert raised.value.found.images.shape == (2, 8, 8, 3)
    rest = jaxviz.sheet(
        net, jnp.eye(3), KEY, layer="relu_0", size=8, steps=4, batch_size=2, resume=raised.value.found.state
    )
    assert rest.images.shape == (3, 8, 8, 3)


@pytest.mark.slow
def test_some_channels_of_a_sheet(small_params):
    whole, some = sheet_of(small_params), sheet_of(small_params, channels=[2, 3])
    assert some.images.shape == (2, 16, 16, 3)
    assert some.losses[1] < sheet_of(small_params, channels=[2, 3], steps=1).losses[1]
    assert not np.array_equal(whole.images[2], whole.images[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "relu_9"}, "no layer 'relu_9'.*conv_0, relu_0"),
        ({"channels": [6]}, r"channels: expected some of 0 to 5, the channels of 'relu_1', got \[6\]"),
        ({"channels": []}, "channels: expected some of 0 to 5"),
    ],
)
def test_a_sheet_refuses_what_is_not_there(small_params, options, message):
    with pytest.raises(ValueError, match=message):
        sheet_of(small_params, **options)


SCRIPT = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    import jaxviz
    from nets import small_net

    assert jax.local_device_count() == 8
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w1": 0.4 * jax.random.normal(keys[0], (3, 3, 3, 8)),
        "b1": jnp.linspace(-0.2, 0.2, 8),
        "w2": 0.2 * jax.random.normal(keys[1], (3, 3, 8, 6)),
        "w3": jax.random.normal(keys[2], (6, 5)),
    }
    seen = []
    score = jaxviz.channel(small_net, "relu_1", np.arange(8) % 6)
    options = {"size": 16, "steps": 12, "callback": lambda found: seen.append(found.images.sharding)}
    key = jax.device_put(jax.random.key(0), jax.devices()[0])  # where a user may have put it
    found = jaxviz.ascend(score, params, key, **options)
    assert len(seen[0].device_set) == 8, seen
    np.save(sys.argv[1], np.asarray(found.images))
    sheet = jaxviz.sheet(small_net, params, jax.random.key(0), layer="relu_1", size=16, steps=12, batch_size=4)
    assert sheet.images.shape == (6, 16, 16, 3)
    np.save(sys.argv[2], np.asarray(sheet.images))
"""


@pytest.mark.slow
def test_several_devices_share_a_batch(small_params, tmp_path):
    """Eight virtual devices make the images that one makes, each of them its own; the arithmetic of one image is not
    reordered, so only the last bits may differ."""
    files = [str(tmp_path / name) for name in ("ascend.npy", "sheet.npy")]
    on_eight_devices(SCRIPT, *files)
    score = jaxviz.channel(small_net, "relu_1", np.arange(8) % 6)
    one = jaxviz.ascend(score, small_params, KEY, size=16, steps=12).images
    np.testing.assert_allclose(np.load(files[0]), one, atol=1e-3)
    np.testing.assert_allclose(np.load(files[1]), sheet_of(small_params, batch_size=8).images, atol=1e-3)
