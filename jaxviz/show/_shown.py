"""Types of results that show themselves: a line of text anywhere, a picture in a notebook."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from jaxviz.show import _pictures as pictures
from jaxviz.show._brief import brief, concrete

Type = TypeVar("Type", bound=type)
Kind = Literal["images", "maps", "lines", "points"]
Table = tuple[Sequence[str], Sequence[Sequence[object]]]

# What a tree with the structure of a result and other things in it may raise: its text still says what it is.
_OTHER = (ValueError, TypeError, OSError, IndexError, KeyError, AttributeError, ImportError)


class Look(NamedTuple):
    """How a type of results is shown."""

    kind: Kind | None
    of: Callable[[Any], Any]
    """Returns arrays: a batch, or several by name, each a line of pictures; of lines, `(points,)` or `(n, points)`."""
    table: Callable[[Any], Table] | None


def shown(
    kind: Kind | None = None,
    of: Callable[[Any], Any] = lambda found: {},
    *,
    table: Callable[[Any], Table] | None = None,
) -> Callable[[Type], Type]:
    """Return a decorator of named tuples that gives them a short text and, in notebooks, a picture and a table.

    They stay what they are: nothing but how they are shown changes.
    """
    look = Look(kind, of, table)
    methods = {"__repr__": brief, "_repr_html_": html_of, "_repr_png_": png_of, "_look_": look}

    def showing(cls: Type) -> Type:
        for name, method in methods.items():
            setattr(cls, name, method)
        return cls

    return showing


def look_of(found: Any) -> Look | None:
    """Return how a result is shown; None if it is no result."""
    look = getattr(type(found), "_look_", None)
    return look if isinstance(look, Look) else None


def parts_of(found: Any, look: Look) -> dict[str, Any]:
    """Return what of a result is shown, by name, without what has no values to show."""
    parts = look.of(found)
    named = parts if isinstance(parts, dict) else {"": parts}
    values = {name: part if isinstance(part, list) else concrete(part) for name, part in named.items()}
    return {name: part for name, part in values.items() if part is not None and len(part)}


def png_of(found: Any) -> bytes | None:
    """Return a result as a PNG file, as notebooks ask for it; None if there is nothing to see."""
    look = type(found)._look_
    try:
        parts = parts_of(found, look)
        return _drawn(parts, look) if parts else None
    except _OTHER:
        return None


def _drawn(parts: dict[str, Any], look: Look) -> bytes:
    if look.kind in ("lines", "points"):
        from jaxviz.show._charts import chart
        from jaxviz.show._figure import as_png

        return as_png(chart(parts, look.kind))
    rows = [
        list(part.reshape(-1, *part.shape[2:]) if getattr(part, "ndim", 0) == 5 else part) for part in parts.values()
    ]
    columns = max(map(len, rows)) if len(rows) > 1 else None
    images = [image for row in rows for image in row][: pictures.MOST]
    if look.kind == "maps":
        from jaxviz.show._maps import colored

        images = [colored(one) for one in images]
    return pictures.png_of(pictures.tiled(images, columns=columns))


def html_of(found: Any) -> str:
    """Return a result as HTML, as notebooks ask for it: its text, its losses as a line, a picture, a table."""
    look = type(found)._look_
    png, table = png_of(found), None
    with contextlib.suppress(*_OTHER):
        table = look.table(found) if look.table is not None else None
    losses = concrete(getattr(found, "losses", None)) if look.kind == "images" else None
    parts = [pictures.text(brief(found))]
    parts += [pictures.sparkline(losses)] if losses is not None and losses.ndim == 1 else []
    parts += [pictures.img(png)] if png else []
    parts += [pictures.table(*table)] if table is not None else []
    return f"<div>{''.join(parts)}</div>"
