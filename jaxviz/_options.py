"""Checks for options: each error says what was expected and what came.

Traced numbers have no value to check, so they pass.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxviz.image._checks import check_array as check_array
from jaxviz.image._checks import check_images, check_range

_KINDS = "fiu"  # NumPy's codes for kinds of numbers


def check_count(name: str, count: Any, *, least: int = 1, unit: str = "") -> None:
    """Raise ValueError unless `count` is a whole number of at least `least`."""
    check_whole(name, count)
    if not isinstance(count, Tracer) and count < least:
        raise ValueError(f"{name}: expected {least} {unit + ' ' if unit else ''}or more, got {count}")


def check_whole(name: str, count: Any) -> None:
    """Raise ValueError unless `count` is a whole number of an integer type (2.0 is not)."""
    if isinstance(count, Tracer):
        return
    try:
        operator.index(count)
    except TypeError:
        raise ValueError(f"{name}: expected a whole number, got {count!r}") from None
    if isinstance(count, bool):
        raise ValueError(f"{name}: expected a whole number, got {count!r}")


def check_number(name: str, number: Any, expected: str, holds: Callable[[np.ndarray], Any]) -> None:
    """Raise ValueError unless a number, or each number of an array, is finite and as expected, such as "above 0"."""
    if isinstance(number, Tracer):
        return
    try:
        values = np.asarray(number)
        wide = values.astype(float) if values.dtype.kind in _KINDS or _is_low(values) else None
    except (TypeError, ValueError, RuntimeError):
        wide = None
    if wide is None or not np.all(np.isfinite(wide) & holds(wide)):
        raise ValueError(f"{name}: expected a finite number{expected and ' '}{expected}, got {number!r}")


def _is_low(values: np.ndarray) -> bool:
    return values.dtype.name in ("bfloat16", "float16") or values.dtype.name.startswith("float8")


def check_positive(name: str, number: Any) -> None:
    """Raise ValueError unless a number is finite and above 0."""
    check_number(name, number, "above 0", lambda x: x > 0)


def check_least_zero(name: str, number: Any) -> None:
    """Raise ValueError unless a number is finite and at least 0."""
    check_number(name, number, "of at least 0", lambda x: x >= 0)


def check_run(*, steps: Any, every: Any, tolerance: Any = None, callback: Any = None) -> None:
    """Raise ValueError for options with which no optimization loop can run."""
    check_count("steps", steps, unit="step")
    if tolerance is not None:
        check_least_zero("tolerance", tolerance)
    check_watch(every, callback)


def check_watch(every: Any, callback: Any) -> None:
    """Raise ValueError for what no run can be looked at by."""
    check_count("every", every, unit="step")
    if callback is not None:
        check_function("callback", callback, "a function that takes the result so far")


def check_optimizer(optimizer: Any, *names: str) -> None:
    """Raise ValueError unless this is an optax transformation, or one of the names."""
    if isinstance(optimizer, str) and optimizer in names:
        return
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        known = "".join(f"{name!r}, " for name in names)
        raise ValueError(
            f"optimizer: expected {known}{'or ' if known else ''}an optax transformation such as optax.adam(0.05), "
            f"got {optimizer!r}"
        )


def check_function(name: str, function: Any, what: str) -> None:
    """Raise ValueError unless this can be called."""
    if not callable(function):
        raise ValueError(f"{name}: expected {what}, got {function!r}")


def check_batch(name: str, images: Any, *, channels: int | None = None) -> None:
    """Raise ValueError unless `images` is an array of one or more images in [0, 1]."""
    check_array(name, images)
    if 0 in images.shape:
        raise ValueError(f"{name}: expected at least one image of at least one pixel, got shape {images.shape}")
    check_images(images, channels=channels)
    check_range(name, images)


def check_image(name: str, image: Any, *, channels: int | None = None) -> None:
    """Raise ValueError unless `image` is an array of one image in [0, 1]."""
    check_array(name, image)
    if image.ndim != 3:
        raise ValueError(f"{name}: expected an image (h, w, {channels or 'c'}), got shape {image.shape}")
    try:
        check_batch(name, image[None], channels=channels)
    except ValueError as error:
        told = str(error)
        raise ValueError(told if told.startswith(f"{name}: ") else f"{name}: {told}") from None


def check_rank(images: Any) -> None:
    """Raise ValueError unless `images` has four axes: with three, colors would be mistaken for a side."""
    if jnp.ndim(images) != 4:
        raise ValueError(f"expected images (n, h, w, c), got shape {jnp.shape(images)}; one image is image[None]")


def check_untraced(name: str, *arguments: Any, instead: str) -> None:
    """Raise ValueError under `jit`, `vmap` and `grad`, for functions that must read values along the way."""
    if any(isinstance(leaf, Tracer) for leaf in (*jax.tree.leaves(arguments), jnp.zeros(()))):
        raise ValueError(f"{name}: expected concrete arrays, got traced ones; {instead}")
