"""The one rule by which images with any number of channels become pictures, and photographs become gray."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LUMINANCE = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in brightness (ITU-R BT.601)."""


def luminance(images: Float[Array, "*n h w 3"]) -> Float[Array, "*n h w"]:
    """Return the brightness of RGB images."""
    return jnp.matmul(images, jnp.asarray(LUMINANCE, images.dtype), precision="highest")


def gray_of(image: np.ndarray) -> np.ndarray:
    """Return the brightness of an RGB image, `(h, w, 1)`; gray pixels keep exactly their value."""
    weighted = image @ np.asarray(LUMINANCE, image.dtype)
    gray = (image == image[..., :1]).all(-1)
    return np.where(gray, image[..., 0], weighted)[..., None]


def is_picture(shape: tuple[int, ...]) -> bool:
    """Tell the shape of one image, `(h, w)` or `(h, w, c)`, from that of several gray ones, `(n, h, w)`.

    More channels than rows or columns are taken for none, except one of them and RGB.
    """
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] in (1, 3) or 0 < shape[2] < min(shape[:2])))


def as_rgb(images: Any) -> Any:
    """Return images `(..., h, w, c)` as RGB: one channel as gray, two as their mean, of more than 3 the first three.

    So transparency is dropped. Other bands than the first three are shown by choosing them: `images[..., [3, 2, 1]]`.
    """
    channels = images.shape[-1]
    if channels == 3:
        return images
    if channels > 3:
        return images[..., :3]
    xp = np if isinstance(images, np.ndarray) else jnp
    return xp.repeat(images.mean(-1, keepdims=True) if channels == 2 else images, 3, axis=-1)
