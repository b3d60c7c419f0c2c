"""Features, neighbours, embeddings and patches of a whole data set as verbs of the command line."""

import contextlib
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxviz
from jaxviz._files import alone_at, file_name, printable, write_atomically
from jaxviz.activation._patches import OtherRunError
from jaxviz.cli._verbs import UNREADABLE, interrupts
from jaxviz.data._folder import check_apart, check_writable
from jaxviz.data._source import Source, open_source
from jaxviz.image._checks import ImageError
from jaxviz.program._digest import digest_of
from jaxviz.report._map import lay_out
from jaxviz.report._page import Figure, Section, write_page

_Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
_Numbers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")]
_Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")]
_Paths = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]


def features(
    source: _Source,
    /,
    *,
    model: str = "efficientnet_lite0",
    layer: str = "pool",
    pool: Literal["mean", "max", "none"] = "mean",
    size: int = 224,
    batch_size: int = 32,
    store: Path = Path("features"),
) -> None:
    """Compute the features of all images of a source, into a store on disk.

    Args:
        source: A folder, with the folders in it, or tfds:NAME[SPLIT].
        model: A network that `jaxviz weights list` shows.
        layer: Whose values.
        pool: Mean or maximum over the positions of a map, or whole maps.
        size: Side in pixels to which the shorter side of an image is scaled, and to which its centre is cut.
        batch_size: Images at once.
        store: Folder for the features. What is there is not computed again: a run that was stopped goes on, and new
            images are added.
    """
    check_writable(store, "--store")
    found, _ = _features(source, model, layer, None if pool == "none" else pool, size, batch_size, store)
    print(f"{store}: features {found.values.shape} of {layer}")
    _list(found.skipped)


def neighbors(
    source: _Source,
    /,
    *,
    queries: _Paths = (),
    k: int = 5,
    metric: Literal["cosine", "l2"] = "cosine",
    model: str = "efficientnet_lite0",
    layer: str = "pool",
    size: int = 224,
    batch_size: int = 32,
    store: Path = Path("features"),
    out: Path = Path("out"),
    seed: int = 0,
) -> None:
    """Find the images of a source that are most like some others.

    Args:
        source: A folder, with the folders in it, or tfds:NAME[SPLIT].
        queries: Image files; by default six of the source, chosen at random.
        k: Neighbours of each query.
        metric: By angle or by distance of the features.
        model: A network that `jaxviz weights list` shows.
        layer: Whose values, the mean over the positions of a map, are compared.
        size: Side in pixels to which the shorter side of an image is scaled, and to which its centre is cut.
        batch_size: Images at once.
        store: Folder that keeps the features of the source.
        out: Folder for neighbors.png, a row for each query, and neighbors.json: names and distances.
        seed: Of the choice of queries.
    """
    check_apart(Path(source), out, recursive=True)
    check_writable(out)
    found, opened = _features(source, model, layer, "mean", size, batch_size, store)
    rows = {name: i for i, name in enumerate(opened.ids)}
    unread: dict[str, str] = {}
    if queries:
        net, params = jaxviz.load(model)
        with _listed_below():
            asked = jaxviz.features(net, params, list(queries), layer=layer, size=size, batch_size=batch_size)
        if not asked.ids:
            raise ImageError("; ".join(asked.skipped.values()))
        names, values, own, unread = asked.ids, asked.values, 0, asked.skipped
        pictures = [jaxviz.load_image(name, size=96) for name in names]
    else:
        there = len(found.ids)
        chosen = np.random.default_rng(seed).choice(there, min(6, there), replace=False)
        names, values, own = [found.ids[i] for i in chosen], np.stack([found.values[int(i)] for i in chosen]), 1
        pictures = [_picture(opened, rows, name, 96) for name in names]
    near = jaxviz.neighbors(found.values, values, k=min(k + own, len(found.ids)), metric=metric)
    told, shown = {}, []
    for name, picture, indices, distances in zip(names, pictures, near.indices, near.distances, strict=True):
        alike = [(found.ids[i], float(d)) for i, d in zip(indices, distances, strict=True)]
        alike = [pair for pair in alike if not own or pair[0] != name][:k]  # not the query itself
        told[name] = [{"name": other, "distance": round(distance, 6)} for other, distance in alike]
        shown += [picture, *(_picture(opened, rows, other, 96) for other, _ in alike)]
    jaxviz.save_image(out / "neighbors.png", jaxviz.montage(shown, columns=len(shown) // len(names)))
    write_atomically(out / "neighbors.json", json.dumps(told, indent=1).encode())
    print(f"{out / 'neighbors.png'}: a query and its {len(shown) // len(names) - 1} nearest in each row")
    _list(found.skipped | unread)


def embed(
    source: _Source,
    /,
    *,
    perplexity: float | None = None,
    model: str = "efficientnet_lite0",
    layer: str = "pool",
    size: int = 224,
    thumbnail: int = 48,
    batch_size: int = 32,
    store: Path = Path("features"),
    out: Path = Path("out"),
    seed: int = 0,
) -> None:
    """Lay the images of a source out in the plane, similar ones together, by t-SNE of their features.

    Args:
        source: A folder, with the folders in it, or tfds:NAME[SPLIT].
        perplexity: How many neighbours count, roughly; by default 30, or a third of the images if that is less.
        model: A network that `jaxviz weights list` shows.
        layer: Whose values, the mean over the positions of a map, are compared.
        size: Side in pixels to which the shorter side of an image is scaled, and to which its centre is cut.
        thumbnail: Side in pixels of an image in the picture.
        batch_size: Images at once.
        store: Folder that keeps the features of the source.
        out: Folder for embedding.html, a page to move about in, which shows an image's neighbours; embedding.png, the
            images in a grid; and embedding.npz: ids, points, and cells of the grid.
        seed: Of all randomness.
    """
    start = time.perf_counter()
    check_apart(Path(source), out, recursive=True)
    check_writable(out)
    found, opened = _features(source, model, layer, "mean", size, batch_size, store)
    rows = {name: i for i, name in enumerate(opened.ids)}
    if perplexity is None:
        perplexity = min(30.0, (len(found.ids) - 1) / 3)
    points = jaxviz.tsne(np.asarray(found.values), jax.random.key(seed), perplexity=perplexity)
    layout = lay_out(
        points, found.values, found.ids, lambda name: _picture(opened, rows, name, thumbnail), side=thumbnail
    )
    jaxviz.save_image(out / "embedding.png", layout.picture)
    _save(out / "embedding.npz", {"ids": np.array(found.ids), "points": points, "cells": layout.cells})
    code = f"net, params = jaxviz.load({model!r})\n"
    code += f"found = jaxviz.features(net, params, {source!r}, layer={layer!r}, size={size})\n"
    code += f"points = jaxviz.tsne(found.values, jax.random.key({seed}), perplexity={perplexity!r})"
    caption = f"t-SNE of the features at {layer} of {model}; in the grid, moved to squares of their own"
    section = Section(
        id="embedding",
        title=f"{len(found.ids)} images of {Path(source).name}",
        question="Which images are alike to the network?",
        text="Images lie close together if the network's features of them are alike.",
        code=code,
        figures=(Figure("embedding.png", caption, layout.map),),
        seconds=time.perf_counter() - start,
        seed=seed,
        paper="van der Maaten & Hinton 2008",
        settings={"jax": jax.__version__, "jaxviz": _VERSION},
    )
    write_page(out, [section], title="Images by similarity", facts={}, name="embedding.html")
    print(f"{out / 'embedding.html'}: {len(found.ids)} images")
    _list(found.skipped)


def patches(
    source: _Source,
    /,
    *,
    layer: _Names = ("relu4_3",),
    target: _Numbers = (),
    k: int = 9,
    model: str = "vgg16_features",
    size: int = 224,
    batch_size: int = 32,
    out: Path = Path("out"),
    seed: int = 0,
) -> None:
    """Find the patches of a source's images that each channel of a layer, or of several, responds to most.

    Args:
        source: A folder, with the folders in it, or tfds:NAME[SPLIT].
        layer: Whose channels; several layers cost one pass.
        target: Channels to show; by default nine of those that respond, chosen at random.
        k: Patches of each channel.
        model: A network that `jaxviz weights list` shows.
        size: Side in pixels to which the shorter side of an image is scaled, and to which its centre is cut.
        batch_size: Images at once.
        out: Folder for LAYER-patches.png, a row for each channel, and LAYER-patches.npz, of all channels: values, ids,
            positions, boxes. A run that was stopped goes on from patches-state.npz, and one that was finished reads
            only what is new in the source.
        seed: Of the choice of channels.
    """
    check_apart(Path(source), out, recursive=True)
    check_writable(out)
    with alone_at(out / "patches"):  # whose state another run with other settings would replace
        _patches(source, layer, target, k, model, size, batch_size, out, seed)


def _patches(
    source: str,
    layer: Sequence[str],
    target: Sequence[int],
    k: int,
    model: str,
    size: int,
    batch_size: int,
    out: Path,
    seed: int,
) -> None:
    net, params = jaxviz.load(model)
    shapes = jaxviz.layers(net, params, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    for name in set(layer) & set(shapes):  # others are for top_patches to complain about
        _check_channels(name, tuple(target), shapes[name].shape[-1])
    opened, kept = open_source(source), out / "patches-state.npz"
    settings = {"source": source, "layers": list(layer), "k": k, "model": model, "size": size, "jaxviz": _VERSION}
    told = json.dumps(settings | {"params": digest_of(params)}, sort_keys=True)
    due = 0.0
    with interrupts() as interrupted:

        def watch(found: jaxviz.TopPatches) -> bool:
            nonlocal due
            stop, now = interrupted(), time.perf_counter()
            if stop or now >= due or found.seen == len(opened.ids):
                _write_state(kept, found.state, told)
                due = time.perf_counter() + 20 * (time.perf_counter() - now)  # names of millions of images take a while
            print(f"{found.seen} of {len(opened.ids)} images", flush=True)
            return stop

        options: dict[str, Any] = {"layer": layer, "k": k, "size": size, "batch_size": batch_size}
        state = _read_state(kept, told)
        with _listed_below():
            try:
                found = jaxviz.top_patches(net, params, opened, resume=state, callback=watch, **options)
            except OtherRunError as error:
                print(f"{error}; so it starts anew", flush=True)
                found = jaxviz.top_patches(net, params, opened, callback=watch, **options)
    if found.seen < len(opened.ids):
        print(f"Stopped after {found.seen} of {len(opened.ids)} images. The same command goes on from there.")
        raise SystemExit(130)
    rows = {name: i for i, name in enumerate(opened.ids)}
    for name, patches in found.layers.items():
        alive = np.flatnonzero(patches.values[:, 0] > 0)
        some = np.random.default_rng(seed).choice(alive, min(9, len(alive)), replace=False)
        chosen = [channel % len(patches.values) for channel in target] or sorted(some.tolist())
        crops = [crop for channel in chosen for crop in _crops(patches, channel, opened, rows, size)]
        at = out / f"{file_name(name)}-patches.png"
        if crops:
            jaxviz.save_image(at, jaxviz.montage(crops, columns=k))
        values = patches._asdict() | {"ids": np.array(patches.ids)}
        _save(at.with_suffix(".npz"), values)
        print(f"{at}: channels {', '.join(map(str, chosen)) or 'none, for none responds'}")
    _list(found.skipped)


VERBS: dict[str, Callable[..., None]] = {
    "features": features,
    "neighbors": neighbors,
    "embed": embed,
    "patches": patches,
}
_VERSION = version("jaxviz-cnn")


def _features(
    source: str, model: str, layer: str, pool: Any, size: int, batch_size: int, store: Path
) -> tuple[jaxviz.Features, Source]:
    net, params = jaxviz.load(model)
    opened = open_source(source)
    with interrupts() as interrupted:

        def watch(done: int, total: int) -> bool:
            print(f"{done} of {total} images", flush=True)
            return interrupted()

        options: dict[str, Any] = {"layer": layer, "pool": pool, "size": size, "batch_size": batch_size}
        with _listed_below():
            found = jaxviz.features(net, params, opened, store=store, callback=watch, **options)
    left = len({*opened.ids} - {*found.ids} - {*found.skipped})
    if left:
        print(
            f"Stopped after {len(opened.ids) - left} of {len(opened.ids)} images. The same command goes on from there."
        )
        raise SystemExit(130)
    return found, opened


@contextlib.contextmanager
def _listed_below() -> Iterator[None]:
    """Leave the warning about images that could not be read out: `_list` names all of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* could not be read", category=UserWarning)
        yield


def _list(skipped: dict[str, str]) -> None:
    if skipped:
        print(f"{len(skipped)} images could not be read:", file=sys.stderr)
        for name, why in skipped.items():
            print(f"  {printable(name)}: {printable(why)}", file=sys.stderr)


def _picture(source: Source, rows: dict[str, int], name: str, size: int) -> jax.Array:
    return jaxviz.load_image(source.read(rows[name]), size=size)


def _crops(patches: jaxviz.Patches, channel: int, source: Source, rows: dict[str, int], size: int) -> list[jax.Array]:
    found = []
    for name, (top, left, bottom, right) in zip(patches.ids[channel], patches.boxes[channel], strict=True):
        if not name:  # there are fewer images than patches
            found.append(jnp.ones((1, 1, 3)))
            continue
        crop = _picture(source, rows, name, size)[top:bottom, left:right]
        times = max(1, 64 // max(crop.shape))
        found.append(jnp.repeat(jnp.repeat(crop, times, axis=0), times, axis=1))
    return found


def _check_channels(layer: str, target: tuple[int, ...], channels: int) -> None:
    unknown = [channel for channel in target if not -channels <= channel < channels]
    if unknown:
        raise ValueError(
            f"--target: expected channels of {layer}, 0 to {channels - 1}, or -{channels} to -1 from the end, "
            f"got {unknown}"
        )


def _save(path: Path, arrays: dict[str, Any]) -> None:
    write_atomically(path, lambda file: np.savez(file, **arrays))


def _write_state(path: Path, state: dict[str, Any], settings: str) -> None:
    arrays = {f"{name}/{i}": np.asarray(x) for name, best in state["best"].items() for i, x in enumerate(best)}
    rest = {name: value for name, value in state.items() if name != "best"}
    rest["ids"] = rest["ids"][: rest["seen"]]
    _save(path, arrays | {"rest": json.dumps(rest), "settings": settings})


def _read_state(path: Path, settings: str) -> dict[str, Any] | None:
    """Return what a run with the same settings kept; None if there is none to be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as kept:
            rest = json.loads(str(kept["rest"]))
            if str(kept["settings"]) != settings:
                return None
            best = {name: tuple(kept[f"{name}/{i}"] for i in range(3)) for name in json.loads(settings)["layers"]}
            return rest | {"best": best}
    except UNREADABLE:
        return None
