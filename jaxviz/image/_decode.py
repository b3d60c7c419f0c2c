"""From a decoder's output, or an array, to float32 RGB in [0, 1]: orientation, transparency, 16 bits, ranges."""

import contextlib
import io
import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxviz.image._checks import ROUNDING, ImageError
from jaxviz.image._color import to_srgb

if TYPE_CHECKING:  # PIL is imported where it is used, so that `import jaxviz` stays light
    import PIL.Image


# How to turn the stored pixels upright, by EXIF orientation; the comments say where the first row and column belong.
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


def check_area(size: tuple[int, int], name: str) -> None:
    # PIL itself refuses only images above twice its limit; between the two it just warns, unless warnings are silenced.
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and math.prod(size) > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"{name}: {_too_large(f'it claims {size[0]} x {size[1]} pixels')}")


def _too_large(got: str) -> str:
    from PIL import Image

    return (
        f"expected at most {Image.MAX_IMAGE_PIXELS} pixels (larger images may be decompression bombs), got more: {got}"
        "; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def from_pil(image: "PIL.Image.Image", name: str, data: bytes = b"") -> np.ndarray:
    raw = image.tile[0][3] if image.format == "PNG" and getattr(image, "tile", None) else None  # type: ignore[attr-defined]
    image.load()
    orientation = 1
    # After load(), which turns TIFFs itself. A photograph with a damaged EXIF block is still a photograph.
    with contextlib.suppress(Exception):
        orientation = image.getexif().get(0x0112, 1)
    if image.mode.startswith("I"):  # I;16 in any byte order; PIL reads 16-bit PGM files as I
        values = _of_16_bits(image, name)
    elif image.mode == "F":
        values = np.asarray(image)
    else:
        values = _of_8_bits(image, raw, data)
    return _UPRIGHT.get(orientation, _UPRIGHT[1])(from_array(values, name))


def _of_16_bits(image: "PIL.Image.Image", name: str) -> np.ndarray:
    """Return gray levels as uint16, `(h, w)`; or `(h, w, 4)` if one level is transparent."""
    from PIL import Image

    values, key = np.asarray(image), image.info.get("transparency")
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: expected integers in [0, 65535], got a 32-bit image in [{values.min()}, {values.max()}]; "
            "scale it to floats in [0, 1] and pass the array"
        )
    values = values.astype(np.uint16)
    gray = to_srgb(Image.fromarray(values), image.info.get("icc_profile"))
    if not isinstance(key, int):
        return gray
    return np.stack([gray, gray, gray, np.where(values == key, 0, 65535).astype(np.uint16)], -1)


def _of_8_bits(image: "PIL.Image.Image", raw: Any, data: bytes) -> np.ndarray:
    """Return sRGB colors as uint8, `(h, w, 3)`; or `(h, w, 4)` with transparency."""
    key, profile = image.info.get("transparency"), image.info.get("icc_profile")
    opacity = None
    if image.mode in ("1", "L", "RGB"):
        if isinstance(key, int | tuple):
            opacity = np.where(_is_key(image, key, raw, data), 0, 255).astype(np.uint8)
        if key is not None:  # PIL would try to convert the key too, and fail if it cannot
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
    """Return where a PNG's pixels have its transparent color, which is given at the file's own bit depth."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode != "RGB":
        return values == key * {"L;2": 85, "L;4": 17}.get(raw, 1) if image.mode == "L" else values == bool(key)
    if raw != "RGB;16B" and max(key) < 256:
        return (values == np.array(key)).all(-1)
    high, low = np.divmod(np.array(key), 256)
    found = (values == high).all(-1)
    if data and found.any():  # PIL keeps the high bytes; "RGB;16L" makes it keep the low ones
        with Image.open(io.BytesIO(data), formats=["PNG"]) as other:
            other.tile = [tile._replace(args="RGB;16L") for tile in other.tile]  # type: ignore[attr-defined]
            found &= (np.asarray(other) == low).all(-1)
    return found


def from_array(values: np.ndarray, name: str) -> np.ndarray:
    if values.size == 0 or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))):
        raise ImageError(
            f"{name}: expected shape (h, w) or (h, w, channels) with 1, 3 or 4 channels, got {values.shape}; "
            "images have channels last and are read one at a time"
        )
    pixels = _unit_range(values, name)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] == 4:
        color, opacity = pixels[..., :3], pixels[..., 3:]
        pixels = color * opacity + (1 - opacity)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def of_channels(values: np.ndarray, name: str, channels: int) -> np.ndarray:
    """Return an array `(h, w, channels)` as float32 in [0, 1]."""
    if values.size == 0 or values.ndim != 3 or values.shape[2] != channels:
        raise ImageError(f"{name}: expected shape (h, w, {channels}), got {values.shape}; images have channels last")
    return np.ascontiguousarray(_unit_range(values, name))


def _unit_range(values: np.ndarray, name: str) -> np.ndarray:
    """Values of any accepted dtype as float32 in [0, 1]."""
    if values.dtype == np.bool_:
        return values.astype(np.float32)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # in either byte order
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    if not jnp.issubdtype(values.dtype, jnp.floating):  # JAX's test, which knows bfloat16
        raise ImageError(
            f"{name}: expected uint8, uint16, bool or floats in [0, 1], got {values.dtype}; "
            "convert values from 0 to 255 with .astype('uint8')"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also false for NaN
        raise ImageError(f"{name}: expected floats in [0, 1], got [{low:g}, {high:g}]; divide 0 to 255 by 255")
    return np.clip(values.astype(np.float32), 0, 1)
