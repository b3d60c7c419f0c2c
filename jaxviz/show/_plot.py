"""`plot`: images and maps side by side, as a figure for a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from jaxviz._extras import extra
from jaxviz._options import check_batch, check_count, check_number
from jaxviz.show._brief import concrete
from jaxviz.show._entries import Entry, Kind, entries_of
from jaxviz.show._maps import SIGNS, Sign
from jaxviz.show._shown import look_of, parts_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["heat_map", "blended_heat_map", "masked_image", "alpha_scaling", "colors"]
Scale = Literal["each", "row", "shared"]


def plot(
    what: Any,
    *,
    images: Any = None,
    kind: Kind | None = None,
    method: Method = "heat_map",
    sign: Sign | None = None,
    scale: Scale = "each",
    outlier_perc: float | int = 1,
    cmap: str | None = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    show_images: bool = True,
    title: str | None = None,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    fig_size: tuple[float, float] | None = None,
    path: str | Path | None = None,
    dpi: int = 200,
) -> "Figure":
    """Draw images and maps side by side, or curves and points in one chart, as a figure of matplotlib.

    Maps with channels are drawn by their sum over these: the effect of changing all channels of a pixel together, to
    first order. Maps with negative values are centered on zero. Names are those of Captum's `visualization` where it
    has them. Neither pyplot's figures nor its backend are touched; a notebook shows the figure.

    Args:
        what: a result of any function here, images `(n, h, w, c)` in [0, 1], maps `(n, h, w)` or `(n, h, w, c)`, or
            several of them: a list, or a dictionary whose names label the rows, such as methods or values of a sweep. A
            list may also be of single images `(h, w, c)` or maps `(h, w)`, of any sizes. Numbers `(n,)` are drawn as a
            line, places in the plane `(n, 2)` as points.
        images: `(n, h, w, c)` in [0, 1], what the maps explain: a first row, and what is below maps that are blended.
        kind: "images" or "maps", where an array with channels may be either; None: images are in [0, 1].
        method: of maps: "heat_map" alone; "blended_heat_map" over the gray image; "masked_image" and "alpha_scaling",
            the image where the map is large, on black and on white; or "colors", RGB around middle gray.
        sign: which values of maps count: "all", "positive", "negative" or "absolute_value"; None: all if there are
            negative ones.
        scale: what shares a scale of colors: "each" map has its own; maps of a "row" share one, such as those of one
            method; or "shared" by all.
        outlier_perc: the percentage of the largest absolute values on a scale that is clipped, at least 0, below 100.
        cmap: the name of one of matplotlib's colormaps; None: "RdBu_r" for sign "all", otherwise "inferno".
        alpha_overlay: weight of the colors over an image, in [0, 1].
        show_colorbar: whether to draw a color bar for each scale.
        show_images: whether the images are drawn as a first row, too.
        title: above the figure.
        titles: above the columns: one for each.
        columns: the number of columns; all rows then run on from each other. None: each row has its own lines, of at
            most eight.
        fig_size: width and height in inches; None: by the number of images.
        path: a file to write, whose suffix is .png, .svg, .pdf or .webp.
        dpi: of files of pixels, in pixels per inch.

    Returns:
        The figure, a `matplotlib.figure.Figure`.

    Raises:
        ValueError: for what is neither images nor maps, what may be both, values that are not finite, images that are
            not one for each map, and options of the wrong kind or out of range.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> maps = jnp.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8)
        >>> two = {"gradient": maps, "input x gradient": maps / 2}
        >>> figure = jaxviz.plot(two, columns=8, scale="shared", show_colorbar=True)
        >>> print(len(figure.axes), figure.axes[0].images[0].get_clim() == figure.axes[7].images[0].get_clim())
        9 True

    Kokhlikyan et al. 2020, Captum: A Unified and Generic Model Interpretability Library for PyTorch (its names).
    """
    _check(kind, method, sign, scale, outlier_perc, alpha_overlay, columns, path)
    check_count("dpi", dpi)
    with extra("plot"):
        from jaxviz.show import _axes, _figure

    charted = _charted(what)
    if charted is not None:
        from jaxviz.show._charts import chart

        figure = chart(*charted, size=fig_size or (5.0, 3.2))
        figure.suptitle(title or "")
    else:
        entries = entries_of(what, kind or (None if images is None else "maps"))
        style = _axes.Style(method, sign, scale, outlier_perc, cmap, alpha_overlay, show_colorbar)
        if not entries:
            raise ValueError("plot: expected at least one image or map, got none")
        under = _under(images, entries, method)
        grid = _axes.Grid(entries, under, shows_images=show_images, columns=columns, titles=titles)
        figure = _axes.drawn(grid, style, title, fig_size)
    if path is not None:
        _figure.save(figure, path, dpi=dpi)
    return figure


def _check(
    kind: Any, method: Any, sign: Any, scale: Any, outlier_perc: Any, alpha_overlay: Any, columns: Any, path: Any
) -> None:
    known = {"method": (method, get_args(Method)), "sign": (sign, (None, *SIGNS)), "scale": (scale, get_args(Scale))}
    known["kind"] = kind, (None, *get_args(Kind))
    for name, (value, values) in known.items():
        if value not in values:
            raise ValueError(f"{name}: expected {', '.join(map(repr, values[:-1]))} or {values[-1]!r}, got {value!r}")
    check_number("outlier_perc", outlier_perc, "of at least 0 and below 100", lambda x: (x >= 0) & (x < 100))
    check_number("alpha_overlay", alpha_overlay, "in [0, 1]", lambda x: (x >= 0) & (x <= 1))
    if columns is not None:
        check_count("columns", columns)
    if path is not None:  # before the work
        with extra("plot"):
            from jaxviz.show._figure import suffix_of

        suffix_of(path)


def _charted(what: Any) -> tuple[dict[str, np.ndarray], str] | None:
    """Return the lines or points of a result, or of several by name; None if there are none."""
    named = what if isinstance(what, dict) else {"": what}
    looks = [look_of(part) for part in named.values()]
    for is_kind, chart in ((_is_line, "lines"), (_is_points, "points")):
        if named and all(map(is_kind, named.values())):
            return {name: np.asarray(values) for name, values in named.items()}, chart
    kinds = {look.kind if look else None for look in looks}
    if not kinds & {"lines", "points"}:
        return None
    if len(kinds) > 1:
        raise ValueError("plot: expected either results that are curves or images and maps, got both")
    found = {
        f"{name} {part}".strip(): values
        for (name, result), look in zip(named.items(), looks, strict=True)
        for part, values in parts_of(result, look).items()  # type: ignore[arg-type]
    }
    return found, str(kinds.pop())


def _is_line(what: Any) -> bool:
    return hasattr(what, "dtype") and np.ndim(what) == 1 and np.dtype(what.dtype).kind in "biuf" and len(what) > 0


def _is_points(what: Any) -> bool:
    return hasattr(what, "dtype") and np.ndim(what) == 2 and np.shape(what)[1] == 2 and len(what) > 0


def _under(images: Any, entries: Sequence[Entry], method: Method) -> list[np.ndarray] | None:
    """Return the image below each map of a row."""
    maps = [entry for entry in entries if entry.kind == "maps"]
    if images is None:
        if maps and method in ("blended_heat_map", "masked_image", "alpha_scaling"):
            raise ValueError(f"images: expected the images that the maps explain for method {method!r}, got none")
        return None
    check_batch("images", images)
    below = concrete(images)
    if below is None:
        raise ValueError("images: expected concrete arrays, got traced ones; call plot outside of jit, vmap and grad")
    for entry in maps:
        if len(entry.panels) != len(below):
            raise ValueError(f"images: expected one for each of {len(entry.panels)} maps, got {len(below)}")
    return list(below)
