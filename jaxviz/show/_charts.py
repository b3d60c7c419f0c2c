"""Lines and points: losses, curves of faithfulness, embeddings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxviz.show._figure import ShownFigure

_LINES = 12  # of one name that are drawn: more cannot be told apart


def chart(parts: Mapping[str, np.ndarray], kind: str, *, size: tuple[float, float] = (5.0, 3.2)) -> Figure:
    """Draw lines or points in one pair of axes; those of one name have one color."""
    figure = ShownFigure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, values) in enumerate(parts.items()):
        style: dict[str, Any] = {"color": f"C{i % 10}", "label": name or None}
        values = np.asarray(values, float)
        if kind == "points":
            points = values[:, :2] if values.shape[1] > 1 else np.stack([np.arange(len(values)), values[:, 0]], 1)
            axes.scatter(*points.T, s=8, **style)
            continue
        for line in np.atleast_2d(values)[:_LINES]:
            axes.plot(_places(values, line), line, linewidth=1.2, **style)
            style["label"] = None
    if any(parts):
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _places(values: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Return where a line's points are: a curve's between 0 and 1, since curves of several lengths are compared."""
    return np.linspace(0, 1, len(line)) if values.ndim == 2 else np.arange(len(line))
