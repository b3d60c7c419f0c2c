"""Layers inside JAX's control flow: each method is either right there, or says by its name what it cannot enter."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, PartitionSpec
from nets import convolve

import jaxviz

pytestmark = pytest.mark.slow


def block(params, x):
    return checkpoint_name(jax.nn.relu(convolve(x, params["block"])), "inside")


def around(call):
    """Return a network in which `call` runs the block."""

    def net(params, images):
        x = checkpoint_name(jax.nn.relu(convolve(images, params["stem"])), "stem")
        return call(params, x).mean((1, 2)) @ params["head"]

    return net


def in_pmap(params, x):
    return jax.pmap(block, in_axes=(None, 0))(params, x[None])[0]


def in_shard_map(params, x):
    mesh = jax.make_mesh((1,), ("images",), axis_types=(AxisType.Auto,))
    parts = PartitionSpec("images")
    return jax.shard_map(block, mesh=mesh, in_specs=(PartitionSpec(), parts), out_specs=parts)(params, x)


def in_while(params, x):
    turn = lambda carry: (carry[0] + jnp.ones_like(carry[0]), block(params, carry[1]))
    return jax.lax.while_loop(lambda carry: carry[0] < 1, turn, (jnp.zeros((), jnp.int32), x))[1]


def in_dynamic_fori(params, x):
    return jax.lax.fori_loop(0, jnp.asarray(1), lambda _, x: block(params, x), x)


def in_long_scan(params, x):  # its first turn changes x, all others keep it
    first = jnp.arange(200) == 0
    return jax.lax.scan(lambda x, now: (jnp.where(now, block(params, x), x), None), x, first)[0]


FLOWS = {
    "pmap": (in_pmap, "shard_map", "for each device .in `shard_map` or `pmap`. by itself"),
    "shard_map": (in_shard_map, "shard_map", "for each device .in `shard_map` or `pmap`. by itself"),
    "cond": (
        lambda p, x: jax.lax.cond(x.sum() > 0, block, lambda p, x: x, p, x),
        "cond",
        "choose the branch in Python",
    ),
    "switch": (
        lambda p, x: jax.lax.switch((x.sum() > 0).astype(int), [lambda p, x: x, block, lambda p, x: -x], p, x),
        "cond",
        "choose the branch in Python",
    ),
    "while": (in_while, "while", "write the loop out in Python"),
    "dynamic fori": (in_dynamic_fori, "while", "write the loop out in Python"),
    "long scan": (in_long_scan, "scan", "write the loop out in Python"),
}

logit = lambda net: jaxviz.logit(net, 1)
METHODS = {
    "capture": lambda net, *args: jaxviz.capture(net, "inside")(*args)[1]["inside"],
    "capture before": lambda net, *args: jaxviz.capture(net, "stem")(*args)[1]["stem"],
    "replace": lambda net, *args: jaxviz.replace(net, {"inside": lambda x: x / 2})(*args),
    "replace before": lambda net, *args: jaxviz.replace(net, {"stem": lambda x: x / 2})(*args),
    "channel": lambda net, *args: jaxviz.channel(net, "inside", 2)(*args),
    "with_relu": lambda net, *args: jaxviz.with_relu(net, "guided")(*args),
    "guided_backprop": lambda net, *args: jaxviz.guided_backprop(logit(net), *args),
    "lrp": lambda net, *args: jaxviz.lrp(logit(net), *args, rule="gamma").maps,
    "grad_cam": lambda net, *args: jaxviz.grad_cam(logit(net), *args, layer="inside"),
    "grad_cam before": lambda net, *args: jaxviz.grad_cam(logit(net), *args, layer="stem"),
}
ENTERED = {  # all others are refused
    **{flow: ("capture before", "replace before", "grad_cam before") for flow in ("cond", "switch", "long scan")},
    **{flow: ("capture before", "replace before") for flow in ("while", "dynamic fori")},
    **{
        flow: ("capture before", "replace before", "grad_cam before", "with_relu", "guided_backprop")
        for flow in ("pmap", "shard_map")
    },
}


@pytest.fixture
def params(x64):
    numbers = np.random.default_rng(0)
    shapes = {"stem": (3, 3, 3, 4), "block": (3, 3, 4, 4), "head": (4, 5)}
    made = {name: jnp.asarray(numbers.normal(size=shape)) for name, shape in shapes.items()}
    return made | {"head": jnp.abs(made["head"])}  # guided backpropagation passes only what is positive


@pytest.fixture
def pictures(x64):
    return jnp.asarray(np.random.default_rng(1).uniform(size=(2, 5, 5, 3)))


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("flow", list(FLOWS))
def test_right_or_refused_by_name(flow, method, params, pictures):
    call, primitive, way_out = FLOWS[flow]
    run = lambda call: METHODS[method](around(call), params, pictures)
    if method in ENTERED[flow]:
        expected = run(block)
        assert float(jnp.abs(expected).max()) > 0
        np.testing.assert_allclose(run(call), expected, rtol=1e-12, atol=1e-12)
    elif primitive == "while" and method == "grad_cam before":  # as JAX itself says of any derivative
        with pytest.raises(ValueError, match=r"Reverse-mode differentiation does not work for lax\.while_loop"):
            run(call)
    else:
        with pytest.raises(ValueError, match=rf"inside a `{primitive}`.*{way_out}"):
            run(call)


@pytest.mark.parametrize("flow", list(FLOWS))
def test_layers_says_what_is_inside(flow, params, pictures):
    call, primitive, _ = FLOWS[flow]
    inside = ", ".join(f"{what} inside a `{primitive}`: 1" for what in ("conv", "relu", "checkpoint_name"))
    with pytest.warns(UserWarning, match=rf"what has no name \({inside}\) must be returned from there"):
        names = list(jaxviz.layers(around(call), params, pictures))
    # The mean before the head is a pool where the axes of what comes out of the inside can be followed.
    pool = [] if flow in ("pmap", "shard_map") else ["global_avg_pool_0"]
    assert names == ["conv_0", "stem", *pool, "dense_0"]


class Model(nnx.Module):
    """A model that runs its normalization through one of NNX's transformations."""

    def __init__(self, run):
        self.stem, self.norm = nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.LayerNorm(4, rngs=nnx.Rngs(1))
        self.run = run

    def __call__(self, images):
        return self.run(self.norm, self.stem(images)).mean((1, 2))


def in_nnx_while(norm, x):
    turn = lambda carry: (carry[0], norm_of(carry[0], carry[1]), carry[2] + 1)
    return nnx.while_loop(lambda carry: carry[2] < 1, turn, (norm, x, jnp.zeros((), jnp.int32)))[1]


def norm_of(norm, x):
    return norm(x)


LIFTED = {
    "nnx.remat": lambda norm, x: nnx.remat(norm_of)(norm, x),
    "nnx.jit": lambda norm, x: nnx.jit(norm_of)(norm, x),
    "nnx.vmap": lambda norm, x: nnx.vmap(norm_of, in_axes=(None, 0))(norm, x),
    "nnx.cond": lambda norm, x: nnx.cond(x.sum() < 1e9, norm_of, lambda norm, x: x, norm, x),
    "nnx.while_loop": in_nnx_while,
}


@pytest.mark.parametrize("kind", list(LIFTED))
def test_modules_in_transformations_of_nnx(kind, users_promotions):
    model = Model(LIFTED[kind])
    graph, state = nnx.split(model)
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 3, 3, 3)), jnp.float32)
    net = jaxviz.named(lambda state, images: nnx.merge(graph, state)(images))
    outside = ["stem", "Model"]
    primitive = {"nnx.cond": "cond", "nnx.while_loop": "while"}.get(kind)
    if primitive is None:
        names = ["stem", "norm", "Model"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert list(jaxviz.layers(net, state, images)) == names
        _, values = jaxviz.capture(net, names)(state, images)
        stem = model.stem(images)
        for name, value in zip(names, (stem, model.norm(stem), model.norm(stem).mean((1, 2))), strict=True):
            np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-6)
        return
    with pytest.warns(UserWarning, match=rf"no name \(module inside a `{primitive}`: 1\) must be returned"):
        assert list(jaxviz.layers(net, state, images)) == outside
    with pytest.raises(ValueError, match=rf"'norm' is inside a `{primitive}`"):
        jaxviz.capture(net, "norm")(state, images)
