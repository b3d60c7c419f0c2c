"""What is like other images, in features or in Gram matrices: against NumPy, in sums, and as a goal of `ascend`."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import make_net, small_net

import jaxviz

KEY = jax.random.key(4)
OTHERS = jax.random.uniform(jax.random.key(5), (2, 32, 32, 3))


def values_of(params, images, layer):
    values = jaxviz.capture(small_net, layer)(params, images)[1][layer]
    return np.asarray(values, np.float64)


def error(values, target):
    axes = tuple(range(1, values.ndim))
    return ((values - target) ** 2).sum(axes) / (target**2).sum(axes)


def grams(values, weights=None):
    """Return Gram matrices by their definition: the mean product of two channels, over positions or a region."""
    weights = np.ones(values.shape[1:3]) if weights is None else weights
    return np.einsum("nhwi,nhwj,hw->nij", values, values, weights) / weights.sum()


def test_features_by_hand(small_params, images):
    layers = {"relu_0": 1.0, "dense_0": 3.0}
    found = jaxviz.match_features(small_net, small_params, OTHERS, layers)(small_params, images)
    errors = [error(*(values_of(small_params, x, name) for x in (images, OTHERS))) for name in layers]
    np.testing.assert_allclose(found, -(errors[0] + 3 * errors[1]) / 4, rtol=1e-5)
    one = jaxviz.match_features(small_net, small_params, OTHERS[:1], "relu_0")(small_params, images)
    expected = error(values_of(small_params, images, "relu_0"), values_of(small_params, OTHERS[:1], "relu_0"))
    np.testing.assert_allclose(one, -expected, rtol=1e-5)


def test_grams_by_hand(small_params, images):
    """Of images of another size, of a part of them, for a part of those that are scored."""
    style = OTHERS[:1, :24, :20]
    part, where = np.zeros((24, 20), np.float32), np.zeros((32, 32), np.float32)
    part[:12], where[:, 16:] = 1, 1
    found = jaxviz.match_grams(
        small_net, small_params, style, ["relu_0"], masks=jnp.asarray(part), where=jnp.asarray(where)
    )
    of_style, of_images = (values_of(small_params, x, "relu_0") for x in (style, images))
    expected = error(grams(of_images, where), grams(of_style, part))
    np.testing.assert_allclose(found(small_params, images), -expected, rtol=1e-4)
    plain = jaxviz.match_grams(small_net, small_params, style, ["relu_0"])(small_params, images)
    np.testing.assert_allclose(plain, -error(grams(of_images), grams(of_style)), rtol=1e-4)


def test_a_sum_evaluates_the_network_once(small_params, images):
    calls = []

    def relu(x):
        calls.append(x)
        return jax.nn.relu(x)

    net = make_net(relu)
    goal = 20 * jaxviz.match_grams(net, small_params, OTHERS, ["relu_0"])
    goal = goal + jaxviz.match_features(net, small_params, OTHERS, ["relu_1"]) + 0.01 * jaxviz.channel(net, "relu_1", 2)
    calls.clear()
    found = goal(small_params, images)
    assert len(calls) == 2  # the ReLUs of one evaluation
    styled = error(*(grams(values_of(small_params, x, "relu_0")) for x in (images, OTHERS)))
    content = error(*(values_of(small_params, x, "relu_1") for x in (images, OTHERS)))
    channel = values_of(small_params, images, "relu_1")[..., 2].mean((1, 2))
    np.testing.assert_allclose(found, -20 * styled - content + 0.01 * channel, rtol=1e-4)


@pytest.mark.slow
def test_ascend_takes_the_steps_of_invert(small_params, images):
    """The same losses: a recipe is no program of its own. Two images to match give two images."""
    goal = jaxviz.match_features(small_net, small_params, images, ["relu_0"])
    start = jnp.full(images.shape, 0.5)
    recipe = {"start": start, "basis": jaxviz.pixels, "steps": 12}
    found = jaxviz.ascend(
        goal, small_params, KEY, size=32, transform=None, revive=False, optimizer=jaxviz.lbfgs(longest=0.05),
        penalties=[(0.5, jaxviz.total_variation)], **recipe,
    )  # fmt: skip
    expected = jaxviz.invert(small_net, small_params, KEY, images, layer="relu_0", norm=0.0, **recipe)
    assert found.images.shape == images.shape
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(found.images, expected.images, atol=1e-4)


def test_a_loss_of_ones_own(small_params):
    """In five lines: a channel, the style of a picture, and a penalty."""
    darkness = lambda params, images: 1 - images.mean((1, 2, 3))
    style = jaxviz.match_grams(small_net, small_params, OTHERS[:1], ["relu_0"])
    goal = jaxviz.channel(small_net, "relu_1", 1) + 20 * style + darkness
    options = {"size": 16, "penalties": [(0.1, jaxviz.total_variation)], "transform": None, "start": 0.5}
    found = jaxviz.ascend(goal, small_params, KEY, steps=24, **options)
    start = jnp.full((1, 16, 16, 3), 0.5)
    np.testing.assert_allclose(found.losses[0], -goal(small_params, start)[0], rtol=1e-3)
    assert found.losses[-1] < found.losses[0]


def test_other_images_compile_nothing(small_params, images):
    traces = []

    @jax.jit
    def values(score):
        traces.append(score)
        return score(small_params, images)

    found = [values(jaxviz.match_grams(small_net, small_params, x, ["relu_0"])) for x in (OTHERS[:1], OTHERS[1:])]
    assert len(traces) == 1
    assert jnp.any(found[0] != found[1])


def test_it_is_explained_like_any_score(x64, small_params, images):
    params, images = jax.tree.map(lambda x: x.astype(jnp.float64), (small_params, images))
    score = jaxviz.match_features(small_net, params, OTHERS.astype(jnp.float64), ["relu_1"])
    found = jaxviz.gradient(score, params, images)
    direction, step = np.random.default_rng(0).normal(size=images.shape), 1e-7
    rise = score(params, images + step * direction) - score(params, images - step * direction)
    np.testing.assert_allclose(jnp.sum(found * direction, (1, 2, 3)), rise / (2 * step), rtol=1e-4)


@pytest.mark.slow
def test_networks_are_let_go_of(small_params, images):
    """As are functions that were added: nothing but the score holds them."""
    gone = []
    for _ in range(3):
        net, fn = make_net(), lambda params, images: images.mean((1, 2, 3))
        goal = jaxviz.match_features(net, small_params, images[:1], ["dense_0"]) + fn
        jaxviz.ascend(goal, small_params, KEY, size=32, steps=1, transform=None, revive=False)
        gone += [weakref.ref(net), weakref.ref(fn)]
        del net, fn, goal
    gc.collect()
    assert [ref() for ref in gone] == [None] * 6


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: jaxviz.match_features(small_net, p, x, []), r"layers: expected names of layers.* got \[\]"),
        *(
            (
                lambda p, x, weight=weight: jaxviz.match_grams(small_net, p, x, {"relu_0": weight, "relu_1": 1.0}),
                "layers: expected weights of at least 0, finite and not all of them 0, got",
            )
            for weight in (-1.0, np.inf, np.nan, "1", None)
        ),
        (lambda p, x: jaxviz.gram(x[0]), r"features: expected .* got .* one image's are features\[None\]"),
        (lambda p, x: jaxviz.gram(x[:, 0, 0]), r"features: expected .* maps \(n, h, w, c\), got shape \(2, 3\)$"),
        (
            lambda p, x: jaxviz.gram(x, mask=x[0, :4, :4, 0]),
            r"mask: expected the features' size, \(32, 32\) or \(2, 32, 32\), got \(4, 4\)",
        ),
        (lambda p, x: jaxviz.match_features(small_net, p, x, ["relu_9"]), "no layer 'relu_9'"),
        (lambda p, x: jaxviz.match_grams(small_net, p, x, ["dense_0"]), r"'dense_0' has shape \(2, 5\), no image map"),
        (lambda p, x: jaxviz.match_features(small_net, p, 255 * x, ["relu_0"]), r"images: expected values in \[0, 1\]"),
        (
            lambda p, x: jaxviz.match_grams(small_net, p, x, ["relu_0"], masks=jnp.ones((4, 4))),
            r"masks: expected the size of its image, \(32, 32\), got shape \(4, 4\)",
        ),
        (
            lambda p, x: jaxviz.match_grams(small_net, p, x, ["relu_0"], where=jnp.zeros((32, 32))),
            "where: .* got a mask that matches nothing",
        ),
        (
            lambda p, x: jaxviz.match_features(small_net, p, x, ["relu_0"])(p, x[:, :16]),
            r"compares 'relu_0' .* expected their shape, \(2, 32, 32, 8\), got \(2, 16, 32, 8\)",
        ),
        (
            lambda p, x: jaxviz.ascend(jaxviz.match_features(small_net, p, x, ["relu_0"]), p, KEY, size=16),
            r"expected their shape, \(2, 32, 32, 8\), got \(2, 16, 16, 8\); make as many images, of the same size",
        ),
    ],
)
def test_errors(call, message, small_params, images):
    with pytest.raises(ValueError, match=message):
        call(small_params, images)
