"""How many channels the images of a network have, where nobody says so: what it accepts when it is traced."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxviz.image._checks import ImageError, advice_on_shape, sides_of
from jaxviz.program._edit import dtype_of

T = TypeVar("T")
Size = int | tuple[int, ...]
"""Of images in pixels: one side, (h, w), or (h, w, c) with the number of channels."""

_USUAL = range(1, 17)  # numbers of channels that are tried; and those that kernels have


def split_size(size: Any) -> tuple[tuple[int, int], int | None]:
    """Return height and width, and the number of channels if the size says it."""
    if np.ndim(size) == 1 and len(size) == 3:
        *sides, channels = (sides_of(side)[0] for side in size)
        return (sides[0], sides[1]), channels
    try:
        return sides_of(size), None
    except ImageError as error:
        raise ImageError(f"{error}; or (height, width, channels)") from None


def accepted(use: Callable[[Any], T], params: Any, size: Any, *, count: int = 1) -> tuple[jax.ShapeDtypeStruct, T]:
    """Return the shape of images of this size that `use` takes without an error, and what it returns for them.

    Without a number of channels in the size, RGB is tried first: a network that works on any number of channels is
    shown RGB. If that fails, other numbers are, of which exactly one must do. One channel does not count beside another
    number: it is broadcast where a network subtracts the mean color.

    Raises:
        ValueError: if several numbers would do; and whatever `use` raises for RGB, if none does.
    """
    sides, channels = split_size(size)
    image = lambda c: jax.ShapeDtypeStruct((count, *sides, c), dtype_of(params))
    if channels is not None:
        with _noted(f"these images have {channels} channels, as was said; does the network take others?"):
            return image(channels), use(image(channels))
    try:
        return image(3), use(image(3))
    except Exception as error:  # a network may refuse a shape in any way
        found = {}
        for c in _candidates(params):
            try:
                found[c] = use(image(c))
            except Exception:
                continue
        if len(found) == 2:
            found.pop(1, None)
        if len(found) == 1:
            ((c, result),) = found.items()
            return image(c), result
        if found:
            raise ValueError(
                f"size: this network takes no RGB images, but some of {', '.join(map(str, found))} channels: expected "
                f"(height, width, channels), as in size=({sides[0]}, {sides[1]}, {max(found)}), got {size}"
            ) from error
        with _noted(
            f"neither images (n, {sides[0]}, {sides[1]}, 3) nor those of other numbers of channels would do; if the "
            "network is for images of another size, say which: size=(height, width, channels)"
        ):
            raise


@contextlib.contextmanager
def known_channels(fn: Callable[[Any, Any], Any], params: Any, images: Any) -> Iterator[None]:
    """Where `fn(params, images)` fails for these images, but not for others of so many channels, say so instead."""
    try:
        yield
    except Exception as error:
        if (channels := _channels_instead(fn, params, images)) is None:
            raise
        shape, own = jnp.shape(images), jnp.shape(images)[-1]
        raise ValueError(
            f"expected images (n, h, w, {channels}), which this network takes, got shape {shape} with {own} "
            f"channel{'s' * (own > 1)}; {advice_on_shape(shape, channels)}"
        ) from error


def _channels_instead(fn: Callable[[Any, Any], Any], params: Any, images: Any) -> int | None:
    """Return how many channels images must have instead, if it is that and one other number would do."""
    shape = jnp.shape(images)
    if len(shape) != 4 or not hasattr(images, "dtype"):
        return None

    def takes(channels: int) -> bool:
        try:
            jax.eval_shape(fn, params, jax.ShapeDtypeStruct((*shape[:3], channels), images.dtype))
        except Exception:
            return False
        return True

    if takes(shape[-1]):
        return None
    if takes(3):
        return 3
    found = [c for c in _candidates(params) if takes(c)]
    return found[-1] if len(found) == 1 or (len(found) == 2 and found[0] == 1) else None


@contextlib.contextmanager
def _noted(note: str) -> Iterator[None]:
    """Add a note to any error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"jaxviz: {note}")
        raise


def _candidates(params: Any) -> list[int]:
    """Return the usual numbers of channels but 3, and those that kernels `(h, w, c, out)` or `(out, c, h, w)` take."""
    kernels = [jnp.shape(leaf) for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) == 4]
    return sorted({*_USUAL, *(shape[axis] for shape in kernels for axis in (1, 2))} - {3})
