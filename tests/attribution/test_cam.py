"""Grad-CAM: its closed form where the head is an average, and guided Grad-CAM as the product it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.transform
from nets import convolve, small_net

import jaxviz

METHODS = {"grad_cam": jaxviz.grad_cam, "guided_grad_cam": jaxviz.guided_grad_cam}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(7), (2, 12, 10, 3))


def score(target=1):
    return jaxviz.logit(small_net, target)


def pooled(stride):
    """Return a network whose head is the mean over positions and a matrix: the one that CAM was made for."""

    def net(params, images):
        return jax.nn.relu(convolve(images, params["w1"], stride)).mean((1, 2)) @ params["w"]

    return net


@pytest.mark.parametrize("stride", [1, 2])
def test_with_an_average_as_head_it_is_cam(stride, small_params, images):
    """Zhou et al. 2016: the layer's channels, weighted by the class's row of the last matrix."""
    net, head = pooled(stride), jax.random.normal(jax.random.key(4), (8, 5), jnp.float32).astype(images.dtype)
    params = {"w1": small_params["w1"], "w": head}
    features = jaxviz.capture(net, "relu_0")(params, images)[1]["relu_0"]
    cam = np.maximum(features @ head[:, 3], 0) / features[0, ..., 0].size
    expected = [
        skimage.transform.resize(one, images.shape[1:3], order=1, mode="edge", anti_aliasing=False) for one in cam
    ]
    maps = jaxviz.grad_cam(jaxviz.logit(net, 3), params, images, layer="relu_0")
    np.testing.assert_allclose(maps, np.stack(expected), atol=1e-6)
    assert maps.max() > 1e-3
    assert jnp.any(maps == 0)  # the ReLU has something to do


def test_it_equals_the_formula_written_out(small_params, images):
    """At a layer that another convolution follows: weights by differentiating the rest of the network by hand."""

    def rest(value):
        value = jax.lax.reduce_window(value, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        value = jax.nn.relu(convolve(value, small_params["w2"], stride=2))
        return (value.mean((1, 2)) @ small_params["w3"])[:, 1]

    features = jaxviz.capture(small_net, "relu_0")(small_params, images)[1]["relu_0"]
    np.testing.assert_allclose(rest(features), small_net(small_params, images)[:, 1], rtol=1e-5)
    weights = jax.grad(lambda value: rest(value).sum())(features).mean((1, 2), keepdims=True)
    expected = jax.nn.relu((weights * features).sum(-1))
    maps = jaxviz.grad_cam(score(), small_params, images, layer="relu_0")
    np.testing.assert_allclose(maps, expected, atol=1e-7)
    assert maps.max() > 1e-4


def test_the_score_turned_round_marks_other_places(small_params, images):
    turned = small_params | {"w3": -small_params["w3"]}
    maps = [jaxviz.grad_cam(score(), params, images, layer="relu_0") for params in (small_params, turned)]
    assert all(one.min() >= 0 and one.max() > 1e-5 for one in maps)
    np.testing.assert_array_equal(maps[0] * maps[1], 0.0)  # what speaks for it does not speak against it


def test_guided_grad_cam_is_the_product(small_params, images):
    maps = jaxviz.guided_grad_cam(score(), small_params, images, layer="relu_1")
    guided = jaxviz.guided_backprop(score(), small_params, images)
    cam = jaxviz.grad_cam(score(), small_params, images, layer="relu_1")
    np.testing.assert_allclose(maps, guided * cam[..., None], atol=1e-6)
    assert jnp.abs(maps).max() > 1e-4
    assert jnp.abs(maps - guided).max() > 1e-4


@every_method
def test_another_layer_has_another_map(method, small_params, images):
    maps = [method(score(), small_params, images, layer=layer) for layer in ("relu_0", "relu_1")]
    assert jnp.abs(maps[0] - maps[1]).max() > 1e-3


@every_method
def test_without_gradient_the_map_is_zero_and_not_nan(method, small_params, images):
    blind = small_params | {"w3": 0 * small_params["w3"]}
    np.testing.assert_array_equal(method(score(), blind, images, layer="relu_1"), 0.0)
    dead = lambda params, x: jax.nn.relu(x - 2.0).sum((1, 2, 3))
    np.testing.assert_array_equal(method(dead, None, images, layer="relu_0"), 0.0)


@pytest.mark.usefixtures("users_view")
@every_method
def test_errors(method, small_params, images):
    with pytest.raises(
        ValueError,
        match=r"needs a layer of image maps .*, or of tokens .* of known places; 'dense_0' has shape \(2,",
    ):
        method(score(), small_params, images, layer="dense_0")
    with pytest.raises(ValueError, match="no layer 'relu_2'; did you mean 'relu_1' or 'relu_0'"):
        method(score(), small_params, images, layer="relu_2")
    with pytest.raises(ValueError, match=r"got shape \(12, 10, 3\); one image is image\[None\]"):
        method(score(), small_params, images[0], layer="relu_1")
    with pytest.raises(ValueError, match="images: expected finite numbers, got 1 that are NaN or infinite"):
        method(score(), small_params, images.at[0, 1, 2, 0].set(jnp.nan), layer="relu_1")
    with pytest.raises(ValueError, match=r"class: expected 0 to 4, .* got 5"):
        method(score(5), small_params, images, layer="relu_1")
    with pytest.raises(ValueError, match=r"one number per image, here \(2,\); this one gave \(\)"):
        method(lambda p, x: small_net(p, x).sum(), small_params, images, layer="relu_1")
    with pytest.raises(ValueError, match="batch_size: expected a whole number of at least 1, got 0"):
        method(score(), small_params, images, layer="relu_1", batch_size=0)


@pytest.mark.slow
@every_method
def test_a_sum_of_scores_is_one_score(method, small_params, images):
    """Each term runs a network of its own, in which the layer is found; a name of the user's too."""

    def named(params, images):
        return small_net(params, jax.ad_checkpoint.checkpoint_name(images * 1.0, "input"))

    def difference(params, images):
        logits = small_net(params, images)
        return 2 * logits[:, 1] - logits[:, 2]

    expected = method(difference, small_params, images, layer="relu_1")
    terms = 2 * jaxviz.logit(named, 1) - jaxviz.logit(named, 2)
    np.testing.assert_allclose(method(terms, small_params, images, layer="relu_1"), expected, atol=1e-6)
    assert jnp.abs(expected - method(jaxviz.logit(small_net, 1), small_params, images, layer="relu_1")).max() > 1e-3


def test_a_sum_over_two_networks(small_params, images):
    other = jaxviz.logit(lambda params, images: small_net(params, 2 * images), 1)
    with pytest.raises(ValueError, match="expected a sum of scores of one network"):
        jaxviz.grad_cam(score() + other, small_params, images, layer="relu_1")


# What is no image map, and what the score is not made from


def named(net, change=lambda x: x):
    """Return `small_net`'s first block, changed and called "maps", before the mean and a matrix."""

    def whole(params, images):
        x = jax.nn.relu(convolve(images, params["w1"]))
        return net(jax.ad_checkpoint.checkpoint_name(change(x), "maps"), params)

    return whole


def head(x, params):
    return jax.nn.relu(x.reshape(len(x), -1, 8)).mean(1) @ params["w2"][0, 0] @ params["w3"]


LAYOUTS = {
    "rows, columns, channels": lambda x: x,
    "channels first": lambda x: x.transpose(0, 3, 1, 2),
    "columns first": lambda x: x.transpose(0, 2, 1, 3),
    "images last": lambda x: x.transpose(1, 2, 3, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_does_not_matter(layout, small_params, images):
    change = LAYOUTS[layout]
    order = np.argsort(change(np.arange(1 * 2 * 3 * 4).reshape(1, 2, 3, 4)).shape)  # back to n, h, w, c
    net = named(lambda x, params: head(jnp.transpose(x, order), params), change)
    classes = jnp.arange(5)[None]
    plain = jaxviz.grad_cam(jaxviz.logit(named(head), classes), small_params, images, layer="maps")
    maps = jaxviz.grad_cam(jaxviz.logit(net, classes), small_params, images, layer="maps")
    np.testing.assert_allclose(maps, plain, atol=1e-6)
    assert maps.max() > 1e-3


def test_tokens_are_a_map(small_params, images):
    """With a class token in front, too, which the head does not read."""
    zero = lambda x: jnp.concatenate([jnp.zeros((len(x), 1, 8), x.dtype), x.reshape(len(x), -1, 8)], 1)
    net = named(lambda x, params: head(x[:, 1:], params), zero)
    plain, maps = (
        jaxviz.grad_cam(jaxviz.logit(each, jnp.arange(5)[None]), small_params, images, layer="maps")
        for each in (named(head), net)
    )
    np.testing.assert_allclose(maps, plain, atol=1e-6)


EIGHT = jnp.arange(1.0, 9.0).reshape(1, 1, 1, 8)


def windows(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 2, 2, c)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.reshape(len(x), -1, 2, 4), r"has shape \(2, 120, 2, 4\), .* axis 1 has rows and columns together"),
        (lambda x: jnp.sort(x.reshape(len(x), -1, 8), 1), "needs a layer of image maps .* axis 1 has rows and columns"),
        (windows, r"has shape \(60, 2, 2, 8\), .* axis 0 has images and rows and columns together"),
        (lambda x: x[:, ::-1], "axis 1 has rows in part or in another order"),
        (lambda x: jnp.roll(x, 3, 2), "axis 2 has columns in part or in another order"),
        (lambda x: x.mean((1, 2)), "needs a layer of image maps"),
    ],
)
@every_method
def test_a_layer_that_is_no_image_map(method, change, message, small_params, images):
    """Attention's tokens and heads, windows beside the images, a map turned over: each would be drawn as a map."""
    net = named(lambda x, params: head(x.reshape(len(images), -1, 8), params), change)
    with pytest.raises(ValueError, match=message):
        method(jaxviz.logit(net, 1), small_params, images, layer="maps")


def test_windows_that_are_a_map_again(small_params, images):
    """Shifted windows, put together: the first image's map does not change with the second image."""

    def swin(x):
        n, h, w, c = x.shape
        cut = jax.nn.relu(windows(jnp.roll(x, 1, 1)) * EIGHT)
        return jnp.roll(cut.reshape(n, h // 2, w // 2, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape), -1, 1)

    classes = jnp.arange(5)[None]
    net = jaxviz.logit(named(head, swin), classes)
    maps = jaxviz.grad_cam(net, small_params, images, layer="maps")
    other = jaxviz.grad_cam(net, small_params, images.at[1].set(1 - images[1]), layer="maps")
    np.testing.assert_array_equal(other[0], maps[0])
    scaled = jaxviz.grad_cam(
        jaxviz.logit(named(head, lambda x: x * EIGHT), classes), small_params, images, layer="maps"
    )
    np.testing.assert_allclose(maps, scaled, atol=1e-6)
    assert maps.max() > 1e-3


@pytest.mark.parametrize(
    ("score", "layer"),
    [
        (jaxviz.channel(small_net, "relu_0", 1), "relu_1"),  # behind
        (
            jaxviz.logit(named(lambda x, params: head(jax.lax.stop_gradient(x) + 0 * params["w3"].sum(), params)), 1),
            "maps",
        ),
        (lambda p, x: named(head)(p, x).argmax(-1).astype(float), "maps"),
    ],
)
@every_method
def test_a_layer_that_the_score_is_not_made_from(method, score, layer, small_params, images):
    with pytest.raises(ValueError, match=f"grad_cam: the score has no gradient with respect to '{layer}'"):
        method(score, small_params, images, layer=layer)
