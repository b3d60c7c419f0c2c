"""The axes of `plot`: where each image and map goes, and on which scale."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxviz.image._channels import as_rgb, gray_of
from jaxviz.show import _maps
from jaxviz.show._entries import Entry
from jaxviz.show._figure import ShownFigure

_MOST = 8  # columns, unless another number is asked for
_SIDE = 1.9  # of a column, in inches


class Style(NamedTuple):
    """How maps are drawn."""

    method: str
    sign: Any
    scale: str
    outlier_perc: Any
    cmap: str | None
    alpha: float
    shows_bar: bool


class Panel(NamedTuple):
    """One of the pictures: what it shows, the number of its row, and the image below it."""

    values: np.ndarray
    kind: str
    entry: int
    below: np.ndarray | None


class Grid:
    """Panels in lines: those of a row on lines of its own, or all of them one after another."""

    def __init__(
        self,
        entries: Sequence[Entry],
        below: Sequence[np.ndarray] | None,
        *,
        shows_images: bool,
        columns: int | None,
        titles: Sequence[str] | None,
    ):
        if below is not None and shows_images:
            entries = [Entry("", "images", list(below)), *entries]
        self.labels = [entry.label for entry in entries]
        rows = [
            [
                Panel(panel, entry.kind, i, below[j] if below is not None and entry.kind == "maps" else None)
                for j, panel in enumerate(entry.panels)
            ]
            for i, entry in enumerate(entries)
        ]
        longest = max(map(len, rows), default=0)
        if columns is not None:
            rows = [[panel for row in rows for panel in row]]
        self.columns = min(len(rows[0]), columns) if columns else min(longest, _MOST)
        self.lines = [row[i : i + self.columns] for row in rows for i in range(0, len(row), self.columns)]
        self.flows = columns is not None
        self.titles = _checked(titles, len(rows[0]) if self.flows else longest)

    @property
    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for line in self.lines for panel in line]


def _checked(titles: Sequence[str] | None, count: int) -> list[str]:
    if titles is None:
        return []
    if isinstance(titles, str) or len(titles) != count:
        raise ValueError(f"titles: expected {count}, one for each column, got {titles!r}")
    return [str(title) for title in titles]


def drawn(grid: Grid, style: Style, title: str | None, size: tuple[float, float] | None) -> Figure:
    """Return the figure."""
    # Where shapes differ, the other layout would make a line as low as its widest image, and leave the rest empty.
    layout = "compressed" if all(len(set(shapes)) == 1 for shapes in _aspects(grid)) else "constrained"
    figure = ShownFigure(figsize=size or _size(grid, style, title), layout=layout)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)  # type: ignore[union-attr]
    if title:
        figure.suptitle(title)
    places = figure.add_gridspec(len(grid.lines), grid.columns, height_ratios=_heights(grid))
    norms = _norms(grid, style)
    bars: dict[int, tuple[ScalarMappable, list[Any]]] = {}
    number, labeled = 0, set()
    for i, line in enumerate(grid.lines):
        for j, panel in enumerate(line):
            axes = figure.add_subplot(places[i, j])
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            mappable = _draw(axes, panel, style, norms.get(number))
            if mappable is not None:
                bars.setdefault(id(norms[number]), (mappable, []))[1].append(axes)
            _label(axes, grid, panel, number, j, first=panel.entry not in labeled)
            labeled.add(panel.entry)
            number += 1
    if style.shows_bar:
        for mappable, beside in bars.values():
            _bar(figure, mappable, beside, style)
    return figure


def _size(grid: Grid, style: Style, title: str | None) -> tuple[float, float]:
    """Return a size by the number of columns, and the shapes of what is in the lines."""
    bars = style.shows_bar * (0.5 * grid.columns if style.scale == "each" else 0.8)
    names = 0.3 * any(grid.labels)
    headed = 0.3 * bool(title) + 0.25 * bool(grid.titles or (grid.flows and any(grid.labels)))
    height = _SIDE * sum(_heights(grid))
    return _SIDE * grid.columns + bars + names, max(height + headed, 1.0)


def _heights(grid: Grid) -> list[float]:
    """Return the heights of lines, with the width of a column as 1: those of the images, or of most of them."""
    return [min(max(float(np.quantile(shapes, 0.75)), 0.2), 5.0) for shapes in _aspects(grid)]


def _aspects(grid: Grid) -> list[list[float]]:
    """Return how high the images of each line are, with their width as 1."""
    shape = lambda panel: (panel.values if panel.below is None else panel.below).shape
    return [[shape(panel)[0] / shape(panel)[1] for panel in line] for line in grid.lines]


def _label(axes: Any, grid: Grid, panel: Panel, number: int, column: int, *, first: bool) -> None:
    label = grid.labels[panel.entry]
    if grid.flows:
        above = [label if first else "", grid.titles[number] if grid.titles else ""]
        if any(above):
            axes.set_title("\n".join(part for part in above if part), fontsize=9)
        return
    if label and column == 0 and first:
        axes.set_ylabel(label, fontsize=9)
    if grid.titles and number < grid.columns:
        axes.set_title(grid.titles[number], fontsize=9)


# Scales


class _Scale(Normalize):
    """A scale with what of the maps is drawn on it."""

    sign: Any = "all"


def _norms(grid: Grid, style: Style) -> dict[int, _Scale]:
    """Return the scale of each map, by its number; those that share one have the same."""
    maps = {i: panel for i, panel in enumerate(grid.panels) if panel.kind == "maps"}
    groups: dict[int, list[int]] = {}
    for i, panel in maps.items():
        groups.setdefault({"each": i, "row": panel.entry, "shared": -1}[style.scale], []).append(i)
    norms = {}
    for members in groups.values():
        values = [_values(maps[i].values, style) for i in members]
        sign = "all" if style.method == "colors" else _maps.signed(values, style.sign)
        if sign == "all" and style.method in ("masked_image", "alpha_scaling"):
            raise ValueError(
                f"sign: expected 'positive', 'negative' or 'absolute_value' for method {style.method!r}, since the "
                "maps have negative values"
            )
        top = _maps.limit([_maps.counted(part, sign) for part in values], float(style.outlier_perc))
        norm = _Scale(-top if sign == "all" else 0.0, top)
        norm.sign = sign
        norms |= dict.fromkeys(members, norm)
    return norms


def _values(values: np.ndarray, style: Style) -> np.ndarray:
    if style.method == "colors":
        if values.ndim != 3 or values.shape[-1] != 3:
            raise ValueError(f"method: expected maps (n, h, w, 3) to be drawn in 'colors', got one {values.shape}")
        return values.astype(np.float64)
    return _maps.flat(values[None])[0]


def _bar(figure: Figure, mappable: ScalarMappable, beside: list[Any], style: Style) -> None:
    if style.method in ("colors", "masked_image", "alpha_scaling"):
        raise ValueError(f"show_colorbar: expected False for method {style.method!r}, whose colors are the image's")
    ends = {"all": "both"}.get(mappable.norm.sign, "max") if style.outlier_perc else "neither"  # type: ignore
    shrink = {"each": 0.8, "row": 0.9, "shared": 0.9}[style.scale]
    bar = figure.colorbar(mappable, ax=beside, extend=ends, shrink=shrink, pad=0.01, aspect=20, format="%.3g")
    bar.ax.tick_params(labelsize=7)


# Pictures


def _draw(axes: Any, panel: Panel, style: Style, norm: _Scale | None) -> ScalarMappable | None:
    """Draw a panel; return what its color bar is of."""
    if norm is None:
        axes.imshow(_rgb(panel.values))
        return None
    values = _maps.counted(_values(panel.values, style), norm.sign)
    if style.method == "colors":
        axes.imshow(np.clip(0.5 + values / norm.vmax / 2, 0, 1))
        return ScalarMappable(norm)
    height, width = panel.values.shape[:2] if panel.below is None else panel.below.shape[:2]
    whole = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5)}
    colors = _colormap(_maps.colors_of(norm.sign, style.cmap))
    if style.method == "heat_map" or panel.below is None:
        return axes.imshow(values, cmap=colors, norm=norm, **whole)
    image = _rgb(panel.below)
    if style.method == "blended_heat_map":
        axes.imshow(gray_of(image)[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.imshow(values, cmap=colors, norm=norm, alpha=style.alpha, **whole)
        return ScalarMappable(norm, colors)
    share = _enlarged(np.clip(values / norm.vmax, 0, 1), (height, width))[..., None]
    axes.imshow(np.clip(image * share + (style.method == "alpha_scaling") * (1 - share), 0, 1))
    return ScalarMappable(norm)


def _rgb(image: np.ndarray) -> np.ndarray:
    wide = image / 255 if image.dtype == np.uint8 else image.astype(np.float64)
    return np.clip(as_rgb(wide if wide.ndim == 3 else wide[..., None]), 0, 1)


def _enlarged(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    scaled = Image.fromarray(share.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(scaled if share.shape != size else share, np.float64)


def _colormap(name: str) -> Any:
    try:
        return matplotlib.colormaps[name]
    except KeyError as error:
        raise ValueError(f"cmap: expected a name that matplotlib knows, such as 'viridis', got {name!r}") from error
