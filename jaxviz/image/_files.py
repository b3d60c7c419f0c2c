"""Read and write pictures."""

import contextlib
import functools
import io
import math
import os
import stat
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jaxviz._files import write_atomically
from jaxviz.image._arrays import AnyArray, as_bytes
from jaxviz.image._channels import as_rgb, gray_of, is_picture
from jaxviz.image._checks import ImageError, check_whole, checked_size
from jaxviz.image._decode import _too_large, check_area, from_array, from_pil, of_channels

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_OPENED = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")  # by their names in PIL
_LARGEST = 2**31  # bytes; a file is read into memory at once
_JPEG = {"quality": 95, "subsampling": 0}  # single pixels matter: colors are not averaged over neighbors


def load_image(
    source: object, *, size: int | tuple[int, int] | None = None, longest: int | None = None, channels: int = 3
) -> Float32[Array, "h w c"]:
    """Read an image as float32 in [0, 1]: RGB, gray, or an array of any number of channels.

    Files are JPEG (also MPO), PNG, WebP, GIF, BMP, TIFF, PPM or AVIF, and HEIF once pillow-heif is registered. Nothing
    else is opened, even if Pillow could: PostScript disguised as a photograph would start a program.

    EXIF orientation is applied, transparency is flattened onto white, gray becomes RGB, and of an animation the first
    frame is read. 8-bit values are divided by 255 and 16-bit ones by 65535 (16-bit *gray* files; PIL reads 16-bit color
    files at 8 bits).

    Colors are sRGB. An embedded ICC profile (RGB, gray or CMYK) is converted by relative colorimetry with black point
    compensation, and colors outside sRGB are clipped; the error against exact arithmetic is at most one level of 255. A
    profile that moves no color by more than one level counts as sRGB, and changes nothing. A profile that is damaged or
    does not match the pixels is ignored, as is anything else a file says about its colors, such as PNG's gamma. Without
    a profile, RGB is taken as sRGB and CMYK as its plain complement. For a PIL image, the profile in its `info` counts.

    Resizing is antialiased bicubic on floats: the arithmetic of PIL and torchvision without their rounding to 8 bits.
    An ImageNet classifier expects `load_image(source, size=256)[16:240, 16:240]`.

    Args:
        source: a path, the bytes of a file, a binary file object, a PIL image, or an array `(h, w)` or
            `(h, w, 1 | 3 | 4)` of uint8, uint16, bool, or floats in [0, 1]; or with as many channels as are asked for.
        size: in pixels. None keeps the image's own; an int scales the shorter side to it and crops the center
            `(size, size)`; `(height, width)` scales to exactly that.
        longest: instead of `size`, scales an image whose longer side exceeds this many pixels down to it, uncropped.
        channels: 3: RGB; 1: gray, for colors their brightness `0.299 r + 0.587 g + 0.114 b`; any other number: an array
            with that many channels, which is not changed.

    Returns:
        The image, `(h, w, channels)` of float32 in [0, 1].

    Raises:
        ImageError: no such file; a folder, pipe or device; not an image, or one in another format; a damaged or
            truncated image (never padded, unless the program has set PIL's `LOAD_TRUNCATED_IMAGES`); one above PIL's
            limit against decompression bombs, or of more than 2 GiB; an array of another shape, dtype or range, or
            anything but an array for other channels than 1 and 3; a size below 1; or both `size` and `longest`.

    Example:
        >>> import jaxviz, numpy as np
        >>> jaxviz.load_image(np.array([[0, 255]], np.uint8)).tolist()
        [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
        >>> jaxviz.load_image(np.zeros((480, 640, 3), np.uint8), size=256).shape
        (256, 256, 3)
        >>> jaxviz.load_image(np.zeros((480, 640, 3), np.uint8), longest=256).shape
        (192, 256, 3)
    """
    if longest is None:
        return jnp.asarray(read_pixels(source, size, channels))
    if size is not None or longest < 1:
        raise ImageError(f"longest: expected at least 1 pixel, and no size as well, got {longest} and size {size}")
    pixels = _pixels(source, channels)
    scale = min(1.0, longest / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return jnp.asarray(_fit(pixels, (height, width) if scale < 1 else None))


def save_image(path: str | os.PathLike[str], image: Float[AnyArray, "..."]) -> None:
    """Write an image to a PNG or JPEG file, as the suffix of its name says.

    Values are clipped to [0, 1] and rounded to 8 bits. The file appears whole or not at all, and missing folders above
    it are created.

    Args:
        path: ends in .png, .jpg or .jpeg.
        image: `(h, w, c)` or gray `(h, w)`, floats in [0, 1]; if it is neither gray nor RGB, it is shown as by
            `montage`.

    Raises:
        ImageError: another suffix or shape, integers, or values that are NaN or infinite; nothing is written then.

    Example:
        >>> import jax.numpy as jnp, jaxviz, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     jaxviz.save_image(f"{folder}/pictures/gray.png", jnp.full((2, 2, 3), 0.2))
        ...     print(jaxviz.load_image(f"{folder}/pictures/gray.png")[0, 0, 0])
        0.2
    """
    from PIL import Image

    path, values = Path(path), np.asarray(image)
    if values.dtype.kind in "iu":
        raise ImageError(f"{path}: expected floats in [0, 1], got {values.dtype}; divide 0 to 255 by 255")
    values = values.astype(np.float32)
    if path.suffix.lower() not in FORMATS:
        raise ImageError(f"{path}: expected a name ending in {', '.join(FORMATS)}, got {path.suffix!r}")
    if not is_picture(values.shape) or values.size == 0:
        raise ImageError(
            f"{path}: expected one image (h, w, c) or (h, w), got shape {values.shape}; montage arranges several in one"
        )
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: expected finite values, got {np.sum(~np.isfinite(values))} that are NaN or infinite")
    format = FORMATS[path.suffix.lower()]
    buffer = io.BytesIO()
    shown = values[..., 0] if values.shape[2:] == (1,) else values if values.ndim == 2 else as_rgb(values)
    picture = Image.fromarray(as_bytes(shown))
    picture.save(buffer, format, **(_JPEG if format == "JPEG" else {}))
    write_atomically(path, buffer.getvalue())


def read_pixels(source: object, size: int | tuple[int, int] | None, channels: int = 3) -> np.ndarray:
    """Return the pixels of `load_image` as a NumPy array."""
    sides = checked_size(size)
    return _fit(_pixels(source, channels), sides)


def _pixels(source: object, channels: int) -> np.ndarray:
    """Return any source as `(h, w, channels)` float32 in [0, 1]."""
    check_whole("channels", channels, least=1)
    if channels in (1, 3):
        pixels = _rgb(source)
        return pixels if channels == 3 else gray_of(pixels)
    if not hasattr(source, "__array__") or isinstance(source, str | bytes) or hasattr(source, "convert"):
        raise ImageError(
            f"channels: an image of {channels} channels is read from an array (h, w, {channels}), got "
            f"{type(source).__module__}.{type(source).__qualname__}; files are read with 1 channel or 3"
        )
    return of_channels(np.asarray(source), "the array", channels)


def _rgb(source: object) -> np.ndarray:
    """Return any source as `(h, w, 3)` float32 in [0, 1]."""
    from PIL import Image

    if isinstance(source, Image.Image):
        name = "the PIL image"
        if source.format not in (None, *_OPENED) and getattr(source, "tile", None):
            raise ImageError(
                f"{name}: expected one of {_formats()}, got {source.format}; if you trust it, call its load() first"
            )
        with _named_errors(name):
            return from_pil(source, name)
    if hasattr(source, "__array__") and not isinstance(source, str | bytes):  # np.str_ is both
        return from_array(np.asarray(source), "the array")
    name, data = _contents(source)
    try:
        with _named_errors(name), Image.open(io.BytesIO(data), formats=_openable()) as image:
            check_area(image.size, name)
            return from_pil(image, name, data)
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: expected an image file, got {len(data)} bytes that begin with {data[:16]}; "
            f"supported formats are {_formats()}"
        ) from error


def _openable() -> list[str]:
    """Return the formats among `_OPENED` that this version of Pillow can read."""
    from PIL import Image

    Image.init()
    return [format for format in _OPENED if format in Image.OPEN]


def _formats() -> str:
    return ", ".join(_OPENED)


def _contents(source: object) -> tuple[str, bytes]:
    """Return what messages call a source, and its bytes."""
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
        # Before it is opened: opening a pipe waits for a writer, and a device may never end.
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise ImageError(f"{path}: expected an image file, got a pipe, a socket or a device; copy it to a file")
        if found.st_size > _LARGEST:
            raise ImageError(
                f"{path}: expected an image file of at most 2 GiB, got {found.st_size / 2**30:.1f} GiB; shrink it"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(
            f"{path}: expected an image file, but there is nothing at this path; check the name"
        ) from error
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
    except Exception as error:  # damaged files make decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise ImageError(
            f"{name}: expected a complete image, got one that is truncated, damaged or of an unsupported kind "
            f"(PIL: {error}); download it again, or save it again as PNG"
        ) from error


def _fit(pixels: np.ndarray, size: int | tuple[int, int] | None) -> np.ndarray:
    """Resize as `load_image` says, computing only the part that is kept: a crop costs nothing extra."""
    if size is None:
        return pixels
    height, width = pixels.shape[:2]
    if isinstance(size, int):
        shorter = min(height, width)
        rows, columns = size, size
        # As in torchvision, to the pixel: the longer side is rounded down, the crop's offset to the nearest even.
        whole = (size * height // shorter, size * width // shorter)
    else:
        rows, columns = whole = size
    if whole == (rows, columns) == (height, width):
        return pixels
    top, left = round((whole[0] - rows) / 2), round((whole[1] - columns) / 2)
    # Clipped after each axis, as PIL does with bytes: where both overshoot, a photograph differs by up to 6/255.
    across = _rescaled(pixels.transpose(2, 1, 0), columns, left, whole[1])
    return np.ascontiguousarray(_rescaled(across.swapaxes(1, 2), rows, top, whole[0]).transpose(1, 2, 0))


def _rescaled(planes: np.ndarray, count: int, first: int, whole: int) -> np.ndarray:
    """Return rows `first` to `first + count` of planes (channels, n, m) scaled to `whole` rows, clipped to [0, 1]."""
    weights = _bicubic(planes.shape[1], count, first, whole)
    return np.stack([np.clip(weights @ np.ascontiguousarray(plane), 0, 1) for plane in planes])


@functools.lru_cache(maxsize=256)
def _bicubic(size: int, count: int, first: int, whole: int) -> Any:
    """Return the sparse matrix (count, size) of PIL's antialiased bicubic resizing.

    PIL itself resizes colors only in 8 bits. Its float images have one channel, and three take twice as long as this.
    """
    from scipy.sparse import csr_array

    scale = size / whole
    stretch = max(scale, 1.0)  # a kernel as wide as an output pixel, but no narrower than one of the input
    centers = (first + np.arange(count) + 0.5) * scale
    starts = np.floor(centers - 2 * stretch + 0.5).astype(int)
    places = starts[:, None] + np.arange(math.ceil(4 * stretch) + 1)
    x = np.abs(places + 0.5 - centers[:, None]) / stretch
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    values = np.where(x < 1, near, np.where(x < 2, far, 0)) * ((places >= 0) & (places < size))
    values /= values.sum(1, keepdims=True)
    row, tap = np.nonzero(values)
    return csr_array((values[row, tap].astype(np.float32), (row, places[row, tap])), shape=(count, size))
