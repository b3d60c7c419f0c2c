"""`Network`: what is known of a network, and normalization that is outside of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from nets import small_net

import jaxviz

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_it_unpacks_as_net_and_params(small_params):
    network = jaxviz.Network(small_net, small_params, size=32)
    net, params = network
    assert (net, params) == (small_net, small_params)
    assert (network[0], network[1], len(network)) == (small_net, small_params, 2)
    assert (network.size, network.classes, network.channels) == (32, None, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.size = 3  # type: ignore[misc]
    assert "w1" not in repr(network)  # a million numbers say nothing


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (0.5, 0.25), (None, 1 / 255), (np.array(MEAN), None)])
def test_it_normalizes_as_numpy_does(small_params, images, x64, mean, std):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), small_params)
    images = np.asarray(images, np.float64)
    net, params = jaxviz.Network(small_net, params, mean=mean, std=std)
    whole = (images - np.asarray(0 if mean is None else mean)) / np.asarray(1 if std is None else std)
    expected = small_net(params, jnp.asarray(whole))
    np.testing.assert_allclose(net(params, jnp.asarray(images)), expected, rtol=1e-12)
    map = jaxviz.gradient(jaxviz.logit(net, 1), params, jnp.asarray(images))
    inner = jax.grad(lambda x: small_net(params, x)[:, 1].sum())(jnp.asarray(whole))
    np.testing.assert_allclose(map, np.asarray(inner) / np.asarray(1 if std is None else std), rtol=1e-9, atol=1e-12)


def test_one_channel():
    network = jaxviz.Network(lambda p, x: x.mean((1, 2)) * p, jnp.ones(()), mean=0.1307, std=0.3081, channels=1)
    found = network.net(network.params, jnp.full((1, 4, 4, 1), 0.5))
    np.testing.assert_allclose(found, [[(0.5 - 0.1307) / 0.3081]], rtol=1e-6)


def test_a_copy_does_not_normalize_twice(small_params, images):
    wide = lambda numbers: jnp.asarray(numbers, images.dtype).reshape(1, 1, 1, 3)
    network = jaxviz.Network(small_net, small_params, mean=MEAN, std=STD)
    other = jax.tree.map(lambda x: 2 * x, small_params)
    retrained = dataclasses.replace(network, params=other)
    assert retrained.net is network.net  # so that its programs are found again
    np.testing.assert_array_equal(retrained.net(other, images), small_net(other, (images - wide(MEAN)) / wide(STD)))
    plain = dataclasses.replace(network, mean=None, std=None)
    assert plain.net is small_net
    half = dataclasses.replace(network, mean=0.5, std=0.5)
    np.testing.assert_array_equal(half.net(other, images), small_net(other, (images - 0.5) / 0.5))


def test_modules_keep_their_names(images, users_promotions):
    model = linen.Sequential([linen.Conv(4, (3, 3)), linen.relu, linen.Conv(5, (3, 3))])
    params = model.init(jax.random.key(0), images)
    network = jaxviz.Network(model.apply, params, mean=MEAN, std=STD)
    assert {"layers_0", "layers_2", "Sequential"} <= set(jaxviz.layers(*network, images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net": 3}, r"net: expected a function net\(params, images\), got 3"),
        ({"mean": (0.5, 0.5)}, r"mean: expected a number, or one for each of 3 channels, got shape \(2,\)"),
        ({"mean": "imagenet"}, "mean: expected a finite number, got 'imagenet'"),
        ({"std": (0.2, 0.0, 0.2)}, "std: expected a finite number above 0"),
        ({"std": 0.5, "mean": [0.5], "channels": 3}, "mean: expected a number, or one for each of 3 channels"),
        ({"size": 0}, "size: expected an int or .height, width., of at least 1 pixel, got 0"),
        ({"channels": 0}, "channels: expected 1 or more, got 0"),
        ({"classes": "cat"}, r"classes: expected a name for each of the outputs, as in \['cat', 'dog'\], got 'cat'"),
        ({"classes": [0, 1]}, r"classes: expected a name for each of the outputs, .* got \[0, 1\]"),
    ],
)
def test_errors(options, message, users_view):
    with pytest.raises(ValueError, match=message):
        jaxviz.Network(**({"net": small_net, "params": {}} | options))


@pytest.mark.parametrize(
    "images", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 1), np.float32), np.zeros((1, 3, 8, 8), np.float32)]
)
def test_images_that_it_would_normalize_wrongly(small_params, images):
    net, params = jaxviz.Network(small_net, small_params, mean=MEAN, std=STD)
    with pytest.raises(ValueError, match=r"expected images of floats in \[0, 1\] with 3 channels, last, got"):
        net(params, images)


# Names of classes


def mean_color(params, images):
    return images.mean((1, 2)) @ params


COLORS = ["red", "green", "crane (bird), blue"]


def test_a_class_by_its_name(images):
    net, params = jaxviz.Network(mean_color, jnp.eye(3), classes=COLORS)
    for score in (jaxviz.logit, jaxviz.probability):
        for name, number in (("Green", 1), ("crane", 2), ("1", 1), (["blue", "red"], np.array([2, 0]))):
            np.testing.assert_array_equal(score(net, name)(params, images), score(net, number)(params, images))
        both = score(net, [["red", "blue"]])(params, images)
        np.testing.assert_array_equal(both, score(net, jnp.array([[0, 2]]))(params, images))
    assert jaxviz.fool(net, params, images[:1], target="green").succeeded.all()
    same = jaxviz.saliency(jaxviz.logit(net, "red"), params, images)
    np.testing.assert_array_equal(same, jaxviz.saliency(jaxviz.logit(mean_color, 0), params, images))


def test_a_name_that_no_class_has():
    net, params = jaxviz.Network(mean_color, jnp.eye(3), classes=COLORS)
    with pytest.raises(ValueError, match=r"name or index of one of 3 classes, got 'gren'; similar: 1 'green'"):
        jaxviz.logit(net, "gren")
    with pytest.raises(ValueError, match="got 'purple'"):
        jaxviz.logit(net, ["red", "purple"])
    with pytest.raises(ValueError, match=r"got 'red', and this network has no names for its classes.*classes=\["):
        jaxviz.logit(mean_color, "red")
    with pytest.raises(ValueError, match="got 'gren'; similar"):
        jaxviz.fool(net, params, jnp.full((1, 4, 4, 3), 0.5), target="gren")


def test_names_of_another_number_of_outputs(images):
    net, params = jaxviz.Network(mean_color, jnp.eye(3), classes=COLORS[:2])
    with pytest.raises(ValueError, match="expected a network with a name for each class, got 2 for 3"):
        jaxviz.logit(net, "red")(params, images)


def test_names_change_nothing_about_the_function():
    """Its programs are found again, and what wraps it is not wrapped anew."""
    network = jaxviz.Network(mean_color, jnp.eye(3), classes=COLORS)
    assert dataclasses.replace(network, params=jnp.ones((3, 3))).net is network.net
    assert jaxviz.Network(network.net, jnp.eye(3)).net is mean_color
    assert network.net(jnp.eye(3), jnp.ones((1, 2, 2, 3))).shape == (1, 3)
    gray = jaxviz.Network(lambda params, images: images.mean((1, 2)), None, classes=["gray"])
    assert gray.net(None, jnp.ones((1, 2, 2, 1))).shape == (1, 1)  # no channels were said, so none are refused
