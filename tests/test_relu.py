"""Swapping ReLU rules: every spelling, a hand-edited twin, and what must be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nets import convolve, make_net, twin_deconvnet, twin_guided

import jaxviz

TWINS = {"guided": twin_guided, "deconvnet": twin_deconvnet}

SPELLINGS = {
    "jax.nn.relu": jax.nn.relu,
    "nnx.relu": nnx.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum reversed": lambda x: jnp.maximum(0.0, x),
    "maximum of zeros": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where reversed": lambda x: jnp.where(x <= 0, 0, x),
    "where flipped": lambda x: jnp.where(jnp.less(0, x), x, 0.0),
    "clip": lambda x: jnp.clip(x, 0),
    "clip high": lambda x: jnp.clip(x, 0, 1e9),
    "clamp": lambda x: jax.lax.clamp(0.0, x, 1e9),
    "mask": lambda x: x * (x > 0),
    "jitted": jax.jit(lambda x: jnp.maximum(x, 0)),
    "remat": jax.checkpoint(jax.nn.relu),
    "custom": twin_deconvnet,
}


def grads_of(net, params, images):
    return jax.grad(lambda x: net(params, x)[:, 1].sum())(images)


@pytest.mark.parametrize("rule", list(TWINS))
@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_every_spelling_equals_a_hand_edited_twin(spelling, rule, small_params, images):
    ours = jaxviz.with_relu(make_net(SPELLINGS[spelling]), rule)
    difference = grads_of(ours, small_params, images) - grads_of(make_net(TWINS[rule]), small_params, images)
    assert jnp.abs(difference).max() == 0.0
    np.testing.assert_array_equal(ours(small_params, images), make_net(SPELLINGS[spelling])(small_params, images))


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: f])
def test_inside_calls_and_under_jit_and_vmap(wrap, small_params, images):
    ours = jaxviz.with_relu(make_net(wrap=wrap), "guided")
    twin = make_net(twin_guided)
    np.testing.assert_array_equal(grads_of(ours, small_params, images), grads_of(twin, small_params, images))
    jitted = jax.jit(lambda p, x: grads_of(ours, p, x))(small_params, images)
    np.testing.assert_allclose(jitted, grads_of(twin, small_params, images), atol=1e-6)
    one = lambda x: grads_of(ours, small_params, x[None])[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(one)(images), grads_of(twin, small_params, images), atol=1e-6)


def test_the_rule_changes_the_gradient(small_params, images):
    """A negative control: the three rules differ on the same network."""
    net = make_net()
    maps = [grads_of(fn, small_params, images) for fn in (net, *(jaxviz.with_relu(net, r) for r in TWINS))]
    assert all(jnp.abs(a - b).max() > 1e-4 for a, b in zip(maps, (*maps[1:], maps[0]), strict=True))


def test_a_reused_relu_is_swapped_at_each_use(images):
    relu = jax.jit(jax.nn.relu)
    net = lambda params, x: -relu(relu(x - 0.5) + relu(0.5 - x)).sum((1, 2, 3))  # noqa: E731
    assert jnp.all(jax.grad(lambda x: jaxviz.with_relu(net, "guided")(None, x).sum())(images) == 0)


def test_relu6_keeps_the_derivative_of_its_bound():
    x = jnp.array([-1.0, 1.0, 7.0])
    for relu6 in (jax.nn.relu6, lambda x: jnp.clip(x, 0, 6), lambda x: jax.lax.clamp(0.0, x, 6.0)):
        grads = jax.grad(lambda x, f=relu6: jaxviz.with_relu(f, "guided")(x).sum())(x)
        np.testing.assert_array_equal(grads, [0.0, 1.0, 0.0])
        np.testing.assert_array_equal(jaxviz.with_relu(relu6, "guided")(x), relu6(x))


def test_a_rule_of_ones_own():
    straight_through = jaxviz.with_relu(lambda x: jax.nn.relu(x), lambda x, g: g)
    np.testing.assert_array_equal(jax.grad(lambda x: straight_through(x).sum())(jnp.array([-1.0, 1.0])), [1.0, 1.0])
    leaky = jaxviz.with_relu(lambda x: jax.nn.leaky_relu(x), lambda x, g: 5 * g)
    np.testing.assert_array_equal(jax.grad(lambda x: leaky(x).sum())(jnp.array([-1.0, 1.0])), [5.0, 5.0])
    np.testing.assert_array_equal(leaky(jnp.array([-1.0, 1.0])), jax.nn.leaky_relu(jnp.array([-1.0, 1.0])))


def test_leaky_relu_is_refused_by_name(images):
    for leaky in (jax.nn.leaky_relu, lambda x: jnp.maximum(x, 0.1 * x), lambda x: jnp.where(x > 0, x, 0.1 * x)):
        with pytest.raises(ValueError, match="'guided' is not defined for leaky_relu"):
            jaxviz.with_relu(leaky, "guided")(images)


def test_nothing_to_swap_raises(images):
    with pytest.raises(ValueError, match=r"found no ReLU to swap .*tanh"):
        jaxviz.with_relu(jnp.tanh, "guided")(images)
    with pytest.raises(ValueError, match="found no ReLU"):
        jaxviz.with_relu(jax.nn.softplus, "guided")(images)  # its maximum is no ReLU
    with pytest.raises(ValueError, match="found no ReLU"):
        jaxviz.with_relu(lambda x: jnp.maximum(x, 0.1), "guided")(images)


def test_a_relu_in_a_loop_is_refused(images):
    def looped(x):
        return jax.lax.scan(lambda c, _: (jax.nn.relu(c), None), x, None, length=2)[0]

    with pytest.raises(ValueError, match="ReLU inside a `scan`"):
        jaxviz.with_relu(lambda x: jax.nn.relu(looped(x)), "guided")(images)


def test_a_layer_with_its_own_derivative_is_refused(small_params, images):
    @jax.custom_vjp
    def block(w, x):
        return jax.nn.relu(convolve(x, w)) * 2

    block.defvjp(lambda w, x: (block(w, x), None), lambda _, g: (None, None))
    with pytest.raises(ValueError, match="derivative of its own"):
        jaxviz.with_relu(lambda p, x: jax.nn.relu(block(p["w1"], x)), "guided")(small_params, images)


def test_the_variance_of_a_normalization_is_no_relu(images):
    """Flax clips it at zero; a swapped rule there would change the normalization's derivative."""
    graph, state = nnx.split(nnx.LayerNorm(3, rngs=nnx.Rngs(0)))
    net = lambda state, x: jax.nn.relu(nnx.merge(graph, state)(x))  # noqa: E731
    assert list(jaxviz.layers(net, state, images)) == ["relu_0"]
    ours = jaxviz.with_relu(net, lambda x, g: jnp.where(x > 0, g, 0))
    np.testing.assert_allclose(
        jax.grad(lambda x: ours(state, x).sum())(images), jax.grad(lambda x: net(state, x).sum())(images), atol=1e-6
    )


def test_noise_is_no_relu(images):
    """jax.random.uniform takes a maximum with zero."""
    fn = lambda key, x: jax.nn.relu(x - jax.random.uniform(key, x.shape))  # noqa: E731
    assert len(jaxviz.layers(fn, jax.random.key(0), images)) == 1


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("rule", ["gided", 3])
def test_an_unknown_rule(rule):
    with pytest.raises(ValueError, match="expected the rule 'guided', 'deconvnet' or a function"):
        jaxviz.with_relu(jax.nn.relu, rule)


def test_a_variance_that_is_clipped_is_no_relu(images, x64):
    """As Equinox's normalizations write it; and a difference to a square is no variance for that alone."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4), jnp.float64)

    def normalized(x, clip):
        variance = jnp.var(x, (1, 2), keepdims=True)
        return (x - x.mean((1, 2), keepdims=True)) * jax.lax.rsqrt(
            (jnp.maximum(0.0, variance) if clip else variance) + 1e-5
        )

    def net(clip):
        return lambda images: jax.nn.relu(normalized(convolve(images, kernel), clip)).sum((1, 2, 3))

    images = images.astype(jnp.float64)
    assert [name for name in jaxviz.layers(lambda _, x: net(True)(x), None, images) if "relu" in name] == ["relu_0"]
    for rule in TWINS:
        grads = [
            jax.grad(lambda x, c=clip, r=rule: jaxviz.with_relu(net(c), r)(x).sum())(images) for clip in (True, False)
        ]
        np.testing.assert_allclose(*grads, atol=1e-12)
    squares = lambda _, x: jax.nn.relu(convolve(x, kernel) - jnp.square(x.mean(-1, keepdims=True)))  # noqa: E731
    assert "relu_0" in jaxviz.layers(squares, None, images)
