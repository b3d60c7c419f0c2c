"""Images in, pictures out: reading, writing and arranging arrays.

The data contract, for the whole package: images are `(n, h, w, 3)` and one image is `(h, w, 3)`, float32 RGB in
`[0, 1]`, row 0 at the top. Whatever a file holds is brought to that form here, and whatever becomes a file is rounded
to 8 bits here. Maps (gradients, saliency) keep their absolute values until `normalize` or `overlay` scales them for the
eye. Only `load_image` and `save_image` touch files; the other functions work under `jit`, `vmap` and `grad`.
"""

import contextlib
import functools
import io
import math
import operator
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32

from jaxviz._color import to_srgb
from jaxviz._types import at_least_float32

if TYPE_CHECKING:  # PIL is imported where it is used, so that `import jaxviz` stays light
    import PIL.Image

AnyArray = Array | np.ndarray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""The mean colour of ImageNet's photographs, in RGB."""
LUMINANCE = (0.299, 0.587, 0.114)
"""How much of each colour a brightness has (ITU-R BT.601)."""

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_OPENED = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")  # PIL's names of them
_LARGEST = 2**31  # bytes of a file, which are read at once
_JPEG = {"quality": 95, "subsampling": 0}  # pictures of pixels: no colour is averaged over its neighbours
_ROUNDING = 1e-5  # how far beyond [0, 1] a float image may stray by arithmetic alone

# What turns the stored pixels upright, by the EXIF orientation; the names say where the first row and column belong.
_UPRIGHT = {
    1: lambda pixels: pixels,  # top left
    2: lambda pixels: pixels[:, ::-1],  # top right
    3: lambda pixels: pixels[::-1, ::-1],  # bottom right
    4: lambda pixels: pixels[::-1],  # bottom left
    5: lambda pixels: pixels.swapaxes(0, 1),  # left top
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],  # right top
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],  # right bottom
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],  # left bottom
}


class ImageError(ValueError):
    """An image that cannot be read, written or drawn; the message says what was expected, what came and what to do."""


def load_image(
    source: object, *, size: int | tuple[int, int] | None = None, longest: int | None = None
) -> Float32[Array, "h w 3"]:
    """Read an image as float32 RGB in [0, 1].

    Files are JPEG (also MPO), PNG, WebP, GIF, BMP, TIFF, PPM or AVIF, and HEIF once pillow-heif is registered; nothing
    else is opened, whatever Pillow may know: a photograph that is PostScript would start a program.

    EXIF orientation is applied, transparency is flattened on white, grey becomes RGB, and of an animation the first
    frame is taken. 8-bit values are divided by 255 and 16-bit ones by 65535 (16-bit *grey* files; PIL reads 16-bit
    colour files at 8 bits).

    Colours are sRGB's. An embedded ICC profile (of RGB, grey or CMYK) is converted from, by relative colorimetry with
    black point compensation, and what lies outside of sRGB is clipped; the error against exact arithmetic is up to one
    level of 255. A profile that moves no colour by more than one level is sRGB's, and changes nothing. One that is
    damaged, or of another kind than the pixels, is ignored, as is whatever else a file says of its colours, such as
    PNG's gamma. Without a profile RGB is taken for sRGB and CMYK for its plain complement. A PIL image goes by the
    profile in its `info`.

    Resizing is antialiased bicubic on floats, PIL's and torchvision's arithmetic without their rounding to 8 bits. What
    an ImageNet classifier expects is `load_image(source, size=256)[16:240, 16:240]`.

    Args:
        source: a path, the bytes of a file, a binary file object, a PIL image, or an array `(h, w)` or
            `(h, w, 1 | 3 | 4)` of uint8, uint16, bool, or floats in [0, 1].
        size: None keeps the size; an int scales the shorter side to it and cuts the centre `(size, size)`;
            `(height, width)` scales to exactly that.
        longest: instead of `size`, scales an image whose longer side is longer down to that, and keeps all of it.

    Raises:
        ImageError: no such file, a folder, a pipe or device, no image or one of another format, a damaged or truncated
            one (never padded, unless the program has set PIL's `LOAD_TRUNCATED_IMAGES`), one larger than PIL's limit
            against decompression bombs or of more than 2 GiB, an array of another shape, dtype or range, a size below
            1, or both `size` and `longest`.

    >>> load_image(np.array([[0, 255]], np.uint8)).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    >>> load_image(np.zeros((480, 640, 3), np.uint8), size=256).shape
    (256, 256, 3)
    >>> load_image(np.zeros((480, 640, 3), np.uint8), longest=256).shape
    (192, 256, 3)
    """
    if longest is None:
        return jnp.asarray(read_pixels(source, size))
    if size is not None or longest < 1:
        raise ImageError(f"longest: expected at least 1 pixel and no size beside it, got {longest} and size {size}")
    pixels = _pixels(source)
    scale = min(1.0, longest / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return jnp.asarray(_fit(pixels, (height, width) if scale < 1 else None))


def save_image(path: str | os.PathLike[str], image: Float[AnyArray, "..."]) -> None:
    """Write an image to a PNG or JPEG file, by the suffix of its name.

    Values are clipped to [0, 1] and rounded to 8 bits. The file appears whole or not at all, and the folders above it
    are made.

    Args:
        path: ends in .png, .jpg or .jpeg.
        image: `(h, w, 3)` or grey `(h, w)`.

    Raises:
        ImageError: another suffix, another shape, integers, or values that are NaN or infinite; nothing is written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_image(f"{folder}/pictures/grey.png", jnp.full((2, 2, 3), 0.2))
    ...     print(load_image(f"{folder}/pictures/grey.png")[0, 0, 0])
    0.2
    """
    from PIL import Image

    path, values = Path(path), np.asarray(image)
    if values.dtype.kind in "iu":
        raise ImageError(f"{path}: expected floats in [0, 1], got {values.dtype}; divide 0 to 255 by 255")
    values = values.astype(np.float32)
    if path.suffix.lower() not in _FORMATS:
        raise ImageError(f"{path}: expected a name that ends in {', '.join(_FORMATS)}, got {path.suffix!r}")
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)) or values.size == 0:
        raise ImageError(
            f"{path}: expected one image (h, w, 3) or (h, w), got shape {values.shape}; montage puts many into one"
        )
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: expected finite values, got {np.sum(~np.isfinite(values))} that are NaN or infinite")
    format = _FORMATS[path.suffix.lower()]
    buffer = io.BytesIO()
    picture = Image.fromarray(as_bytes(values))
    picture.save(buffer, format, **(_JPEG if format == "JPEG" else {}))
    write_atomically(path, buffer.getvalue())


def largest(values: Any, axis: int | None = None) -> Array:
    """Return the maximum, or NaN if there is one: from 64x64 values on, XLA's own on CPU loses NaN."""
    values = jnp.asarray(values)
    return jnp.where(jnp.isnan(values).any(axis), jnp.nan, values.max(axis))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Return values in [0, 1] as uint8, 0 to 255."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def resize(images: Float[AnyArray, "*n h w c"], size: tuple[int, int]) -> Float[Array, "*n h2 w2 c"]:
    """Resize images to `(height, width)` by antialiased bicubic interpolation, differentiably.

    The dtype is kept and nothing is clipped: near edges a bicubic may leave [0, 1] by a little.

    >>> resize(jnp.ones((5, 32, 48, 3)), (8, 12)).shape
    (5, 8, 12, 3)
    """
    check_array("images", images, ImageError)
    if images.ndim < 3:
        raise ImageError(f"images: expected (h, w, c) or (n, h, w, c), got shape {images.shape}")
    *leading, _, _, channels = images.shape
    if len(size) != 2 or min(size) < 1 or any(side % 1 for side in size):
        raise ImageError(f"size: expected (height, width) of at least 1 pixel each, got {size}")
    return jax.image.resize(images, (*leading, *size, channels), "cubic", antialias=True)


def blur(images: Float[AnyArray, "n h w c"], sigma: ArrayLike, *, size: int | None = None) -> Float[Array, "n h w c"]:
    """Blur images with a Gaussian, differentiably; the pixels at an edge go on beyond it.

    Args:
        images: `(n, h, w, c)`.
        sigma: the Gaussian's standard deviation in pixels.
        size: pixels from one end of the Gaussian to the other, odd; None: three `sigma` on either side, which must
            then be a number and not traced.

    Raises:
        ImageError: images of another rank, a `sigma` that is negative or not finite, or a size that is not odd.

    >>> spot = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1.0)
    >>> print((100 * blur(spot, 1.0, size=3)[0, ..., 0]).astype(int))
    [[ 7 12  7]
     [12 20 12]
     [ 7 12  7]]
    """
    check_array("images", images, ImageError)
    if images.ndim != 4:
        raise ImageError(f"images: expected (n, h, w, c), got shape {images.shape}; one image is image[None]")
    check_not_negative("sigma", sigma, ImageError)
    if size is None:
        size = 2 * math.ceil(3 * float(sigma)) + 1  # type: ignore[arg-type]
    if size < 1 or size % 2 != 1:
        raise ImageError(f"size: expected an odd number of pixels, got {size}")
    reach = size // 2
    wide = at_least_float32(images.dtype)
    places = jnp.arange(-reach, reach + 1, dtype=wide)
    weights = jnp.exp(-0.5 * jnp.square(places / jnp.maximum(jnp.asarray(sigma, wide), 1e-6)))
    weights = (weights / weights.sum()).astype(images.dtype)
    blurred = jnp.asarray(images)
    for axis in (1, 2):
        padding = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(blurred, padding, mode="edge")
        length = images.shape[axis]
        shifted = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size)]
        blurred = functools.reduce(jnp.add, [weights[i] * part for i, part in enumerate(shifted)])
    return blurred


def normalize(
    maps: Float[AnyArray, "..."], *, signed: bool = False, percentile: float | int = 99.0
) -> Float[Array, "n h w *c"]:
    """Scale maps to [0, 1] for display, each image by its own largest values.

    With `s` the percentile of `|map|` over one image, unsigned maps become `clip(map / s, 0, 1)` and signed ones
    `clip(0.5 + map / (2 s), 0, 1)`, so that zero is black in the first and middle grey in the second. An all-zero map
    stays at zero and grey. Where more than `percentile` of a map is zero, its maximum is used instead.

    Args:
        maps: `(n, h, w)` or `(n, h, w, c)`; a single map is passed as `maps[None]`.
        signed: whether negative values mean something (a gradient) or not (saliency).
        percentile: in (0, 100]; 100 scales by the maximum and clips nothing, lower is robust to a few outliers.

    Raises:
        ImageError: maps of another rank, or a percentile out of range.

    >>> gradient = jnp.array([-2.0, 0.0, 1.0]).reshape(1, 1, 3)
    >>> normalize(gradient, signed=True, percentile=100).ravel().tolist()
    [0.0, 0.5, 0.75]
    """
    check_array("maps", maps, ImageError)
    if maps.ndim not in (3, 4):
        raise ImageError(
            f"maps: expected (n, h, w) or (n, h, w, c), got shape {maps.shape}; pass one map as maps[None]"
        )
    if not 0 < percentile <= 100:
        raise ImageError(f"percentile: expected a number in (0, 100], got {percentile}")
    axes = tuple(range(1, maps.ndim))
    peak = jnp.max(jnp.abs(maps), axes, keepdims=True)
    scale = jnp.percentile(jnp.abs(maps), percentile, axes, keepdims=True)
    scale = jnp.where(scale > 0, scale, jnp.where(peak > 0, peak, 1))
    return jnp.clip(maps / scale / 2 + 0.5 if signed else maps / scale, 0, 1)


def montage(
    images: Float[AnyArray, "..."] | Sequence[Float[AnyArray, "..."]],
    *,
    columns: int | None = None,
    gap: int = 2,
    background: ArrayLike = 1.0,
) -> Float[Array, "h2 w2 3"]:
    """Lay images out in rows, left to right and top to bottom, as one image.

    Args:
        images: `(n, h, w, 3)`, grey `(n, h, w)`, or a sequence of `(h, w, 3)` and `(h, w)` of any sizes: each is
            centred in a cell as high as the highest and as wide as the widest.
        columns: images a row; None makes the grid about square.
        gap: pixels between images, not around them.
        background: brightness of gaps and empty cells.

    Raises:
        ImageError: no images, a shape that is not an image's, columns below 1, a gap below 0.

    >>> montage(jnp.zeros((5, 8, 8, 3)), gap=1).shape
    (17, 26, 3)
    """
    cells = _cells(images, background)
    number, height, width, _ = cells.shape
    columns = math.ceil(math.sqrt(number)) if columns is None else columns
    if columns < 1 or gap < 0 or columns % 1 or gap % 1:
        raise ImageError(f"montage: expected columns of at least 1 and a gap of at least 0, got {columns} and {gap}")
    columns = min(number, columns)
    rows = -(-number // columns)
    # Every cell carries its gap below and on the right; the last ones are cut off again.
    padding = ((0, rows * columns - number), (0, gap), (0, gap), (0, 0))
    cells = jnp.pad(cells, padding, constant_values=background)
    grid = cells.reshape(rows, columns, height + gap, width + gap, 3).swapaxes(1, 2)
    grid = grid.reshape(rows * (height + gap), columns * (width + gap), 3)
    return grid[: rows * (height + gap) - gap, : columns * (width + gap) - gap]


def overlay(
    image: Float[AnyArray, "..."],
    map: Float[AnyArray, "..."],
    *,
    alpha: ArrayLike = 0.5,
    colormap: str = "inferno",
) -> Float[Array, "h w 3"]:
    """Draw a map as colours over the grey version of an image.

    `(1 - alpha) grey(image) + alpha colours(map / max(map))`; a map of another size is resized to the image, negative
    values count as zero, and an all-zero map gives the image unchanged.

    Args:
        image: `(h, w, 3)`.
        map: `(h, w)`, of any height and width.
        alpha: weight of the colours, in [0, 1].
        colormap: the name of one of matplotlib's colour maps.

    Raises:
        ImageError: shapes other than an image and a map, an unknown colour map, an `alpha` out of range.

    >>> overlay(jnp.ones((8, 8, 3)), jnp.eye(2)).shape
    (8, 8, 3)
    """
    check_array("image", image, ImageError)
    check_array("map", map, ImageError)
    if not isinstance(alpha, Tracer) and not np.all((np.asarray(alpha) >= 0) & (np.asarray(alpha) <= 1)):
        raise ImageError(f"alpha: expected a weight in [0, 1], got {alpha}")
    if image.ndim != 3 or image.shape[2] != 3 or map.ndim != 2:
        raise ImageError(
            f"overlay: expected one image (h, w, 3) and one map (h, w), got shapes {image.shape} and {map.shape}"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ImageError(f"overlay: expected an image of floats in [0, 1], got {image.dtype}; divide 0 to 255 by 255")
    image, heat = jnp.asarray(image), jnp.maximum(map, 0)
    if heat.shape != image.shape[:2]:
        heat = jax.image.resize(heat, image.shape[:2], "linear", antialias=True)
    peak = largest(heat)
    table = jnp.asarray(_colors(colormap), image.dtype)
    levels = jnp.linspace(0, 1, len(table), dtype=image.dtype)
    # Interpolated rather than looked up, so that a NaN in the map stays visible as NaN.
    lookup = jax.vmap(jnp.interp, in_axes=(None, None, 1), out_axes=-1)
    colors = lookup((heat / jnp.where(peak == 0, 1, peak)).astype(image.dtype), levels, table)
    grey = jnp.matmul(image, jnp.asarray(LUMINANCE, image.dtype), precision="highest")
    return jnp.where(peak == 0, image, (1 - alpha) * grey[..., None] + alpha * colors)


def check_images(images: Any) -> None:
    """Raise ValueError unless `images` is a batch of at least one RGB image of floats."""
    check_array("images", images)
    shape = jnp.shape(images)
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"expected images (n, h, w, 3), got shape {shape}; {_advice(shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"expected images of floats in [0, 1], got {images.dtype}; divide bytes by 255")
    if 0 in shape:
        raise ValueError(f"expected at least one image of at least one pixel, got shape {shape}")
    check_finite("images", images)


def check_array(name: str, values: Any, error: type[ValueError] = ValueError) -> None:
    """Raise ValueError for what is no array of JAX's or NumPy's, such as a list or a tensor."""
    if isinstance(values, jax.Array | np.ndarray):
        return
    kind = f"{type(values).__module__.split('.')[0]}.{type(values).__name__}".removeprefix("builtins.")
    if isinstance(values, list | tuple):
        advice = "jnp.stack makes one array of several of one size"
    elif kind.startswith("torch"):
        advice = "jnp.asarray(x.detach().cpu().permute(0, 2, 3, 1).numpy()) makes one of a batch (n, 3, h, w)"
    else:
        advice = "jnp.asarray makes one of most things, load_image of a file"
    raise error(f"{name}: expected an array of JAX's or NumPy's, got a {kind}; {advice}")


def _advice(shape: tuple[int, ...]) -> str:
    """Return what to do with an array that is no batch of RGB images."""
    if len(shape) == 3 and shape[-1] == 3:
        return "one image is image[None]"
    if len(shape) == 4 and shape[1] == 3:
        return "channels come last, images.transpose(0, 2, 3, 1)"
    if len(shape) == 3 and shape[0] == 3:
        return "channels come last, image.transpose(1, 2, 0)[None]"
    if len(shape) == 4 and shape[-1] == 4:
        return "transparency has no place here, images[..., :3]"
    grey = "of a network for grey images, take the mean of colours inside: net(params, images.mean(-1, keepdims=True))"
    if len(shape) == 4 and shape[-1] == 1:
        return f"grey as RGB is jnp.repeat(images, 3, axis=-1); {grey}"
    if len(shape) in (2, 3):
        some = "image[None, :, :, None]" if len(shape) == 2 else "images[..., None]"
        some = "image[None]" if len(shape) == 3 and shape[-1] == 1 else some
        return f"grey as RGB is jnp.repeat({some}, 3, axis=-1); {grey}"
    return "n images of height h and width w in RGB, channels last"


OVERSHOOT = 0.3  # the most that bicubic resizing, along both axes, can leave [0, 1] by is 0.28


def check_range(name: str, images: Any, *, resized: bool = True) -> None:
    """Raise ValueError for images that are plainly not in [0, 1], where the values are there to be looked at.

    Resizing leaves it by a little; bytes, and images that are normalized as for PyTorch, by much. What was not resized,
    such as a colour, may leave it by rounding only, in the type that it has.
    """
    if isinstance(images, Tracer):
        return
    values = np.asarray(images)  # not a jax.Array: under an outer jit, what one computes of it would be traced
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    beyond = OVERSHOOT if resized else _ROUNDING
    if jnp.issubdtype(values.dtype, jnp.floating):
        beyond = max(beyond, float(jnp.finfo(values.dtype).eps))
    if low < -beyond or high > 1 + beyond:
        raise ValueError(
            f"{name}: expected values in [0, 1], got {low:g} to {high:g}; divide 0 to 255 by 255, and leave a "
            "network's own normalization to the network"
        )


def check_whole(name: str, number: Any, *, least: int, odd: bool = False) -> None:
    """Raise ValueError unless a number is a whole one, of at least `least`, and odd if that is asked for."""
    real = isinstance(number, int | float | np.number | jax.Array | np.ndarray) and not isinstance(number, bool)
    real = real and np.ndim(number) == 0 and not isinstance(number, Tracer)
    value = float(number) if real else 0.0
    if not real or value % 1 != 0 or value < least or (odd and value % 2 != 1):
        kind, shown = "an odd" if odd else "a whole", repr(number) if isinstance(number, str) else number
        raise ValueError(f"{name}: expected {kind} number of at least {least}, got {shown}")


def check_not_negative(name: str, number: Any, error: type[ValueError] = ValueError) -> None:
    """Raise ValueError for a negative number, infinity and NaN, where it is there to be looked at."""
    if not isinstance(number, Tracer) and not np.all((np.asarray(number) >= 0) & (np.asarray(number) < np.inf)):
        raise error(f"{name}: expected a number of at least 0, got {number}")


def check_finite(name: str, values: Any) -> None:
    """Raise ValueError if there is a NaN or an infinity, where the values are there to be looked at."""
    if isinstance(values, Tracer):
        return
    bad = ~np.isfinite(np.asarray(values, np.float32))
    if bad.any():
        raise ValueError(f"{name}: expected finite numbers, got {bad.sum()} that are NaN or infinite")


def write_atomically(path: Path, data: bytes | Callable[[Any], None]) -> None:
    """Write a file so that it is there whole or not at all, even for a reader or an interruption in between.

    What is large is better written by a function, which is given the open file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    # Beside the target, since a rename is atomic only within a file system; not a NamedTemporaryFile, whose files
    # nobody but their owner may read.
    # Not named after it, which may be as long as names of files can be.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            data(file) if callable(data) else file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # of what makes the data, such as a damaged image
            raise
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # as it is where there is no folder
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> OSError:
    said = f"{path}: expected a file that can be written, got {error.strerror}; choose another folder or name"
    return OSError(error.errno, said)  # of the kind that the number says


def read_pixels(source: object, size: int | tuple[int, int] | None) -> np.ndarray:
    """What `load_image` returns, before it is put on a device."""
    sides = _checked_size(size)
    return _fit(_pixels(source), sides)


def _pixels(source: object) -> np.ndarray:
    """Any source as (h, w, 3) float32 in [0, 1]."""
    from PIL import Image

    if isinstance(source, Image.Image):
        name = "the PIL image"
        if source.format not in (None, *_OPENED) and getattr(source, "tile", None):
            raise ImageError(
                f"{name}: expected one of {_formats()}, got {source.format}; if you trust it, call its load() first"
            )
        with _named_errors(name):
            return _from_pil(source, name)
    if hasattr(source, "__array__") and not isinstance(source, str | bytes):  # np.str_ is both
        return _from_array(np.asarray(source), "the array")
    name, data = _contents(source)
    try:
        with _named_errors(name), Image.open(io.BytesIO(data), formats=_openable()) as image:
            _check_area(image.size, name)
            return _from_pil(image, name, data)
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: expected an image file, got {len(data)} bytes that begin with {data[:16]}; "
            f"the formats are {_formats()}"
        ) from error


def _openable() -> list[str]:
    """Return those of the formats that this Pillow can read."""
    from PIL import Image

    Image.init()
    return [format for format in _OPENED if format in Image.OPEN]


def _formats() -> str:
    return ", ".join(_OPENED)


def _contents(source: object) -> tuple[str, bytes]:
    """What to call a source in messages, and the bytes of the file."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "the bytes", bytes(source)
    if isinstance(source, str | os.PathLike):
        return os.fspath(source), _file_contents(Path(source))
    if callable(read := getattr(source, "read", None)):
        name = str(getattr(source, "name", "the file object"))
        data = read()
        if not isinstance(data, bytes):
            raise ImageError(f"{name}: expected a file opened in binary mode, got text; open it with mode 'rb'")
        return name, data
    raise ImageError(
        "source: expected a path, bytes, a file object, a PIL image or an array, "
        f"got {type(source).__module__}.{type(source).__qualname__}"
    )


def _file_contents(path: Path) -> bytes:
    try:
        found = path.stat()
        # Before it is opened: that of a pipe waits for whoever writes to it, and a device may never end.
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise ImageError(f"{path}: expected an image file, got a pipe, a socket or a device; copy it to a file")
        if found.st_size > _LARGEST:
            raise ImageError(
                f"{path}: expected an image file of at most 2 GiB, got {found.st_size / 2**30:.1f} GiB; shrink it"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: expected an image file, got a path where there is none; check the name") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: expected an image file, got a folder; name a file in it") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, ImageError):
            raise
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: expected a readable image file, got {why}") from error


@contextlib.contextmanager
def _named_errors(name: str):
    """Turn whatever a decoder raises into an `ImageError` that names the source."""
    from PIL import Image

    try:
        yield
    except (ImageError, Image.UnidentifiedImageError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {_too_large(str(error))}") from error
    except Exception as error:  # a damaged file takes its decoder anywhere: OSError, SyntaxError, struct.error, ...
        raise ImageError(
            f"{name}: expected a whole image, got one that is truncated, damaged or of an unsupported kind "
            f"(PIL: {error}); get it again, or save it anew as PNG"
        ) from error


def _check_area(size: tuple[int, int], name: str) -> None:
    # PIL itself refuses only what is twice its limit and warns below that, when its warnings are not silenced.
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and math.prod(size) > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"{name}: {_too_large(f'it says that it has {size[0]} x {size[1]} pixels')}")


def _too_large(got: str) -> str:
    from PIL import Image

    return (
        f"expected at most {Image.MAX_IMAGE_PIXELS} pixels (larger ones may be decompression bombs), got more: {got}; "
        "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _from_pil(image: "PIL.Image.Image", name: str, data: bytes = b"") -> np.ndarray:
    raw = image.tile[0][3] if image.format == "PNG" and getattr(image, "tile", None) else None  # type: ignore[attr-defined]
    image.load()
    orientation = 1
    # After load, which turns TIFFs itself. A photograph whose EXIF block is damaged is still a photograph.
    with contextlib.suppress(Exception):
        orientation = image.getexif().get(0x0112, 1)
    if image.mode.startswith("I"):  # I;16 and its byte orders; I is what PIL makes of 16-bit PGM files
        values = _of_16_bits(image, name)
    elif image.mode == "F":
        values = np.asarray(image)
    else:
        values = _of_8_bits(image, raw, data)
    return _UPRIGHT.get(orientation, _UPRIGHT[1])(_from_array(values, name))


def _of_16_bits(image: "PIL.Image.Image", name: str) -> np.ndarray:
    """Return grey as uint16, `(h, w)`; with a transparent level `(h, w, 4)`."""
    from PIL import Image

    values, key = np.asarray(image), image.info.get("transparency")
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: expected integers in [0, 65535], got a 32-bit image in [{values.min()}, {values.max()}]; "
            "scale it to floats in [0, 1] and pass the array"
        )
    values = values.astype(np.uint16)
    grey = to_srgb(Image.fromarray(values), image.info.get("icc_profile"))
    if not isinstance(key, int):
        return grey
    return np.stack([grey, grey, grey, np.where(values == key, 0, 65535).astype(np.uint16)], -1)


def _of_8_bits(image: "PIL.Image.Image", raw: Any, data: bytes) -> np.ndarray:
    """Return colours in sRGB as uint8, `(h, w, 3)`; with transparency `(h, w, 4)`."""
    key, profile = image.info.get("transparency"), image.info.get("icc_profile")
    opacity = None
    if image.mode in ("1", "L", "RGB"):
        if isinstance(key, int | tuple):
            opacity = np.where(_is_key(image, key, raw, data), 0, 255).astype(np.uint8)
        if key is not None:  # PIL would convert it too, and complain if it cannot
            image = image.copy()
            image.info = {}
    elif image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("La", "LA") else "RGBA")
        opacity = np.asarray(image.getchannel("A"))
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    colors = to_srgb(image, profile)
    return colors if opacity is None else np.dstack([colors, opacity])


def _is_key(image: "PIL.Image.Image", key: Any, raw: Any, data: bytes) -> np.ndarray:
    """Return where a PNG's pixels have its transparent colour, which it gives in the bits that the file has."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode != "RGB":
        return values == key * {"L;2": 85, "L;4": 17}.get(raw, 1) if image.mode == "L" else values == bool(key)
    if raw != "RGB;16B" and max(key) < 256:
        return (values == np.array(key)).all(-1)
    high, low = np.divmod(np.array(key), 256)
    found = (values == high).all(-1)
    if data and found.any():  # PIL keeps the higher bytes, unless it takes them for the lower ones
        with Image.open(io.BytesIO(data), formats=["PNG"]) as other:
            other.tile = [tile._replace(args="RGB;16L") for tile in other.tile]  # type: ignore[attr-defined]
            found &= (np.asarray(other) == low).all(-1)
    return found


def _from_array(values: np.ndarray, name: str) -> np.ndarray:
    if values.size == 0 or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))):
        raise ImageError(
            f"{name}: expected shape (h, w) or (h, w, channels) with 1, 3 or 4 channels, got {values.shape}; "
            "images are channels-last and read one at a time"
        )
    pixels = _unit_range(values, name)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] == 4:
        color, opacity = pixels[..., :3], pixels[..., 3:]
        pixels = color * opacity + (1 - opacity)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _unit_range(values: np.ndarray, name: str) -> np.ndarray:
    """Values of any accepted dtype as float32 in [0, 1]."""
    if values.dtype == np.bool_:
        return values.astype(np.float32)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # of either byte order
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    if not jnp.issubdtype(values.dtype, jnp.floating):  # jax's, which knows bfloat16
        raise ImageError(
            f"{name}: expected uint8, uint16, bool or floats in [0, 1], got {values.dtype}; "
            "0 to 255 is converted by .astype('uint8')"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also false for NaN
        raise ImageError(f"{name}: expected floats in [0, 1], got [{low:g}, {high:g}]; divide 0 to 255 by 255")
    return np.clip(values.astype(np.float32), 0, 1)


def _checked_size(size: Any) -> int | tuple[int, int] | None:
    """Return a size as Python's integers, whatever integers it was given as."""
    if size is None:
        return None
    try:
        sides = [operator.index(side) for side in (size if np.ndim(size) else (size,))]
    except TypeError:
        sides = []
    if len(sides) != (2 if np.ndim(size) else 1) or min(sides) < 1:
        raise ImageError(f"size: expected an int or (height, width), of at least 1 pixel, got {size!r}")
    return (sides[0], sides[1]) if np.ndim(size) else sides[0]


def sides_of(size: Any) -> tuple[int, int]:
    """Return the height and width that a size stands for: an int, or both."""
    sides = _checked_size(size)
    if sides is None:
        raise ImageError("size: expected an int or (height, width), got None")
    return (sides, sides) if isinstance(sides, int) else sides


def _fit(pixels: np.ndarray, size: int | tuple[int, int] | None) -> np.ndarray:
    """Resize as `load_image` says, through the part of the source that is kept: a crop costs nothing extra."""
    if size is None:
        return pixels
    height, width = pixels.shape[:2]
    if isinstance(size, int):
        shorter = min(height, width)
        rows, columns = size, size
        # The longer side is rounded down and the crop to the nearest even, as torchvision does, to the pixel.
        whole = (size * height // shorter, size * width // shorter)
    else:
        rows, columns = whole = size
    top, left = round((whole[0] - rows) / 2), round((whole[1] - columns) / 2)
    # Clipped after each axis, as PIL does with bytes: where both overshoot, a photograph differs by up to 6/255.
    across = _rescaled(pixels.transpose(2, 1, 0), columns, left, whole[1])
    return np.ascontiguousarray(_rescaled(across.swapaxes(1, 2), rows, top, whole[0]).transpose(1, 2, 0))


def _rescaled(planes: np.ndarray, count: int, first: int, whole: int) -> np.ndarray:
    """Rows `first` to `first + count` of planes (channels, n, m) that are scaled to `whole` rows, clipped to [0, 1]."""
    weights = _bicubic(planes.shape[1], count, first, whole)
    return np.stack([np.clip(weights @ np.ascontiguousarray(plane), 0, 1) for plane in planes])


@functools.lru_cache(maxsize=256)
def _bicubic(size: int, count: int, first: int, whole: int) -> Any:
    """The sparse matrix (count, size) of PIL's antialiased bicubic: PIL itself resizes colours in 8 bits only.

    Its float images are of one channel, and three of them take twice as long as all of this.
    """
    from scipy.sparse import csr_array

    scale = size / whole
    stretch = max(scale, 1.0)  # a kernel as wide as an output pixel, but no narrower than one of the input
    centres = (first + np.arange(count) + 0.5) * scale
    starts = np.floor(centres - 2 * stretch + 0.5).astype(int)
    places = starts[:, None] + np.arange(math.ceil(4 * stretch) + 1)
    x = np.abs(places + 0.5 - centres[:, None]) / stretch
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    values = np.where(x < 1, near, np.where(x < 2, far, 0)) * ((places >= 0) & (places < size))
    values /= values.sum(1, keepdims=True)
    row, tap = np.nonzero(values)
    return csr_array((values[row, tap].astype(np.float32), (row, places[row, tap])), shape=(count, size))


def _cells(images: AnyArray | Sequence[AnyArray], background: ArrayLike) -> Float[Array, "n h w 3"]:
    """Images of any sizes, each centred in a cell of the same size."""
    if isinstance(images, AnyArray):  # whose rows are not taken apart: there may be a thousand
        shapes = {images.shape[1:]} if images.size else set()
    else:
        shapes = {image.shape for image in images}
    if not shapes:
        raise ImageError("montage: expected at least one image, got none")
    for shape in shapes:
        if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            raise ImageError(f"montage: expected images (h, w, 3) or (h, w), got one of shape {shape}")
    if len(shapes) > 1:
        height, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
        images = [_centered(image, height, width, background) for image in images]
    cells = jnp.asarray(images) if isinstance(images, AnyArray) else jnp.stack(images)
    return cells if cells.ndim == 4 else jnp.broadcast_to(cells[..., None], (*cells.shape, 3))


def _centered(image: AnyArray, height: int, width: int, background: ArrayLike) -> Float[Array, "h w 3"]:
    image = image if image.ndim == 3 else jnp.broadcast_to(image[..., None], (*image.shape, 3))
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    padding = ((top, height - image.shape[0] - top), (left, width - image.shape[1] - left), (0, 0))
    return jnp.pad(image, padding, constant_values=background)


def _colors(name: str) -> np.ndarray:
    """The 256 colours of one of matplotlib's colour maps, (256, 3)."""
    import matplotlib

    try:
        return matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    except KeyError as error:
        raise ImageError(
            f"colormap: expected a name that matplotlib knows, such as 'inferno', 'viridis' or 'magma', got {name!r}"
        ) from error
