"""A network is traced once a call for each shape of images that it is given; what it does is not changed by that."""

import functools
import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from net_calls import CALLS, EYE, IMAGES, KEY, head

import jaxviz
from jaxviz.program._once import once

# The networks here are written as users write them.
pytestmark = pytest.mark.usefixtures("users_promotions")


def counted(net):
    traced = []

    @functools.wraps(net)
    def count(params, images):
        traced.append(images.shape)
        return net(params, images)

    return count, traced


@pytest.mark.filterwarnings("ignore:integrated_gradients")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.slow
def test_a_network_is_traced_once_for_each_shape(name):
    call, shapes = CALLS[name]
    net, traced = counted(head)
    call(net)
    assert len(traced) == len({*traced}) == shapes


def test_a_linen_models_method_is_traced_once_with_its_names():
    calls = []

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls.append(x.shape)
            return nn.relu(nn.Dense(4, name="first")(x)).mean((1, 2))

    model = Block()
    params = model.init(KEY, IMAGES)
    calls.clear()
    assert jaxviz.saliency(jaxviz.channel(model.apply, "first", 0), params, IMAGES).shape == IMAGES.shape[:3]
    assert len(calls) == 1


# What it does is not changed


def evaluated(net, *args):
    """Return what a network gives, and its gradient, through a stand-in, and by itself."""
    both = []
    for fn in (once(net), net):
        jitted = jax.jit(lambda params, images, fn=fn: jax.value_and_grad(lambda x: jnp.sum(fn(params, x)))(images))
        both.append(jitted(*args))
    return both


def test_derivatives_of_its_own_survive():
    @jax.custom_jvp
    def odd(x):
        return x**2

    odd.defjvp(lambda primals, tangents: (odd(*primals), 7 * tangents[0]))

    @jax.custom_vjp
    def other(x):
        return jnp.sin(x)

    other.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (5 * g,))
    for fn, slope in ((odd, 7), (other, 5), (jax.nn.relu, 1)):
        (value, grad), (expected, direct) = evaluated(lambda p, x, fn=fn: fn(x), None, IMAGES)
        assert value == expected
        np.testing.assert_array_equal(grad, direct)
        np.testing.assert_array_equal(grad, slope)


def test_types_and_weak_types_are_told_apart(x64):
    stand_in = once(lambda p, x: x * p)
    array = lambda dtype, **options: jax.ShapeDtypeStruct((), dtype, **options)
    for x, p, expected in (
        (array(jnp.float32), array(jnp.float32), jnp.float32),
        (array(jnp.float64), array(jnp.float64), jnp.float64),
        (array(jnp.float32), array(jnp.float64, weak_type=True), jnp.float32),
        (array(jnp.float32), array(jnp.float32), jnp.float32),
    ):
        assert jax.eval_shape(stand_in, p, x).dtype == expected


def test_settings_under_which_it_is_traced_count():
    stand_in = once(lambda p, x: jnp.dot(x, x.T))
    programs = []

    def trace(x):
        for precision in ("default", "highest", "default"):
            with jax.default_matmul_precision(precision):
                programs.append(str(jax.make_jaxpr(stand_in)(None, x)))
        return x

    jax.eval_shape(trace, IMAGES[0, 0])
    assert programs[0] == programs[2]
    assert "HIGHEST" in programs[1]
    assert "HIGHEST" not in programs[0]


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap], ids=["jit", "vmap"])
def test_a_network_may_close_over_what_is_traced(transform):
    scales = jnp.array([1.0, 2.0, 3.0])

    def maps(scale):
        return jaxviz.gradient(jaxviz.logit(lambda p, x: scale * head(p, x), 0), EYE, IMAGES)

    found = transform(maps)(scales if transform is jax.vmap else scales[1])
    plain = jaxviz.gradient(jaxviz.logit(head, 0), EYE, IMAGES)
    expected = scales.reshape(-1, 1, 1, 1, 1) * plain if transform is jax.vmap else 2 * plain
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_gradient_of_what_a_network_closes_over():
    value = lambda w: jaxviz.gradient(jaxviz.logit(lambda p, x: jnp.sin(w) * head(p, x), 0), EYE, IMAGES).sum()
    plain = jaxviz.gradient(jaxviz.logit(head, 0), EYE, IMAGES).sum()
    np.testing.assert_allclose(jax.grad(value)(0.5), jnp.cos(0.5) * plain, rtol=1e-5)


@pytest.mark.parametrize(
    "returned",
    [
        lambda x: {"maps": x, "none": None, "pair": (x, [x])},
        lambda x: x.sum(),
        lambda x: {"array": x, "number": 3.0},
        lambda x: (x, np.ones(2)),
        lambda x: {"array": x, "word": "cat"},
    ],
    ids=["nested", "scalar", "number", "numpy", "word"],
)
def test_what_it_returns_stays_what_it_is(returned):
    given = []
    for net in (lambda p, x: returned(x), once(lambda p, x: returned(x))):
        jax.eval_shape(lambda x, net=net: (given.append(net(None, x)), x)[1], IMAGES)
    kinds = [jax.tree.map(lambda x: "array" if isinstance(x, jax.Array) else (type(x), str(x)), each) for each in given]
    assert jax.tree.structure(given[0]) == jax.tree.structure(given[1])
    assert kinds[0] == kinds[1]


def test_where_nothing_is_traced_it_is_called():
    net = once(lambda p, x: x * float(x.sum()))  # which no traced one can do
    np.testing.assert_allclose(net(None, jnp.ones(3)), 3.0)


def test_between_calls_it_may_change():
    scale = 1.0
    score = lambda p, x: scale * x.sum((1, 2, 3))
    first = jaxviz.gradient(score, None, IMAGES)
    scale = 2.0
    np.testing.assert_array_equal(jaxviz.gradient(score, None, IMAGES), 2 * first)


def test_an_error_within_is_its_own():
    def net(params, images):
        raise RuntimeError("my network's own")

    with pytest.raises(RuntimeError, match="my network's own"):
        jaxviz.saliency(jaxviz.logit(net, 0), EYE, IMAGES)


def test_a_random_net_and_one_with_state_run_as_before():
    net = lambda p, x: x * jax.random.normal(jax.random.key(1), x.shape) + jnp.asarray(np.arange(3.0, dtype="float32"))
    (value, grad), (expected, direct) = evaluated(net, None, IMAGES)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(grad, direct)


def test_a_stand_in_goes_with_the_call():
    refs = []

    def net(params, images):
        return head(params, images)

    stand_in = once(net)
    jax.eval_shape(stand_in, EYE, IMAGES)
    refs += [weakref.ref(stand_in), weakref.ref(net)]
    del stand_in, net
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_one_stand_in_for_each_network_of_a_score():
    score = once(jaxviz.logit(head, 0) + 2 * jaxviz.energy(head, "relu_0"))
    first, second = (part.net for part in (score.scores[0], score.scores[1].scores[0]))
    assert first is second
    assert once(score) == score
    found = jaxviz.minimize(lambda x, key: jnp.sum(first(EYE, x)), IMAGES, KEY, steps=1, optimizer=optax.sgd(0.1))
    assert found.finished
