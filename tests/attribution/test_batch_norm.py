"""Relevance of networks with BatchNorm: that of the same networks with it folded, by hand, into their convolutions.

What is compared with has plain convolutions and biases only, for which `test_relevance.py` has the sums term by term.
"""

import functools

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from nets import convolve

import jaxviz

EPS = 1e-3
# With an epsilon so large and a gamma so strong, a network and its folded twin were 30% to 70% apart.
CASES = {"epsilon": {"epsilon": 0.1}, "gamma": {"rule": "gamma", "gamma": 0.5, "epsilon": 0.1}}


@pytest.fixture(autouse=True)
def float64(x64, users_promotions):
    """Sums that the two networks order differently decide alike in float64."""


@pytest.fixture
def images(float64):
    return jnp.asarray(np.random.default_rng(0).uniform(size=(2, 10, 9, 3)))


class Layers:
    """Random layers with BatchNorm behind them, made anew in the same order for each network that asks."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def kernel(self, *shape):
        return jnp.asarray(self.rng.normal(0, 2 / np.sqrt(np.prod(shape[:-1])), shape))

    def norm(self, width):
        """Return mean, variance, scale and bias; some scales are negative."""
        mean, scale, bias = (self.rng.normal(0, 0.5, width) for _ in range(3))
        return tuple(map(jnp.asarray, (mean, self.rng.uniform(0.2, 2, width), scale + 0.3, bias)))


def factors(norm):
    """Return what BatchNorm multiplies by and what it adds then."""
    mean, variance, scale, bias = norm
    factor = scale / jnp.sqrt(variance + EPS)
    return factor, bias - mean * factor


def plain(x, norm):
    mean, variance, scale, bias = norm
    return (x - mean) * (lax.rsqrt(variance + EPS) * scale) + bias


def apart(apply):
    return lambda x, kernel, norm: plain(apply(x, kernel), norm)


def folded(apply):
    def layer(x, kernel, norm):
        factor, offset = factors(norm)
        return apply(x, kernel * factor) + offset

    return layer


def assert_alike(net, twin, params, images, options=CASES["gamma"]):
    values = [fn(params, images) for fn in (net, twin)]
    np.testing.assert_allclose(*values, atol=1e-12)
    # Plain functions run operation by operation: compiling networks this small would take far longer.
    scores = [lambda params, images, fn=fn: fn(params, images)[:, 1] for fn in (net, twin)]
    maps, gaps = zip(*(jaxviz.lrp(score, params, images, **options) for score in scores), strict=True)
    assert jnp.abs(maps[1]).max() > 1e-5
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-8 * jnp.abs(maps[1]).max())
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-6)


# Networks of many kinds


def vgg(layer, params, images):
    conv, dense = layer(convolve), layer(jnp.matmul)
    x = jax.nn.relu(conv(images, *params[0]))
    x = jax.nn.relu(conv(x, *params[1]))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(conv(x, *params[2])).mean((1, 2))
    return jax.nn.relu(dense(x, *params[3])) @ params[4]


def resnet(layer, params, images):
    conv, strided = layer(convolve), layer(functools.partial(convolve, stride=2))
    x = jax.nn.relu(strided(images, *params[0]))
    x = jax.nn.relu(x + conv(jax.nn.relu(conv(x, *params[1])), *params[2]))
    shortcut = strided(x, *params[3])
    x = jax.nn.relu(shortcut + conv(jax.nn.relu(strided(x, *params[4])), *params[5]))
    return x.mean((1, 2)) @ params[6]


def mobile(layer, params, images):
    conv, depthwise = layer(convolve), layer(functools.partial(convolve, feature_group_count=8))
    x = jax.nn.relu6(layer(functools.partial(convolve, stride=2))(images, *params[0]))
    y = jax.nn.relu6(depthwise(x, *params[1]))
    x = x + conv(y, *params[2])
    x = conv(jax.nn.relu6(depthwise(x, *params[3])), *params[4])  # a linear bottleneck: the next follows at once
    return jax.nn.relu6(conv(x, *params[5])).mean((1, 2)) @ params[6]


NETS = {
    "vgg": (vgg, [(3, 3, 3, 6), (3, 3, 6, 8), (3, 3, 8, 8), (8, 7)], (7, 5)),
    "resnet": (resnet, [(3, 3, 3, 6), (3, 3, 6, 6), (3, 3, 6, 6), (1, 1, 6, 8), (3, 3, 6, 8), (3, 3, 8, 8)], (8, 5)),
    "mobile": (mobile, [(3, 3, 3, 8), (3, 3, 1, 8), (1, 1, 8, 8), (3, 3, 1, 8), (1, 1, 8, 6), (1, 1, 6, 12)], (12, 5)),
}


def made(name):
    net, shapes, last = NETS[name]
    layers = Layers()
    params = [(layers.kernel(*shape), layers.norm(shape[-1])) for shape in shapes]
    return net, [*params, layers.kernel(*last)]


@pytest.mark.slow
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", NETS)
def test_networks(name, options, images):
    net, params = made(name)
    assert_alike(functools.partial(net, apart), functools.partial(net, folded), params, images, options)


# Every way to write it, in the layer that has the gamma rule


def _with_factors(x, norm):
    mean, variance, scale, bias = norm
    factor = scale * lax.rsqrt(variance + EPS)
    return x * factor + (bias - mean * factor)


def _by_division(x, norm):
    mean, variance, scale, bias = norm
    return (x - mean) / jnp.sqrt(variance + EPS) * scale + bias


def _from_the_left(x, norm):
    mean, variance, scale, bias = norm
    return bias - scale / jnp.sqrt(variance + EPS) * (mean - x)


def _channels_first(x, norm):
    mean, variance, scale, bias = (v[:, None, None] for v in norm)
    y = (x.transpose(0, 3, 1, 2) - mean) * lax.rsqrt(variance + EPS) * scale + bias
    return y.transpose(0, 2, 3, 1)


def _flattened(x, norm):
    mean, variance, scale, bias = (jnp.tile(v, x.shape[1] * x.shape[2]) for v in norm)
    y = -(mean - x.reshape(len(x), -1))
    return (y / jnp.sqrt(variance + EPS) * scale + bias).reshape(x.shape)


def _mapped(x, norm):
    one = lambda x, norm: (x - norm[0]) * lax.rsqrt(norm[1] + EPS) * norm[2] + norm[3]
    return jax.vmap(jax.vmap(one, (2, 0), 2), (0, None))(x, norm)


def _with_one_more_use(x, norm):
    sum(jax.nn.softmax(y).sum() for y in (x, x + norm[0]))  # of no use to what the network returns
    return plain(x, norm)


def _after(norm, convolve=convolve):
    return lambda x, kernel, values: norm(convolve(x, kernel), values)


SPELLINGS = {
    "factors": _after(_with_factors),
    "division": _after(_by_division),
    "from the left": _after(_from_the_left),
    "channels first": _after(_channels_first),
    "flattened": _after(_flattened),
    "mapped": _after(_mapped),
    "named": _after(lambda x, norm: checkpoint_name(plain(checkpoint_name(x, "before"), norm), "after")),
    "jitted": _after(jax.jit(plain)),
    "layer in remat": jax.checkpoint(_after(plain)),
    "convolution in remat": _after(plain, jax.checkpoint(convolve)),
    "norm in remat": _after(jax.checkpoint(plain)),
    "with a use that is of no use": _after(_with_one_more_use),
}


def two_layers(layer, params, images):
    """Return a network whose second convolution, which has the gamma rule, is `layer`."""
    x = jax.nn.relu(convolve(images, params[0]))
    return jax.nn.relu(layer(x, params[1], params[2])).mean((1, 2)) @ params[3]


@pytest.fixture
def params(float64):
    layers = Layers()
    return [layers.kernel(3, 3, 3, 6), layers.kernel(3, 3, 6, 8), layers.norm(8), layers.kernel(8, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling, params, images):
    twin = functools.partial(two_layers, folded(convolve))
    assert_alike(functools.partial(two_layers, SPELLINGS[spelling]), twin, params, images)


@pytest.mark.slow
def test_several_in_a_row(params, images):
    def several(x, kernel, norm):
        return plain(0.5 * plain(convolve(x, kernel) + 1.0, norm), (norm[3], norm[1], norm[2], norm[0]))

    def once(x, kernel, norm):
        factor, offset = factors(norm)
        again, last = factors((norm[3], norm[1], norm[2], norm[0]))
        return convolve(x, kernel * (0.5 * factor * again)) + (0.5 * (factor + offset) * again + last)

    nets = [functools.partial(two_layers, layer) for layer in (several, once)]
    assert_alike(*nets, params, images)


@pytest.mark.slow
def test_before_a_convolution(params, images):
    """Behind a ReLU it is folded into the convolution that comes then, whose bias differs along its border of zeros."""

    def net(params, images):
        x = plain(jax.nn.relu(convolve(images, params[0])), params[4])
        x = convolve(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), params[1], padding="VALID")
        return jax.nn.relu(plain(x, params[2])).mean((1, 2)) @ params[3]

    def twin(params, images):
        factor, offset = factors(params[4])
        x = jax.nn.relu(convolve(images, params[0]))
        bias = convolve(jnp.broadcast_to(offset, x.shape), params[1])
        after, last = factors(params[2])
        x = convolve(x, params[1] * factor[:, None] * after)
        return jax.nn.relu(x + (bias * after + last)).mean((1, 2)) @ params[3]

    assert_alike(net, twin, [*params, Layers(1).norm(6)], images)


def test_a_layer_used_by_two_keeps_its_own_rule(params, images):
    """What multiplies one of two uses, as in swish, is no part of the layer, nor is what is added to a sum."""

    def net(params, images, double):
        x = convolve(jax.nn.relu(convolve(images, params[0])), params[1])
        y = 2 * x if double else x + x
        return (y * jax.nn.relu(x)).mean((1, 2)) @ params[3]

    nets = [functools.partial(net, double=double) for double in (True, False)]
    assert_alike(*nets, params, images)


@pytest.mark.slow
def test_what_is_computed_in_another_type(params, images):
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)

    def mixed(x, kernel, norm):
        y = plain(convolve(x, kernel).astype(jnp.float64), [v.astype(jnp.float64) for v in norm])
        return y.astype(jnp.float32)

    nets = [functools.partial(two_layers, layer) for layer in (mixed, folded(convolve))]
    images = images.astype(jnp.float32)
    got, expected = (
        jaxviz.lrp(lambda params, x, net=net: net(params, x)[:, 1], params, images, **CASES["gamma"]).maps
        for net in nets
    )
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-5 * jnp.abs(expected).max())


# As the libraries of layers write it


def _of_linen(layers):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            for width in (6, 8):
                x = linen.Conv(width, (3, 3), param_dtype=jnp.float64)(x)
                x = linen.BatchNorm(use_running_average=True, epsilon=EPS, param_dtype=jnp.float64)(x)
                x = jax.nn.relu(x)
            return linen.Dense(5, param_dtype=jnp.float64)(x.mean((1, 2)))

    module = Net()
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 10, 9, 3)))
    variables = jax.tree.map(lambda x: layers.kernel(*x.shape), variables)
    norms = []
    for i, width in enumerate((6, 8)):
        mean, variance, scale, bias = norm = layers.norm(width)
        variables["batch_stats"][f"BatchNorm_{i}"] = {"mean": mean, "var": variance}
        variables["params"][f"BatchNorm_{i}"] = {"scale": scale, "bias": bias}
        norms.append(norm)
    tree = variables["params"]
    convolutions = [(tree[f"Conv_{i}"]["kernel"], tree[f"Conv_{i}"]["bias"]) for i in range(2)]
    return module.apply, variables, convolutions, norms, (tree["Dense_0"]["kernel"], tree["Dense_0"]["bias"])


def _of_nnx(layers):
    class Net(nnx.Module):
        def __init__(self, rngs):
            options = {"param_dtype": jnp.float64, "rngs": rngs}
            self.convs = nnx.List([nnx.Conv(3, 6, (3, 3), **options), nnx.Conv(6, 8, (3, 3), **options)])
            norm = functools.partial(nnx.BatchNorm, use_running_average=True, epsilon=EPS, **options)
            self.norms = nnx.List([norm(6), norm(8)])
            self.dense = nnx.Linear(8, 5, **options)

        def __call__(self, x):
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = jax.nn.relu(norm(conv(x)))
            return self.dense(x.mean((1, 2)))

    model = Net(nnx.Rngs(0))
    norms = [layers.norm(6), layers.norm(8)]
    for layer, (mean, variance, scale, bias) in zip(model.norms, norms, strict=True):
        layer.mean, layer.var = nnx.BatchStat(mean), nnx.BatchStat(variance)
        layer.scale, layer.bias = nnx.Param(scale), nnx.Param(bias)
    graph, state = nnx.split(model)
    convolutions = [(conv.kernel[...], conv.bias[...]) for conv in model.convs]
    last = model.dense.kernel[...], model.dense.bias[...]
    return lambda state, images: nnx.merge(graph, state)(images), state, convolutions, norms, last


def _of_equinox(layers):
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    convs = [eqx.nn.Conv2d(a, b, 3, padding=1, key=key) for a, b, key in zip((3, 6), (6, 8), keys[:2], strict=True)]
    convs, dense = jax.tree.map(lambda x: 3 * x, (convs, eqx.nn.Linear(8, 5, key=keys[2])))
    norms, states, modules = [layers.norm(6), layers.norm(8)], [], []
    for mean, variance, scale, bias in norms:
        norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(len(mean), "batch", mode="batch", eps=EPS)
        norm = eqx.tree_at(lambda norm: (norm.weight, norm.bias), norm, (scale, bias))
        states.append(state.set(norm.batch_state_index, (mean, variance)) if norm.batch_state_index else state)
        modules.append(eqx.nn.inference_mode(norm))

    def one(params, image):
        x = image.transpose(2, 0, 1)
        for conv, norm, state in zip(*params[:3], strict=True):
            x = jax.nn.relu(norm(conv(x), state)[0])
        return params[3](x.mean((1, 2)))

    params, rest = eqx.partition((convs, modules, states, dense), eqx.is_array)
    net = lambda params, images: jax.vmap(one, (None, 0))(eqx.combine(params, rest), images)
    convolutions = [(conv.weight.transpose(2, 3, 1, 0), conv.bias[:, 0, 0]) for conv in convs]
    return net, params, convolutions, norms, (dense.weight.T, dense.bias)


LIBRARIES = ["linen", "nnx", pytest.param("equinox", marks=pytest.mark.foreign)]


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries(library, images):
    net, params, convolutions, norms, (kernel, bias) = globals()[f"_of_{library}"](Layers())

    def twin(params, x):
        for (kernel_i, bias_i), norm in zip(convolutions, norms, strict=True):
            factor, offset = factors(norm)
            x = jax.nn.relu(convolve(x, kernel_i * factor) + (bias_i * factor + offset))
        return x.mean((1, 2)) @ kernel + bias

    assert_alike(net, twin, params, images)
