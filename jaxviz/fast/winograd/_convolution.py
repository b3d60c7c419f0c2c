"""Winograd convolutions F(4x4, 3x3) and F(2x2, 3x3): 36 products per tile of outputs instead of 144, 16 instead of 36.

Tiles of 4x4 are faster. Tiles of 2x2 round no more than a plain convolution, and where an image is flat, so is their
result: at their points, 0, 1 and -1, differences of equal numbers are exactly zero. So they may decide which of several
equal values a max-pool takes.

A non-finite value spreads over its whole tile, to 16 results instead of 9, and so does rounding error: with tiles of
4x4 a result is off by up to 1e-6 of the largest input of its tile, even one outside its own 3x3 window. Next to a pixel
1,000 times larger than the rest that is 0.1% of the result, next to one a million times larger 80% (measured); tiles of
2x2 round such results to 2e-6, as a plain convolution does. In networks on photographs, values inside lie closer
together: VGG-16's layers are accurate to 1e-5 of their largest value. Nothing checks this, since checking would cost as
much as the tiles save; `jax.default_matmul_precision("highest")` turns them off.

Lavin & Gray 2016, Fast Algorithms for Convolutional Neural Networks. `_points.py` has the algorithm in NumPy,
`_native.py` as machine code.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jaxviz.fast._kernel_gradient import gradient_of_kernel
from jaxviz.fast.machine_code import _machine
from jaxviz.fast.winograd import _native, _plan

FAST, EXACT = 4, 2  # side of a tile of outputs
# Numbers of positions from which this pays off, and from which 4x4 tiles are faster than 2x2 ones: measured.
FEWEST, MANY = 49, 196

LAYOUT = ("NHWC", "HWIO", "NHWC")
_PLAIN = {
    "dimension_numbers": lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    "window_strides": (1, 1), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1,
    "batch_group_count": 1, "precision": None, "preferred_element_type": None,
}  # fmt: skip

Padding = tuple[tuple[int, int], ...]
"""Zeros around the images: rows (above, below), columns (left, right)."""

winograd_p = Primitive("jaxviz_winograd")


def pays(images: Any, kernel: Any, params: dict[str, Any]) -> bool:
    """Return whether these are the operands of a convolution that Winograd's method supports and speeds up.

    With several devices it is left to XLA, which cannot partition custom calls; so are symbolic and empty shapes.
    """
    known = (
        is_plain(params)
        and kernel.shape[:2] == (3, 3)
        and all(0 <= border <= 2 for pair in params["padding"] for border in pair)
        and images.dtype == kernel.dtype == jnp.float32
        and params["preferred_element_type"] in (None, jnp.float32)
        and params["precision"] in (None, (lax.Precision.DEFAULT,) * 2)  # "highest" is how to opt out
        and all(isinstance(size, int) and size for shape in (images.shape, kernel.shape) for size in shape)
    )
    if not known:
        return False
    whole = all(channels % _plan.GRAIN == 0 for channels in kernel.shape[2:])
    outputs = _plan.result_size(images.shape, params["padding"])
    enough = min(outputs) > 0 and images.shape[0] * math.prod(outputs) >= FEWEST
    return whole and enough and jax.local_device_count() == 1 and _machine.machine() is not None


def is_plain(params: dict[str, Any]) -> bool:
    """Return whether this convolves `(n, h, w, in)` with `(h, w, in, out)` without strides, dilation or groups."""
    numbers = params["dimension_numbers"]
    steps = (*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"])
    layout = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    return layout == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)) and (
        set(steps) == {params["feature_group_count"], params["batch_group_count"], 1} == {1}
    )


def _positions(shape: Sequence[int], padding: Padding) -> int:
    return shape[0] * math.prod(_plan.result_size(shape, padding))


def convolve(images: Array, kernel: Array, padding: Padding, *, exact: bool = False, adjoint: bool = False) -> Array:
    """Convolve `(n, h, w, in)` with `(3, 3, in, out)`, or with a kernel's adjoint: stride 1, zero padding."""
    side = EXACT if exact or _positions(images.shape, padding) < MANY else FAST
    return winograd_p.bind(images, kernel, adjoint=adjoint, padding=padding, side=side)


def gradient(g: Array, kernel: Array, padding: Padding) -> Array:
    """Return the gradient of such a convolution with respect to the images, given that of its results.

    It is exactly zero outside the receptive fields of results with a nonzero gradient, without rounding errors.
    """
    rest = _turned(padding)
    values = convolve(g, kernel, rest, adjoint=True)
    reached = lax.reduce_window((g != 0).any(-1), False, lax.bitwise_or, (1, 3, 3), (1, 1, 1), ((0, 0), *rest))
    return _only(values, reached[..., None])


@jax.custom_jvp
def _only(values: Array, reached: Array) -> Array:
    """Return zeros where `reached` is false; not in the derivative, whose nonzero positions may be others."""
    return jnp.where(reached, values, 0)


_only.defjvp(lambda primals, tangents: (_only(*primals), tangents[0]))


def _turned(padding: Padding) -> Padding:
    """Return the padding of the convolution that maps results back to images."""
    return tuple((2 - before, 2 - after) for before, after in padding)


# The primitive: bilinear in images and kernel


def _gradient_of_images(g: Any, images: Any, kernel: Any, *, adjoint: bool, padding: Padding, side: int) -> Array:
    if not adjoint and side == EXACT:
        return gradient(g, kernel, padding)
    return convolve(g, kernel, _turned(padding), adjoint=not adjoint)


def _gradient_of_kernel(g: Any, images: Any, kernel: Any, *, adjoint: bool, padding: Padding, side: int) -> Array:
    # The adjoint convolves with the flipped kernel, so the kernel's gradient is flipped, too.
    shape = jax.ShapeDtypeStruct(tuple(kernel.aval.shape[i] for i in (0, 1, 3, 2)), g.dtype) if adjoint else kernel.aval
    result = gradient_of_kernel(g, images, shape, **_PLAIN, padding=padding)
    return result[::-1, ::-1].swapaxes(2, 3) if adjoint else result


def _batched(operands: Any, axes: Any, **params: Any) -> tuple[Array, int]:
    """Map over images by merging the mapped axis into the batch; over kernels one by one."""
    if axes[1] is not None:
        moved = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)]
        if axes[0] is None:
            return lax.map(lambda kernel: winograd_p.bind(moved[0], kernel, **params), moved[1]), 0
        return lax.map(lambda pair: winograd_p.bind(*pair, **params), tuple(moved)), 0
    images = jnp.moveaxis(operands[0], axes[0], 0)
    result = winograd_p.bind(images.reshape(-1, *images.shape[2:]), operands[1], **params)
    return result.reshape(*images.shape[:2], *result.shape[1:]), 0


def _abstract(images: Any, kernel: Any, *, adjoint: bool, padding: Padding, side: int) -> Any:
    shape = (images.shape[0], *_plan.result_size(images.shape, padding), kernel.shape[2 if adjoint else 3])
    return images.update(shape=shape, weak_type=False)


def _plain(images: Array, kernel: Array, *, adjoint: bool, padding: Padding, side: int) -> Array:
    if adjoint:
        kernel = kernel[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(images, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


winograd_p.def_impl(jax.jit(_native.convolve, static_argnames=("adjoint", "padding", "side")))
winograd_p.def_abstract_eval(_abstract)
mlir.register_lowering(winograd_p, mlir.lower_fun(_native.convolve, multiple_results=False), platform="cpu")
mlir.register_lowering(winograd_p, mlir.lower_fun(_plain, multiple_results=False))
ad.defbilinear(winograd_p, _gradient_of_images, _gradient_of_kernel)
batching.primitive_batchers[winograd_p] = _batched
