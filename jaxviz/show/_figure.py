"""Matplotlib's figures without pyplot: nothing is registered, no backend is chosen."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from jaxviz._files import write_atomically

# Without the time of writing: the same figure is the same file.
_METADATA: Mapping[str, dict[str, Any]] = MappingProxyType(
    {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}, "webp": {}}
)
_AS_TEXT = {"pdf.fonttype": 42, "svg.hashsalt": "jaxviz"}  # journals refuse Type 3 fonts


class ShownFigure(Figure):
    """A figure that notebooks show although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        return as_png(self)


def as_png(figure: Figure, *, dpi: int = 100) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def suffix_of(path: Any) -> str:
    """Return the format that a file's name asks for."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in _METADATA:
        raise ValueError(f"path: expected a name that ends in .png, .svg, .pdf or .webp, got {str(path)!r}")
    return suffix


def save(figure: Figure, path: Any, *, dpi: int) -> None:
    """Write a figure to a file, whole or not at all."""
    suffix = suffix_of(path)
    buffer = io.BytesIO()
    with matplotlib.rc_context(_AS_TEXT):  # type: ignore[arg-type]
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=_METADATA[suffix] or None)
    write_atomically(Path(path), buffer.getvalue())
