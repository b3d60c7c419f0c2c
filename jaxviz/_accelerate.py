"""Convolutions and max-pools in faster forms, swapped into any function; values stay the same, but for rounding.

- Inside `scan` and `while`, XLA on CPU does not rewrite the input gradient of a convolution into a form that it has
  fast code for, and VGG-16's runs 3 times slower there than outside. Written as what it is, an ordinary convolution
  with the kernel flipped and its channels exchanged, it is fast everywhere.
- The gradient of `reduce_window_max` is a select-and-scatter: slow on CPU, and refused by XLA's deterministic mode on
  GPU. As strided slices it is neither.
- A depthwise convolution, which XLA on CPU computes channel by channel, takes 11 to 74 times less time as a sum of
  shifted images.
- Nor has XLA on CPU fast code for a convolution without any padding; with a row and a column of zeros it has.
- A convolution with a 1x1 kernel is a product of matrices, and on CPU up to twice as fast when written as one.
- One of 3x3, stride 1 and a border of zeros is done in a quarter of the products by Winograd's method (`_winograd.py`):
  float32 on x86-64 CPUs, where it pays; on the way forward of attributions by gradients in its less fast and more exact
  form. Asked for `jax.default_matmul_precision("highest")`, it stays a convolution.
- Where the kernel is large beside few positions, to turn it around for the input gradient takes XLA on CPU as long as
  the convolution. One product and nine shifts leave it as it lies.

In loops, `hoist` makes what depends on kernels only before the loop.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, primitives
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jaxviz import _winograd
from jaxviz._interpret import Value, bind, evaluate, trace
from jaxviz._taps import MOST_TAPS, gradient_of_kernel, spread, taps_of

MOST_SHIFTS = 121  # of a depthwise kernel; each is an operation to compile

# A primitive, and not a custom_vjp, because it then composes with everything: forward mode, second derivatives, vmap.
convolution_p = Primitive("jaxviz_convolution")
_plain = primitives.conv_general_dilated_p.bind


def accelerate(fn: Callable[..., Any], *, exact: bool = False) -> Callable[..., Any]:
    """Return `fn` with its max-pools and, on CPU, its convolutions exchanged for faster forms.

    With `exact`, which attributions by gradients ask for, Winograd's tiles are small on the way forward. Where a
    photograph is nearly flat, the rounding of large ones, 1e-6 of the largest value, decides which of nearly equal
    values a max-pool takes. Of three photographs that changed nothing in two, and moved 1% to 22% of VGG-16's maps, by
    their L2 norm, in the third; plain sums and small tiles 0.1% to 0.9%. On the way back nothing is decided.
    """
    swaps = {"reduce_window_max": _max_pool}
    if jax.default_backend() == "cpu":  # cuDNN and the TPU compiler have their own fast forms
        swaps["conv_general_dilated"] = functools.partial(_convolve, exact=exact)

    def accelerated(*args: Any) -> Any:
        program = trace(fn, *args)
        actions = {
            value.path: functools.partial(_apply, swaps[value.op], value.eqn.params)
            for value in program.values
            if value.op in swaps and value.eqn is not None and value.rule_at is None
        }
        return evaluate(program, args, actions)[0]

    return accelerated


def hoist(fn: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """Return `fn`, the body of a loop, with what its convolutions make of their kernels made here, outside of the loop.

    Those are flipped kernels, for gradients; XLA makes them again each turn. `args` are such as the loop will give it;
    a kernel that depends on them is left inside.
    """
    program = trace(fn, *args)
    known: dict[int, Any] = {}

    def value_of(value: Value) -> Any:
        """Return what does not depend on the arguments, None for what does."""
        if id(value) not in known:
            operands = [value_of(operand) for operand in value.inputs]
            known[id(value)] = value.constant
            if value.eqn is not None and len(value.eqn.outvars) == 1 and all(x is not None for x in operands):
                known[id(value)] = bind(value.eqn, operands)[0][0]
        return known[id(value)]

    actions = {}
    for value in program.values:
        if value.op == "jaxviz_convolution" and value.rule_at is None:
            kernel = value_of(value.inputs[1])
            if kernel is not None:
                actions[value.path] = functools.partial(_with_kernel, value.eqn, kernel)
    return lambda *args: evaluate(program, args, actions)[0]


def _with_kernel(eqn: Any, kernel: Array, operands: list[Any], _: Callable) -> tuple[list[Any], dict]:
    return bind(eqn, [operands[0], kernel])


def _apply(swap: Callable, params: dict[str, Any], operands: list[Any], _: Callable) -> tuple[list[Any], dict]:
    return [swap(*operands, **params)], {}


# Convolution


def _convolve(images: Array, kernel: Array, *, exact: bool, **params: Any) -> Array:
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if _is_product(kernel, params):
        return _product(images, kernel, params)
    depthwise = groups == images.shape[numbers.lhs_spec[1]] == kernel.shape[numbers.rhs_spec[0]]
    depthwise &= kernel.size // groups <= MOST_SHIFTS
    if groups == 1 or not depthwise or any(d != 1 for d in params["lhs_dilation"]):
        if _winograd.pays(images, kernel, params):
            return _winograd.convolve(images, kernel, params["padding"], exact=exact)
        return convolution_p.bind(images, kernel, **params)
    return _depthwise(images, kernel, params)


def _is_product(kernel: Array, params: dict[str, Any]) -> bool:
    """Tell a convolution that multiplies the channels at each position by a matrix, and does nothing else."""
    sides = [kernel.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
    steps = (*params["window_strides"], *params["lhs_dilation"])
    padding = [pad for pair in params["padding"] for pad in pair]
    groups = (params["feature_group_count"], params["batch_group_count"])
    return set(sides) | set(steps) | set(groups) == {1} and not any(padding)


def _product(images: Array, kernel: Array, params: dict[str, Any]) -> Array:
    numbers = params["dimension_numbers"]
    outputs, inputs, *sides = numbers.rhs_spec
    matrix = kernel.squeeze(sides)  # (in, out) or (out, in), as it was: another order costs a copy
    contracted = (((numbers.lhs_spec[1],), (int(inputs > outputs),)), ((), ()))
    options = {name: params[name] for name in ("precision", "preferred_element_type")}
    result = lax.dot_general(images, matrix, contracted, **options)  # the axes of the images, then the channels
    order = sorted(range(images.ndim), key=lambda axis: (axis == numbers.lhs_spec[1], axis))
    role = {axis: i for i, axis in enumerate(numbers.lhs_spec)}
    places = [numbers.out_spec[role[axis]] for axis in order]
    return result.transpose([places.index(axis) for axis in range(images.ndim)])


def _depthwise(images: Array, kernel: Array, params: dict[str, Any]) -> Array:
    """Convolve each channel with a kernel of its own: a sum of shifted images, each times a number a channel."""
    numbers, wanted = params["dimension_numbers"], params["preferred_element_type"] or images.dtype
    images, kernel = images.astype(wanted), kernel.astype(wanted)
    channels, space = numbers.lhs_spec[1], numbers.lhs_spec[2:]

    across = functools.partial(spread, space, ndim=images.ndim)  # in the order they have: another order costs copies
    weights = kernel.transpose(numbers.rhs_spec)  # (c, 1, *space)
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
    """Return the input gradient as one ordinary convolution of `g` with the flipped kernel, or in a faster form."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if _winograd.pays(g, kernel, params):
        return _winograd.gradient(g, kernel, params["padding"])
    if params["batch_group_count"] != 1 or any(d != 1 for d in params["lhs_dilation"]):
        return jax.linear_transpose(lambda x: _plain(x, kernel, **params), images.aval)(g)[0]
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
    positions = math.prod(g.shape[axis] for axis in (out[0], *out[2:]))
    if _winograd.is_plain(params) and positions <= 2 * g.shape[out[1]]:
        return _winograd.by_taps(g, kernel, changes["padding"])
    return convolution_p.bind(g, _exchange(kernel, rhs, groups), **params | changes)


def _exchange(kernel: Array, spec: tuple[int, ...], groups: int) -> Array:
    """Flip a kernel in space and exchange its input and output channels within each group."""
    first = lax.rev(kernel.transpose(spec), range(2, kernel.ndim))  # (out, in per group, *space)
    out, per_group, *space = first.shape
    split = first.reshape(groups, out // groups, per_group, *space)
    exchanged = jnp.swapaxes(split, 1, 2).reshape(groups * per_group, out // groups, *space)
    inverse = tuple(spec.index(axis) for axis in range(kernel.ndim))
    return exchanged.transpose(inverse)


def _gradient_of_kernel(g: Array, images: Array, kernel: Any, **params: Any) -> Array:
    return gradient_of_kernel(g, images, kernel.aval, **params)


def _batched(operands: Any, axes: Any, **params: Any) -> tuple[Array, int]:
    """Map over a batch of images by making the batch longer; leave a batch of kernels, or of groups, to JAX."""
    (images, kernel), (axis, kernel_axis) = operands, axes
    if kernel_axis is not None or params["batch_group_count"] != 1:
        return jax.vmap(functools.partial(_plain, **params), in_axes=axes)(images, kernel), 0
    row, out_row = params["dimension_numbers"].lhs_spec[0], params["dimension_numbers"].out_spec[0]
    moved = jnp.moveaxis(images, axis, row)
    size = moved.shape[row]
    merged = moved.reshape(*moved.shape[:row], -1, *moved.shape[row + 2 :])
    result = convolution_p.bind(merged, kernel, **params)
    return result.reshape(*result.shape[:out_row], size, -1, *result.shape[out_row + 1 :]), out_row


def _spared(images: Array, kernel: Array, **params: Any) -> Array:
    """Convolve with a row and a column of zeros to spare, cut off again, where there is no padding at all.

    XLA on CPU has fast code for convolutions with padding only; seven others took 1.2 to 22 times as long.
    """
    numbers = params["dimension_numbers"]
    sides = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    padded = any(pad for pair in params["padding"] for pad in pair)
    if jax.default_backend() != "cpu" or padded or len(sides) != 2 or max(sides) == 1:
        return _plain(images, kernel, **params)
    result = _plain(images, kernel, **params | {"padding": ((0, 1), (0, 1))})
    shape = jax.eval_shape(functools.partial(_plain, **params), images, kernel).shape
    return lax.slice(result, [0] * result.ndim, shape)


def _abstract(images: Any, kernel: Any, **params: Any) -> Any:
    result = jax.eval_shape(functools.partial(_plain, **params), images, kernel)
    return images.update(shape=result.shape, dtype=result.dtype)


convolution_p.def_impl(_plain)
convolution_p.def_abstract_eval(_abstract)
mlir.register_lowering(convolution_p, mlir.lower_fun(_spared, multiple_results=False))
ad.defbilinear(convolution_p, _gradient_of_images, _gradient_of_kernel)
batching.primitive_batchers[convolution_p] = _batched


# Max-pool


def _max_pool(images: Array, **params: Any) -> Array:
    dilated = any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
    window, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    if dilated or not jnp.issubdtype(images.dtype, jnp.floating) or max(window) > MOST_TAPS:
        return primitives.reduce_window_max_p.bind(images, **params)
    if math.prod(window) <= MOST_TAPS:
        return _pool(images, window, strides, padding)
    # One axis after another, from the last: of equal values the same one wins, the first row by row.
    for axis in reversed(range(images.ndim)):
        along = functools.partial(spread, [axis], ndim=images.ndim)
        images = _pool(images, along([window[axis]], 1), along([strides[axis]], 1), along([padding[axis]], (0, 0)))
    return images


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _pool(images: Array, window: Any, strides: Any, padding: Any) -> Array:
    return functools.reduce(jnp.maximum, taps_of(images, -jnp.inf, window, strides, padding))


@_pool.defjvp
def _pool_jvp(window: Any, strides: Any, padding: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Pass the tangent of each window's maximum; the first of several equal ones wins, as in PyTorch.

    The maximum is selected by the same comparisons, so that its own derivative, which the next one needs, is this one.
    """
    best, *values = taps_of(primals[0], -jnp.inf, window, strides, padding)
    # What is not equal to itself is NaN, and wins.
    wins = lambda value, best: lax.bitwise_or(lax.gt(value, best), lax.ne(value, value))  # noqa: E731
    if window == strides and not any(pad for pair in padding for pad in pair):
        # They do not overlap: with the number of the winner, on the way back all that a window covers is written at
        # once.
        first = jnp.zeros(best.shape, jnp.int8)
        for i, value in enumerate(values, 1):
            taken = wins(value, best)
            first, best = lax.select(taken, lax.full_like(first, i), first), lax.select(taken, value, best)
        changes = _windows(tangents[0], window)
        within = tuple(range(1, changes.ndim, 2))
        sides = [n if axis % 2 else 1 for axis, n in enumerate(changes.shape)]
        numbers = jnp.arange(math.prod(window), dtype=jnp.int8).reshape(sides)
        return best, jnp.sum(jnp.where(jnp.expand_dims(first, within) == numbers, changes, 0), within)
    tangent, *changes = taps_of(tangents[0], 0.0, window, strides, padding)
    for value, change in zip(values, changes, strict=True):
        taken = wins(value, best)
        tangent, best = lax.select(taken, change, tangent), lax.select(taken, value, best)
    return best, tangent


def _windows(values: Array, window: Sequence[int]) -> Array:
    """Return whole windows, with an axis for the window and one for the place in it for each axis."""
    whole = values[tuple(slice(n // side * side) for n, side in zip(values.shape, window, strict=True))]
    return whole.reshape([n for size, side in zip(whole.shape, window, strict=True) for n in (size // side, side)])
