"""Convolutions in forms that are faster on CPUs: matrix products, sums of shifts, and gradients as convolutions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, primitives
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jaxviz.fast import _taps
from jaxviz.fast._kernel_gradient import gradient_of_kernel
from jaxviz.fast._windows import spread, taps_of
from jaxviz.fast.depthwise import _convolution as _depthwise
from jaxviz.fast.winograd import _convolution

MOST_SHIFTS = 121  # of a depthwise kernel; each is an operation to compile

# A primitive rather than a custom_vjp, so that it composes with everything: forward mode, second derivatives, vmap.
convolution_p = Primitive("jaxviz_convolution")
plain = primitives.conv_general_dilated_p.bind


def convolve(images: Array, kernel: Array, *, exact: bool, **params: Any) -> Array:
    if _is_product(kernel, params):
        return _product(images, kernel, params)
    if _convolution.pays(images, kernel, params):
        return _convolution.convolve(images, kernel, params["padding"], exact=exact)
    if _is_depthwise(images, kernel, params):  # sums of factors in the type of the result: nothing is lost on the way
        wanted = params["preferred_element_type"] or images.dtype
        images, kernel = images.astype(wanted), kernel.astype(wanted)
    return convolution_p.bind(images, kernel, **params)


def _is_product(kernel: Array, params: dict[str, Any]) -> bool:
    """Return whether a convolution only multiplies the channels at each position by a matrix."""
    sides = [kernel.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
    steps = (*params["window_strides"], *params["lhs_dilation"])
    padding = [pad for pair in params["padding"] for pad in pair]
    groups = (params["feature_group_count"], params["batch_group_count"])
    return set(sides) | set(steps) | set(groups) == {1} and not any(padding)


def _product(images: Array, kernel: Array, params: dict[str, Any]) -> Array:
    numbers = params["dimension_numbers"]
    outputs, inputs, *sides = numbers.rhs_spec
    matrix = kernel.squeeze(sides)  # (in, out) or (out, in), as it was: reordering costs a copy
    contracted = (((numbers.lhs_spec[1],), (int(inputs > outputs),)), ((), ()))
    options = {name: params[name] for name in ("precision", "preferred_element_type")}
    result = lax.dot_general(images, matrix, contracted, **options)  # the axes of the images, then the channels
    order = sorted(range(images.ndim), key=lambda axis: (axis == numbers.lhs_spec[1], axis))
    role = {axis: i for i, axis in enumerate(numbers.lhs_spec)}
    places = [numbers.out_spec[role[axis]] for axis in order]
    return result.transpose([places.index(axis) for axis in range(images.ndim)])


def _is_depthwise(images: Any, kernel: Any, params: dict[str, Any]) -> bool:
    """Return whether each channel is convolved with its own kernel, one of few taps."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    each = groups == images.shape[numbers.lhs_spec[1]] == kernel.shape[numbers.rhs_spec[0]]
    return each and params["batch_group_count"] == 1 < groups and kernel.size // groups <= MOST_SHIFTS


def _shifts(images: Array, kernel: Array, **params: Any) -> Array:
    """Convolve each channel with its own kernel, as a sum of shifted images, each times one factor per channel."""
    numbers = params["dimension_numbers"]
    channels, space = numbers.lhs_spec[1], numbers.lhs_spec[2:]

    across = functools.partial(spread, space, ndim=images.ndim)  # keeps the axis order: reordering costs copies
    weights = kernel.transpose(numbers.rhs_spec)  # (c, 1, *space)
    if any(d != 1 for d in params["lhs_dilation"]):
        apart = across([(0, 0, d - 1) for d in params["lhs_dilation"]], (0, 0, 0))
        images = lax.pad(images, jnp.zeros((), images.dtype), apart)
    window, strides = across(weights.shape[2:], 1), across(params["window_strides"], 1)
    padding, dilation = across(params["padding"], (0, 0)), across(params["rhs_dilation"], 1)
    taps = taps_of(images, 0.0, window, strides, padding, dilation)
    factors = weights.reshape(weights.shape[0], -1).T
    total = functools.reduce(
        jnp.add, [tap * lax.broadcast_in_dim(w, tap.shape, (channels,)) for tap, w in zip(taps, factors, strict=True)]
    )
    places = dict(zip(numbers.out_spec, numbers.lhs_spec, strict=True))
    return total.transpose([places[axis] for axis in range(images.ndim)])


def _gradient_of_images(g: Array, images: Any, kernel: Array, **params: Any) -> Array:
    """Return the input gradient as an ordinary convolution of `g` with the flipped kernel, or in a faster form."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if _convolution.pays(g, kernel, params):
        return _convolution.gradient(g, kernel, params["padding"])
    if _taps.pays(g, images.aval, kernel, params):
        return _taps.gradient_of_images(g, images.aval, kernel, params)
    if params["batch_group_count"] != 1 or any(d != 1 for d in params["lhs_dilation"]):
        return jax.linear_transpose(lambda x: plain(x, kernel, **params), images.aval)(g)[0]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    reach = [(kernel.shape[axis] - 1) * d for axis, d in zip(rhs[2:], params["rhs_dilation"], strict=True)]
    before = [r - low for r, (low, _) in zip(reach, params["padding"], strict=True)]
    spread = [(g.shape[axis] - 1) * s + 1 for axis, s in zip(out[2:], params["window_strides"], strict=True)]
    after = [images.aval.shape[a] + r - s - b for a, r, s, b in zip(lhs[2:], reach, spread, before, strict=True)]
    changes = {
        "dimension_numbers": lax.ConvDimensionNumbers(out, rhs, lhs),
        "window_strides": params["lhs_dilation"],
        "lhs_dilation": params["window_strides"],
        "padding": tuple(zip(before, after, strict=True)),
    }
    return convolution_p.bind(g, _exchange(kernel, rhs, groups), **params | changes)


def _exchange(kernel: Array, spec: tuple[int, ...], groups: int) -> Array:
    """Flip a kernel in space and swap its input and output channels within each group."""
    first = lax.rev(kernel.transpose(spec), range(2, kernel.ndim))  # (out, in per group, *space)
    out, per_group, *space = first.shape
    split = first.reshape(groups, out // groups, per_group, *space)
    exchanged = jnp.swapaxes(split, 1, 2).reshape(groups * per_group, out // groups, *space)
    inverse = tuple(spec.index(axis) for axis in range(kernel.ndim))
    return exchanged.transpose(inverse)


def _gradient_of_kernel(g: Array, images: Array, kernel: Any, **params: Any) -> Array:
    if _is_depthwise(images, kernel.aval, params):
        return jax.linear_transpose(lambda k: _shifts(images, k, **params), kernel.aval)(g)[0]
    return gradient_of_kernel(g, images, kernel.aval, **params)


def _batched(operands: Any, axes: Any, **params: Any) -> tuple[Array, int]:
    """Map over images by merging the mapped axis into the batch; leave mapped kernels and batch groups to JAX."""
    (images, kernel), (axis, kernel_axis) = operands, axes
    if kernel_axis is not None or params["batch_group_count"] != 1:
        first = lambda x, a: x if a is None else lax.index_in_dim(x, 0, a, keepdims=False)
        fn = _shifts if _is_depthwise(first(images, axis), first(kernel, kernel_axis), params) else plain
        return jax.vmap(functools.partial(fn, **params), in_axes=axes)(images, kernel), 0
    row, out_row = params["dimension_numbers"].lhs_spec[0], params["dimension_numbers"].out_spec[0]
    moved = jnp.moveaxis(images, axis, row)
    size = moved.shape[row]
    merged = moved.reshape(*moved.shape[:row], -1, *moved.shape[row + 2 :])
    result = convolution_p.bind(merged, kernel, **params)
    return result.reshape(*result.shape[:out_row], size, -1, *result.shape[out_row + 1 :]), out_row


def _on_cpu(images: Array, kernel: Array, **params: Any) -> Array:
    if _depthwise.pays(images, kernel, params):
        return _depthwise.convolve(images, kernel, params)
    return (_shifts if _is_depthwise(images, kernel, params) else _spared)(images, kernel, **params)


def _spared(images: Array, kernel: Array, **params: Any) -> Array:
    """If there is no padding at all, convolve with one extra row and column of zeros, and crop the result.

    XLA on CPU has fast code only for convolutions with padding; seven without it took 1.2 to 22 times as long.
    """
    numbers = params["dimension_numbers"]
    sides = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    padded = any(pad for pair in params["padding"] for pad in pair)
    if padded or len(sides) != 2 or max(sides) == 1:
        return plain(images, kernel, **params)
    result = plain(images, kernel, **params | {"padding": ((0, 1), (0, 1))})
    shape = jax.eval_shape(functools.partial(plain, **params), images, kernel).shape
    return lax.slice(result, [0] * result.ndim, shape)


@functools.lru_cache(maxsize=256)
def _alone(params: tuple[tuple[str, Any], ...]) -> Any:
    """Return what is run where nothing is compiled around it."""
    return jax.jit(functools.partial(convolution_p.bind, **dict(params)))


def _abstract(images: Any, kernel: Any, **params: Any) -> Any:
    return primitives.conv_general_dilated_p.abstract_eval(images, kernel, **params)[0]


convolution_p.def_impl(lambda *operands, **params: _alone(tuple(sorted(params.items())))(*operands))
convolution_p.def_abstract_eval(_abstract)
mlir.register_lowering(convolution_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
mlir.register_lowering(convolution_p, mlir.lower_fun(plain, multiple_results=False))
ad.defbilinear(convolution_p, _gradient_of_images, _gradient_of_kernel)
batching.primitive_batchers[convolution_p] = _batched
