"""What `jaxviz features|neighbors|embed` do: features of a source, computed into a store, and what is made of them."""

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxviz
from jaxviz._files import printable, write_atomically
from jaxviz.activation._table import check_table
from jaxviz.cli._datasets import Embed, Features, Neighbors, Stored
from jaxviz.cli._models import Model, check_layers, load_model
from jaxviz.cli._runs import interrupts, stop
from jaxviz.data._folder import check_apart, check_writable
from jaxviz.data._source import Source, open_source
from jaxviz.image._checks import ImageError
from jaxviz.report._embedding_page import embedded, layouts_of, section_of, write_embedding
from jaxviz.report._map import Layout
from jaxviz.report._page import Section

_SIDE = 96
"""Of an image in the picture of neighbors, in pixels."""


class Pictures:
    """The images of a source by their names."""

    def __init__(self, source: Source):
        self.source = source
        self._rows = {name: i for i, name in enumerate(source.ids)}

    def __call__(self, name: str, size: int | tuple[int, int]) -> jax.Array:
        """Read an image at a size."""
        return jaxviz.load_image(self.source.read(self._rows[name]), size=size)


def features(options: Features) -> None:
    """Compute the features of a source into a store."""
    check_writable(options.store, "--store")
    if options.table:
        check_table(options.table)
    found, _ = _computed(options, load_model(options.model, options.size, output=options.output), options.pool)
    print(f"{options.store}: features {found.values.shape} of {options.layer}")
    if options.table:
        jaxviz.save_table(options.table, found)
        print(f"{options.table}: {len(found.ids)} rows")
    list_skipped(found.skipped)


def _computed(options: Stored, model: Model, pool: str = "mean") -> tuple[jaxviz.Features, Pictures]:
    """Return the features of all images of the source that can be read; what the store has is not computed again."""
    check_layers(options, model, "layer")
    net, params = model.network
    opened = open_source(options.source)
    with interrupts() as interrupted, jaxviz.ProgressBar(always=True) as bar:

        def watch(found: jaxviz.Features) -> bool:
            bar(found)
            return interrupted()

        how: dict[str, Any] = {"pool": None if pool == "none" else pool, "batch_size": options.batch_size}
        how |= {"layer": options.layer, "size": model.size, "store": options.store}
        # What a callback is given is put together anew each time, of a million images in a second.
        every = 1 + len(opened.ids) // 20_000
        with listed_below():
            found = jaxviz.features(net, params, opened, every=every, callback=watch, **how)
    total, left = len(opened.ids), len({*opened.ids} - {*found.ids} - {*found.skipped})
    if left:
        stop(f"Stopped after {total - left} of {total} images. The same command continues from there.")
    return found, Pictures(opened)


@contextlib.contextmanager
def listed_below() -> Iterator[None]:
    """Leave the warning about images that could not be read out: `list_skipped` names all of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* could not be read", category=UserWarning)
        yield


def list_skipped(skipped: dict[str, str]) -> None:
    """Name the images that could not be read, and say why."""
    if skipped:
        print(f"{len(skipped)} images could not be read:", file=sys.stderr)
        for name, why in skipped.items():
            print(f"  {printable(name)}: {printable(why)}", file=sys.stderr)


# Neighbors


class _Queries(NamedTuple):
    names: list[str]
    values: Any
    pictures: list[jax.Array]
    own: bool  # they are images of the source
    skipped: dict[str, str]


def neighbors(options: Neighbors) -> None:
    """Find the images of a source that are most like some others."""
    check_apart(Path(options.source), options.out, recursive=True)
    check_writable(options.out)
    model = load_model(options.model, options.size, output=options.output)
    found, picture = _computed(options, model)
    queries = _given(options, model) if options.queries else _drawn(options, found, picture)
    k = min(options.k + queries.own, len(found.ids))
    near = jaxviz.neighbors(found.values, queries.values, k=k, metric=options.metric)
    told, shown = {}, []
    labels = dict(zip(found.ids, found.labels or [], strict=False))
    label_of = lambda name: {"label": labels[name]} if labels.get(name) is not None else {}
    for name, asked, indices, distances in zip(
        queries.names, queries.pictures, near.indices, near.distances, strict=True
    ):
        alike = [(found.ids[i], float(distance)) for i, distance in zip(indices, distances, strict=True)]
        alike = [pair for pair in alike if not queries.own or pair[0] != name][: options.k]  # not the query itself
        told[name] = [{"name": other, "distance": round(distance, 6)} | label_of(other) for other, distance in alike]
        shown += [asked, *(picture(other, _SIDE) for other, _ in alike)]
    columns = len(shown) // len(queries.names)
    jaxviz.save_image(options.out / "neighbors.png", jaxviz.montage(shown, columns=columns))
    write_atomically(options.out / "neighbors.json", json.dumps(told, indent=1).encode())
    print(f"{options.out / 'neighbors.png'}: a query and its {columns - 1} nearest in each row")
    list_skipped(found.skipped | queries.skipped)


def _given(options: Neighbors, model: Model) -> _Queries:
    """Return the features of the images that were named."""
    net, params = model.network
    how: dict[str, Any] = {"layer": options.layer, "size": model.size, "batch_size": options.batch_size}
    with listed_below():
        asked = jaxviz.features(net, params, list(options.queries), **how)
    if not asked.ids:
        raise ImageError("; ".join(asked.skipped.values()))
    pictures = [jaxviz.load_image(name, size=_SIDE) for name in asked.ids]
    return _Queries(asked.ids, asked.values, pictures, own=False, skipped=asked.skipped)


def _drawn(options: Neighbors, found: jaxviz.Features, picture: Pictures) -> _Queries:
    """Return six images of the source, chosen at random."""
    there = len(found.ids)
    chosen = np.random.default_rng(options.seed).choice(there, min(6, there), replace=False)
    names = [found.ids[i] for i in chosen]
    values = np.stack([found.values[int(i)] for i in chosen])
    return _Queries(names, values, [picture(name, _SIDE) for name in names], own=True, skipped={})


# Embeddings


def embed(options: Embed) -> None:
    """Lay the images of a source out in the plane, similar ones together."""
    start = time.perf_counter()
    check_apart(Path(options.source), options.out, recursive=True)
    check_writable(options.out)
    model = load_model(options.model, options.size, output=options.output)
    found, picture = _computed(options, model)
    perplexity = options.perplexity
    if perplexity is None:
        perplexity = min(30.0, (len(found.ids) - 1) / 3)
    key = jax.random.key(options.seed)
    points = jaxviz.tsne(np.asarray(found.values), key, perplexity=perplexity)
    layouts = {"t-SNE": points} | layouts_of(np.asarray(found.values), None)
    if options.umap:
        neighbors = min(15, len(found.ids) - 1)
        layouts["UMAP"] = jaxviz.umap(np.asarray(found.values), key, neighbors=neighbors)
    how: dict[str, Any] = {"points": layouts, "key": None, "labels": None, "near": 8}
    layout = embedded(found, picture.source, thumbnail=options.thumbnail, **how)
    jaxviz.save_image(options.out / "embedding.png", layout.picture)
    arrays: dict[str, Any] = {"ids": np.array(found.ids), "points": points, "cells": layout.cells}
    write_atomically(options.out / "embedding.npz", lambda file: np.savez(file, **arrays))
    seconds = time.perf_counter() - start
    section = _section(options, model, perplexity, layout, seconds)
    write_embedding(options.out / "embedding.html", layout, section, "Images by similarity")
    print(f"{options.out / 'embedding.html'}: {len(found.ids)} images")
    list_skipped(found.skipped)


def _section(options: Embed, model: Model, perplexity: float, layout: Layout, seconds: float) -> Section:
    """Return what the page shows, with the code that makes it."""
    source, layer = options.source, options.layer
    code = f"{model.code}\n"
    code += f"found = jaxviz.features(net, params, {source!r}, layer={layer!r}, size={model.size})\n"
    code += f"points = jaxviz.tsne(found.values, jax.random.key({options.seed}), perplexity={perplexity!r})\n"
    code += f'jaxviz.embedding_page(found, {source!r}, "embedding.html", points={{"t-SNE": points}})'
    caption = f"Of the features at {layer} of {model.name}; in the grid, moved to squares of their own"
    told = {"code": code, "seconds": seconds, "seed": options.seed, "paper": "van der Maaten & Hinton 2008"}
    section = section_of(layout, caption=caption, **told)
    return section._replace(title=f"{len(layout.cells)} images of {Path(source).name}")
