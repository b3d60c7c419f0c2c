"""An element of a data set as frameworks give it: the image, its pixels as `load_image` takes them, and the label.

PyTorch's tensors, PIL's images and Hugging Face's rows are told by what they can do: none of these is imported.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz.data._folder import SUFFIXES
from jaxviz.image._checks import ImageError

IMAGE_KEYS = ("image", "img", "pixel_values", "images", "picture", "photo", "jpg", "jpeg", "png", "webp", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "class", "cls", "category", "y")
LABEL_FILES = ("cls", "json", "txt")
"""What holds the label of a sample of WebDataset, the first of them that there is."""
CHANNELS = (1, 3, 4)

Columns = tuple[str, str | None]
"""Of an image and of its label."""


def parts_of(element: Any, columns: Columns | None = None) -> tuple[Any, Any]:
    """Return the image of an element and its label, None if it has none.

    An element is an image; a tuple or list of an image, a label and whatever else; or a dictionary, with an image in
    the column that is named, or under one of `IMAGE_KEYS`, or the only thing in it that looks like one; WebDataset's
    have theirs under a file's suffix.
    """
    if isinstance(element, Mapping) and columns and columns[0] in element:
        image, label = element[columns[0]], element.get(columns[1])
    elif isinstance(element, Mapping) and "__key__" in element:
        image, label = _of_sample(element)
    elif isinstance(element, Mapping):
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


def _of_sample(sample: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the image and the label of a sample of WebDataset, decoded or not."""
    files = {name: value for name, value in sample.items() if not name.startswith("__")}
    image = one_image_of(files) or image_key(files)
    if isinstance(image, ImageError):
        raise image
    named = next((files[name] for name in LABEL_KEYS if name in files and name not in LABEL_FILES), None)
    return files[image], label_of_files(files, sample["__key__"]) if named is None else named


def one_image_of(files: Iterable[str]) -> str | ImageError:
    """Return the one among a sample's suffixes that is an image's, "" if there is none, an error if there are several.

    A whole suffix, as in 7.jpg, comes before the end of one, as in 7.mask.png.
    """
    ends = [name for name in files if os.path.splitext(f"x.{name}")[1].lower() in SUFFIXES]
    found = [name for name in ends if "." not in name] or ends
    if len(found) > 1:
        return ImageError(f"expected one image, got several: {', '.join(found)}; give tuples of an image and a label")
    return found[0] if found else ""


def label_of_files(files: Mapping[str, Any], name: str) -> Any:
    """Return the label that a sample's files hold, by their suffixes: a number, a text or what a JSON file says.

    Of a dictionary in a JSON file, the label is what is under one of `LABEL_KEYS`, or else all of it.
    """
    suffix = next((suffix for suffix in LABEL_FILES if suffix in files), None)
    if suffix is None:
        return None
    value = files[suffix]
    if isinstance(value, bytes):
        try:
            value = json.loads(value) if suffix == "json" else value.decode()
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{name}: expected a label in {suffix}, got {type(error).__name__}: {error}") from error
    if suffix == "cls" and isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*-?\d{1,18}\s*", value) else value.strip()
    if suffix == "json" and isinstance(value, Mapping):
        return next((value[key] for key in LABEL_KEYS if key in value), value)
    return value


def columns_of(data: Any) -> Columns | None:
    """Return the columns of a data set of Hugging Face that have images and class labels, by the types it states.

    None if it states none: the columns are then found by their names, or by what is in them.
    """
    features = getattr(data, "features", None)
    if not isinstance(features, Mapping) or not hasattr(data, "column_names"):
        return None
    of_type = lambda name: [column for column, feature in features.items() if type(feature).__name__ == name]
    images, labels = of_type("Image"), of_type("ClassLabel")
    if not images:
        return None
    named = [key for key in IMAGE_KEYS if key in images]
    if len(images) > 1 and len(named) != 1:
        raise ImageError(
            f"source: expected one column of images, got {', '.join(images)}: leave one, as with "
            f"dataset.remove_columns({images[1:]})"
        )
    image = images[0] if len(images) == 1 else named[0]
    by_name = next((key for key in LABEL_KEYS if key in features and key != image), None)
    return image, labels[0] if len(labels) == 1 else by_name


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


def mark_of_file(file: str | os.PathLike[str] | int) -> str:
    """Return the size and the time of change of a file, given by its path or open."""
    try:
        found = os.stat(file)
    except OSError:
        return "none"
    return f"{found.st_size} {found.st_mtime_ns}"


def mark_of(image: Any) -> str:
    """Return a file's size and time of change, or a hash of pixels or of an encoded file; nothing for what else."""
    if isinstance(image, str | os.PathLike):
        return mark_of_file(image)
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
