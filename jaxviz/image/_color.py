"""Conversion of a file's colors from its embedded ICC profile to sRGB, by Little CMS through Pillow."""

import functools
import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # PIL is imported where it is used, so that `import jaxviz` stays light
    import PIL.Image

_SPACES = {"L": ("GRAY", "RGB"), "I;16": ("GRAY",), "RGB": ("RGB",), "CMYK": ("CMYK",)}
_NEAR = 1  # of 255 levels: a profile that moves no color further is one of the many versions of sRGB


def to_srgb(image: "PIL.Image.Image", profile: bytes | None) -> np.ndarray:
    """Convert an image of mode L, RGB, CMYK or I;16 to sRGB: `(h, w, 3)` of uint8, or `(h, w)` of uint16 for I;16.

    An sRGB profile changes nothing, not one bit; nor does one that is damaged or does not match the kind of pixels.
    """
    conversion = _conversion(profile, image.mode) if profile else None
    if isinstance(conversion, np.ndarray):
        return conversion[np.asarray(image)]
    if conversion is not None:
        return np.asarray(conversion.apply(image))
    return np.asarray(image if image.mode == "I;16" else image.convert("RGB"))


@functools.lru_cache(maxsize=8)  # a folder of photographs has one or two
def _conversion(profile: bytes, mode: str) -> Any:
    """Return what takes pixels to sRGB: a table of gray levels, a transform, or None if there is nothing to do."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() not in _SPACES[mode]:
            return None
        return _table(source, mode) if mode in ("L", "I;16") else _transform(source, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # whatever Little CMS cannot make sense of
        return None


def _built(source: Any, target: Any, mode: str, made: str, flags: int) -> Any:
    from PIL import ImageCms

    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC  # with black point compensation, as in Photoshop
    flags = ImageCms.Flags(flags) | ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(source, target, mode, made, intent, flags)


def _transform(source: Any, mode: str) -> Any:
    from PIL import Image, ImageCms

    flags = ImageCms.Flags.HIGHRESPRECALC if mode == "CMYK" else 0
    found = _built(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags)
    if mode == "RGB":
        levels = np.linspace(0, 255, 18).round().astype(np.uint8)  # steps of 15
        lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(18, -1, 3)
        moved = np.asarray(found.apply(Image.fromarray(lattice))).astype(int) - lattice
        if abs(moved).max() <= _NEAR:
            return None
    return found


def _table(source: Any, mode: str) -> np.ndarray | None:
    """Return the sRGB level for each gray level, unoptimized: the optimized one is off by over a level in the dark."""
    from PIL import Image, ImageCms

    exact = ImageCms.Flags.NOOPTIMIZE
    if mode == "L":
        levels, target, made = np.arange(2**8, dtype=np.uint8), ImageCms.createProfile("sRGB"), "RGB"
    else:  # Pillow has no 16-bit colors
        levels, target, made = np.arange(2**16, dtype=np.uint16), _gray(), "I;16"
    # "RGB" if it is a color profile: gray pixels are then colors with three equal components.
    ramp = Image.fromarray(levels[None])
    colors = source.profile.xcolor_space.strip() == "RGB"
    given = ramp.convert("RGB") if colors else ramp
    found = np.asarray(_built(source, target, given.mode, made, exact).apply(given))[0]
    moved = found.astype(int) - (levels[:, None] if made == "RGB" else levels).astype(int)
    return None if abs(moved).max() <= _NEAR * (levels[-1].item() // 255) else found


@functools.cache
def _gray() -> Any:
    """Return a profile for gray levels with sRGB's transfer curve, laid out as in ICC.1:2010."""
    from PIL import ImageCms

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 2**16) for value in values))

    d50 = fixed(0.9642, 1.0, 0.8249)
    white = b"XYZ \0\0\0\0" + d50
    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", start, len(white), b"kTRC", start + len(white), len(curve))
    size = start + len(white) + len(curve)
    head = struct.pack(">I4xI4s4s4s12x4s28x12s", size, 0x04200000, b"mntr", b"GRAY", b"XYZ ", b"acsp", d50)
    return ImageCms.ImageCmsProfile(io.BytesIO(head.ljust(128, b"\0") + tags + white + curve))
