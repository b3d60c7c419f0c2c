"""Arrays as small PNG files, and as HTML that holds them. On the host alone: nothing is compiled to show a result."""

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np

from jaxviz.image._arrays import as_bytes
from jaxviz.image._channels import as_rgb

MOST = 36  # images in a picture
_LONGEST = 900  # pixels of its longer side
_HEAVIEST = 500_000  # bytes
_SMALL = 96  # pixels to which smaller images are enlarged
_GAP = 4


def tiled(images: Sequence[np.ndarray], *, columns: int | None = None) -> np.ndarray:
    """Arrange images, `(h, w, c)` or `(h, w)` in [0, 1], as one of uint8, `(h, w, 3)`; only the first of very many."""
    columns = min(len(images), columns or math.ceil(math.sqrt(min(len(images), MOST))))
    images = [_enlarged(_rgb(image)) for image in images[: MOST // columns * columns or columns]]
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + _GAP), i % columns * (width + _GAP)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _rgb(image: np.ndarray) -> np.ndarray:
    whole = image if image.dtype == np.uint8 else as_bytes(np.nan_to_num(image.astype(np.float32)))
    rgb = as_rgb(whole if whole.ndim == 3 else whole[..., None])
    step = -(-max(rgb.shape[:2]) // _LONGEST)  # far more pixels than are shown need not be resized well
    return rgb[::step, ::step].astype(np.uint8)


def _enlarged(image: np.ndarray) -> np.ndarray:
    short, long = sorted(image.shape[:2])
    times = max(1, _SMALL // long, min(_SMALL // short, _LONGEST // 2 // long))  # a thin one is not a line
    return image.repeat(times, axis=0).repeat(times, axis=1)


def png_of(picture: np.ndarray, *, longest: int = _LONGEST) -> bytes:
    """Return a picture of uint8 as a PNG file of bounded size: it is made smaller until it fits."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((longest, longest))
    while len(file := _encoded(image)) > _HEAVIEST:
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))
    return file


def _encoded(image: "object") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")  # type: ignore[attr-defined]
    return buffer.getvalue()


def img(png: bytes) -> str:
    """Return the HTML of a picture, which holds its file."""
    data = base64.b64encode(png).decode()
    return f'<img style="max-width: 100%" src="data:image/png;base64,{data}">'


def text(line: str) -> str:
    """Return the HTML of a line of text."""
    return f'<div style="font-family: monospace; overflow-wrap: anywhere">{html.escape(line)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the HTML of a table."""
    line = lambda row, tag: "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>"
    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def sparkline(values: np.ndarray, *, width: int = 160, height: int = 32) -> str:
    """Return a line through values, as SVG in the color of the text; empty if there are fewer than two finite ones."""
    values = np.asarray(values, float)
    places = np.flatnonzero(np.isfinite(values))
    if len(places) < 2:
        return ""
    places = places[np.unique(np.linspace(0, len(places) - 1, width).astype(int))]
    low, high = values[places].min(), values[places].max()
    x = (places - places[0]) / (places[-1] - places[0]) * (width - 2) + 1
    y = height - 1 - (values[places] - low) / (high - low or 1) * (height - 2)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    line = f'<polyline fill="none" stroke="currentColor" points="{points}"/>'
    return f'<svg style="display: block" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{line}</svg>'
