"""A page of images laid out by similarity: to move about in, to search, and to select groups from."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

import jaxviz
from jaxviz._files import write_atomically
from jaxviz._options import check_count
from jaxviz._types import Key
from jaxviz.activation._rows import Features
from jaxviz.data._elements import channels_last
from jaxviz.data._source import Source, open_source
from jaxviz.image._files import read_pixels
from jaxviz.report._map import Layout, lay_out
from jaxviz.report._page import Figure, Section, as_photograph, rendered

_LONGEST = 16_000  # pixels of a picture's side: no browser draws from a larger one


def embedding_page(
    found: Features | ArrayLike,
    source: Any,
    path: str | os.PathLike[str],
    *,
    points: Mapping[str, ArrayLike] | None = None,
    key: Key | None = None,
    labels: Sequence[Any] | None = None,
    title: str = "Images by similarity",
    thumbnail: int = 48,
    near: int = 8,
) -> Path:
    """Write a web page of images laid out by similarity: one file, which needs no network.

    In the page one drags, zooms, and turns what has three dimensions; switches between layouts, or to a grid without
    overlaps, or to dots; points at an image to see it with those nearest to it; finds images by name or label; hides
    labels; and draws around a group to list it and save its names.

    Args:
        found: what `features` returned, or a row of numbers for each image of the source, `(n, ...)`.
        source: the images, any that `features` takes. It may have more than `found`: they are matched by name.
        path: where to write the page; ends in .html.
        points: each image's position, `(n, 2)` or `(n, 3)`, by what the page's buttons call it. The grid is made of the
            first. None: the principal components, two and three; with a `key` before them t-SNE, and UMAP where its
            extra is installed.
        key: the random key of t-SNE and UMAP, if `points` is None.
        labels: a label for each row of `found`, whose color frames the image; None: those of `found`.
        title: the heading.
        thumbnail: the side of an image in pixels.
        near: how many of the most similar images are shown for each.

    Returns:
        The path.

    Raises:
        ValueError: for a path that does not end in .html; points, labels or images of another number than the rows;
            points of other than two or three dimensions; an image that is not in the source; or more images than fit
            into a picture of 16,000 pixels a side. Nothing is written then.

    Example:
        >>> import jax, jaxviz, tempfile
        >>> images = jax.random.uniform(jax.random.key(0), (20, 16, 16, 3))
        >>> found = jaxviz.features(lambda params, images: images, None, images, layer=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = jaxviz.embedding_page(found, images, f"{folder}/map.html", labels=["a", "b"] * 10)
        ...     print(page.name, page.stat().st_size > 20_000)
        map.html True

    Karpathy 2014, t-SNE visualization of CNN codes; van der Maaten & Hinton 2008; McInnes, Healy & Melville 2018.
    """
    path = checked_path(path)
    layout = embedded(found, source, points=points, key=key, labels=labels, thumbnail=thumbnail, near=near)
    section = section_of(layout)
    write_embedding(path, layout, section, title)
    return path


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return where a page goes; raise ValueError unless it is the name of one."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path: expected the name of a page, ending in .html, got {os.fspath(path)!r}")
    return Path(path)


def embedded(
    found: Features | ArrayLike,
    source: Any,
    *,
    points: Mapping[str, ArrayLike] | None,
    key: Key | None,
    labels: Sequence[Any] | None,
    thumbnail: int,
    near: int,
) -> Layout:
    """Return the picture of all images, and the map, of what `embedding_page` is given."""
    check_count("thumbnail", thumbnail, unit="pixel")
    check_count("near", near, least=0)
    opened = open_source(source)
    values, names, labels = _rows(found, opened, labels)
    many = len(names)
    if -(-(many**0.5) // 1) * thumbnail > _LONGEST:
        raise ValueError(
            f"thumbnail: expected a picture of at most {_LONGEST} pixels a side, got {many} images of {thumbnail} "
            "pixels: make them smaller, or show a part of the images"
        )
    layouts = layouts_of(values, key) if points is None else {str(name): np.asarray(x) for name, x in points.items()}
    for name, of in layouts.items():
        if of.ndim != 2 or of.shape[0] != many or of.shape[1] not in (2, 3) or not np.isfinite(of).all():
            raise ValueError(f"points: expected finite numbers ({many}, 2) or ({many}, 3) for {name}, got {of.shape}")
    if not layouts:
        raise ValueError("points: expected at least one layout, got none")
    picture_of = thumbnails(opened, thumbnail)
    flat = next((of for of in layouts.values() if of.shape[1] == 2), next(iter(layouts.values()))[:, :2])
    return lay_out(flat, values, names, picture_of, side=thumbnail, near=near, others=layouts, labels=labels)


def _rows(found: Any, opened: Source, labels: Any) -> tuple[Any, list[str], Any]:
    """Return features, the names of their images, and their labels."""
    if isinstance(found, Features):
        values, names = found.values, list(found.ids)
        labels = found.labels if labels is None else labels
    else:
        values, names = np.asarray(found), list(opened.ids)
    if len(values.shape) < 2 or values.shape[0] != len(names):
        raise ValueError(f"found: expected a row for each of {len(names)} images, got shape {tuple(values.shape)}")
    if len(names) < 2:
        raise ValueError(f"found: expected at least two images, got {len(names)}")
    if labels is not None and len(labels) != len(names):
        raise ValueError(f"labels: expected one for each of {len(names)} images, got {len(labels)}")
    missing = set(names) - set(opened.ids)
    if missing:
        raise ValueError(f"source: expected the images of `found`, got a source without {min(missing)!r}")
    return values, names, None if labels is None else [_plain(label) for label in labels]


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) or (isinstance(label, jax.Array) and not label.ndim) else label


def layouts_of(values: Any, key: Key | None) -> dict[str, np.ndarray]:
    """Return positions by principal components, and with a key by t-SNE and UMAP, as far as there are enough rows."""
    rows = np.asarray(values).reshape(len(values), -1)
    many, layouts = len(rows), {}
    if key is not None and many >= 4:
        of_tsne, of_umap = jax.random.split(key)
        layouts["t-SNE"] = jaxviz.tsne(rows, of_tsne, perplexity=min(30.0, (many - 1) / 3))
        if importlib.util.find_spec("umap") is not None:
            layouts["UMAP"] = jaxviz.umap(rows, of_umap, neighbors=min(15, many - 1))
    components = jaxviz.pca(rows, components=min(3, *rows.shape)).points
    if components.shape[1] == 1:
        components = np.pad(components, ((0, 0), (0, 1)))
    layouts["PCA"] = components[:, :2]
    if components.shape[1] == 3:
        layouts["PCA 3-D"] = components
    return layouts


def thumbnails(opened: Source, size: Any) -> Any:
    """Return a function that reads an image of a source by its name, at a size."""
    rows = {name: i for i, name in enumerate(opened.ids)}

    def read(name: str) -> np.ndarray:
        image = opened.read(rows[name])
        shape: Any = image.shape if hasattr(image, "shape") else ()
        channels = shape[-1] if len(shape) == 3 and not {1, 3, 4} & {shape[0], shape[-1]} else 3  # bands stay bands
        return read_pixels(channels_last(image, channels), size, channels)

    return read


def section_of(layout: Layout, *, caption: str = "", **more: Any) -> Section:
    """Return what the page shows."""
    count, named = len(layout.cells), ", ".join(each["name"] for each in layout.map["layouts"])
    fields: dict[str, Any] = {"code": "", "seconds": 0.0, "seed": None, "paper": ""}
    return Section(
        id="embedding",
        title=f"{count:,} images",
        question="Which images are alike to the network?",
        text="Images lie close together if the network's features of them are alike.",
        figures=(Figure("map", caption or f"Layouts: {named}; in the grid each has a square of its own", layout.map),),
        settings={"jax": jax.__version__, "jaxviz": jaxviz.__version__},
        left_out="",
        **fields | more,
    )


def write_embedding(path: Path, layout: Layout, section: Section, title: str) -> None:
    """Write the page."""
    write_atomically(path, rendered([section], {"map": as_photograph(layout.picture)}, title=title, facts={}))
