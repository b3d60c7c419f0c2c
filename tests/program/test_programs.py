"""Programs are found again for the same functions, and go when these go."""

import gc
import weakref

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxviz
from jaxviz.program._compiled import compiled

IMAGES = jnp.linspace(0, 1, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
KEY = jax.random.key(0)
SMALL = {"size": 16, "steps": 1}


def closing_over(weights):
    return lambda params, images: jax.nn.relu(images @ weights).mean((1, 2))


CALLS = {
    "saliency": lambda net: jaxviz.saliency(jaxviz.logit(net, 0), {}, IMAGES),
    "saliency of a sum": lambda net: jaxviz.saliency(
        jaxviz.logit(net, 0) + 2 * jaxviz.energy(net, "relu_0"), {}, IMAGES
    ),
    "grad_cam": lambda net: jaxviz.grad_cam(jaxviz.logit(net, 0), {}, IMAGES, layer="relu_0"),
    "occlusion": lambda net: jaxviz.occlusion(jaxviz.channel(net, "relu_0", 0), {}, IMAGES, window=8, stride=8),
    "features": lambda net: jaxviz.features(net, {}, IMAGES, layer="relu_0", size=16),
    "top_patches": lambda net: jaxviz.top_patches(net, {}, IMAGES, layer="relu_0", size=16, k=1),
    "ascend": lambda net: jaxviz.ascend(jaxviz.channel(net, "relu_0", 0), {}, KEY, **SMALL),
    "ascend of a plain function": lambda net: jaxviz.ascend(lambda p, x: net(p, x)[:, 0], {}, KEY, **SMALL),
    "sheet": lambda net: jaxviz.sheet(net, {}, KEY, layer="relu_0", channels=[0], **SMALL),
    "dream": lambda net: jaxviz.dream(jaxviz.energy(net, "relu_0"), {}, KEY, IMAGES, steps=1, octaves=1),
    "invert": lambda net: jaxviz.invert(net, {}, KEY, IMAGES, layer="relu_0", steps=1),
    "texture": lambda net: jaxviz.texture(net, {}, KEY, IMAGES[0], layers=["relu_0"], steps=1),
    "fool": lambda net: jaxviz.fool(net, {}, IMAGES, target=1, steps=1),
    "match_grams": lambda net: jaxviz.match_grams(net, {}, IMAGES, ["relu_0"]),
    "resemblance": lambda net: jaxviz.resemblance(net, {}, IMAGES, layer="relu_0"),
    "guided_backprop": lambda net: jaxviz.guided_backprop(jaxviz.logit(net, 0), {}, IMAGES),
    "lrp": lambda net: jaxviz.lrp(jaxviz.logit(net, 0), {}, IMAGES),
    "capture": lambda net: jaxviz.capture(net, "relu_0")({}, IMAGES),
    "receptive_field": lambda net: jaxviz.receptive_field(net, {}, IMAGES, "relu_0"),
    "minimize": lambda net: jaxviz.minimize(
        lambda x, key: jnp.sum(net({}, x)), IMAGES, KEY, steps=1, optimizer=optax.sgd(0.1)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_network_is_freed_when_its_user_lets_go_of_it(call):
    weights = []
    for i in range(2):
        weight = jnp.full((3, 4), 0.1 * (i + 1))
        weights.append(weakref.ref(weight))
        call(closing_over(weight))
        del weight
    gc.collect()
    assert [ref() for ref in weights] == [None] * 2


@pytest.mark.slow
def test_many_networks_leave_nothing():
    refs = []
    for i in range(40):
        net = closing_over(jnp.full((3, 4), 0.01 * i))
        refs.append(weakref.ref(net))
        jaxviz.layers(net, {}, IMAGES)
        jaxviz.gradient(jaxviz.logit(net, 0), {}, IMAGES[:, :2, :2])
        del net
    gc.collect()
    assert sum(ref() is not None for ref in refs) == 0


def test_a_guide_of_the_same_network_compiles_nothing_new():
    traced = []

    def net(params, images):
        traced.append(1)
        return jax.nn.relu(images @ params)

    for scale in (1.0, 2.0):
        guide = jaxviz.resemblance(net, scale * jnp.eye(3), IMAGES, layer="relu_0").guide
        assert jnp.allclose(guide, scale * IMAGES.reshape(-1, 3))
    assert len(traced) == 1


CHANGED = {
    "saliency": lambda net: jaxviz.saliency(jaxviz.logit(net, 0), {}, IMAGES),
    "features": lambda net: jaxviz.features(net, {}, IMAGES, layer="relu_0", size=16).values,
    "resemblance": lambda net: jaxviz.resemblance(net, {}, IMAGES, layer="relu_0").guide,
    "capture": lambda net: jaxviz.capture(net, "relu_0")({}, IMAGES)[1]["relu_0"],
}


@pytest.mark.parametrize("call", CHANGED.values(), ids=CHANGED)
def test_a_network_made_again_around_other_weights_has_its_own_results(call):
    first, second = (call(closing_over(jnp.full((3, 4), weight))) for weight in (0.1, 0.2))
    assert jnp.allclose(2 * jnp.asarray(first), jnp.asarray(second), rtol=1e-5)
    assert jnp.any(jnp.asarray(first) != 0)


@pytest.mark.parametrize("name", ["capture", "layers"])
def test_what_is_not_compiled_sees_what_a_network_closes_over_now(name):
    channels = 4
    net = lambda params, images: jax.nn.relu(images @ jnp.ones((3, channels)))
    calls = {
        "capture": lambda: jaxviz.capture(net, "relu_0")({}, IMAGES)[1]["relu_0"].shape[-1],
        "layers": lambda: jaxviz.layers(net, {}, IMAGES)["relu_0"].shape[-1],
    }
    assert calls[name]() == 4
    channels = 5
    assert calls[name]() == 5


class Model:
    """A network as a method, whose object counts how often it is traced."""

    def __init__(self, scale):
        self.scale, self.traced = scale, 0

    def apply(self, params, images):
        self.traced += 1
        return self.scale * images.mean((1, 2))


@compiled(static_argnums=0)
def value(net, images):
    return net(None, images)


def test_a_program_is_found_again_for_the_same_network():
    model, other = Model(2.0), Model(3.0)
    for _ in range(3):
        assert jnp.allclose(value(model.apply, IMAGES), 2 * IMAGES.mean((1, 2)))  # a new method object each time
        assert jnp.allclose(value(other.apply, IMAGES), 3 * IMAGES.mean((1, 2)))
    assert (model.traced, other.traced) == (1, 1)


def test_a_program_is_found_again_for_every_number_of_a_score():
    traced = []

    def net(params, images):
        traced.append(1)
        return images.mean((1, 2))

    jaxviz.saliency(jaxviz.logit(net, 0), None, IMAGES)
    before = len(traced)
    for target in (1, 2):
        jaxviz.saliency(jaxviz.logit(net, target), None, IMAGES)
    assert len(traced) == before


def test_a_network_that_two_terms_share_is_evaluated_once():
    net = closing_over(jnp.ones((3, 4)))
    score = jaxviz.logit(net, 0) + jaxviz.logit(net, 1)
    program = jax.make_jaxpr(lambda images: jaxviz.gradient(score, {}, images))(IMAGES)
    assert str(program).count("dot_general") == 2  # there and back


def test_another_network_in_the_same_place_of_memory_has_a_program_of_its_own():
    for i in range(20):  # ids are used again
        scale = float(i)
        net = lambda params, images, scale=scale: scale * images.mean((1, 2))
        assert jnp.allclose(value(net, IMAGES), scale * IMAGES.mean((1, 2)))
        del net
