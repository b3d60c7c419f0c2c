"""Winograd's convolutions F(4x4, 3x3) and F(2x2, 3x3): a tile of outputs with 36 products in place of 144, or 16 of 36.

Tile, kernel and output are polynomials, and values at as many points (one of them infinity) as a tile of inputs has
rows determine the product. So every tile of inputs, 6x6 or 4x4, is taken to its values at the points, at each point
those of all channels are multiplied by the kernel's, 36 or 16 products of matrices, and the results are taken back.
Lavin & Gray 2016, Fast Algorithms for Convolutional Neural Networks.

Tiles of 4x4 are faster. Tiles of 2x2 round no more than a plain convolution does, and where an image is flat, they are
as flat as it is: at their points, 0, 1 and -1, differences of equal numbers are zero, to the bit. So they may decide
which of several equal values a max-pool takes.

Transforms are products with small matrices, or sums of slices times constants along one axis, with the channels
innermost: few loops to compile, and vectorized ones.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jaxviz._taps import gradient_of_kernel

FAST, EXACT = 4, 2  # sides of a tile of outputs; a tile of inputs has two more, shared with its neighbours
POINTS = {FAST: (0, 0.75, -0.75, 1.5, -1.5), EXACT: (0, 1, -1)}  # 3/4: a fifth of the rounding error of 0, ±1, ±2
# Channels, in times out over in plus out, from which the products that are saved outweigh the transforms: measured.
WORTH_TRANSFORMS = {FAST: 40, EXACT: 85}
WORTH_A_KERNEL = 2048  # positions, from which it pays to make the kernel at the points for one convolution
AT_ONCE = 2**23  # numbers that the tiles at the points may have; of more they are made in strips


class Matrices(NamedTuple):
    """What takes inputs (s + 2, s + 2) and kernel (s + 2, 3) to the points, and results back (s, s + 2)."""

    inputs: np.ndarray
    kernel: np.ndarray
    back: np.ndarray


@functools.cache
def matrices(side: int) -> Matrices:
    """Return the matrices for tiles of `side` outputs."""
    points = POINTS[side]
    others = [[q for q in points if q != p] for p in points]
    scale = [np.prod([p - q for q in roots]) for p, roots in zip(points, others, strict=True)]
    inputs = np.zeros((side + 2, side + 2))
    inputs[:-1, :-1] = [np.poly(roots)[::-1] for roots in others]
    inputs[-1] = np.poly(points)[::-1]
    kernel = np.array([[p**power / s for power in range(3)] for p, s in zip(points, scale, strict=True)] + [[0, 0, 1]])
    back = np.array([[p**power for p in points] + [power == side - 1] for power in range(side)])
    return Matrices(inputs, kernel, back)


LAYOUT = ("NHWC", "HWIO", "NHWC")
_PLAIN = {
    "dimension_numbers": lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    "window_strides": (1, 1), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1,
    "batch_group_count": 1, "precision": None, "preferred_element_type": None,
}  # fmt: skip

Padding = tuple[tuple[int, int], ...]
"""Rows and columns of zeros around the images: before and after, down and across."""

winograd_p = Primitive("jaxviz_winograd")  # of images, kernel and, if it is at hand, the kernel at the points


def pays(images: Any, kernel: Any, params: dict[str, Any], *, side: int = FAST) -> bool:
    """Tell whether these are operands of a convolution that is known here, and worth it for tiles of `side` outputs.

    Worth it are enough channels, so that the products outweigh the transforms, and enough positions for each matrix of
    the kernel, which have to be read. A batch that devices share must not be cut into strips.
    """
    known = (
        is_plain(params)
        and kernel.shape[:2] == (3, 3)
        and all(0 <= border <= 2 for pair in params["padding"] for border in pair)
        and images.dtype == kernel.dtype == jnp.float32
        and params["preferred_element_type"] in (None, jnp.float32)
        and set(params["precision"] or ()) <= {None, lax.Precision.DEFAULT}  # "highest" is how to opt out
    )
    if not known:
        return False
    positions = images.shape[0] * math.prod(_outputs(images.shape, params["padding"]))
    inputs, outputs = kernel.shape[2:]
    enough = inputs * outputs >= WORTH_TRANSFORMS[side] * (inputs + outputs)
    return enough and positions >= 512 and jax.local_device_count() == 1


def is_plain(params: dict[str, Any]) -> bool:
    """Tell a convolution of `(n, h, w, in)` with `(h, w, in, out)` without strides, dilation and groups."""
    numbers = params["dimension_numbers"]
    steps = (*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"])
    layout = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    return layout == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)) and (
        set(steps) == {params["feature_group_count"], params["batch_group_count"], 1} == {1}
    )


def _outputs(shape: Sequence[int], padding: Padding) -> list[int]:
    return [size + sum(border) - 2 for size, border in zip(shape[1:3], padding, strict=True)]


def convolve(images: Array, kernel: Array, padding: Padding, *, side: int = FAST) -> Array:
    """Convolve `(n, h, w, in)` with `(3, 3, in, out)`, stride 1, a border of zeros."""
    return winograd_p.bind(images, kernel, adjoint=False, padding=padding, side=side)


def gradient(g: Array, kernel: Array, padding: Padding) -> Array:
    """Return the gradient of such a convolution with respect to the images from that of its results.

    Where no result that has one depends on the images it is zero, and no rounding: units have receptive fields.
    """
    rest = _turned(padding)
    values = winograd_p.bind(g, kernel, adjoint=True, padding=rest, side=FAST)
    reached = lax.reduce_window((g != 0).any(-1), False, lax.bitwise_or, (1, 3, 3), (1, 1, 1), ((0, 0), *rest))
    return _only(values, reached[..., None])


@jax.custom_jvp
def _only(values: Array, reached: Array) -> Array:
    """Return zero where nothing reaches; not so in a derivative, in which others count than in what is derived."""
    return jnp.where(reached, values, 0)


_only.defjvp(lambda primals, tangents: (_only(*primals), tangents[0]))


def _turned(padding: Padding) -> Padding:
    """Return the border of the convolution that takes results back to images."""
    return tuple((2 - before, 2 - after) for before, after in padding)


def at_points(kernel: Array, *, adjoint: bool, side: int) -> Array:
    """Return a kernel, for the adjoint one that is turned by 180 degrees, at the points: `(36 or 16, in, out)`."""
    rows = matrices(side).kernel[:, :: -1 if adjoint else 1]
    values = jnp.matmul(jnp.asarray(np.kron(rows, rows), kernel.dtype), kernel.reshape(9, -1), precision="highest")
    return values.reshape(-1, *kernel.shape[2:])


def _combined(matrix: np.ndarray, parts: Sequence[Array], axis: int) -> Array:
    """Return for each row of a matrix the sum of the parts weighted with it, laid along `axis`, where parts have 1."""
    shape = [1] * parts[0].ndim
    shape[axis] = len(matrix)
    weights = [jnp.asarray(column.reshape(shape), parts[0].dtype) for column in matrix.T]
    return functools.reduce(jnp.add, [w * part for w, part in zip(weights, parts, strict=True)])


def _to_points(values: Array, count: int, side: int, axis: int, new: int) -> Array:
    """Take tiles along an axis to the points, which become the axis `new`."""
    stop = side * (count - 1) + 1
    parts = [lax.slice_in_dim(values, i, i + stop, side, axis) for i in range(side + 2)]
    return _combined(matrices(side).inputs, [jnp.expand_dims(part, new) for part in parts], new)


def _apart(values: Array) -> Array:
    """Return the values as they are, made before what is made of them.

    XLA would make one loop of the transforms along rows and columns, with 36 terms in place of 6 and 6, which takes 4
    times as long, and drops an `optimization_barrier` before it does. It does not look through a write in place.
    """
    corner = lax.slice(values, [0] * values.ndim, [1] * values.ndim)
    return lax.dynamic_update_slice(values, jnp.minimum(corner, jnp.inf), [0] * values.ndim)


def _run(images: Array, kernel: Array, *given: Array, adjoint: bool, padding: Padding, side: int) -> Array:
    positions = images.shape[0] * math.prod(_outputs(images.shape, padding))
    if not given and positions < WORTH_A_KERNEL:
        return _directly(images, kernel, adjoint=adjoint, padding=padding)
    ready = given[0] if given else at_points(kernel, adjoint=adjoint, side=side)
    return _by_tiles(images, ready, adjoint=adjoint, padding=padding, side=side)


def _directly(images: Array, kernel: Array, *, adjoint: bool, padding: Padding) -> Array:
    if adjoint:
        return by_taps(images, kernel, padding)
    return lax.conv_general_dilated(images, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


def by_taps(g: Array, kernel: Array, padding: Padding) -> Array:
    """Return the gradient of a convolution with respect to the images as one product, and shifted sums of it.

    `padding` is that of the convolution with the turned kernel. The kernel, large beside few positions, is read as it
    lies; to turn it and exchange its channels takes as long as the convolution itself.
    """
    down, across, inputs, outputs = kernel.shape
    products = g @ kernel.reshape(-1, outputs).T  # (n, h, w, (down, across, in))
    shifts = [
        [(before + i + 1 - side, after - i, 0) for i in range(side)]
        for (before, after), side in zip(padding, (down, across), strict=True)
    ]
    zero = jnp.zeros((), products.dtype)
    moved = [
        lax.pad(products[..., i * inputs : (i + 1) * inputs], zero, ((0, 0, 0), *shift, (0, 0, 0)))
        for i, shift in enumerate(itertools.product(*shifts))
    ]
    return functools.reduce(jnp.add, moved)


def _by_tiles(images: Array, kernel: Array, *, adjoint: bool, padding: Padding, side: int) -> Array:
    """Convolve with a kernel at the points, some images or some rows of tiles of one image at a time."""
    (number, *sizes, inputs), (height, width) = images.shape, _outputs(images.shape, padding)
    down, across, outputs = -(-height // side), -(-width // side), kernel.shape[1 if adjoint else 2]
    lengths = zip(padding, (down, across), sizes, strict=True)
    border = [(before, side * count + 2 - before - size) for (before, _), count, size in lengths]
    padded = jnp.pad(images, ((0, 0), *border, (0, 0)))
    row = len(kernel) * across * max(inputs, outputs)
    rows = min(down, max(1, AT_ONCE // row))
    some = min(number, max(1, AT_ONCE // (row * down)))
    turns, turns_of_image = -(-number // some) * -(-down // rows), -(-down // rows)
    strip = functools.partial(_strip, kernel=kernel, down=rows, across=across, adjoint=adjoint, side=side)

    def turn(i: Any, results: Array) -> Array:
        image, first = i // turns_of_image * some, i % turns_of_image * rows
        at = jnp.minimum(image, number - some), jnp.minimum(first, down - rows)  # the last may repeat some
        sizes = (some, side * rows + 2, *padded.shape[2:])
        part = strip(lax.dynamic_slice(padded, (at[0], side * at[1], 0, 0), sizes))
        return lax.dynamic_update_slice(results, part, (*at, 0, 0, 0, 0))

    if turns == 1:
        results = strip(padded)
    else:
        results = lax.fori_loop(0, turns, turn, jnp.zeros((number, down, side, across, side, outputs), images.dtype))
    return _apart(results.reshape(number, down * side, across * side, outputs)[:, :height, :width])


def _strip(padded: Array, *, kernel: Array, down: int, across: int, adjoint: bool, side: int) -> Array:
    """Return tiles of outputs, `(n, down, side, across, side, out)`."""
    points, back = side + 2, matrices(side).back
    rows = _apart(_to_points(padded, down, side, 1, 0))  # (points, n, down, width, in)
    values = _to_points(rows, across, side, 3, 1)  # (points, points, n, down, across, in)
    numbers = (((2,), (2 if adjoint else 1,)), ((0,), (0,)))
    results = lax.dot_general(values.reshape(points**2, -1, values.shape[-1]), kernel, numbers)
    lines = jnp.asarray(back, results.dtype) @ results.reshape(points, -1)
    lines = lines.reshape(side, points, *values.shape[2:5], -1).transpose(1, 2, 3, 0, 4, 5)
    return _combined(back, [line[..., None, :] for line in lines], 4)


# The primitive: bilinear in images and kernel; a kernel at the points says nothing new, and has no derivative


def _jvp(primals: Any, tangents: Any, **params: Any) -> tuple[Any, Any]:
    images, kernel, *given = primals
    changes = []
    if not isinstance(tangents[0], ad.Zero):
        changes.append(winograd_p.bind(tangents[0], kernel, *given, **params))
    if not isinstance(tangents[1], ad.Zero):
        changes.append(winograd_p.bind(images, tangents[1], **params))
    return winograd_p.bind(*primals, **params), functools.reduce(jnp.add, changes)


def _transposed(g: Any, images: Any, kernel: Any, *given: Any, adjoint: bool, padding: Padding, side: int) -> list[Any]:
    if ad.is_undefined_primal(images):
        if side == EXACT and not adjoint:  # on the way back nothing is decided, so that larger tiles will do
            result = gradient(g, kernel, padding)
        else:
            result = winograd_p.bind(g, kernel, adjoint=not adjoint, padding=_turned(padding), side=FAST)
        return [result, None, *(None for _ in given)]
    # The adjoint is a convolution with a kernel turned around, and its kernel's gradient is turned around likewise.
    shape = jax.ShapeDtypeStruct(tuple(kernel.aval.shape[i] for i in (0, 1, 3, 2)), g.dtype) if adjoint else kernel.aval
    result = gradient_of_kernel(g, images, shape, **_PLAIN, padding=padding)
    return [None, result[::-1, ::-1].swapaxes(2, 3) if adjoint else result, *(None for _ in given)]


def _batched(operands: Any, axes: Any, **params: Any) -> tuple[Array, int]:
    """Map over a batch of images by making the batch longer; over kernels as JAX maps what this is made of."""
    if any(axis is not None for axis in axes[1:]):
        return jax.vmap(functools.partial(_run, **params), axes)(*operands), 0
    images = jnp.moveaxis(operands[0], axes[0], 0)
    result = winograd_p.bind(images.reshape(-1, *images.shape[2:]), *operands[1:], **params)
    return result.reshape(*images.shape[:2], *result.shape[1:]), 0


def _abstract(images: Any, kernel: Any, *_: Any, adjoint: bool, padding: Padding, side: int) -> Any:
    return images.update(shape=(images.shape[0], *_outputs(images.shape, padding), kernel.shape[2 if adjoint else 3]))


winograd_p.def_impl(jax.jit(_run, static_argnames=("adjoint", "padding", "side")))
winograd_p.def_abstract_eval(_abstract)
mlir.register_lowering(winograd_p, mlir.lower_fun(_run, multiple_results=False))
ad.primitive_jvps[winograd_p] = _jvp
ad.primitive_transposes[winograd_p] = _transposed
batching.primitive_batchers[winograd_p] = _batched
