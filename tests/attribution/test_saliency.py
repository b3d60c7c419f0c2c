"""Gradients with respect to pixels: exact cases, finite differences, batches, swapped ReLUs, many devices, errors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nets import make_net, small_net, twin_deconvnet, twin_guided
from processes import on_eight_devices

import jaxviz

METHODS = {name: getattr(jaxviz, name) for name in ("gradient", "saliency", "guided_backprop", "deconvnet")}
ROOT = Path(__file__).parents[2]


def linear(weights, images):
    """A score whose gradient is its weights."""
    return jnp.sum(weights * images, axis=(1, 2, 3))


def score(target=1):
    return jaxviz.logit(small_net, target)


def test_a_linear_score_has_its_weights_as_gradient(images):
    weights = jax.random.normal(jax.random.key(1), (1, *images.shape[1:]))
    expected = np.broadcast_to(weights, images.shape)
    np.testing.assert_array_equal(jaxviz.gradient(linear, weights, images), expected)
    maps = jaxviz.saliency(linear, weights, images)
    assert maps.shape == images.shape[:3]
    np.testing.assert_array_equal(maps, np.abs(expected).max(-1))


def test_maps_keep_their_absolute_values(images):
    weights = jax.random.normal(jax.random.key(1), (1, *images.shape[1:]))
    maps = jaxviz.saliency(linear, weights, images)
    np.testing.assert_allclose(jaxviz.saliency(linear, -1000 * weights, images), 1000 * maps, rtol=1e-6)


@pytest.mark.slow
def test_gradient_equals_finite_differences(x64, small_params):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), small_params)
    images = jax.random.uniform(jax.random.key(3), (2, 6, 5, 3), jnp.float64)
    step = 1e-6 * jnp.eye(images[0].size).reshape(-1, 1, 6, 5, 3)  # one pixel of every image at a time
    values = jax.jit(jax.vmap(lambda x: score()(params, x)))
    expected = (values(images + step) - values(images - step)).T.reshape(images.shape) / 2e-6
    grads = jaxviz.gradient(score(), params, images)
    np.testing.assert_allclose(grads, expected, atol=1e-8)
    np.testing.assert_allclose(jaxviz.saliency(score(), params, images), np.abs(expected).max(-1), atol=1e-8)
    assert jnp.abs(grads).max() > 1e-3


def test_where_a_gradient_comes_out_as_zero_the_map_is_zero(images):
    """And not NaN: no unit is on, which is something else than a score that has no gradient at all."""
    dead = lambda params, x: jax.nn.relu(x - 2.0).sum((1, 2, 3))
    for method in ("gradient", "saliency", "guided_backprop"):
        np.testing.assert_array_equal(METHODS[method](dead, None, images), 0.0)
    assert jnp.all(jaxviz.deconvnet(dead, None, images) == 1.0)  # the rule that asks no unit whether it is on


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_raw_jit_and_vmap_agree(method, small_params, images):
    fn = METHODS[method]
    raw = fn(score(), small_params, images)
    assert raw.shape == (images.shape[:3] if method == "saliency" else images.shape)
    assert jnp.abs(raw).max() > 1e-4
    np.testing.assert_allclose(jax.jit(fn)(score(), small_params, images), raw, atol=1e-6)
    plain = fn(lambda params, x: small_net(params, x)[:, 1], small_params, images)  # which is not compiled
    np.testing.assert_allclose(plain, raw, atol=1e-6)
    one = jax.vmap(lambda x: fn(score(), small_params, x[None])[0])
    np.testing.assert_allclose(one(images), raw, atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
def test_another_class_has_another_map(method, small_params, images):
    both = [METHODS[method](score(target), small_params, images) for target in (1, 2)]
    assert jnp.abs(both[0] - both[1]).max() > 1e-4
    each = METHODS[method](score(jnp.array([1, 2])), small_params, images)
    np.testing.assert_allclose(each, jnp.stack([both[0][0], both[1][1]]), atol=1e-6)


@pytest.mark.slow
def test_several_targets_of_a_probability_and_of_a_layer(small_params, images):
    small_params = small_params | {"w3": small_params["w3"] / 10}  # so that no class has all the probability
    for make in (
        lambda i: jaxviz.probability(small_net, i),
        lambda i: jaxviz.channel(small_net, "conv_1", i),
        lambda i: jaxviz.neuron(small_net, "conv_1", i),
    ):
        maps = jaxviz.saliency(make(jnp.array([[2, 0]])), small_params, images)
        each = [jaxviz.saliency(make(i), small_params, images) for i in (2, 0)]
        np.testing.assert_allclose(maps, jnp.stack(each, 1), atol=1e-7)
        assert jnp.abs(each[0] - each[1]).max() > 1e-5


def test_input_x_gradient(images):
    weights = jax.random.normal(jax.random.key(1), (1, *images.shape[1:]))
    np.testing.assert_array_equal(jaxviz.input_x_gradient(linear, weights, images), weights * images)
    pair = lambda weights, x: jnp.stack([linear(weights, x), linear(-weights, x)], -1)
    maps = jaxviz.input_x_gradient(pair, weights, images)
    np.testing.assert_array_equal(maps, jnp.stack([weights * images, -weights * images], 1))


def test_input_x_gradient_adds_up_where_relus_have_no_bias(small_params, images):
    """Such a network is homogeneous: twice the image, twice the logit."""
    params = small_params | {"b1": 0 * small_params["b1"]}
    maps = jaxviz.input_x_gradient(score(), params, images)
    np.testing.assert_allclose(maps.sum((1, 2, 3)), score()(params, images), rtol=1e-4)
    np.testing.assert_array_equal(jaxviz.input_x_gradient(score(), small_params, 0 * images), 0.0)


@pytest.mark.slow
def test_a_score_of_several_layers(small_params, images):
    """Scores are functions, so their sums are scores."""
    first, second = jaxviz.channel(small_net, "relu_1", 2), jaxviz.neuron(small_net, "relu_0", 3)
    total = lambda params, x: 2 * first(params, x) - second(params, x)
    parts = [jaxviz.gradient(part, small_params, images) for part in (first, second)]
    np.testing.assert_allclose(jaxviz.gradient(total, small_params, images), 2 * parts[0] - parts[1], atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda i: jaxviz.energy(small_net, "relu_1"), id="energy"),
        pytest.param(lambda i: jaxviz.channel(small_net, "relu_1", i), id="channel"),
        pytest.param(lambda i: jaxviz.logit(small_net), id="logit of the best"),
    ],
)
def test_a_score_compiles_once_and_for_all_its_numbers(make, small_params, images, caplog):
    part = images[:, :13]  # a shape that no other test has compiled

    def compiled(score):
        caplog.clear()
        with jax.log_compiles():
            jaxviz.gradient(score, small_params, part)
        return [message for message in caplog.messages if "XLA compilation" in message]

    assert len(compiled(make(1))) == 1  # one program, and not one an operation
    assert compiled(make(2)) == []


SPELLINGS = {
    "jax.nn.relu": jax.nn.relu,
    "nnx.relu": nnx.relu,
    "maximum": lambda x: jnp.maximum(0.0, x),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "mask": lambda x: x * (x > 0),
    "clip": lambda x: jnp.clip(x, 0),
    "jitted": jax.jit(lambda x: jnp.maximum(x, 0)),
    "remat": jax.checkpoint(jax.nn.relu),
}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_a_swapped_rule_equals_a_hand_edited_twin(spelling, small_params, images):
    ours = jaxviz.logit(make_net(SPELLINGS[spelling]), 1)
    plain = jaxviz.gradient(ours, small_params, images)
    for method, relu in ((jaxviz.guided_backprop, twin_guided), (jaxviz.deconvnet, twin_deconvnet)):
        twin = jaxviz.gradient(jaxviz.logit(make_net(relu), 1), small_params, images)
        maps = method(ours, small_params, images)
        assert jnp.abs(maps - twin).max() == 0.0
        assert jnp.abs(maps - plain).max() > 1e-4


def test_guided_backprop_by_hand():
    """Two layers, one pixel: what each rule lets through can be counted on fingers."""
    w1, w2 = jnp.array([[1.0, -1.0, 2.0, 1.0]] * 3), jnp.array([1.0, 1.0, 1.0, -1.0])
    net = lambda params, x: jax.nn.relu(x.sum((1, 2)) @ params[0]) @ params[1]
    image = jnp.full((1, 1, 1, 3), 0.5)  # units: on, off, on, on with a negative gradient
    for method, expected in (("gradient", 1 + 2 - 1), ("guided_backprop", 1 + 2), ("deconvnet", 1 - 1 + 2)):
        np.testing.assert_array_equal(METHODS[method](net, (w1, w2), image)[0, 0, 0], [expected] * 3)


@pytest.mark.slow
def test_images_spread_over_devices():
    """Eight virtual devices give the maps of one, and the maps stay spread."""
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        import jaxviz
        from nets import small_net

        assert len(jax.devices()) == 8
        keys = jax.random.split(jax.random.key(0), 4)
        params = {"w1": 0.4 * jax.random.normal(keys[0], (3, 3, 3, 8)), "b1": jnp.linspace(-0.2, 0.2, 8),
                  "w2": 0.2 * jax.random.normal(keys[1], (3, 3, 8, 6)), "w3": jax.random.normal(keys[2], (6, 5))}
        images = jax.random.uniform(keys[3], (16, 16, 16, 3))
        mesh = Mesh(np.array(jax.devices()), "n")
        spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("n")))
        params_everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        assert len(images.sharding.device_set) == 1 and len(spread.sharding.device_set) == 8
        score = jaxviz.logit(small_net, jnp.arange(16) % 5)
        for method in (jaxviz.saliency, jaxviz.guided_backprop):
            one = method(score, params, images)
            raw = method(jaxviz.logit(small_net, np.arange(16) % 5), params_everywhere, spread)
            jitted = jax.jit(method)(jaxviz.logit(small_net, np.arange(16) % 5), params_everywhere, spread)
            assert jnp.abs(one).max() > 1e-4
            for maps in (raw, jitted):
                np.testing.assert_allclose(maps, one, atol=1e-6)
                assert maps.addressable_shards[0].data.shape[0] == 2, maps.sharding
        print("the same")
    """
    assert on_eight_devices(script).strip() == "the same"


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("method", [jaxviz.guided_backprop, jaxviz.deconvnet])
def test_a_score_without_relu_is_refused(method, images):
    with pytest.raises(ValueError, match="found no ReLU to swap"):
        method(linear, jnp.ones((1, 32, 32, 3)), images)
    params = {"w": jnp.ones((3, 5)), "variance": jnp.ones(5)}
    net = lambda p, x: jnp.tanh((x @ p["w"]).mean((1, 2)) / jnp.sqrt(jnp.maximum(p["variance"], 0) + 1e-5)[None])
    with pytest.raises(ValueError, match="found no ReLU to swap"):  # but one of parameters
        method(jaxviz.logit(net, 0), params, images)


EVERY_GRADIENT = {
    **METHODS,
    "input_x_gradient": jaxviz.input_x_gradient,
    "integrated_gradients": lambda *args: jaxviz.integrated_gradients(*args, steps=2),
    "smoothgrad": lambda score, params, images: jaxviz.smoothgrad(score, params, jax.random.key(0), images, samples=2),
    "lrp": jaxviz.lrp,
    "grad_cam": lambda *args: jaxviz.grad_cam(*args, layer="relu_1"),
    "guided_grad_cam": lambda *args: jaxviz.guided_grad_cam(*args, layer="relu_1"),
}

WITHOUT_GRADIENT = {  # scores, and what stands between them and the images
    "argmax": (lambda p, x: small_net(p, x).argmax(-1), "argmax"),
    "of another type": (lambda p, x: small_net(p, x).argmax(-1).astype(float), "argmax"),
    "bool": (lambda p, x: small_net(p, x)[:, 1] > 0, "gt"),
    "equality": (lambda p, x: (small_net(p, x).argmax(-1) == 3).astype(float), "argmax, eq"),
    "integer": (lambda p, x: (10 * small_net(p, x)[:, 1]).astype(int), "a conversion to integers"),
    "round": (lambda p, x: jnp.round(small_net(p, x)[:, 1]), "round"),
    "sign": (lambda p, x: jnp.sign(small_net(p, x))[:, :2], "sign"),
    "stop_gradient": (jaxviz.logit(lambda p, x: jax.lax.stop_gradient(small_net(p, x)), 1), "stop_gradient"),
    "in a sum": (jaxviz.logit(lambda p, x: jnp.floor(small_net(p, x)), 1) * 2.0, "floor"),
    "of the parameters": (lambda p, x: jnp.ones(len(x)) * p["w3"].sum(), "it does not depend on them"),
}


@pytest.mark.parametrize("kind", WITHOUT_GRADIENT)
def test_a_score_without_a_gradient_is_refused(kind, small_params, images):
    """A map of zeros would say that no pixel matters."""
    score, reason = WITHOUT_GRADIENT[kind]
    with pytest.raises(ValueError, match=f"this score has no gradient with respect to the images: .*{reason}"):
        jax.eval_shape(lambda p, x: jaxviz.gradient(score, p, x), small_params, images)


@pytest.mark.parametrize("method", EVERY_GRADIENT)
def test_every_method_that_needs_a_gradient_refuses_it(method, small_params, images):
    score = jaxviz.logit(lambda p, x: jax.lax.stop_gradient(small_net(p, x)), 1)
    with pytest.raises(ValueError, match="has no gradient with respect to"):
        jax.eval_shape(lambda p, x: EVERY_GRADIENT[method](score, p, x), small_params, images)


def test_synthesis_refuses_it_too(small_params, images):
    key, message = jax.random.key(0), "this score has no gradient with respect to the images: .*stop_gradient"
    score = jaxviz.logit(lambda p, x: jax.lax.stop_gradient(small_net(p, x)), 1)
    for start in (
        lambda: jaxviz.ascend(score, small_params, key, size=16, steps=2),
        lambda: jaxviz.dream(score, small_params, key, images, octaves=1, steps=2),
    ):
        with pytest.raises(ValueError, match=message):
            start()


def test_a_score_that_has_some_gradient_is_explained(small_params, images):
    """Steps beside a way that can be differentiated, a straight-through estimator, and a gate that is shut."""
    images = images[:, :8, :8]
    plain = jaxviz.gradient(score(), small_params, images)

    def mixed(params, x):
        logits = small_net(params, x)
        through = logits + jax.lax.stop_gradient(jnp.round(logits) - logits)
        return through[:, 1] + jnp.sign(logits[:, 2])

    np.testing.assert_allclose(jax.jit(lambda x: jaxviz.gradient(mixed, small_params, x))(images), plain, atol=1e-6)
    shut = lambda params, x: small_net(params, x)[:, 1] * 0.0
    np.testing.assert_array_equal(jax.jit(lambda x: jaxviz.gradient(shut, small_params, x))(images), 0.0)


def test_what_needs_no_gradient_explains_any_score(small_params, images):
    """Is class 1 above zero? Truth counts as 1 and 0."""
    images = images[:, :8, :8]
    above = lambda params, x: small_net(params, x)[:, 1] > 0.3
    numbers = lambda params, x: above(params, x).astype(x.dtype)
    maps = [
        jax.jit(lambda x, f=f: jaxviz.occlusion(f, small_params, x, window=4, stride=4))(images)
        for f in (above, numbers)
    ]
    np.testing.assert_array_equal(*maps)


@pytest.mark.slow
@pytest.mark.usefixtures("users_view")
def test_images_of_another_range_are_refused(small_params, images):
    """As synthesis refuses them; what a bicubic overshoots is let through."""
    message = r"expected values in \[0, 1\], got .* divide 0 to 255 by 255"
    for other in (255 * images, 2 * images - 1, (images - 0.45) / 0.23):
        with pytest.raises(ValueError, match="images: " + message):
            jaxviz.gradient(score(), small_params, other)
    for fill in (127.0, -0.01, 1.01, (123.7, 116.3, 103.5), images * 255):
        with pytest.raises(ValueError, match="fill: " + message):
            jaxviz.occlusion(score(), small_params, images, fill=fill)
        with pytest.raises(ValueError, match="fill: " + message):
            jaxviz.deletion(score(), small_params, images, images[..., 0], fill=fill)
    with pytest.raises(ValueError, match="baseline: " + message):
        jaxviz.integrated_gradients(score(), small_params, images, baseline=255)
    for near in (jaxviz.resize(jnp.round(images), (40, 40)), images.astype(jnp.bfloat16).at[0, 0].set(1.0)):
        assert jaxviz.gradient(linear, jnp.ones((1, *near.shape[1:]), near.dtype), near).shape == near.shape


class _Tensor:
    """What PyTorch's looks like from here."""

    __module__ = "torch"


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: [*x], r"images: expected a JAX or NumPy array, got a list; jnp\.stack"),
        (lambda x: x.tolist(), "got a list"),
        (lambda x: _Tensor(), r"got a torch\._Tensor; .*permute\(0, 2, 3, 1\)"),
        (lambda x: "cat.jpg", "got a str; .*load_image"),
        (lambda x: x[:0], r"expected at least one image of at least one pixel, got shape \(0, 32, 32, 3\)"),
        (lambda x: x[:, :0], "expected at least one image of at least one pixel"),
        (lambda x: x[0], r"one image is image\[None\]"),
        (
            lambda x: x[..., :1],
            r"\(n, h, w, 3\), which this network takes, .* with 1 channel; .*jnp\.repeat\(images, 3, axis=-1",
        ),
        (lambda x: x[..., :2], r"\(n, h, w, 3\), which this network takes, got shape \(2, 32, 32, 2\) with 2 channels"),
        (lambda x: x[..., 0], r"jnp\.repeat\(images\[\.\.\., None\], 3"),
        (lambda x: x[0, ..., 0], r"jnp\.repeat\(image\[None, :, :, None\], 3"),
        (lambda x: x.transpose(0, 3, 1, 2), r"channels come last, images\.transpose\(0, 2, 3, 1\)"),
        (lambda x: x[0].transpose(2, 0, 1), r"channels come last, image\.transpose\(1, 2, 0\)\[None\]"),
        (lambda x: jnp.concatenate([x, x[..., :1]], -1), r"drop transparency with images\[\.\.\., :3\]"),
    ],
)
def test_what_is_no_batch_of_images(change, message, small_params, images):
    """One rule, and what to do, wherever images are taken."""
    wrong, key = change(images), jax.random.key(0)
    for call in (
        lambda: jaxviz.gradient(score(), small_params, wrong),
        lambda: jaxviz.occlusion(score(), small_params, wrong),
        lambda: jaxviz.rise(score(), small_params, key, wrong),
        lambda: jaxviz.integrated_gradients(score(), small_params, wrong),
        lambda: jaxviz.smoothgrad(score(), small_params, key, wrong),
        lambda: jaxviz.lrp(score(), small_params, wrong),
        lambda: jaxviz.grad_cam(score(), small_params, wrong, layer="relu_1"),
        lambda: jaxviz.deletion(score(), small_params, wrong, images[..., 0]),
        lambda: jaxviz.dream(score(), small_params, key, wrong),
        lambda: jaxviz.invert(small_net, small_params, key, wrong, layer="relu_1"),
        lambda: jaxviz.fool(small_net, small_params, wrong, target=0),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("number", [0, -1, 2.5, float("nan"), float("inf"), "4", True, [4]])
def test_a_batch_size_is_a_whole_number(number, small_params, images):
    with pytest.raises(ValueError, match="batch_size: expected a whole number of at least 1, got"):
        jaxviz.gradient(score(), small_params, images, batch_size=number)
