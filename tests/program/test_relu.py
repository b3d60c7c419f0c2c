"""Swapping ReLU rules: every spelling, a hand-edited twin, and what must be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from nets import broadened, convolve, make_net, twin_deconvnet, twin_guided

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
    "mask": lambda x: x * (x > 0).astype(x.dtype),
    "jitted": jax.jit(lambda x: jnp.maximum(x, 0)),
    "remat": jax.checkpoint(jax.nn.relu),
    "custom": twin_deconvnet,
}


def grads_of(net, params, images):
    return jax.grad(lambda x: net(params, x)[:, 1].sum())(images)


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(TWINS))
@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_every_spelling_equals_a_hand_edited_twin(spelling, rule, small_params, images):
    ours = jaxviz.with_relu(make_net(SPELLINGS[spelling]), rule)
    difference = grads_of(ours, small_params, images) - grads_of(make_net(TWINS[rule]), small_params, images)
    assert jnp.abs(difference).max() == 0.0
    np.testing.assert_array_equal(ours(small_params, images), make_net(SPELLINGS[spelling])(small_params, images))


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: f])
def test_inside_calls_and_under_jit_and_vmap(wrap, small_params, images):
    ours = jaxviz.with_relu(make_net(wrap=wrap), "guided")
    twin = make_net(twin_guided)
    np.testing.assert_array_equal(grads_of(ours, small_params, images), grads_of(twin, small_params, images))
    jitted = jax.jit(lambda p, x: grads_of(ours, p, x))(small_params, images)
    np.testing.assert_allclose(jitted, grads_of(twin, small_params, images), atol=1e-6)
    one = lambda x: grads_of(ours, small_params, x[None])[0]
    np.testing.assert_allclose(jax.vmap(one)(images), grads_of(twin, small_params, images), atol=1e-6)


def test_the_rule_changes_the_gradient(small_params, images):
    """A negative control: the three rules differ on the same network."""
    net = make_net()
    maps = [grads_of(fn, small_params, images) for fn in (net, *(jaxviz.with_relu(net, r) for r in TWINS))]
    assert all(jnp.abs(a - b).max() > 1e-4 for a, b in zip(maps, (*maps[1:], maps[0]), strict=True))


def test_a_reused_relu_is_swapped_at_each_use(images):
    relu = jax.jit(jax.nn.relu)
    net = lambda params, x: -relu(relu(x - 0.5) + relu(0.5 - x)).sum((1, 2, 3))
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
        return jax.lax.scan(lambda c, _: (jax.nn.relu(c), None), x, None, length=200)[0]

    with pytest.raises(ValueError, match="ReLU inside a `scan`"):
        jaxviz.with_relu(lambda x: jax.nn.relu(looped(x)), "guided")(images)


def test_a_layer_with_its_own_derivative_is_refused(small_params, images):
    @jax.custom_vjp
    def block(w, x):
        return jax.nn.relu(convolve(x, w)) * 2

    block.defvjp(lambda w, x: (block(w, x), None), lambda _, g: (None, None))
    with pytest.raises(ValueError, match="inside a function with a custom derivative"):
        jaxviz.with_relu(lambda p, x: jax.nn.relu(block(p["w1"], x)), "guided")(small_params, images)


@pytest.mark.slow
def test_the_variance_of_a_normalization_is_no_relu(images):
    """Flax clips it at zero; a swapped rule there would change the normalization's derivative."""
    images = images.astype(jnp.float32)  # as flax makes parameters
    graph, state = nnx.split(nnx.LayerNorm(3, rngs=nnx.Rngs(0)))
    net = lambda state, x: jax.nn.relu(nnx.merge(graph, state)(x))
    assert list(jaxviz.layers(net, state, images)) == ["relu_0"]
    ours = jaxviz.with_relu(net, lambda x, g: jnp.where(x > 0, g, 0))
    np.testing.assert_allclose(
        jax.grad(lambda x: ours(state, x).sum())(images), jax.grad(lambda x: net(state, x).sum())(images), atol=1e-6
    )


def test_noise_is_no_relu(images):
    """jax.random.uniform takes a maximum with zero."""
    fn = lambda key, x: jax.nn.relu(x - jax.random.uniform(key, x.shape))
    assert len(jaxviz.layers(fn, jax.random.key(0), images)) == 1


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize("rule", ["gided", 3])
def test_an_unknown_rule(rule):
    with pytest.raises(ValueError, match="expected the rule 'guided', 'deconvnet' or a function"):
        jaxviz.with_relu(jax.nn.relu, rule)


@pytest.mark.slow
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
    squares = lambda _, x: jax.nn.relu(convolve(x, kernel) - jnp.square(x.mean(-1, keepdims=True)))
    assert "relu_0" in jaxviz.layers(squares, None, images)


# What is a ReLU, and what is not

RELUS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 6),
    "bound inside": lambda x: jnp.maximum(jnp.minimum(x, 6), 0),
    "shifted": lambda x: jax.nn.relu(x - 0.1),
    "turned": lambda x: 1 - jax.nn.relu(-x),
    "squared": lambda x: jnp.square(jax.nn.relu(x)),
    "to the power of 2.0": lambda x: jnp.maximum(x, 0) ** 2.0,
    "twice, as Keras's max_value": lambda x: jnp.clip(jax.nn.relu(x), 0, 6),
    "then an affine normalization": lambda x: 1.3 * jax.nn.relu(x) - 0.2,
    "then dropout": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), 2 * jax.nn.relu(x), 0),
    "both sides, concatenated": lambda x: jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], -1),
}

OTHERS = {
    "celu": (jax.nn.celu, "expm1"),
    "elu": (jax.nn.elu, "expm1"),
    "elu of max": (lambda x: jnp.maximum(x, 0) + jnp.expm1(jnp.minimum(x, 0)), "expm1"),
    "selu": (jax.nn.selu, "expm1"),
    "gelu": (jax.nn.gelu, "tanh"),
    "exact gelu": (lambda x: jax.nn.gelu(x, approximate=False), "erf"),
    "glu": (lambda x: jax.nn.glu(jnp.concatenate([x, x + 1], -1)), "logistic"),
    "hard_sigmoid": (jax.nn.hard_sigmoid, "max.min"),
    "hard_silu": (jax.nn.hard_silu, "max.min"),
    "hard_tanh": (jax.nn.hard_tanh, "select_n"),
    "log_sigmoid": (jax.nn.log_sigmoid, "log1p"),
    "mish": (jax.nn.mish, "tanh"),
    "sigmoid": (jax.nn.sigmoid, "logistic"),
    "silu": (jax.nn.silu, "logistic"),
    "soft_sign": (jax.nn.soft_sign, "abs"),
    "softplus": (jax.nn.softplus, "log1p"),
    "sparse_plus": (jax.nn.sparse_plus, "select_n"),
    "sparse_sigmoid": (jax.nn.sparse_sigmoid, "max.min"),
    "squareplus": (jax.nn.squareplus, "sqrt"),
    "tanh": (jnp.tanh, "tanh"),
    "Keras's old hard sigmoid": (lambda x: jnp.clip(0.2 * x + 0.5, 0, 1), "max.min"),
    "hard sigmoid, bound inside": (lambda x: jnp.maximum(jnp.minimum(x / 6 + 0.5, 1), 0), "max.min"),
    "timm's hard swish": (lambda x: x * jax.nn.relu6(x + 3) / 6, "max.min"),
    "timm's hard mish": (lambda x: 0.5 * x * jnp.clip(x + 2, 0, 2), "max.min"),
    "PReLU of max and min": (lambda x: jnp.maximum(x, 0) + 0.2 * jnp.minimum(x, 0), "max.min"),
    "Keras's negative_slope": (lambda x: jax.nn.relu(x) - 0.2 * jax.nn.relu(-x), "max"),
    "Keras's threshold": (lambda x: x * (x > 0.3).astype(x.dtype), "mul"),
    "soft shrink": (lambda x: jax.nn.relu(x - 0.1) - jax.nn.relu(-x - 0.1), "max"),
    "soft threshold": (lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.1, 0), "abs.max"),
    "absolute value": (lambda x: jax.nn.relu(x) + jax.nn.relu(-x), "max"),
    "of the absolute value": (lambda x: (x + jnp.abs(x)) / 2, "abs"),
    "quantization": (lambda x: (jnp.clip(jnp.round(x / 0.1) + 3, 0, 255) - 3) * 0.1, "max.min"),
}


def of_dense(*activations):
    """Return a network with an activation between each two of its dense layers."""

    def net(params, images):
        x = images.mean((1, 2)) @ params["first"]
        for activation in activations:
            x = activation(x)
            x = x @ jnp.tile(params["inner"], (x.shape[-1] // 8 + 1, 1))[: x.shape[-1]]
        return x @ params["last"]

    return net


@pytest.fixture(scope="module")
def dense_params():
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"first": (3, 8), "inner": (8, 8), "last": (8, 4)}
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def names_of_relus(net, params, images):
    return [name for name in jaxviz.layers(net, params, images) if name.startswith("relu")]


def found_in_all_arguments(net, params, images, rule=lambda x, g: g):
    """Trace a swap without running it: with parameters, too, as what is varied."""
    return jax.eval_shape(jaxviz.with_relu(net, rule), params, images)


@pytest.mark.parametrize("name", RELUS)
def test_what_is_a_relu(name, dense_params, images):
    net, per_use = of_dense(RELUS[name], RELUS[name]), 2 if name.startswith(("both", "twice")) else 1
    assert len(names_of_relus(net, dense_params, images)) == 2 * per_use
    found_in_all_arguments(net, dense_params, images, "guided")  # without a warning, which would be an error here


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_relu(name, dense_params, images):
    """Alone it is refused; beside a ReLU it keeps its derivative, as in a hand-edited twin, and is warned of."""
    other, operations = OTHERS[name]
    alone = of_dense(other)
    assert names_of_relus(alone, dense_params, images) == []
    for swap in (found_in_all_arguments, lambda *args: jaxviz.guided_backprop(jaxviz.logit(alone, 1), *args[1:])):
        with pytest.raises(ValueError, match=f"found no ReLU to swap in this function .it has .*{operations}"):
            swap(alone, dense_params, images)
    beside, twin = of_dense(jax.nn.relu, other), of_dense(twin_guided, other)
    assert names_of_relus(beside, dense_params, images) == ["relu_0"]
    with pytest.warns(UserWarning, match=rf"only part .* 'guided': .*relu: 1.*other activations .*{operations}\S*: 1"):
        ours = grads_of(jaxviz.with_relu(beside, "guided"), dense_params, images)
    np.testing.assert_array_equal(ours, grads_of(twin, dense_params, images))


@pytest.mark.usefixtures("users_promotions")
@pytest.mark.parametrize("prelu", ["nnx", "parameter", "where"])
def test_a_learned_slope_is_a_leaky_relu_or_no_relu(prelu, dense_params, images):
    graph, state = nnx.split(nnx.PReLU(negative_slope_init=0.2))
    params = dense_params | {"prelu": state, "slope": jnp.full(8, 0.2)}

    def net(params, images):
        kinds = {
            "nnx": lambda x: nnx.merge(graph, params["prelu"])(x),
            "parameter": lambda x: jnp.maximum(x, 0) + params["slope"] * jnp.minimum(x, 0),
            "where": lambda x: jnp.where(x > 0, x, params["slope"] * x),
        }
        return of_dense(kinds[prelu])(params, images)

    refusal = "found no ReLU" if prelu == "parameter" else "not defined for leaky_relu"
    with pytest.raises(ValueError, match=refusal):
        jaxviz.guided_backprop(jaxviz.logit(net, 1), params, images)
    with pytest.raises(ValueError, match=refusal):
        found_in_all_arguments(net, params, images, "guided")


def excited(gate, activation=jax.nn.relu, clipped=lambda x: x, scale=lambda y, gate: y * gate):
    """Return a network with squeeze-and-excitation, as MobileNetV3 and EfficientNet have it."""

    def net(params, images):
        y = activation(convolve(clipped(images), params["w1"]) + broadened(params["b1"]))
        squeezed = jax.nn.relu(y.mean((1, 2)) @ params["squeeze"]) @ params["excite"]
        y = activation(convolve(scale(y, gate(squeezed)[:, None, None]), params["w2"]))
        return y.mean((1, 2)) @ params["w3"]

    return net


GATES = {
    "sigmoid": jax.nn.sigmoid,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "relu6 written out": lambda x: jax.nn.relu6(x + 3) / 6,
    "clip": lambda x: jnp.clip(x, 0, 1),
    "relu": jax.nn.relu,
}


@pytest.fixture(scope="module")
def excited_params(small_params):
    keys = jax.random.split(jax.random.key(2), 2)
    return small_params | {
        "squeeze": jax.random.normal(keys[0], (8, 4)),
        "excite": jax.random.normal(keys[1], (4, 8)),
    }


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.relu6])
def test_a_gate_is_no_relu(gate, activation, excited_params, images):
    net = excited(GATES[gate], activation)
    assert len(names_of_relus(net, excited_params, images)) == 3
    found_in_all_arguments(net, excited_params, images, "guided")


@pytest.mark.slow
def test_gates_keep_their_derivative(excited_params, images):
    net = excited(jax.nn.hard_sigmoid, clipped=lambda x: jnp.clip(x, 0, 1))

    def twin(params, images):
        """Return the same with a hand-edited ReLU where there is an activation."""
        y = twin_guided(convolve(jnp.clip(images, 0, 1), params["w1"]) + broadened(params["b1"]))
        gate = jax.nn.hard_sigmoid(twin_guided(y.mean((1, 2)) @ params["squeeze"]) @ params["excite"])
        y = twin_guided(convolve(y * gate[:, None, None], params["w2"]))
        return y.mean((1, 2)) @ params["w3"]

    ours = jaxviz.guided_backprop(jaxviz.logit(net, 1), excited_params, images)
    expected = grads_of(twin, excited_params, images)
    np.testing.assert_allclose(ours, expected, atol=1e-6 * jnp.abs(expected).max())


CLIPS = {
    "clip": lambda x: jnp.clip(x, 0, 1),
    "maximum": lambda x: jnp.maximum(x, 0),
    "of bytes": lambda x: jnp.clip(255 * x, 0, 255) / 255,
    "then normalized": lambda x: (jax.lax.clamp(0.0, x, 1.0) - 0.5) / 0.25,
    "more contrast": lambda x: jnp.clip(1.5 * (x - 0.5) + 0.5, 0, 1),
    "after a resize": lambda x: jnp.clip(jax.image.resize(x, (2, 20, 20, 3), "cubic"), 0, 1),
    "after a crop": lambda x: jnp.clip(jnp.pad(x[:, 2:-2], ((0, 0), (2, 2), (2, 2), (0, 0)))[:, ::-1], 0, 1),
    "of a standardized image": lambda x: jnp.clip((x - x.mean((1, 2), keepdims=True)) / x.std(), 0, 1),
}


@pytest.mark.parametrize("clip", CLIPS)
def test_images_that_are_clipped_are_no_activation(clip, small_params, images):
    net = lambda params, images: make_net()(params, CLIPS[clip](images))
    assert names_of_relus(net, small_params, images) == ["relu_0", "relu_1"]
    assert jaxviz.layers(net, small_params, images)["relu_0"].shape[-1] == 8
    found_in_all_arguments(net, small_params, images, "guided")


def attention(scores, product):
    def net(params, images):
        tokens = images.mean(2) @ params["first"]
        queries, keys, values = tokens @ params["inner"], tokens @ params["inner"].T, tokens
        mixed = product(scores(queries), keys.swapaxes(1, 2), values, scores)
        return jax.nn.relu(mixed @ params["inner"]).mean(1) @ params["last"]

    return net


def normalized(x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(jnp.square(x).mean(-1, keepdims=True), 0) + 1e-5)


def local_response(x):
    squares = jax.lax.reduce_window(jnp.square(x), 0.0, jax.lax.add, (1, 5), (1, 1), "SAME")
    return x / (1 + 1e-4 * squares) ** 0.75


def hinge(net):
    return lambda params, images: -jnp.maximum(0, 1 - net(params, images)[:, 1])


def hinge_between(net):
    def score(params, images):
        logits = net(params, images)
        return -jnp.maximum(0, 1 + logits - logits[:, 1:2]).sum(-1)

    return score


def margin(net):
    """Carlini and Wagner's."""

    def score(params, images):
        logits = net(params, images)
        return jnp.maximum(logits[:, 0] - logits[:, 1:].max(-1), 0)

    return score


plain = of_dense(jax.nn.relu, jax.nn.relu)
QUIET = {
    "softmax attention": (attention(lambda x: x, lambda q, k, v, _: jax.nn.softmax(q @ k / 3) @ v), 1),
    "sigmoid attention": (attention(lambda x: x, lambda q, k, v, _: jax.nn.sigmoid(q @ k / 3) @ v), 1),
    "normalization": (of_dense(lambda x: jax.nn.relu(normalized(x)), lambda x: normalized(jax.nn.relu(x))), 2),
    "local response normalization": (of_dense(lambda x: local_response(jax.nn.relu(x))), 1),
    "the same before": (of_dense(lambda x: jax.nn.relu(local_response(x))), 1),
    "length 1": (of_dense(lambda x: (lambda r: r / jnp.linalg.norm(r, axis=-1, keepdims=True))(jax.nn.relu(x))), 1),
    "hinge": (hinge(plain), 2),
    "hinge between classes": (hinge_between(plain), 2),
    "margin": (margin(plain), 2),
    "log probability": (lambda params, images: jax.nn.log_softmax(plain(params, images))[:, 1], 2),
    "last sigmoid": (lambda params, images: jax.nn.sigmoid(plain(params, images)), 2),
    "last tanh": (lambda params, images: jnp.tanh(plain(params, images)), 2),
    "last softplus": (lambda params, images: jax.nn.softplus(plain(params, images)), 2),
    "weights that are no less than 0": (
        lambda params, images: plain(params | {"first": jnp.maximum(params["first"], 0)}, images),
        2,
    ),
    "pixels of sRGB": (
        lambda params, images: plain(
            params, jnp.where(images < 0.04, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
        ),
        2,
    ),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_neither_a_relu_nor_warned_of(name, dense_params, images):
    net, relus = QUIET[name]
    assert len(names_of_relus(net, dense_params, images)) == relus
    found_in_all_arguments(net, dense_params, images, "guided")


def test_a_hinge_loss_does_not_zero_the_map(dense_params, images):
    """Its own maximum would pass no negative gradient, and nothing would be left."""
    ours = jax.grad(lambda x: jaxviz.with_relu(hinge(plain), "guided")(dense_params, x).sum())(images)
    twin = of_dense(twin_guided, twin_guided)
    np.testing.assert_array_equal(ours, jax.grad(lambda x: hinge(twin)(dense_params, x).sum())(images))


WARNED = {
    "relu attention": (attention(lambda x: x, lambda q, k, v, _: jax.nn.relu(q @ k) @ v), "max: 1"),
    "linear attention": (attention(jax.nn.relu, lambda q, k, v, f: q @ (f(k) @ v)), "max: 2"),
    "gated by a ReLU": (
        of_dense(jax.nn.relu, lambda x: jax.nn.relu(x @ jnp.eye(8)) * (x @ jnp.ones((8, 8)))),
        "max: 1",
    ),
    "gated by a GELU": (
        of_dense(jax.nn.relu, lambda x: jax.nn.gelu(x @ jnp.eye(8)) * (x @ jnp.ones((8, 8)))),
        "tanh: 1",
    ),
    "a ReLU stem": (of_dense(jax.nn.relu, jax.nn.gelu, jax.nn.gelu, jax.nn.silu), "tanh: 2, logistic: 1"),
    "in a loop": (
        of_dense(jax.nn.relu, lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c), None), x, None, 200)[0]),
        "tanh in a `scan`: 1",
    ),
    "in the turns of a loop": (
        of_dense(jax.nn.relu, lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c @ jnp.eye(8)), None), x, None, 2)[0]),
        "tanh: 2",
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_warned_of(name, dense_params, images):
    net, found = WARNED[name]
    for rule in TWINS:
        with pytest.warns(UserWarning, match=rf"'{rule}': .*relu: 1\) it has other activations \({found}\)"):
            found_in_all_arguments(net, dense_params, images, rule)
    found_in_all_arguments(net, dense_params, images)  # a rule of one's own may be meant for some only


def test_residual_networks(images):
    """A sum goes on to the next block whose ReLU is its own."""
    kernels = jax.random.normal(jax.random.key(3), (4, 3, 3, 3, 3))

    def before(params, x):
        for kernel in params:
            x = x + convolve(jax.nn.relu(0.9 * x - jnp.arange(3.0)[None, None, None]), kernel)
        return jax.nn.relu(x).mean((1, 2))

    def after(params, x):
        for kernel in params:
            x = jax.nn.relu(x + convolve(x, kernel))
        return x.mean((1, 2))

    assert len(names_of_relus(after, kernels, images)) == 4
    stem = lambda params, x: before(params[1:], convolve(x, params[0]))
    assert len(names_of_relus(stem, kernels, images)) == 4
    for net in (stem, after):
        found_in_all_arguments(net, kernels, images, "guided")


def test_a_relu_that_is_also_a_part_is_refused(dense_params, images):
    def both(params, images):
        x = images.mean((1, 2)) @ params["first"]
        on = jax.nn.relu(x)
        return (on @ params["inner"] + (on + 0.1 * jnp.minimum(x, 0)) @ params["inner"]) @ params["last"]

    with pytest.raises(ValueError, match="is also part of another function of its input"):
        found_in_all_arguments(both, dense_params, images)


def branched(x):
    return jax.lax.cond(x.sum() > 0, jax.nn.relu, lambda x: x, x)


def looped(x):
    return jax.lax.while_loop(lambda x: x.sum() > 1e9, jax.nn.relu, x)


@pytest.mark.parametrize(("call", "name", "way"), [(branched, "cond", "jnp.where"), (looped, "while", "in Python")])
def test_what_cannot_be_entered_is_called_by_its_name(call, name, way, dense_params, images):
    net = of_dense(jax.nn.relu, call)
    with pytest.raises(ValueError, match=f"a ReLU inside a `{name}` cannot be swapped: .*{way}"):
        found_in_all_arguments(net, dense_params, images)
    with pytest.warns(UserWarning, match=f"no name .relu inside a `{name}`: 1. must be returned"):
        assert names_of_relus(net, dense_params, images) == ["relu_0"]


def test_a_gate_in_a_loop_is_no_reason_to_refuse(dense_params, images):
    turn = lambda x, _: (x * jax.nn.hard_sigmoid(x.mean(-1, keepdims=True)), None)
    net = of_dense(jax.nn.relu, lambda x: jax.lax.scan(turn, x, None, 2)[0])
    found_in_all_arguments(net, dense_params, images, "guided")


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("relu", ["jax.nn.relu", "maximum", "where", "mask"])
def test_relus_are_found_in_a_function_for_each_device(relu, check_vma, small_params, images):
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    parts = PartitionSpec("batch")
    net = jax.shard_map(
        make_net(SPELLINGS[relu]),
        mesh=mesh,
        in_specs=(PartitionSpec(), parts),
        out_specs=parts,
        check_vma=check_vma,
    )
    ours = jax.jit(lambda x: grads_of(jaxviz.with_relu(net, "guided"), small_params, x))(images)
    expected = grads_of(make_net(twin_guided), small_params, images)
    np.testing.assert_allclose(ours, expected, atol=1e-6 * jnp.abs(expected).max())


class Block(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


@pytest.mark.parametrize("lifted", [nnx.jit, nnx.remat, lambda f: nnx.jit(nnx.remat(f))], ids=["jit", "remat", "both"])
def test_modules_with_lifted_transformations_inside(lifted, images):
    images = images.astype(jnp.float32)  # as flax makes parameters, whatever x64 says
    module = Block(nnx.Rngs(0))
    module.eval()
    graph, state = nnx.split(module)

    def net(wrap):
        return lambda state, images: wrap(lambda m, x: m(x))(nnx.merge(graph, state), images.mean((1, 2)))

    scores = [jaxviz.logit(net(wrap), 1) for wrap in (lifted, lambda f: f)]
    ours, expected = (jaxviz.guided_backprop(score, state, images) for score in scores)
    np.testing.assert_allclose(ours, expected, atol=1e-6 * jnp.abs(expected).max())
    assert jnp.abs(ours).max() > 0
