"""What frameworks themselves call an activation: real Keras, Equinox and Flax functions, ReLU or not."""

import functools
import warnings

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz

keras = pytest.importorskip("keras")
eqx = pytest.importorskip("equinox")

RNG = np.random.default_rng(0)
W1, W2 = jnp.asarray(RNG.normal(size=(3, 8))), jnp.asarray(RNG.normal(size=(8, 5)))
IMAGES = jnp.asarray(RNG.random((2, 6, 6, 3)))

RELUS = {
    "keras relu": (lambda: keras.activations.relu, None),
    "keras relu6": (lambda: keras.activations.relu6, 6.0),
    "keras ops relu": (lambda: keras.ops.relu, None),
    "keras layer": (lambda: keras.layers.ReLU(), None),
    "keras layer with a maximum": (lambda: keras.layers.ReLU(max_value=2.0), 2.0),
    "nnx relu": (lambda: nnx.relu, None),
    "equinox lambda": (lambda: eqx.nn.Lambda(jax.nn.relu), None),
}
OTHERS = {
    **{
        f"keras {name}": functools.partial(getattr, keras.activations, name)
        for name in (
            "elu selu celu gelu silu mish hard_sigmoid hard_silu hard_swish hard_tanh softplus softsign sigmoid tanh "
            "leaky_relu log_sigmoid soft_shrink hard_shrink squareplus tanh_shrink sparse_plus"
        ).split()
    },
    "keras PReLU": lambda: keras.layers.PReLU(shared_axes=[1, 2]),
    "keras leaky layer": lambda: keras.layers.LeakyReLU(0.1),
    "keras thresholded layer": lambda: keras.layers.ReLU(threshold=0.5),
    "nnx PReLU": lambda: nnx.PReLU(),
    "equinox PReLU": lambda: (lambda prelu: lambda x: prelu(x))(eqx.nn.PReLU(0.25)),
}


def between(activation, images):
    x = (images - 0.5) @ W1.astype(images.dtype)
    return (activation(x) @ W2.astype(images.dtype)).mean((1, 2))[:, 1]


def twin(most, rule):
    """Return the activation with the backward rule written out by hand."""

    @jax.custom_vjp
    def relu(x):
        return jnp.clip(x, 0, most)

    def backward(x, g):
        g = g if most is None else jnp.where(x < most, g, 0)
        return (jnp.where((g > 0) & ((x > 0) | (rule == "deconvnet")), g, 0),)

    relu.defvjp(lambda x: (relu(x), x), backward)
    return relu


@pytest.mark.parametrize("name", RELUS)
@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_relus(x64, name, method):
    make, most = RELUS[name]
    activation, images = make(), IMAGES.astype(jnp.float32)
    found = getattr(jaxviz, method)(lambda _, x: between(activation, x), None, images)
    expected = jaxviz.gradient(lambda _, x: between(twin(most, method), x), None, images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert jnp.abs(found - jaxviz.gradient(lambda _, x: between(activation, x), None, images)).max() > 1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_refused(name):
    activation = OTHERS[name]()
    with pytest.raises(ValueError, match=r"no ReLU to swap|not defined for leaky_relu|also part of another function"):
        jaxviz.guided_backprop(lambda _, x: between(activation, x), None, IMAGES)


@pytest.mark.parametrize("name", OTHERS)
def test_beside_a_relu_they_are_warned_of_or_refused(name):
    activation = OTHERS[name]()
    mixed = jnp.asarray(RNG.normal(size=(8, 8)), IMAGES.dtype)
    score = lambda _, x: between(lambda y: activation(jax.nn.relu(y) @ mixed), x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            jaxviz.guided_backprop(score, None, IMAGES)
            said = [str(warning.message) for warning in caught]
        except ValueError as error:
            said = [str(error)]
    words = "only part of this network follows the rule", "leaky_relu", "part of another function"
    assert any(word in message for message in said for word in words)
