"""What `plot` is given, as rows of images or maps: which of the two an array is must be certain."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxviz.show._brief import concrete
from jaxviz.show._shown import look_of, parts_of

Kind = Literal["images", "maps"]
_DARK = 1 / 16  # below which nothing in [0, 1] is taken for an image: a map that has no negative values may be as small
_NEAR = 0.2  # how far outside of [0, 1] interpolation may lead


class Entry(NamedTuple):
    """A row: images `(n, h, w, c)` in [0, 1] or maps `(n, h, w)` or `(n, h, w, c)`, or a list of any sizes."""

    label: str
    kind: Kind
    panels: list[np.ndarray]


def entries_of(what: Any, kind: Kind | None, label: str = "") -> list[Entry]:
    """Return the rows of a result, an array, or several of them by name."""
    if isinstance(what, Mapping):
        return [entry for name, part in what.items() for entry in entries_of(part, kind, _joined(label, name))]
    look = look_of(what)
    if look is not None and look.kind in ("images", "maps"):
        parts = parts_of(what, look)
        if not parts:
            raise ValueError(f"plot: expected a result with something to show, got {what!r}")
        return [Entry(_joined(label, name), look.kind, _checked(part, look.kind)) for name, part in parts.items()]
    if isinstance(what, list | tuple) and not hasattr(what, "_fields"):
        if what and all(map(_is_one, what)) and len({np.ndim(one) for one in what}) == 1:  # of any sizes
            return [_row_of(list(map(_as_array, what)), kind, label)]
        return [entry for part in what for entry in entries_of(part, kind, label)]
    array = _as_array(what)
    if _is_one(array):
        return [_row_of([array], kind, label)]
    found = kind or _told(array)
    return [Entry(label, found, _checked(array, found))]


def _joined(label: str, name: Any) -> str:
    return f"{label} {name}".strip()


def _is_one(what: Any) -> bool:
    """Tell a single image (h, w, c), or a single map (h, w)."""
    shape = np.shape(what) if hasattr(what, "shape") else ()
    one = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    return one and min(shape[:2]) > 4


def _row_of(ones: list[np.ndarray], kind: Kind | None, label: str) -> Entry:
    # Together: one that is dark by itself is an image beside others.
    together = np.concatenate([one.ravel() for one in ones]).reshape(1, 1, 1, -1)
    found = kind or ("maps" if ones[0].ndim == 2 else _told(together, ones[0].shape))
    return Entry(label, found, _checked(ones, found))


def _as_array(what: Any) -> np.ndarray:
    array = concrete(np.asarray(what) if hasattr(what, "__array__") and not hasattr(what, "dtype") else what)
    if array is None or array.dtype.kind not in "biuf":
        raise ValueError(
            "plot: expected a result, images (n, h, w, c) in [0, 1], maps (n, h, w) or (n, h, w, c), or several of "
            f"them by name, got {type(what).__name__}"
        )
    if (array.ndim not in (3, 4) and not _is_one(array)) or 0 in array.shape:
        raise ValueError(f"plot: expected images (n, h, w, c) or maps (n, h, w), got shape {array.shape}")
    return array


def _told(array: np.ndarray, shape: tuple[int, ...] | None = None) -> Kind:
    """Return whether an array holds images or maps, or raise ValueError."""
    if array.ndim == 3 or not np.isfinite(array).all():  # which is refused as such
        return "maps"
    if array.dtype == np.uint8:
        return "images"
    low, high = float(array.min()), float(array.max())
    if low >= 0 and _DARK <= high <= 1:
        return "images"
    if low < -_NEAR or high > 1 + _NEAR or (low < 0 and high < _NEAR):
        return "maps"
    raise ValueError(
        f"plot: expected images in [0, 1] or maps, got {shape or array.shape} from {low:.3g} to {high:.3g}, which may "
        "be either: say kind='images' or kind='maps'"
    )


def _checked(array: Any, kind: Kind) -> list[np.ndarray]:
    """Return the images or maps of an array one by one."""
    if isinstance(array, np.ndarray) and array.ndim == 5:  # maps of several scores
        array = array.reshape(-1, *array.shape[2:])
    panels = [np.asarray(panel) for panel in array]
    for i, panel in enumerate(panels):
        if not np.isfinite(panel).all():
            raise ValueError(f"plot: expected finite {kind}, got NaN or infinite values in number {i}")
        wide = panel / 255 if panel.dtype == np.uint8 else panel
        if kind == "images" and (panel.ndim != 3 or wide.min() < -_NEAR or wide.max() > 1 + _NEAR):
            raise ValueError(
                f"plot: expected images (n, h, w, c) in [0, 1], got one {panel.shape} from {wide.min():.3g} to "
                f"{wide.max():.3g}; kind='maps' draws it as a map"
            )
    return panels
