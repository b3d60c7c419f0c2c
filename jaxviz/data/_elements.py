"""An element of a data set as frameworks give it: the image, its pixels as `load_image` takes them, and the label.

PyTorch's tensors, PIL's images and Hugging Face's rows are told by what they can do: none of these is imported.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz.image._checks import ImageError

IMAGE_KEYS = ("image", "img", "pixel_values", "images", "picture", "photo", "jpg", "jpeg", "png", "webp", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "class", "cls", "category", "y")
CHANNELS = (1, 3, 4)


def parts_of(element: Any) -> tuple[Any, Any]:
    """Return the image of an element and its label, None if it has none.

    An element is an image; a tuple or list of an image, a label and whatever else; or a dictionary, with an image under
    one of `IMAGE_KEYS`, or the only thing in it that looks like one.
    """
    if isinstance(element, Mapping):
        image, label = element[image_key(element)], next((element[k] for k in LABEL_KEYS if k in element), None)
    elif isinstance(element, tuple | list):
        if not element:
            raise ImageError("expected an image, or an image and its label, got an empty tuple or list")
        image, label = element[0], element[1] if len(element) > 1 else None
    else:
        image, label = element, None
    if isinstance(image, Mapping) and {"bytes", "path"} & {*image}:  # as Hugging Face gives what it did not decode
        image = image.get("bytes") or image.get("path")
    return image, label


def has_image(columns: Mapping[str, Any]) -> bool:
    return bool(_image_keys(columns))


def image_key(columns: Mapping[str, Any]) -> str:
    keys = _image_keys(columns)
    if not keys:
        got = ", ".join(map(str, columns)) or "none"
        raise ImageError(f"expected an image under one of the names {', '.join(IMAGE_KEYS)}, got {got}")
    return keys[0]


def _image_keys(columns: Mapping[str, Any]) -> list[str]:
    named = [key for key in IMAGE_KEYS if key in columns]
    alike = [key for key, value in columns.items() if hasattr(value, "convert") or getattr(value, "ndim", 0) >= 2]
    return named or (alike if len(alike) == 1 else [])


def is_tensor(value: Any) -> bool:
    """Tell PyTorch's tensors."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def as_array(tensor: Any) -> np.ndarray:
    """Return the numbers of one of PyTorch's tensors."""
    tensor = tensor.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16, which NumPy does not have
        return tensor.float().numpy()


def pixels_of(image: Any) -> Any:
    """Return what `load_image` takes: tensors as arrays, channels last; paths, files and PIL's images as they are.

    Channels come first in an array whose first axis can be channels and whose last cannot; in a tensor of PyTorch
    whose first axis can be. Other numbers of channels than those of gray, RGB and RGBA are known by being fewer than
    the pixels of a side, which in an array that is no tensor must be two equal ones.
    """
    tensor = is_tensor(image)
    pixels = as_array(image) if tensor else image
    if not isinstance(pixels, np.ndarray | jax.Array):
        return pixels
    if pixels.ndim == 4:
        raise ImageError(
            f"expected one image, got a batch of shape {pixels.shape}: give the images one by one, as in "
            "[image for batch in batches for image in batch]"
        )
    first = pixels.ndim == 3 and pixels.shape[0] in CHANNELS and (tensor or pixels.shape[2] not in CHANNELS)
    if pixels.ndim == 3 and pixels.shape[2] not in CHANNELS and pixels.shape[0] < min(pixels.shape[1:]):
        first |= tensor or pixels.shape[1] == pixels.shape[2]
    return np.moveaxis(np.asarray(pixels), 0, -1) if first else pixels


def channels_last(image: Any, channels: int) -> Any:
    """Return an image that can only have so many channels first, such as 5, with these last; others as they are."""
    if channels in CHANNELS or not isinstance(image, np.ndarray | jax.Array) or image.ndim != 3:
        return image
    first = image.shape[0] == channels != image.shape[-1]
    return np.moveaxis(np.asarray(image), 0, -1) if first else image


def check_not_normalized(pixels: Any) -> None:
    """Raise ImageError for an array of floats below zero: what that means is not for reading to guess."""
    if not isinstance(pixels, np.ndarray | jax.Array) or not jnp.issubdtype(pixels.dtype, jnp.floating):
        return
    low, high = (float(x) for x in (pixels.min(), pixels.max())) if pixels.size else (0.0, 0.0)
    if low < -1e-3:
        raise ImageError(
            f"expected floats in [0, 1], got [{low:.4g}, {high:.4g}], as if normalized by a mean and a deviation: give "
            "the images as they were before that; networks here normalize inside"
        )


def told(label: Any) -> Any:
    """Return a label in a form that JSON can hold: a number, a text, or lists and dictionaries of them."""
    if label is None or isinstance(label, bool | int | float | str):
        return label
    if is_tensor(label):
        label = as_array(label)
    if isinstance(label, np.ndarray | np.generic | jax.Array):
        values = np.asarray(label)
        return told(values.item() if values.size == 1 and values.ndim < 2 else values.tolist())
    if isinstance(label, Mapping):
        return {str(key): told(value) for key, value in label.items()}
    if isinstance(label, tuple | list):
        return [told(part) for part in label]
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def mark_of(image: Any) -> str:
    """Return a file's size and time of change, or a hash of pixels or of an encoded file; nothing for what else."""
    if isinstance(image, str | os.PathLike):
        try:
            found = os.stat(image)
        except OSError:
            return "none"
        return f"{found.st_size} {found.st_mtime_ns}"
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if hasattr(image, "convert") and hasattr(image, "tobytes"):  # PIL's
        palette = image.getpalette() if image.mode == "P" else ""
        return hashlib.sha256(f"{image.mode} {image.size} {palette}".encode() + image.tobytes()).hexdigest()
    image = as_array(image) if is_tensor(image) else image
    if isinstance(image, np.ndarray | jax.Array):
        pixels = np.ascontiguousarray(np.asarray(image))
        return hashlib.sha256(f"{pixels.dtype} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    return ""
