"""The net of fast style transfer: Johnson et al. 2016 with Dumoulin et al. 2017's conditional instance normalization.

In plain JAX rather than Flax: its sizes are those of its parameters, so one function handles any width, depth and
number of styles.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxviz._types import AnyImages, Images, Key, at_least_float32
from jaxviz.image._checks import check_images
from jaxviz.show._shown import shown

STEP = 4  # the stride of the residual blocks in pixels
BORDER = (
    28  # pixels, a multiple of STEP: with 64, edges are as with 28, with 16 strokes along them are a third stronger
)
_EPSILON = 1e-5  # of instance normalization
_DEVIATION = 0.87962566  # of a normal distribution truncated at two deviations
_DOWN = ("down1", "down2")
_UP = ("up1", "up2")

Moments = list[tuple[Array, Array]]
"""Mean and variance of the maps, `(n, 1, 1, c)` each, at every normalization in order."""


@shown()
class StyleNet(NamedTuple):
    """A style net, as read from a file; `style_net` and `restyle` take it, or its parameters alone.

    Attributes:
        params: its parameters, for `style_net` and `restyle`.
        styles: the names of its styles, in order. "scream@512" is "scream" with strokes for pictures of 512 px: where
            there are several sizes, "scream" stands for the one that fits the picture, or a mixture of the two nearest.
    """

    params: Any
    styles: list[str]

    @property
    def names(self) -> list[str]:
        """The names without sizes: what there is to choose from where the picture's size decides."""
        return list(sizes_of(self.styles))


def style_net(params: Any, images: AnyImages, *, style: Any = 0) -> Images:
    """Render images in a style that the net has learned, in one pass.

    Like any network here it is a pure function `net(params, images)`, for images of any size; for another style use
    `functools.partial(style_net, style=2)`. Convolutions are as in the paper, with reflection padding; upsampling is by
    nearest neighbor followed by a convolution, which avoids checkerboard patterns. Values are named `first`, `down1`,
    `down2`, `block1` and so on, `up1`, `up2`.

    Args:
        params: the parameters from `train_style_net`, or what `load_style_net` returns, which names its styles.
        images: `(n, h, w, 3)` in [0, 1]. With bfloat16, only the normalizations are computed in float32.
        style: the index of a style; negative ones count from the end. Or weights `(styles,)` that mix the styles'
            normalizations, or one row for each image, `(n, styles)`. Of what `load_style_net` returns also a name,
            "scream", whose strokes fit the size of the images, or names with weights, `{"scream": 0.7, "ink": 0.3}`.

    Returns:
        Images of the same size, in [0, 1].

    Raises:
        ValueError: for a style that the net does not have, another number of weights, or images of another shape.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> params = jaxviz.init_style_net(jax.random.key(0), width=4, blocks=1, styles=2)
        >>> photo = jnp.full((1, 30, 41, 3), 0.5)
        >>> mixed = jaxviz.style_net(params, photo, style=jnp.array([0.7, 0.3]))
        >>> print(jaxviz.style_net(params, photo, style=1).shape, mixed.shape)
        (1, 30, 41, 3) (1, 30, 41, 3)

    Johnson, Alahi & Fei-Fei 2016, Perceptual Losses for Real-Time Style Transfer and Super-Resolution; Ulyanov, Vedaldi
    & Lempitsky 2016, Instance Normalization; Dumoulin, Shlens & Kudlur 2017, A Learned Representation for Artistic
    Style; Odena, Dumoulin & Olah 2016, Deconvolution and Checkerboard Artifacts.
    """
    check_images(images, channels=3)
    params, style = by_number(params, style, max(images.shape[1:3]))
    mix = mixture(params, style)
    if len(mix) not in (1, len(images)):
        raise ValueError(f"style: expected one row of weights, or one for each of {len(images)} images, got {len(mix)}")
    return apply(params, jnp.asarray(images), mix)[0]


def apply(
    params: Any, images: Any, mix: Float[Array, "#n styles"], *, moments: Moments | None = None
) -> tuple[Any, Moments]:
    """Return the images and the moments of their maps; `moments`, if given, are used instead."""
    taken: Moments = []

    def layer(name: str, x: Array, stride: int = 1) -> Array:
        x = _convolve(x, params[name]["kernel"], stride)
        x = x.astype(at_least_float32(x.dtype))
        # Sums are relative to a value of the map: far from zero, the variance of a nearly flat one is all rounding.
        pivot = lax.stop_gradient(x[:, :1, :1]) if moments is None else moments[len(taken)][0]
        x = x - pivot
        mean, variance = _moments(x) if moments is None else (0.0, moments[len(taken)][1])
        taken.append((pivot + mean, variance))
        scale, offset = (_mixed(mix, params[name][what]).astype(x.dtype) for what in ("scale", "offset"))
        # With one factor and one summand, the gradient is two sums over the map.
        factor = lax.rsqrt(variance + _EPSILON) * scale
        return (x * _for_rows(factor, x) + _for_rows(offset - mean * factor, x)).astype(images.dtype)

    x = checkpoint_name(jax.nn.relu(layer("first", images - 0.5)), "first")
    sizes = []
    for name in _DOWN:
        sizes.append(x.shape[1:3])
        x = checkpoint_name(jax.nn.relu(layer(name, x, 2)), name)
    for i in range(1, count_blocks(params) + 1):
        inner = jax.nn.relu(layer(f"block{i}_1", x))
        x = checkpoint_name(x + layer(f"block{i}_2", inner), f"block{i}")
    for name in _UP:
        x = checkpoint_name(jax.nn.relu(layer(name, _enlarged(x, sizes.pop()))), name)
    # Normalized like all others; otherwise Adam's first steps on 9x9 kernels saturate the colors, and learning stops.
    return jax.nn.sigmoid(layer("last", x)), taken


def with_border(params: Any, images: Any, mix: Float[Array, "#n styles"]) -> Any:
    """Apply the net to images with a border of reflected pixels, and crop it off the result.

    Padding within the net leaves a line along the edge.
    """
    reach = (BORDER, BORDER)
    around = jnp.pad(images, ((0, 0), reach, reach, (0, 0)), mode="reflect")
    return apply(params, around, mix)[0][:, BORDER:-BORDER, BORDER:-BORDER]


def _moments(x: Array) -> tuple[Array, Array]:
    """Return mean and variance of values around zero, by sums computed in one pass over memory."""
    mean, squares = _mean(x), _mean(jnp.square(x))
    return mean, jnp.maximum(squares - jnp.square(mean), 0)


# On GPU, sums over maps, here and in gradients, are taken within rows and then over the rows. In one step, for 64x64
# positions, XLA uses so few thread blocks that a sum takes longer than a convolution (H100: 80 to 130 µs, and 27 µs).


def _mean(x: Array) -> Array:
    if jax.default_backend() != "gpu":
        return x.mean((1, 2), keepdims=True)
    return lax.optimization_barrier(x.mean(2, keepdims=True)).mean(1, keepdims=True)


def _for_rows(value: Array, x: Array) -> Array:
    """Return `(n, 1, 1, c)` for use with `x` of `(n, h, w, c)`: on GPU as `(n, h, 1, c)`."""
    if jax.default_backend() != "gpu":
        return value
    return lax.optimization_barrier(jnp.broadcast_to(value, (*x.shape[:2], 1, x.shape[3])))


def _convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    reach = kernel.shape[0] // 2
    if x.shape[-1] == 3:  # a fourth channel of zeros: with three, XLA on CPU takes 14 times as long for a 9x9 kernel
        x, kernel = jnp.pad(x, (*3 * [(0, 0)], (0, 1))), jnp.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0)))
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    height, width = (-(-side // stride) for side in x.shape[1:3])
    # A row and a column of zeros, whose results are cropped: on CPU, XLA computes a convolution without any padding up
    # to 30 times slower.
    spare = ((0, 1), (0, 1))
    numbers = ("NHWC", "HWIO", "NHWC")
    found = lax.conv_general_dilated(padded, kernel.astype(x.dtype), (stride, stride), spare, dimension_numbers=numbers)
    return found[:, :height, :width]


def _enlarged(x: Array, size: Sequence[Any]) -> Array:
    """Upsample twofold by nearest neighbor, cropped to `size` if that is odd."""
    n, height, width, channels = x.shape
    twice = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, channels))
    return twice.reshape(n, 2 * height, 2 * width, channels)[:, : size[0], : size[1]]


def _mixed(mix: Array, rows: Array) -> Array:
    """Return `mix @ rows` as `(n, 1, 1, c)`, by a sum of products: a matrix product would count as a dense layer."""
    return jnp.sum(mix[:, :, None] * rows.astype(mix.dtype)[None], 1)[:, None, None]


def count_blocks(params: Any) -> int:
    return sum(name.startswith("block") for name in params) // 2


def count_channels(params: Any) -> int:
    """Return how many channels the first layer has, the width of a net."""
    return params["first"]["kernel"].shape[-1]


def reach(params: Any) -> int:
    """Return the radius of the net's receptive field, apart from its moments, rounded up to a multiple of `STEP`."""
    # 9x9, 3x3, 3x3 with stride 2, and those of the blocks with stride 4; then the same in reverse.
    far = 4 + 1 + 2 + 2 * STEP * count_blocks(params) + 2 + 1 + 4
    return -(-(far + STEP - 1) // STEP) * STEP


def count_styles(params: Any) -> int:
    """Return how many styles a net has."""
    return params["first"]["scale"].shape[0]


def by_number(params: Any, style: Any, longest: int = 0) -> tuple[Any, Any]:
    """Return a net's parameters, and a style as an index or weights, if it is given by a name or by several.

    Strokes are those for a picture whose longer side is `longest`.
    """
    params, names = params if isinstance(params, StyleNet) else (params, None)
    if not isinstance(style, str | Mapping):
        return params, style
    if names is None:
        raise ValueError(
            f"style: expected an index or weights, got {style!r}: parameters do not know the names of their styles. "
            'Give what load_style_net returns, as in restyle(jaxviz.load_style_net(), image, style="scream")'
        )
    if not style:
        raise ValueError("style: expected names with weights, got none")
    if isinstance(style, str):
        return params, _row(names, style, longest)
    return params, sum(np.float32(weight) * _row(names, name, longest) for name, weight in style.items())


def _row(names: Sequence[str], wanted: Any, longest: int) -> np.ndarray:
    """Return weights of the named styles that amount to one of them, or to one between two sizes of its strokes."""
    row, sizes = np.zeros(len(names), np.float32), sizes_of(names)
    if wanted in names:
        row[names.index(wanted)] = 1
        return row
    if wanted not in sizes:
        known = ", ".join(sizes)
        close = get_close_matches(str(wanted), [*sizes, *names], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"style: expected one of {known}, the styles of this net, got {wanted!r}{hint}")
    found = sizes[wanted]
    for i, size in enumerate(found):
        near = np.interp(math.log(max(longest, 1)), np.log(found), np.eye(len(found))[i])
        row[names.index(f"{wanted}@{size}")] = near
    return row


def sizes_of(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the sizes of pictures for which strokes of each style were learned, in order: "scream@512" is for 512 px.

    A style whose name ends in no size has none.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        style, at, size = name.rpartition("@")
        known = bool(style and at and size.isascii() and size.isdigit() and int(size) and str(int(size)) == size)
        sizes = found.setdefault(style if known else name, [])
        sizes += [int(size)] if known else []
    return {style: sorted(sizes) for style, sizes in found.items()}


def mixture(params: Any, style: Any) -> Float[Array, "n styles"]:
    """Return weights of styles, one row for each image or one for all."""
    there = count_styles(params)
    if jnp.ndim(style) == 0 and jnp.issubdtype(jnp.result_type(style), jnp.integer):
        if not isinstance(style, Tracer) and not -there <= style < there:
            raise ValueError(f"style: expected one of 0 to {there - 1}, the styles of this net, got {style}")
        number = jnp.asarray(style)
        return jax.nn.one_hot(jnp.where(number < 0, number + there, number), there)[None]
    weights = jnp.atleast_2d(jnp.asarray(style))
    if not jnp.issubdtype(weights.dtype, jnp.floating) or weights.ndim != 2 or weights.shape[1] != there:
        raise ValueError(
            f"style: expected a number from 0 to {there - 1}, or weights of the {there} styles of this net, ({there},) "
            f"or (n, {there}), got {weights.dtype} of shape {jnp.shape(style)}"
        )
    if not isinstance(weights, Tracer) and not jnp.all(jnp.isfinite(weights)):
        raise ValueError(f"style: expected finite weights, got {style}")
    return weights


def init_style_net(key: Key, *, width: int = 32, blocks: int = 5, styles: int = 1) -> Any:
    """Return initial parameters of a style net: kernels by He's rule, and styles that are all the same.

    Args:
        key: the random key, for the kernels.
        width: the number of channels of the first layer, 32 in the paper; residual blocks have four times as many.
        blocks: the number of residual blocks.
        styles: the number of styles.

    Returns:
        The parameters, for `style_net`.

    Raises:
        ValueError: if `width` or `styles` is below 1, or `blocks` below 0.

    Example:
        >>> import jax, jaxviz
        >>> params = jaxviz.init_style_net(jax.random.key(0), width=8, styles=4)
        >>> print(params["block5_2"]["kernel"].shape, params["block5_2"]["scale"].shape)
        (3, 3, 32, 32) (4, 32)
    """
    if min(width, styles) < 1 or blocks < 0:
        raise ValueError(
            f"expected a width and styles of at least 1, got width {width}, {blocks} blocks, {styles} styles"
        )
    return _init(key, width, blocks, styles)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _init(key: Key, width: int, blocks: int, styles: int) -> Any:
    wide = 4 * width
    layers = {"first": (9, 3, width), "down1": (3, width, 2 * width), "down2": (3, 2 * width, wide)}
    layers |= {f"block{i}_{j}": (3, wide, wide) for i in range(1, blocks + 1) for j in (1, 2)}
    layers |= {"up1": (3, wide, 2 * width), "up2": (3, 2 * width, width), "last": (9, width, 3)}
    shapes = [(size, size, before, after) for size, before, after in layers.values()]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    drawn = jax.random.truncated_normal(key, -2, 2, (int(ends[-1]),), jnp.float32)  # one for each compiles for 5 s
    params = {}
    for name, shape, values in zip(layers, shapes, jnp.split(drawn, ends[:-1]), strict=True):
        deviation = math.sqrt(2 / math.prod(shape[:3])) / _DEVIATION
        params[name] = {
            "kernel": deviation * values.reshape(shape),
            "scale": jnp.ones((styles, shape[-1]), jnp.float32),
            "offset": jnp.zeros((styles, shape[-1]), jnp.float32),
        }
    return params
