"""Images laid out by similarity: a picture of all of them in a grid, and the data for an interactive map."""

from collections.abc import Callable, Sequence
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
) -> Layout:
    """Return a picture of all images and its map.

    Args:
        points: the images' positions in the plane.
        features: one row for each image; their cosine distance measures similarity.
        names: the images' names.
        thumbnail: returns an image by name, `(side, side, 3)`.
        side: the side of a thumbnail in pixels.
        near: the number of most similar images that the map shows for each.
    """
    cells = jaxviz.grid_layout(points)
    pictures = [thumbnail(names[int(i)]) for i in np.lexsort(cells.T[::-1])]  # row by row
    picture = jaxviz.montage(np.stack(pictures), columns=int(cells[:, 1].max()) + 1, gap=0)
    found = jaxviz.neighbors(features, features, k=min(near + 1, len(names)))
    others = [[i for i in row if i != own][:near] for own, row in enumerate(found.indices.tolist())]
    low, high = points.min(axis=0), points.max(axis=0)
    unit = (points - low + (np.max(high - low) - (high - low)) / 2) / (np.max(high - low) or 1)
    told = {"points": unit.round(5).tolist(), "cells": cells.tolist(), "near": others, "names": list(names)}
    return Layout(picture, cells, {"side": side, **told})
