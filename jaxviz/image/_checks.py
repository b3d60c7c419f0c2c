"""Checks for images and for the numbers that come with them: errors say what was expected and what came."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

ROUNDING = 1e-5  # how far beyond [0, 1] a float image may stray by arithmetic alone


class ImageError(ValueError):
    """An image that cannot be read, written or drawn; the message says what was expected, what came and what to do."""


def check_images(images: Any, *, channels: int | None = None) -> None:
    """Raise ValueError unless `images` is a batch of at least one image of floats, of so many channels if that is set.

    Images of 3 or 4 rows and more than 4 channels, and those of one row that are square across columns and channels,
    are taken for what they nearly always are: arrays with the channels first.
    """
    check_array("images", images)
    shape = jnp.shape(images)
    if len(shape) != 4 or has_channels_first(shape) or shape[-1] != (channels or shape[-1]):
        raise ValueError(
            f"expected images (n, h, w, {channels or 'c'}), got shape {shape}; {advice_on_shape(shape, channels or 3)}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"expected images of floats in [0, 1], got {images.dtype}; divide bytes by 255")
    if 0 in shape:
        raise ValueError(f"expected at least one image of at least one pixel, got shape {shape}")
    check_finite("images", images)


def check_array(name: str, values: Any, error: type[ValueError] = ValueError) -> None:
    """Raise ValueError unless `values` is a JAX or NumPy array: lists and tensors are not."""
    if isinstance(values, jax.Array | np.ndarray):
        return
    kind = f"{type(values).__module__.split('.')[0]}.{type(values).__name__}".removeprefix("builtins.")
    if isinstance(values, list | tuple):
        advice = "jnp.stack makes one array from several of the same size"
    elif kind.startswith("torch"):
        advice = "jnp.asarray(x.detach().cpu().permute(0, 2, 3, 1).numpy()) converts a batch (n, 3, h, w)"
    else:
        advice = "jnp.asarray converts most things, load_image reads a file"
    raise error(f"{name}: expected a JAX or NumPy array, got a {kind}; {advice}")


def has_channels_first(shape: tuple[int, ...]) -> bool:
    """Tell a batch whose channels come first by its shape: as an image, it would be a strip of many channels."""
    if len(shape) != 4 or shape[-1] in (1, 3, 4):
        return False
    return (shape[1] in (3, 4) and shape[2] > 4) or (shape[1] == 1 and shape[2] == shape[3] > 4)


def advice_on_shape(shape: tuple[int, ...], channels: int) -> str:
    """Return what to do with an array that is not a batch of images of so many channels."""
    if len(shape) == 3 and shape[-1] in (1, channels):
        return "one image is image[None]"
    if len(shape) == 4 and (has_channels_first(shape) or shape[1] == channels):
        return "channels come last, images.transpose(0, 2, 3, 1)"
    if len(shape) == 3 and shape[0] in (1, channels):
        return "channels come last, image.transpose(1, 2, 0)[None]"
    if len(shape) == 4 and (shape[-1], channels) == (4, 3):
        return "drop transparency with images[..., :3]"
    if len(shape) == 4 and (shape[-1], channels) == (1, 3):
        return "gray as RGB is jnp.repeat(images, 3, axis=-1)"
    if len(shape) == 4 and channels == 1:
        return "colors as gray are images @ jnp.array([[0.299], [0.587], [0.114]])"
    if len(shape) in (2, 3):
        some = "image[None, :, :, None]" if len(shape) == 2 else "images[..., None]"
        return f"with an axis of channels, gray images are {some}; as RGB, jnp.repeat({some}, 3, axis=-1)"
    return "that is n images of height h and width w, channels last"


OVERSHOOT = 0.3  # bicubic resizing along both axes can leave [0, 1] by at most 0.28


def check_range(name: str, images: Any, *, resized: bool = True) -> None:
    """Raise ValueError for images that are plainly not in [0, 1], if their values are known.

    Resizing leaves [0, 1] slightly; bytes, and images normalized as for PyTorch, leave it by far. What was not resized,
    such as a color, may leave it only by the rounding of its own dtype.
    """
    if isinstance(images, Tracer):
        return
    values = np.asarray(images)  # not a jax.Array: under an outer jit, anything computed from one is traced
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    beyond = OVERSHOOT if resized else ROUNDING
    if jnp.issubdtype(values.dtype, jnp.floating):
        beyond = max(beyond, float(jnp.finfo(values.dtype).eps))
    if low < -beyond or high > 1 + beyond:
        raise ValueError(
            f"{name}: expected values in [0, 1], got {low:g} to {high:g}; divide 0 to 255 by 255, and leave a "
            "network's own normalization to the network"
        )


def check_whole(name: str, number: Any, *, least: int, odd: bool = False) -> None:
    """Raise ValueError unless a number is whole, at least `least`, and odd if `odd` is set."""
    real = isinstance(number, int | float | np.number | jax.Array | np.ndarray) and not isinstance(number, bool)
    real = real and np.ndim(number) == 0 and not isinstance(number, Tracer)
    value = float(number) if real else 0.0
    if not real or value % 1 != 0 or value < least or (odd and value % 2 != 1):
        kind, shown = "an odd" if odd else "a whole", repr(number) if isinstance(number, str) else number
        raise ValueError(f"{name}: expected {kind} number of at least {least}, got {shown}")


def check_not_negative(name: str, number: Any, error: type[ValueError] = ValueError) -> None:
    """Raise ValueError for a negative, infinite or NaN number, if its value is known."""
    if not isinstance(number, Tracer) and not np.all((np.asarray(number) >= 0) & (np.asarray(number) < np.inf)):
        raise error(f"{name}: expected a number of at least 0, got {number}")


def check_finite(name: str, values: Any) -> None:
    """Raise ValueError for values that contain a NaN or an infinity, if they are known."""
    if isinstance(values, Tracer):
        return
    bad = ~np.isfinite(np.asarray(values, np.float32))
    if bad.any():
        raise ValueError(f"{name}: expected finite numbers, got {bad.sum()} that are NaN or infinite")


def checked_size(size: Any) -> int | tuple[int, int] | None:
    """Return a size as Python integers, whatever type of integer it was given as."""
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
    """Return the height and width that a size stands for: one int for both, or a pair."""
    sides = checked_size(size)
    if sides is None:
        raise ImageError("size: expected an int or (height, width), got None")
    return (sides, sides) if isinstance(sides, int) else sides
