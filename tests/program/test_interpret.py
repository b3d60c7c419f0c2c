"""Reading and rewriting a function through its jaxpr: every case of names, calls, transformations and errors."""

import dataclasses
import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name
from nets import broadened, convolve, make_net, small_net

import jaxviz


def named_net(params, images):
    x = checkpoint_name(convolve(images, params["w1"]) + broadened(params["b1"]), "first")
    x = checkpoint_name(jax.nn.relu(x), "on")
    return jax.nn.relu(convolve(x, params["w2"])).mean((1, 2))


WRAPS = {"plain": lambda f: f, "jit": jax.jit, "remat": jax.checkpoint, "both": lambda f: jax.jit(jax.checkpoint(f))}


@pytest.fixture(params=list(WRAPS))
def wrapped(request):
    return make_net(wrap=WRAPS[request.param])


def test_layers_lists_automatic_names_in_forward_order(wrapped, small_params, images):
    found = jaxviz.layers(wrapped, small_params, images)
    assert list(found) == ["conv_0", "relu_0", "max_pool_0", "conv_1", "relu_1", "global_avg_pool_0", "dense_0"]
    assert found["conv_1"].shape == (2, 8, 8, 6)
    assert found["dense_0"].dtype == images.dtype


def test_layers_runs_on_shapes_alone(small_params, images):
    shapes = jax.eval_shape(lambda: (small_params, images))
    assert jaxviz.layers(small_net, *shapes) == jaxviz.layers(small_net, small_params, images)


def test_names_take_the_place_of_numbers_which_go_on_counting(small_params, images):
    assert list(jaxviz.layers(named_net, small_params, images)) == [
        "first",
        "on",
        "conv_1",
        "relu_1",
        "global_avg_pool_0",
    ]


def test_capture_one_and_many(small_params, images):
    outputs, values = jaxviz.capture(named_net, "first")(small_params, images)
    expected = convolve(images, small_params["w1"]) + broadened(small_params["b1"])
    np.testing.assert_allclose(values["first"], expected, atol=1e-6)
    np.testing.assert_array_equal(outputs, named_net(small_params, images))
    _, values = jaxviz.capture(named_net, ["relu_1", "first"])(small_params, images)
    assert list(values) == ["relu_1", "first"]


def test_a_convolution_includes_its_bias(wrapped, small_params, images):
    _, values = jaxviz.capture(wrapped, "conv_0")(small_params, images)
    np.testing.assert_allclose(
        values["conv_0"], convolve(images, small_params["w1"]) + broadened(small_params["b1"]), atol=1e-6
    )


def test_a_value_is_captured_though_nothing_uses_it(small_params, images):
    def net(params, images):
        checkpoint_name(images * 2, "aside")
        return images.mean((1, 2))

    np.testing.assert_array_equal(jaxviz.capture(net, "aside")(small_params, images)[1]["aside"], images * 2)


def test_constants_and_closed_over_values(images):
    table = jnp.arange(3.0)

    def net(params, images):
        return checkpoint_name(images * broadened(table) + 1.0, "scaled")

    np.testing.assert_array_equal(jaxviz.capture(net, "scaled")(None, images)[0], images * broadened(table) + 1)


def test_closed_over_tracers(images):
    def outer(scale):
        def net(params, images):
            return checkpoint_name(images * scale, "scaled").sum((1, 2, 3))

        return jaxviz.capture(net, "scaled")(None, images)[1]["scaled"].sum()

    np.testing.assert_allclose(jax.jit(jax.grad(outer))(2.0), images.sum(), rtol=1e-5)


@pytest.mark.parametrize("outer", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_capture_inside_transformations(wrapped, small_params, images, outer):
    expected = jaxviz.capture(wrapped, "relu_0")(small_params, images)[1]["relu_0"]
    fn = outer(lambda p, x: jaxviz.capture(wrapped, "relu_0")(p, x)[1]["relu_0"])
    np.testing.assert_allclose(fn(small_params, images), expected, atol=1e-6)
    fn = jax.grad(lambda x: fn_sum(wrapped, small_params, x))
    direct = jax.grad(
        lambda x: jnp.sum(jax.nn.relu(convolve(x, small_params["w1"]) + broadened(small_params["b1"])) ** 2)
    )
    np.testing.assert_allclose(fn(images), direct(images), atol=1e-5)


def fn_sum(net, params, images):
    return jnp.sum(jaxviz.capture(net, "relu_0")(params, images)[1]["relu_0"] ** 2)


def test_capture_under_vmap(wrapped, small_params, images):
    one = lambda x: jaxviz.capture(wrapped, "relu_1")(small_params, x[None])[1]["relu_1"][0]
    expected = jaxviz.capture(wrapped, "relu_1")(small_params, images)[1]["relu_1"]
    np.testing.assert_allclose(jax.vmap(one)(images), expected, atol=1e-6)


def test_captures_nest(small_params, images):
    inner = jaxviz.capture(small_net, "conv_0")
    (outputs, first), second = jaxviz.capture(inner, "relu_1")(small_params, images)
    assert outputs.shape == (2, 5)
    assert list(first) == ["conv_0"]
    assert list(second) == ["relu_1"]


def test_other_custom_rules_survive(images):
    @jax.custom_vjp
    def odd(x):
        return x

    odd.defvjp(lambda x: (x, None), lambda _, g: (7 * g,))

    def net(params, images):
        return odd(checkpoint_name(images, "here")).sum((1, 2, 3))

    fn = jaxviz.capture(net, "here")
    np.testing.assert_array_equal(jax.grad(lambda x: fn(None, x)[0].sum())(images), jnp.full_like(images, 7))


def test_capturing_a_relu_keeps_its_own_derivative_at_zero():
    net = lambda params, images: jax.nn.relu(images)
    fn = lambda x: jaxviz.capture(net, "relu_0")(None, x)[0].sum()
    assert jax.grad(fn)(jnp.zeros((1, 1, 1, 3))).sum() == 0  # the derivative of max would be a half


def test_a_value_used_inside_a_jitted_part_is_replaced_there_too(images):
    @jax.jit
    def part(x):
        on = jax.nn.relu(x)
        return on, on + 1

    net = lambda params, images: sum(part(images - 0.5))
    np.testing.assert_array_equal(jaxviz.replace(net, {"relu_0": 0.0})(None, images), jnp.ones_like(images))


def test_replace_by_function_and_by_value(wrapped, small_params, images):
    doubled = jaxviz.replace(wrapped, {"dense_0": lambda x: 2 * x})
    np.testing.assert_allclose(doubled(small_params, images), 2 * wrapped(small_params, images), rtol=1e-5)
    silent = jaxviz.replace(wrapped, {"relu_1": 0.0})
    np.testing.assert_array_equal(silent(small_params, images), jnp.zeros((2, 5)))
    patch = jaxviz.replace(wrapped, {"relu_1": jnp.ones((2, 8, 8, 6))})
    np.testing.assert_allclose(patch(small_params, images), jnp.ones((2, 6)) @ small_params["w3"], rtol=1e-5)


def test_replace_works_under_jit_and_grad(wrapped, small_params, images):
    ablated = jaxviz.replace(wrapped, {"relu_0": lambda x: x.at[..., 0].set(0.0)})
    raw = ablated(small_params, images)
    np.testing.assert_allclose(jax.jit(ablated)(small_params, images), raw, rtol=1e-5, atol=1e-6)
    grads = jax.jit(jax.grad(lambda p: ablated(p, images).sum()))(small_params)
    assert jnp.all(grads["w1"][..., 0] == 0)
    assert jnp.any(grads["w1"][..., 1] != 0)


def test_several_replacements_compose(small_params, images):
    both = jaxviz.replace(small_net, {"relu_0": 0.0, "dense_0": lambda x: x + 1})
    assert jnp.all(both(small_params, images) == 1)


def test_unknown_name_names_what_there_is(small_params, images):
    with pytest.raises(ValueError, match=r"no layer 'relu_7'; did you mean .*'relu_1'.*It has: conv_0, relu_0"):
        jaxviz.capture(small_net, "relu_7")(small_params, images)


def test_duplicate_name(images):
    net = lambda params, images: checkpoint_name(checkpoint_name(images, "a") + 1, "a")
    with pytest.raises(ValueError, match="'a' stands for 2 values"):
        jaxviz.capture(net, "a")(None, images)
    with pytest.raises(ValueError, match="must be unique"):
        jaxviz.layers(net, None, images)


def scanned(params, images):  # for longer than loops are written out
    return jax.lax.scan(lambda x, _: (checkpoint_name(x * 0.5, "turn"), None), images, None, length=200)[0]


def whiled(params, images):
    return jax.lax.fori_loop(0, images.shape[0] * jnp.int32(2), lambda i, x: checkpoint_name(x * 0.5, "turn"), images)


def branched(params, images):
    return jax.lax.cond(images.sum() > 0, lambda x: checkpoint_name(x * 0.5, "turn"), lambda x: x, images)


@pytest.mark.parametrize(("net", "loop"), [(scanned, "scan"), (whiled, "while"), (branched, "cond")])
def test_a_name_inside_a_loop_is_refused(net, loop, images):
    with pytest.raises(ValueError, match=rf"'turn' is inside a `{loop}`"):
        jaxviz.capture(net, "turn")(None, images)
    with pytest.raises(ValueError, match=f"inside a `{loop}`"):
        jaxviz.capture(jax.jit(net), "turn")(None, images)


def of_devices(fn):
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    parts = jax.sharding.PartitionSpec("batch")
    return jax.shard_map(fn, mesh=mesh, in_specs=(jax.sharding.PartitionSpec(), parts), out_specs=parts)


def test_advice_fits_what_a_name_is_inside_of(images):
    mapped = of_devices(lambda params, images: checkpoint_name(images * 0.5, "turn"))
    for net, advice in (
        (scanned, "a value each turn.*write the loop out"),
        (branched, "a value in one branch only.*choose the branch in Python"),
        (mapped, "`shard_map`, where it is in parts, one on each device"),
    ):
        with pytest.raises(ValueError, match=advice) as error:
            jaxviz.capture(net, "turn")(None, images)
        assert ("loop" in str(error.value)) == (net is scanned)


@pytest.mark.parametrize("kind", ["scan", "cond", "shard_map"])
def test_layers_says_what_it_cannot_name(kind, small_params, images):
    """A layer that is not listed is never left out without a word."""

    def net(params, images):
        block = lambda p, x: jax.nn.relu(convolve(x, p))
        first = {
            "scan": lambda p, x: jax.lax.scan(lambda c, _: (c, block(p, c)), x, None, length=200)[1][0],
            "cond": lambda p, x: jax.lax.cond(x.sum() > 0, block, lambda p, x: block(-p, x), p, x),
            "shard_map": of_devices(block),
        }
        return convolve(first[kind](params["w1"], images), params["w2"])

    count = 2 if kind == "cond" else 1
    found = rf"no name \(conv inside a `{kind}`: {count}, relu inside a `{kind}`: {count}\) must be returned"
    with pytest.warns(UserWarning, match=found):
        assert list(jaxviz.layers(net, small_params, images)) == ["conv_0"]
    with pytest.raises(ValueError, match=rf"no layer 'relu_0'.*It has: .*conv_0; what has {found}"):
        jaxviz.capture(net, "relu_0")(small_params, images)


class Outputs(OrderedDict):
    """Like Hugging Face's outputs: a dict to Python, but nothing that JAX can look into."""


@dataclasses.dataclass
class Record:
    logits: jax.Array


RETURNS = {
    "dict of another type": (lambda x: Outputs(logits=x), r"an? Outputs of logits.*net\(params, images\)\['logits'\]"),
    "record": (lambda x: Record(x), r"a Record of logits.*net\(params, images\).logits"),
    "record in a tuple": (lambda x: (x, Record(x)), r"a Record at \[1\] of logits.*images\)\[1\].logits"),
    "text": (lambda x: {"logits": x, "kind": "cat"}, r"a str at \['kind'\]; expected arrays"),
}


@pytest.mark.parametrize("kind", RETURNS)
def test_what_a_network_returned_is_named_if_jax_cannot_see_into_it(kind, small_params, images):
    wrap, message = RETURNS[kind]
    net = lambda params, images: wrap(small_net(params, images))
    for use in (
        lambda: jaxviz.layers(net, small_params, images),
        lambda: jaxviz.capture(net, "relu_0")(small_params, images),
        lambda: jaxviz.replace(net, {"relu_0": 0.0})(small_params, images),
    ):
        with pytest.raises(ValueError, match=f"the network returned {message}"):
            use()


def test_a_network_may_return_tuples_and_dicts(small_params, images):
    net = lambda params, images: ({"logits": small_net(params, images)}, None)
    (outputs, nothing), values = jaxviz.capture(net, "relu_1")(small_params, images)
    assert nothing is None
    np.testing.assert_allclose(outputs["logits"], small_net(small_params, images), rtol=1e-5, atol=1e-6)
    assert values["relu_1"].shape == (2, 8, 8, 6)


@pytest.mark.usefixtures("users_view")
def test_names_must_be_strings(small_params, images):
    with pytest.raises(ValueError, match="expected the name of a layer"):
        jaxviz.capture(small_net, [])
    with pytest.raises(ValueError, match="expected the name of a layer"):
        jaxviz.capture(small_net, [3])


def test_a_replacement_of_another_shape_is_refused(small_params, images):
    with pytest.raises(ValueError, match=r"replacement of 'dense_0' has shape \(2,\); the network needs \(2, 5\)"):
        jaxviz.replace(small_net, {"dense_0": lambda x: x[:, 0]})(small_params, images)
    for shape in ((2,), (3, 5), (1, 2, 5)):
        with pytest.raises(ValueError, match=r"replacement of 'dense_0' has shape .*; the network needs \(2, 5\)"):
            jaxviz.replace(small_net, {"dense_0": jnp.ones(shape)})(small_params, images)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3))(x)
        return linen.relu(linen.BatchNorm(use_running_average=True)(x))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = LinenBlock(name="second")(LinenBlock()(x))
        return linen.Dense(5)(x.mean((1, 2)))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def test_linen_modules_by_number_and_by_path(images):
    images = images.astype(jnp.float32)  # as flax makes parameters, whatever x64 says
    module = LinenNet()
    params = module.init(jax.random.key(0), images)
    blocks = [("LinenBlock_0", ("Conv_0", "BatchNorm_0")), ("second", ("Conv_0", "BatchNorm_0"))]
    expected = [name for block, inner in blocks for name in (*(f"{block}/{each}" for each in inner), block)]
    listed = jaxviz.layers(module.apply, params, images)
    assert list(listed) == [*expected, "global_avg_pool_0", "Dense_0", "LinenNet"]
    assert listed["conv_1"] == listed["second/Conv_0"]
    wrapped = lambda params, images: module.apply(params, images)  # may be anyone's: no modules without `named`
    assert list(jaxviz.layers(wrapped, params, images)) == [
        "conv_0",
        "relu_0",
        "conv_1",
        "relu_1",
        "global_avg_pool_0",
        "dense_0",
    ]
    names = ["LinenBlock_0/Conv_0", "conv_0", "second/Conv_0", "Dense_0"]
    outputs, values = jaxviz.capture(module.apply, names)(params, images)
    np.testing.assert_array_equal(values["LinenBlock_0/Conv_0"], values["conv_0"])
    np.testing.assert_array_equal(values["Dense_0"], outputs)
    _, state = module.apply(params, images, capture_intermediates=True, mutable="intermediates")
    expected = state["intermediates"]["second"]["Conv_0"]["__call__"][0]
    np.testing.assert_allclose(values["second/Conv_0"], expected, atol=1e-5)


def test_nnx_modules_by_number_and_by_path(images):
    images = images.astype(jnp.float32)
    graph, state = nnx.split(NNXNet(nnx.Rngs(0)))
    net = lambda state, images: nnx.merge(graph, state)(images)
    assert list(jaxviz.layers(net, state, images)) == ["conv_0", "relu_0", "global_avg_pool_0", "dense_0"]
    _, values = jaxviz.capture(net, ["conv", "conv_0"])(state, images)
    np.testing.assert_array_equal(values["conv"], values["conv_0"])
    np.testing.assert_allclose(values["conv"], nnx.merge(graph, state).conv(images), atol=1e-5)


def test_a_module_used_twice_has_no_path_of_its_own(images):
    def net(params, images):
        return convolve(convolve(images, params["conv"]["kernel"]), params["conv"]["kernel"])

    params = {"conv": {"kernel": jnp.ones((1, 1, 3, 3))}}
    with pytest.raises(ValueError, match="'conv' is used 2 times"):
        jaxviz.capture(net, "conv")(params, images)
    assert "conv_1" in jaxviz.layers(net, params, images)


def test_a_random_key_that_a_network_closes_over(images):
    key = jax.random.key(0)
    noise = lambda x: jax.random.normal(key, x.shape, x.dtype)
    net = lambda params, images: jax.nn.softmax(jax.nn.relu(images @ params) + noise(images), axis=-1)
    assert list(jaxviz.layers(net, jnp.eye(3), images)) == ["dense_0", "relu_0"]
    outputs, values = jaxviz.capture(net, "relu_0")(jnp.eye(3), images)
    np.testing.assert_allclose(jax.nn.softmax(values["relu_0"] + noise(images), axis=-1), outputs, rtol=1e-6)


def test_products_of_activations_are_not_layers(images):
    def attention(params, images):
        x = images.reshape(images.shape[0], -1, 3) @ params
        return jax.nn.softmax(x @ x.swapaxes(1, 2)) @ x

    assert list(jaxviz.layers(attention, jnp.eye(3), images)) == ["dense_0", "attention_0"]


def test_facts_the_interpreter_rests_on():
    """Fail first, and alone, when a JAX release changes what the interpreter reads."""
    from jax.extend.core import primitives

    def f(x):
        return jax.checkpoint(jax.nn.relu)(checkpoint_name(x, "n")) + jax.jit(jnp.sin)(x)

    eqns = jax.make_jaxpr(f)(jnp.ones(3)).eqns
    assert [e.primitive for e in eqns[:3]] == [primitives.name_p, primitives.remat_p, primitives.jit_p]
    assert eqns[0].params["name"] == "n"
    inner = eqns[1].params["jaxpr"].eqns[0]
    assert inner.primitive is primitives.custom_jvp_call_p
    assert isinstance(inner.primitive.get_bind_params(inner.params), dict)
    assert {"prevent_cse", "policy"} <= set(eqns[1].params)
    (mapped,) = jax.make_jaxpr(of_devices(lambda _, x: jax.nn.relu(x)))(0.0, jnp.ones(3)).eqns
    assert {"mesh", "in_specs", "out_specs", "check_vma", "newly_manual_axes", "jaxpr"} <= set(mapped.params)
    remat = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    assert jax.make_jaxpr(remat(f))(jnp.ones(3)).eqns[0].params["policy"] is not None


# Channels on another axis


def rows_of(name, net):
    """Return a score, features and a map that read the same layer of a network."""
    params, images = (
        jax.random.normal(jax.random.key(2), (3, 3, 3, 4)),
        jax.random.uniform(jax.random.key(3), (2, 8, 9, 3)),
    )
    found = jaxviz.features(net, params, images, layer=name, size=(8, 9))
    patches = jaxviz.top_patches(net, params, images, layer=name, size=(8, 9), k=2).layers[name]
    score = jaxviz.logit(lambda p, x: net(p, x), 1)
    return [
        jaxviz.channel(net, name, 2)(params, images),
        jaxviz.neuron(net, name, 2, (1, 3))(params, images),
        jaxviz.grad_cam(score, params, images, layer=name),
        np.asarray(found.values),
        patches.boxes,
        patches.values,
    ]


HEAD = jax.random.normal(jax.random.key(4), (4, 5))


def channels_last(params, images):
    x = jax.nn.relu(convolve(images, params))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    return checkpoint_name(x, "pool").mean((1, 2)) @ HEAD


def channels_first(params, images):
    """In PyTorch's order."""
    x = jax.lax.conv_general_dilated(images.transpose(0, 3, 1, 2), params.transpose(3, 2, 0, 1), (1, 1), "SAME")
    x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "SAME")
    return checkpoint_name(x, "pool").mean((2, 3)) @ HEAD


def one_by_one(params, images):
    """As Equinox does it: a function of one image (c, h, w), mapped."""

    def net(image):
        x = jax.lax.conv_general_dilated(image.transpose(2, 0, 1)[None], params.transpose(3, 2, 0, 1), (1, 1), "SAME")
        x = jax.lax.reduce_window(jax.nn.relu(x[0]), -jnp.inf, jax.lax.max, (1, 2, 2), (1, 2, 2), "SAME")
        return checkpoint_name(x, "pool").mean((1, 2)) @ HEAD

    return jax.vmap(net)(images)


@pytest.mark.slow
@pytest.mark.parametrize("net", [channels_first, one_by_one])
@pytest.mark.parametrize("name", ["relu_0", "pool"])
def test_channels_are_found_where_the_convolution_puts_them(net, name):
    for one, other in zip(rows_of(name, net), rows_of(name, channels_last), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def gated(first, gate_first=False, resized=False):
    """Return a network with a gate for each channel, or a map resized, in either order of axes."""
    space = (2, 3) if first else (1, 2)

    def net(params, images):
        x = images.transpose(0, 3, 1, 2) if first else images
        numbers = ("NCHW", "HWIO", "NCHW") if first else ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, params, (1, 1), "SAME", dimension_numbers=numbers)
        if resized:
            x = jax.image.resize(x, [12 if axis in space else n for axis, n in enumerate(x.shape)], "linear")
        gate = jax.nn.sigmoid(x.mean(space, keepdims=True))
        x = jax.nn.relu(gate * x if gate_first else x * gate)
        return checkpoint_name(x, "gated").mean(space) @ HEAD

    return net


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"gate_first": True}, {}, {"resized": True, "gate_first": True}], ids=str)
def test_channels_are_followed_through_gates_and_resizing(options):
    first, last = (rows_of("gated", gated(first, **options)) for first in (True, False))
    for one, other in zip(first, last, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_map_of_one_channel():
    kernel, images = (
        jax.random.normal(jax.random.key(0), (3, 3, 3, 1)),
        jax.random.uniform(jax.random.key(1), (2, 8, 8, 3)),
    )
    flat = lambda params, images: jax.nn.relu(convolve(images, params)[..., 0])
    assert jaxviz.energy(flat, "relu_0")(kernel, images).shape == (2,)

    def first(params, images):
        numbers = ("NCHW", "HWIO", "NCHW")
        x = jax.lax.conv_general_dilated(
            images.transpose(0, 3, 1, 2), params, (1, 1), "SAME", dimension_numbers=numbers
        )
        return jax.nn.relu(x.reshape(len(x), 8, 8, 1))

    expected = first(kernel, images).mean((1, 2, 3))
    np.testing.assert_allclose(jaxviz.channel(first, "relu_0", 0)(kernel, images), expected, rtol=1e-6)


def test_images_of_bytes(small_params):
    net = lambda params, images: small_net(params, images.astype(params["w1"].dtype) / 255)
    images = jnp.full((1, 12, 12, 3), 7, jnp.uint8)
    floats = images.astype(small_params["w1"].dtype) / 255
    assert list(jaxviz.layers(net, small_params, images)) == list(jaxviz.layers(small_net, small_params, floats))
    assert jaxviz.capture(net, "relu_1")(small_params, images)[1]["relu_1"].shape == (1, 3, 3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_a_network_of_one_image_that_is_mapped(bias):
    """`vmap` puts axes between a product and its bias, and images on the last axis of a matrix times a vector."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(keys[0], (3, 3, 3, 6)), "v": jax.random.normal(keys[1], (5, 6))}
    images = jax.random.uniform(keys[2], (7, 8, 8, 3))

    def one(params, image):
        maps = convolve(image[None], params["w"])[0]
        vector = params["v"] @ jax.nn.relu(maps + bias if bias else maps).mean((0, 1))
        return jax.nn.relu(vector + bias if bias else vector)

    def net(params, images):
        return jax.vmap(one, (None, 0))(params, images)

    outputs, found = jaxviz.capture(net, ["conv_0", "relu_0"])(params, images)
    np.testing.assert_allclose(jax.nn.relu(found["conv_0"]), found["relu_0"], atol=1e-6)
    for layer in ("dense_0", "relu_1"):
        vectors = jaxviz.features(net, params, images, layer=layer, size=8, batch_size=3).values
        np.testing.assert_allclose(jax.nn.relu(vectors), outputs, rtol=1e-5)
        np.testing.assert_allclose(jaxviz.channel(net, layer, 1)(params, images), vectors[:, 1], rtol=1e-5)
    ours = jaxviz.lrp(jaxviz.channel(net, "relu_1", 2), params, images, rule="gamma").maps

    def batched(params, images):
        maps = convolve(images, params["w"])
        vectors = jax.nn.relu(maps + bias if bias else maps).mean((1, 2)) @ params["v"].T
        return jax.nn.relu(vectors + bias if bias else vectors)

    expected = jaxviz.lrp(jaxviz.channel(batched, "relu_1", 2), params, images, rule="gamma").maps
    np.testing.assert_allclose(ours, expected, atol=1e-5 * jnp.abs(expected).max())
