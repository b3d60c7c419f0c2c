"""Small networks in bare jax.lax, for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxviz


def convolve(x, w, stride=1, padding="SAME", **options):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def broadened(bias):
    """Return what JAX makes of a bias that is added to maps, and does not where ranks may not be promoted."""
    return jnp.expand_dims(bias, (0, 1, 2))


def make_net(relu=jax.nn.relu, wrap=lambda f: f):
    """Return a two-convolution classifier whose ReLU and whose first block can be chosen."""

    def block(params, x):
        return relu(convolve(x, params["w1"]) + broadened(params["b1"]))

    def net(params, images):
        x = wrap(block)(params, images)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = relu(convolve(x, params["w2"], stride=2))
        return x.mean((1, 2)) @ params["w3"]

    return net


small_net = make_net()


@functools.cache
def stand_in(name="efficientnet_lite0"):
    """Return a small network in the place of a pretrained one: a classifier of 1000 classes, or what is below one."""
    numbers = np.random.default_rng(1)  # jax.random would take seconds to compile, here and in the other process
    params = {
        "w1": 0.4 * numbers.normal(size=(3, 3, 3, 8)),
        "b1": np.linspace(-0.2, 0.2, 8),
        "w2": 0.2 * numbers.normal(size=(3, 3, 8, 6)),
        "w3": numbers.normal(size=(6, 1000)),
    }
    params = {key: jnp.asarray(value, jnp.float32) for key, value in params.items()}
    if name == "headless":
        return jaxviz.Network(lambda params, images: jax.nn.relu(images @ params["w1"][0, 0]), params, size=224)
    if name == "flat":
        return jaxviz.Network(lambda params, images: images.mean((1, 2)) @ params["w2"][0, 0, :3], params, size=224)
    return jaxviz.Network(small_net, params, size=224, classes=jaxviz.class_names())


# ReLUs whose backward rule is written by hand: what a swapped one must equal.


@jax.custom_vjp
def twin_guided(x):
    return jnp.maximum(x, 0)


twin_guided.defvjp(lambda x: (twin_guided(x), x), lambda x, g: (jnp.where((x > 0) & (g > 0), g, 0),))


@jax.custom_vjp
def twin_deconvnet(x):
    return jnp.maximum(x, 0)


twin_deconvnet.defvjp(lambda x: (twin_deconvnet(x), None), lambda _, g: (jnp.where(g > 0, g, 0),))
