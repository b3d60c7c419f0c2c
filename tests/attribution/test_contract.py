"""What every method of attribution owes its users. A new method is one row of `METHODS`."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import convolve, small_net

import jaxviz

KEY = jax.random.key(11)


def attentive(params, images):
    """A transformer of the parameters of `small_net`: a class token and patches of 3 x 3."""
    x = jax.nn.relu(convolve(images, params["w1"], 3)).reshape(len(images), -1, 8) @ params["w2"][0, 0]
    x = jnp.concatenate([jnp.broadcast_to(params["w3"][None, None, :, 0], (len(x), 1, 6)), x], 1)
    weights = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", x, x))
    return (x + weights @ (x - x.mean(1, keepdims=True)))[:, 0] @ params["w3"]


class Row(NamedTuple):
    """A method as a function of a score, parameters, images and `batch_size`, and what is particular about it."""

    call: Callable
    net: Callable = small_net
    colors: bool = True  # whether a map is (h, w, 3)
    gradient: bool = True  # whether it needs one
    least: float = 1e-4  # what maps of two classes differ by
    changes: bool = True  # whether it evaluates changed copies: a class that is not named is then that of the image

    @property
    def tolerance(self):
        """What float32 leaves: of one gradient, or of a sum over copies in another order."""
        return 1e-5 if self.changes else 1e-6


METHODS = {
    "gradient": Row(jaxviz.gradient, changes=False),
    "saliency": Row(jaxviz.saliency, colors=False, changes=False),
    "input_x_gradient": Row(jaxviz.input_x_gradient, changes=False),
    "guided_backprop": Row(jaxviz.guided_backprop, changes=False),
    "deconvnet": Row(jaxviz.deconvnet, changes=False),
    "grad_cam": Row(functools.partial(jaxviz.grad_cam, layer="relu_1"), colors=False, changes=False),
    "grad_cam of tokens": Row(
        functools.partial(jaxviz.grad_cam, layer="dense_0"), attentive, colors=False, changes=False
    ),
    "attention_relevance": Row(jaxviz.attention_relevance, attentive, colors=False, changes=False),
    "guided_grad_cam": Row(functools.partial(jaxviz.guided_grad_cam, layer="relu_1"), changes=False),
    "integrated_gradients": Row(lambda *args, **options: integrated(*args, **options).maps),
    "smoothgrad": Row(lambda s, p, x, **options: jaxviz.smoothgrad(s, p, KEY, x, samples=3, **options)),
    "lrp, epsilon": Row(
        lambda *args, **options: jaxviz.lrp(*args, rule="epsilon", **options).maps, least=1e-3, changes=False
    ),
    "lrp, gamma": Row(
        lambda *args, **options: jaxviz.lrp(*args, rule="gamma", **options).maps, least=1e-3, changes=False
    ),
    "occlusion": Row(functools.partial(jaxviz.occlusion, window=(5, 4), stride=4), colors=False, gradient=False),
    "rise": Row(
        lambda s, p, x, **options: jaxviz.rise(s, p, KEY, x, masks=9, cells=3, **options), colors=False, gradient=False
    ),
}
integrated = functools.partial(jaxviz.integrated_gradients, steps=3)
every = pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
# IG's three steps are few, and say so
pytestmark = pytest.mark.filterwarnings("ignore:integrated_gradients")


def score(row, target=1):
    return jaxviz.logit(row.net, target)


@pytest.fixture(scope="module")
def images():
    return as_default(jax.random.uniform(jax.random.key(7), (2, 12, 10, 3), jnp.float32))


@pytest.fixture(scope="module")
def small_params():
    keys = jax.random.split(jax.random.key(0), 3)
    normal = lambda key, *shape: as_default(jax.random.normal(key, shape, jnp.float32))
    return {
        "w1": 0.4 * normal(keys[0], 3, 3, 3, 8),
        "b1": jnp.linspace(-0.2, 0.2, 8),
        "w2": 0.2 * normal(keys[1], 3, 3, 8, 6),
        "w3": normal(keys[2], 6, 5),
    }


def as_default(x):
    """Return numbers that are the same in every setting: in float64 the generator draws others."""
    return x.astype(jnp.result_type(float))


@pytest.fixture(scope="module")
def maps(small_params, images):
    """What the methods say of class 1: made once for all tests."""
    return functools.cache(lambda row: row.call(score(row), small_params, images))


@every
def test_a_map_is_as_large_as_the_image_and_says_something(row, maps, images):
    found = maps(row)
    assert found.shape == (images.shape if row.colors else images.shape[:3])
    assert found.dtype == images.dtype
    assert found.std() > 1e-4


@every
def test_an_image_does_not_see_its_neighbors(row, maps, small_params, images):
    others = row.call(score(row), small_params, images.at[1].set(1 - images[1]))
    np.testing.assert_array_equal(others[0], maps(row)[0])
    assert jnp.any(others[1] != maps(row)[1])
    np.testing.assert_allclose(row.call(score(row), small_params, images[:1])[0], maps(row)[0], atol=row.tolerance)


@pytest.mark.slow
@every
def test_raw_jit_and_a_plain_function_agree(row, maps, small_params, images):
    """The plain function is not compiled, and its copies or backward passes come in other batches."""
    np.testing.assert_allclose(jax.jit(row.call)(score(row), small_params, images), maps(row), atol=row.tolerance)
    plain = lambda params, x: row.net(params, x)[:, 1]
    np.testing.assert_allclose(row.call(plain, small_params, images, batch_size=4), maps(row), atol=row.tolerance)
    np.testing.assert_allclose(row.call(score(row), small_params, images, batch_size=2), maps(row), atol=row.tolerance)


@every
@pytest.mark.slow
def test_several_targets_are_a_loop_over_them(row, maps, small_params, images, caplog):
    fn = lambda target, **options: row.call(score(row, target), small_params, images, **options)
    each = {1: maps(row)}
    with jax.log_compiles():
        each |= {i: fn(i) for i in (0, 2)}  # another class compiles nothing
        assert [message for message in caplog.messages if "XLA compilation" in message] == []
        jax.jit(lambda x: x + 1)(1.0)
    own = fn(jnp.array([2, 0]))
    assert any("XLA compilation" in message for message in caplog.messages)  # it would have been seen
    assert jnp.abs(each[1] - each[2]).max() > row.least
    np.testing.assert_allclose(own, jnp.stack([each[2][0], each[0][1]]), atol=row.tolerance)
    several = fn(jnp.array([[1, 2], [0, 1]]))
    expected = [[each[1][0], each[2][0]], [each[0][1], each[1][1]]]
    np.testing.assert_allclose(several, jnp.stack([jnp.stack(pair) for pair in expected]), atol=row.tolerance)


@pytest.mark.slow
@every
def test_several_targets_in_batches_and_of_a_plain_function(row, maps, small_params, images):
    fn = lambda target, **options: row.call(score(row, target), small_params, images, **options)
    each = {i: fn(i) for i in range(3)}
    shared = jnp.stack([each[1], each[2], each[0]], 1)
    for batch_size in (16, 4, 1):  # all three at once, two of them, one by one
        found = fn(jnp.array([[1, 2, 0]]), batch_size=batch_size)
        np.testing.assert_allclose(found, shared, atol=row.tolerance)
    plain = row.call(lambda params, x: row.net(params, x)[:, 1:3], small_params, images, batch_size=4)
    np.testing.assert_allclose(plain, jnp.stack([each[1], each[2]], 1), atol=row.tolerance)


@every
@pytest.mark.slow
def test_the_best_class_is_explained_if_none_is_named(row, small_params, images):
    best = jnp.argmax(row.net(small_params, images), axis=-1)
    named = row.call(score(row, best), small_params, images)
    np.testing.assert_allclose(row.call(score(row, None), small_params, images), named, atol=row.tolerance)


@every
@pytest.mark.slow
def test_dtype_follows_the_images(row, x64, small_params, images):
    """In float64, with digits that float32 does not have."""
    params, wide = jax.tree.map(lambda x: x.astype(jnp.float64), (small_params, images))
    found = row.call(score(row), params, wide)
    assert found.dtype == jnp.float64
    assert jnp.any(found.astype(jnp.float32).astype(jnp.float64) != found)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), (small_params, images))
    assert jax.eval_shape(row.call, score(row), *narrow).dtype == jnp.float32


@every
def test_a_class_without_weights_has_a_map_of_zeros_and_not_of_nan(row, small_params, images):
    blind = small_params | {"w3": 0 * small_params["w3"]}
    np.testing.assert_array_equal(row.call(score(row), blind, images), 0.0)


def seen_by_some(params, images, channels, place):
    """Return parameters and images of so many channels, of which the network only looks at those that `images` has."""
    before, after = place, channels - images.shape[-1] - place
    kernel = jnp.pad(params["w1"], ((0, 0), (0, 0), (before, after), (0, 0)))
    others = jax.random.uniform(jax.random.key(3), (*images.shape[:3], channels))
    return params | {"w1": kernel}, others.at[..., before : channels - after].set(images)


@every
@pytest.mark.slow
def test_images_have_any_number_of_channels(row, maps, small_params, images):
    """What RGB has a map of, has it among twelve channels, nine of them without an effect; and gray as red alone."""
    wide_params, wide = seen_by_some(small_params, images, 12, 5)
    found = row.call(score(row), wide_params, wide)
    assert found.shape == (wide.shape if row.colors else wide.shape[:3])
    if row is not METHODS["smoothgrad"]:  # whose noise is another one for each shape
        expected = jnp.pad(maps(row), ((0, 0),) * 3 + ((5, 4),)) if row.colors else maps(row)
        np.testing.assert_allclose(found, expected, atol=row.tolerance)
    red = small_params | {"w1": small_params["w1"][:, :, :1]}
    gray = row.call(score(row), red, images[..., :1])
    in_color = row.call(score(row), *seen_by_some(red, images[..., :1], 3, 0))
    if row is not METHODS["smoothgrad"]:
        np.testing.assert_allclose(gray, in_color[..., :1] if row.colors else in_color, atol=row.tolerance)
    assert gray.std() > 1e-5


SCORES = {
    r"one number per image, here \(2,\); this one gave \(2, 5, 1\); jaxviz.logit": (
        lambda net: lambda p, x: net(p, x)[..., None]
    ),
    r"one number per image, here \(2,\); this one gave \(\)": lambda net: lambda p, x: net(p, x).sum(),
    r"class: expected 0 to 4, .* got 5": lambda net: jaxviz.logit(net, 5),
}
IMAGES = {
    r"images \(n, h, w, c\), got shape \(12, 10, 3\); one image is image\[None\]": lambda x: x[0],
    r"images \(n, h, w, 3\), which this network takes, got shape \(2, 12, 10, 1\)": lambda x: x[..., :1],
    r"images of floats in \[0, 1\], got uint8; divide bytes by 255": lambda x: (255 * x).astype(jnp.uint8),
    "images: expected finite numbers, got 1 that are NaN or infinite": lambda x: x.at[0, 1, 2, 0].set(jnp.nan),
    "images: expected finite numbers, got 3 that are NaN or infinite": lambda x: x.at[1, 1, 2].set(-jnp.inf),
    r"images: expected values in \[0, 1\], got .* divide 0 to 255 by 255": lambda x: 255 * x,
}


@pytest.mark.usefixtures("users_view")
@every
def test_errors(row, small_params, images):
    for message, bad in SCORES.items():
        with pytest.raises(ValueError, match=message):
            row.call(bad(row.net), small_params, images)
    for message, change in IMAGES.items():
        with pytest.raises(ValueError, match=message):
            row.call(score(row), small_params, change(images))
    with pytest.raises(ValueError, match="batch_size: expected a whole number of at least 1, got 0"):
        row.call(score(row), small_params, images, batch_size=0)
    blocked = lambda params, x: row.net(params, x).argmax(-1).astype(x.dtype)
    if row.gradient:
        with pytest.raises(ValueError, match="argmax"):
            row.call(blocked, small_params, images)
