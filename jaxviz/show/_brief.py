"""A result as a line of text: what its parts are, not the numbers in them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_FEW = 4  # numbers that are written out, and entries of a list or mapping that are named
_LONGEST = 60  # letters of anything else


_Named = str | tuple  # what is listed by its name: a reason, a result


def concrete(x: Any) -> np.ndarray | None:
    """Return an array's values; None if it is traced, deleted, on other machines, or no array of numbers."""
    if isinstance(x, Tracer) or not hasattr(x, "shape") or not hasattr(x, "dtype"):
        return None
    if isinstance(x, jax.Array) and (x.is_deleted() or not x.is_fully_addressable):
        return None
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):  # random keys
        return None
    values = np.asarray(x)
    low = values.dtype.kind not in "biufcUSO"  # bfloat16 and its like
    return values.astype(np.float32) if low else values


def brief(found: Any) -> str:
    """Return a named tuple as a line, with how far its run is if it knows that."""
    parts = [f"{name}={_told(name, value)}" for name, value in zip(found._fields, found, strict=True)]
    what = getattr(found, "what", "")
    told = f"; {what}: {found.done} of {found.total}" if what else ""
    return f"{type(found).__name__}({', '.join(parts)}{told})"


def brief_fields(found: Any) -> str:
    """Return a dataclass as a line."""
    if not dataclasses.is_dataclass(found):
        return object.__repr__(found)
    fields = [field.name for field in dataclasses.fields(found) if field.repr]
    return f"{type(found).__name__}({', '.join(f'{name}={brief_value(getattr(found, name))}' for name in fields)})"


def _told(name: str, value: Any) -> str:
    losses = concrete(value) if name == "losses" else None
    if losses is None or losses.ndim not in (1, 2) or len(losses) <= _FEW or losses.dtype.kind != "f":
        return brief_value(value)
    each = losses if losses.ndim == 1 else losses.sum(1)
    return f"{brief_value(value)} from {each[0]:.4g} to {each[-1]:.4g}"


def brief_value(value: Any) -> str:
    """Return what a part of a result is: an array's type and shape, the first names of a list, a number itself."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _array(value)
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value).__name__
    if isinstance(value, Mapping) and value and all(isinstance(part, _Named) for part in _first(value.values())):
        return "{" + _listed([f"{name!r}: {_kind(part)}" for name, part in _first(value.items())], len(value)) + "}"
    if isinstance(value, list | tuple) and not any(hasattr(part, "shape") for part in value[:1]):
        return "[" + _listed([_short(repr(part)) for part in value[:_FEW]], len(value)) + "]"
    leaves = [leaf for leaf in jax.tree.leaves(value) if hasattr(leaf, "shape")]
    if leaves:
        return f"<{len(leaves)} array{'s' * (len(leaves) > 1)}, {sum(np.size(leaf) for leaf in leaves):,} numbers>"
    return _short(getattr(value, "__qualname__", None) or repr(value))


def _first(items: Any) -> list[Any]:
    return [item for item, _ in zip(items, range(_FEW), strict=False)]


def _kind(value: Any) -> str:
    return _short(repr(value)) if isinstance(value, str) else type(value).__name__


def _array(x: Any) -> str:
    values = concrete(x) if np.ndim(x) < 2 and np.size(x) <= _FEW else None
    if values is not None and values.dtype.kind in "biuf":
        numbers = [f"{number:.4g}" if values.dtype.kind == "f" else str(number) for number in values.ravel()]
        return f"[{', '.join(numbers)}]" if values.ndim else numbers[0]
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def _listed(parts: list[str], count: int) -> str:
    return ", ".join([*parts, *([f"… {count} in all"] if count > len(parts) else [])])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"
