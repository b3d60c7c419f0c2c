"""Small networks in bare jax.lax, for tests."""

import jax
import jax.numpy as jnp
from jax import lax


def convolve(x, w, stride=1, padding="SAME", **options):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def make_net(relu=jax.nn.relu, wrap=lambda f: f):
    """Return a two-convolution classifier whose ReLU and whose first block can be chosen."""

    def block(params, x):
        return relu(convolve(x, params["w1"]) + params["b1"])

    def net(params, images):
        x = wrap(block)(params, images)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = relu(convolve(x, params["w2"], stride=2))
        return x.mean((1, 2)) @ params["w3"]

    return net


small_net = make_net()
