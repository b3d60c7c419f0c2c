"""The gradient of a convolution's kernel as one matrix product for each of its taps."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives
from jaxtyping import Array

from jaxviz.fast._windows import spread, taps_of

MOST_TAPS = 25  # of a kernel whose gradient takes one product for each; beyond, slicing costs more than the products
LEAST_CHANNELS = 12  # from which a matrix product is worth its slice


def gradient_of_kernel(g: Array, images: Array, kernel: Any, **params: Any) -> Array:
    """Return the gradient of a convolution with respect to its kernel, in the shape of `kernel`.

    JAX computes it as a convolution whose dimension numbers swap images and channels. Inside loops, XLA on CPU takes
    these literally: a step of `train_style_net` took 14 times as long. One matrix product for each position in the
    kernel takes 0.3 to 0.9 times as long as XLA outside loops; with few channels, the axes are swapped explicitly.
    """
    numbers, ndim, shape = params["dimension_numbers"], images.ndim, kernel.shape
    if {params["feature_group_count"], params["batch_group_count"], *params["lhs_dilation"]} != {1}:
        plain = primitives.conv_general_dilated_p.bind
        return jax.linear_transpose(lambda w: plain(images, w, **params), kernel)(g)[0]
    (row, channel, *space), (outputs, inputs, *places), (out_row, out_channel, *out_space) = numbers
    sides = [shape[axis] for axis in places]
    options = {name: params[name] for name in ("precision", "preferred_element_type")}
    if math.prod(sides) <= MOST_TAPS and min(shape[inputs], shape[outputs]) >= LEAST_CHANNELS:
        window, strides, dilation = (
            spread(space, values, 1, ndim) for values in (sides, params["window_strides"], params["rhs_dilation"])
        )
        taps = taps_of(images, 0.0, window, strides, spread(space, params["padding"], (0, 0), ndim), dilation)
        # As matrices (positions, channels): XLA would transpose each slice to sum over several of its axes.
        flat = g.transpose(out_row, *out_space, out_channel).reshape(-1, shape[outputs])
        rows = [tap.transpose(row, *space, channel).reshape(-1, shape[inputs]) for tap in taps]
        products = jnp.stack([lax.dot_general(tap, flat, (((0,), (0,)), ((), ())), **options) for tap in rows])
        result = products.reshape(*sides, shape[inputs], shape[outputs])
        return result.transpose([[*places, inputs, outputs].index(axis) for axis in range(ndim)])
    span = [(g.shape[a] - 1) * step + 1 for a, step in zip(out_space, params["window_strides"], strict=True)]
    reach = [(side - 1) * apart for side, apart in zip(sides, params["rhs_dilation"], strict=True)]
    sizes = zip(space, params["padding"], span, reach, strict=True)
    # At least one row and column of zeros, without which XLA on CPU has no fast code; the excess is cropped below.
    padding = [(low, max(1, covered + far - low - images.shape[a])) for a, (low, _), covered, far in sizes]
    like_images, last = (0, ndim - 1, *range(1, ndim - 1)), ndim - 1
    exchanged = lax.conv_general_dilated(
        images.transpose(channel, *space, row),
        g.transpose(*out_space, out_row, out_channel),
        params["rhs_dilation"],
        padding,
        rhs_dilation=params["window_strides"],
        dimension_numbers=lax.ConvDimensionNumbers(like_images, (last, last - 1, *range(last - 1)), like_images),
        **options,
    )
    result = lax.slice(exchanged, [0] * ndim, [shape[inputs], *sides, shape[outputs]])
    return result.transpose([[inputs, *places, outputs].index(axis) for axis in range(ndim)])
