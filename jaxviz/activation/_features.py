"""Features of a whole data set, streamed: in memory, or into a store on disk that survives interruptions."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxviz._files import alone_in
from jaxviz._options import check_watch
from jaxviz._types import Images, Net
from jaxviz.activation._rows import Features, InMemory, Rows, hash_of
from jaxviz.activation._store import OnDisk
from jaxviz.data._batches import Loaded, batches, check_readable, read_as, sized
from jaxviz.data._multihost import agreed, rounds, share, wait_for_all
from jaxviz.data._sharding import over_devices, whole_shares
from jaxviz.data._source import open_source
from jaxviz.fast._swap import accelerate
from jaxviz.image._checks import check_whole
from jaxviz.program._axes import Layout
from jaxviz.program._compiled import compiled
from jaxviz.program._digest import digest_of, digest_of_program
from jaxviz.program._edit import dtype_of
from jaxviz.program._once import once
from jaxviz.program._outputs import arranged_shapes, read_arranged
from jaxviz.program._returned import Layer, layer_or_output
from jaxviz.program._tokens import Tokens, checked_tokens
from jaxviz.show._bar import Watcher, followed

Pool = Literal["mean", "max"]


@followed
def features(
    net: Net,
    params: Any,
    source: Any,
    *,
    layer: str | None,
    output: Any = None,
    pool: Pool | None = "mean",
    tokens: Tokens = None,
    size: int | tuple[int, ...] | None = None,
    batch_size: int = 32,
    store: str | os.PathLike[str] | None = None,
    every: int = 1,
    callback: Callable[[Features], Any] | None = None,
    progress: Watcher = False,
) -> Features:
    """Compute the features of all images of a source at one layer.

    Images are read ahead by Grain while the network works; several local devices share each batch. A store is a folder
    with a zarr array, `values`, the names and hashes of its rows, `rows.jsonl`, and the settings it was made with,
    `settings.json`. A run that was stopped, even killed, resumes after the last complete batch and ends with the same
    bytes as an uninterrupted one. Images that the store does not have yet are appended, as are those that have changed:
    files are compared by size and modification time, arrays in memory by content. Images of other sources are
    identified by name; the pixels of a few are compared, and a different data set raises an error. The result covers
    the source's images, in its order, regardless of what else the store holds.

    A store is tied to the parameters and to the traced program: a network that computes something else with the same
    parameters is refused. A new version of JAX may trace the same network to another program; the error then says so,
    and another folder has to be used. Everything read from a store is checked: lost, duplicated or edited lines of the
    journal and missing or truncated chunks of the array when it is opened, other damage by a checksum when a chunk is
    read.

    Under `jax.distributed` all processes make the same call, with a source and a store that all can read. Each process
    reads and computes every n-th batch and returns all rows; the store has the bytes that one process would write.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        source: a folder, including subfolders and links to folders; a list of files; a zip file of images; a tar file
            of samples as WebDataset has them, or several; a `.npy` or `.npz` file; an array of images, or `(images,
            labels)`; "tfds:NAME[SPLIT]"; or a data set: anything with a length and integer indexing, such as those of
            Grain, PyTorch and Hugging Face, or PyTorch's `DataLoader`, which stands for its data set, in the data set's
            order; or anything that can be gone through again and again, such as tf.data and WebDataset. An element is
            an image, an image and its label, or a dictionary. Arrays and tensors hold uint8 or floats in [0, 1], with
            channels last or first. See `open_source`.
        layer: a name that `layers` lists; None: what the network returns.
        output: with `layer=None`, which part the network returns: a key, an attribute, an index, or a tuple of them.
        pool: "mean" or "max" over the positions of a map; None: whole maps. Vectors are not pooled. Tokens
            `(n, tokens, c)` count as a map, without class and register tokens, if the network's program shows their
            grid.
        tokens: the grid, `(rows, columns)`, if the program does not show it, or `(rows, columns, in front)` if the
            layer has more tokens than these: see `grad_cam`.
        size: an int scales an image's shorter side to it and crops the center; (h, w) scales to exactly that size, as
            does (h, w, c), with c channels. By default, arrays that all have one size keep it, and anything else is
            scaled to 224. If `size` does not give the channels, images are read as RGB, or with the channels that the
            network takes if it does not take RGB; gray becomes RGB, and colors gray, as in `load_image`.
        batch_size: images per batch; rounded up to a multiple of the number of local devices.
        store: the folder to keep the features in; None: they are kept in memory.
        every: the number of batches between callbacks. Each collects all rows so far: with a million images, use 100.
        callback: called as `callback(features)` with the rows so far, and at the end; if it returns true, the run ends.
            Its `done` and `total` count images.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called like `callback`.

    Returns:
        `values`, `(n, f)` or `(n, h, w, c)` of float32, a row for each readable image; `ids`, their names; and
        `skipped`, the other images, with the reason; also `labels`. `save_table` writes all of it for pandas, DuckDB
        and xarray.

    Raises:
        ImageError: if the source has no images, or none of them can be read.
        ValueError: for an unknown layer or pool, or a store that is damaged, that was made with other settings or
            another network, or that another run is writing to.

    If more than a tenth of the images cannot be read, there is a warning, too.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images @ params)
        >>> found = jaxviz.features(net, jnp.eye(3), jnp.ones((2, 8, 8, 3)), layer="relu_0", size=8)
        >>> print(found.values.tolist(), found.ids)
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]] ['0', '1']
    """
    if pool not in ("mean", "max", None):
        raise ValueError(f"pool: expected 'mean', 'max' or None, got {pool!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    check_whole("batch_size", batch_size, least=1)
    check_watch(every, callback)
    net = once(net)
    opened, size = sized(open_source(source), size)
    chosen, tokens = layer_or_output(layer, output), checked_tokens(tokens)
    image, shapes = arranged_shapes(net, params, {chosen: _layout(pool)}, size, "features", tokens)
    read_at, shape = read_as(size, image.shape), shapes[chosen]
    row = shape[1:] if pool is None else shape[-1:]
    batch_size, total = whole_shares(batch_size), len(opened.ids)
    compute = functools.partial(_values, net, chosen, pool, tokens)

    with contextlib.nullcontext() if store is None else alone_in(Path(store), what="store"):
        kept: InMemory | OnDisk = InMemory(row)
        if store is not None:
            settings: dict[str, Any] = {"layer": str(chosen), "pool": pool, "size": [*image.shape[1:3]]}
            settings |= {"batch_size": batch_size, "params": digest_of(params)}
            reader = read_arranged(net, {chosen: _layout(pool)}, "features", tokens)
            settings |= {"program": digest_of_program(reader, params, image)}
            kept = OnDisk(Path(store), row, settings)
            kept.check_same(opened, **read_at)
        marks = [opened.mark(i) if kept.on_disk else "" for i in range(total)]
        wanted = [i for i, name in enumerate(opened.ids) if not kept.has(name, marks[i])]
        done = total - len(wanted)
        read = batches(opened, share(wanted, batch_size), **read_at, batch_size=batch_size)
        computed = _computed(compute, params, opened.ids, read, marks, kept.on_disk)
        for number, some in enumerate(rounds(computed, -(-len(wanted) // batch_size)), 1):
            for rows in some:
                kept.add(rows)
                done += len(rows.names) + len(rows.skipped)
            wait_for_all()  # for the first process to have written
            due = number % every == 0 or done == total
            if agreed(callback is not None and due and callback(kept.so_far(opened.ids).told("features", done, total))):
                break
        found = kept.found(opened.ids)
    check_readable(opened, len(found.ids), found.skipped)
    skipped = {**found.skipped, **opened.left_out}
    return Features(found.values, found.ids, skipped, found.labels).told("features", done, total)


def _computed(
    compute: Callable[..., Array],
    params: Any,
    ids: Sequence[str],
    read: Iterator[Loaded],
    marks: list[str],
    hashed: bool,
) -> Iterator[Rows]:
    """Yield the rows of batches."""
    placed, waiting = params, None
    for batch in read:
        images, placed = over_devices(batch.images, placed)
        jax.block_until_ready(waiting)  # otherwise the network may run twice at once, with twice the memory
        values = compute(placed, images)  # continues while the previous batch is written
        if waiting is not None:
            yield _rows(ids, marks, *waiting, hashed)
        waiting = batch, values
    if waiting is not None:
        yield _rows(ids, marks, *waiting, hashed)


def _rows(ids: Sequence[str], marks: list[str], batch: Loaded, values: Array, hashed: bool) -> Rows:
    live = np.flatnonzero(batch.live)
    there = {ids[i]: marks[i] for i in batch.indices.tolist()}
    names = [ids[int(batch.indices[i])] for i in live]
    hashes = [hash_of(batch.images[i]) for i in live] if hashed else []
    marked = {name: there[name] for name in [*names, *batch.skipped] if there[name]}
    return Rows(names, hashes, np.asarray(values)[live], batch.skipped, marked, batch.labels)


@compiled(static_argnums=(0, 1, 2, 3))
def _values(net: Net, layer: Layer, pool: Pool | None, tokens: Tokens, params: Any, images: Images) -> Array:
    read = accelerate(read_arranged(net, {layer: _layout(pool)}, "features", tokens))
    values = read(params, images.astype(dtype_of(params)))[layer]
    return _pooled(values, pool=pool).astype(jnp.float32)


def _layout(pool: Pool | None) -> Layout:
    """Return which axes a layer must have: whole maps only need the images first."""
    return "images" if pool is None else "channels"


def _pooled(values: Array, *, pool: Pool | None) -> Array:
    axes = tuple(range(1, values.ndim - 1))
    if pool is None or not axes:
        return values
    return values.mean(axes) if pool == "mean" else values.max(axes)
