"""Images laid out by similarity: a picture of all of them in a grid, and the data for an interactive map."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

import jaxviz


class Layout(NamedTuple):
    """The picture and, for the page's script, where its squares are and which are similar."""

    picture: jax.Array
    cells: Int[np.ndarray, "n 2"]
    map: dict[str, Any]


def lay_out(
    points: Float[np.ndarray, "n 2"],
    features: Any,
    names: Sequence[str],
    thumbnail: Callable[[str], Any],
    *,
    side: int,
    near: int = 8,
    others: Mapping[str, Any] | None = None,
    labels: Sequence[Any] | None = None,
) -> Layout:
    """Return a picture of all images and its map.

    Args:
        points: the images' positions in the plane.
        features: one row for each image; their cosine distance measures similarity.
        names: the images' names.
        thumbnail: returns an image by name, `(side, side, 3)`.
        side: the side of a thumbnail in pixels.
        near: the number of most similar images that the map shows for each.
        others: more positions, `(n, 2)` or `(n, 3)`, by what the map's buttons call them; the first are `points`.
        labels: of each image, for its color; None for one without.
    """
    cells = jaxviz.grid_layout(points)
    pictures = [thumbnail(names[int(i)]) for i in np.lexsort(cells.T[::-1])]  # row by row
    picture = jaxviz.montage(np.stack(pictures), columns=int(cells[:, 1].max()) + 1, gap=0)
    found = jaxviz.neighbors(features, features, k=min(near + 1, len(names)))
    nearest = [[i for i in row if i != own][:near] for own, row in enumerate(found.indices.tolist())]
    told = {"points": _placed(points), "cells": cells.tolist(), "near": nearest, "names": list(names)}
    if others is not None:
        told["layouts"] = [{"name": name, "points": _placed(np.asarray(of))} for name, of in others.items()]
    if labels is not None and any(label is not None for label in labels):
        texts = [None if label is None else _text(label) for label in labels]
        classes = sorted({text for text in texts if text is not None}, key=_by_number)
        numbers = {text: i for i, text in enumerate(classes)}
        told |= {"labels": [-1 if text is None else numbers[text] for text in texts], "classes": classes}
    return Layout(picture, cells, {"side": side, **told})


def _placed(points: np.ndarray) -> list[list[float]]:
    """Return points in the unit square; of three dimensions in a ball around zero, to be turned."""
    low, high = points.min(axis=0), points.max(axis=0)
    if points.shape[1] == 2:
        unit = (points - low + (np.max(high - low) - (high - low)) / 2) / (np.max(high - low) or 1)
    else:
        centered = points - (low + high) / 2
        unit = centered / (2 * np.linalg.norm(centered, axis=1).max() or 1)
    return unit.round(5).tolist()


def _text(label: Any) -> str:
    """Return a label as text; several, as of a photograph with several things in it, with commas."""
    return ", ".join(map(str, label)) if isinstance(label, list | tuple | np.ndarray) else str(label)


def _by_number(text: str) -> tuple[float, str]:
    """Return what sorts 2 before 10, and numbers before words."""
    return (float(text), "") if text.removeprefix("-").isdecimal() else (float("inf"), text)
