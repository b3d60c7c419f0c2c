"""Modules' outputs by their paths in frameworks that jaxviz does not need."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

pytestmark = [pytest.mark.foreign, pytest.mark.usefixtures("users_promotions")]


@pytest.fixture
def pictures():
    return jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))


def test_equinox(pictures):
    equinox = pytest.importorskip("equinox")

    class Model(equinox.Module):
        conv: equinox.nn.Conv2d
        blocks: list
        act: equinox.nn.Lambda
        norm: equinox.nn.LayerNorm
        head: equinox.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 4)
            self.conv = equinox.nn.Conv2d(3, 6, 3, key=keys[0])
            self.blocks = [equinox.nn.MLP(6, 6, 8, 1, key=each) for each in keys[1:3]]
            self.act = equinox.nn.Lambda(jax.nn.relu)
            self.norm = equinox.nn.LayerNorm(6)
            self.head = equinox.nn.Linear(6, 5, use_bias=False, key=keys[3])

        def __call__(self, x):
            x = self.act(self.conv(x)).mean((1, 2))
            for block in self.blocks:
                x = self.norm(x + equinox.filter_checkpoint(block)(x))
            return self.head(x)

    model = Model(jax.random.key(0))
    arrays, static = equinox.partition(model, equinox.is_inexact_array)
    net = jaxviz.named(lambda p, x: jax.vmap(lambda im: equinox.combine(p, static)(im.transpose(2, 0, 1)))(x))
    _, values = jaxviz.capture(net, modules := named_in(net, arrays, pictures))(arrays, pictures)
    expected = {"conv": jax.vmap(lambda im: model.conv(im.transpose(2, 0, 1)))(pictures)}
    expected["act"] = jax.nn.relu(expected["conv"])
    x = expected["act"].mean((2, 3))
    for i, block in enumerate(model.blocks):
        for j, layer in enumerate(block.layers):
            inner = x if j == 0 else jax.nn.relu(expected[f"blocks/{i}/layers/0"])
            expected[f"blocks/{i}/layers/{j}"] = jax.vmap(layer)(inner)
        expected[f"blocks/{i}"] = jax.vmap(block)(x)
        expected[f"norm:{i}"] = x = jax.vmap(model.norm)(x + expected[f"blocks/{i}"])
    expected["head"] = expected["Model"] = jax.vmap(model.head)(x)
    assert modules == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def named_in(net, params, images):
    """Return the names that are modules' paths."""
    number = re.compile(r"(relu|add|global_avg_pool)_\d+")
    return [name for name in jaxviz.layers(net, params, images) if not number.fullmatch(name)]


def test_haiku(pictures):
    haiku = pytest.importorskip("haiku")
    kept = {}

    def forward(x):
        conv = haiku.Conv2D(6, 3)
        kept["conv2_d"] = x = conv(x)
        kept["mlp"] = haiku.nets.MLP([4, 5])(x.mean((1, 2)))
        return kept["mlp"]

    model = haiku.without_apply_rng(haiku.transform(forward))
    params = model.init(jax.random.key(0), pictures)
    net = jaxviz.named(model.apply)
    modules = named_in(net, params, pictures)
    assert modules == ["conv2_d", "mlp/~/linear_0", "mlp/~/linear_1", "mlp"]
    _, values = jaxviz.capture(net, modules)(params, pictures)
    model.apply(params, pictures)
    for name, value in kept.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=1e-5)
    assert named_in(model.apply, params, pictures) == modules  # without `named`: it is the model's own


def test_a_models_own_method_needs_no_call_of_named(pictures):
    equinox = pytest.importorskip("equinox")

    class Model(equinox.Module):
        hidden: equinox.nn.Linear
        head: equinox.nn.Linear

        def features(self, x):
            return self.hidden(x)

        def scores(self, arrays, images):
            model = equinox.combine(arrays, equinox.filter(self, equinox.is_array, inverse=True))
            return jax.vmap(lambda x: model.head(model.features(x)))(images.mean((1, 2)))

    model = Model(*(equinox.nn.Linear(n, 5, key=jax.random.key(n)) for n in (3, 5)))
    arrays = equinox.filter(model, equinox.is_array)
    for net in (model.scores, jaxviz.named(lambda p, x: model.scores(p, x))):
        assert list(jaxviz.layers(net, arrays, pictures)) == ["hidden", "head"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MobileNet", {"alpha": 0.25}),
        ("MobileNetV3Small", {"alpha": 0.35, "include_preprocessing": False}),
        ("ResNet50", {}),
        ("ConvNeXtTiny", {"include_preprocessing": False}),
    ],
)
def test_keras(name, options, pictures):
    os.environ["KERAS_BACKEND"] = "jax"
    keras = pytest.importorskip("keras")
    if keras.config.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 5, "classifier_activation": None, **options}
    model = getattr(keras.applications, name)(**options)
    numbers = np.random.default_rng(0)
    for variable in model.variables:  # scales and statistics, which are 1, 0 or 1e-6 in the beginning
        if len(variable.shape) == 1 and variable.dtype == "float32":
            variable.assign(numbers.uniform(0.5, 1.5, variable.shape))
    params = ([v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables])
    call = lambda p, x: model.stateless_call(p[0], p[1], x, training=False)[0]
    net = jaxviz.named(call)
    images = jnp.asarray(numbers.uniform(size=(1, 32, 32, 3)), jnp.float32)
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    names = [layer.name for layer in layers]
    assert set(names) <= set(jaxviz.layers(net, params, images))
    _, values = jax.jit(jaxviz.capture(net, names))(params, images)
    inside = keras.Model(model.input, [layer.output for layer in layers])
    weights = ([v.value for v in inside.trainable_variables], [v.value for v in inside.non_trainable_variables])
    own = jax.jit(lambda p, x: inside.stateless_call(*p, x, training=False)[0])(weights, images)
    for layer, value in zip(names, own, strict=True):
        scale = float(jnp.abs(value).max())
        assert scale > 0
        np.testing.assert_allclose(values[layer], value, rtol=0, atol=1e-5 * scale, err_msg=layer)
    if name == "ConvNeXtTiny":
        return  # it takes a minute to differentiate; test_whole_networks.py has a small one
    expected = jax.jit(jax.grad(lambda x: call(params, x)[:, 1].sum()))(images)
    found = jaxviz.gradient(jaxviz.logit(net, 1), params, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))
