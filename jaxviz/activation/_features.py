"""Features of a whole data set, streamed: in memory, or into a store on disk that outlives an interruption."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxviz._accelerate import accelerate
from jaxviz._axes import Layout
from jaxviz._devices import over_devices, whole_shares
from jaxviz._image import check_whole, sides_of, write_atomically
from jaxviz._interpret import dtype_of
from jaxviz._outputs import arranged_shapes, read_arranged
from jaxviz._processes import agreed, rounds, share, wait_for_all
from jaxviz._programs import compiled
from jaxviz._types import Images, Net
from jaxviz.data._source import Loaded, batches, open_source

Pool = Literal["mean", "max"]


class Features(NamedTuple):
    """A row for each image that could be read."""

    values: Any
    """`(n, f)` or whole maps `(n, h, w, c)`: a numpy array, or a tensorstore array, of which `[i:j]` reads a part."""
    ids: list[str]
    skipped: dict[str, str]
    """Of images that could not be read: why."""


def features(
    net: Net,
    params: Any,
    source: Any,
    *,
    layer: str,
    pool: Pool | None = "mean",
    size: int | tuple[int, int] = 224,
    batch_size: int = 32,
    store: str | os.PathLike[str] | None = None,
    callback: Callable[[int, int], Any] | None = None,
) -> Features:
    """Compute the features of all images of a source at one layer.

    Images are read ahead by Grain while the network works; several local devices share each batch. A store is a folder
    with a zarr array, `values`, the names and hashes of its rows, `rows.jsonl`, and what it was made with,
    `settings.json`. A run that was stopped, even killed, goes on after the last whole batch and leaves the bytes that
    an undisturbed one leaves. Images that the source has and the store has not are added behind the others; so are
    those that have changed since: files by their size and time of change, arrays by their content. Other sources are
    taken by the names of their images alone. What comes back is of the source's images, in its order, whatever else
    the store holds.

    Under `jax.distributed` all processes call it alike, on a source and a store that all of them can read. Each one
    reads and computes every n-th batch and gets all rows; the store has the bytes that one process would write.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        source: a folder; a list of files; an array of images; anything with a length that holds images, such as a
            Grain source; or "tfds:NAME[SPLIT]".
        layer: a name that `layers` lists.
        pool: "mean" or "max" over the positions of a map; None: whole maps. A vector stays as it is.
        size: an int scales an image's shorter side to it and cuts out the centre; (h, w) scales to exactly that.
        batch_size: images at once; rounded up to a multiple of the number of local devices.
        store: folder to keep the features in; None: in memory.
        callback: called as `callback(done, total)` after each batch; if it returns true, the run ends.

    Raises:
        ImageError: for a source without images.
        ValueError: for a layer that is unknown, another pool, or a store that was made with other settings, or that
            another run is writing to.

    Images that cannot be read are skipped and listed.

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
    opened = open_source(source)
    height, width = sides_of(size)
    shape = arranged_shapes(net, params, {layer: _layout(pool)}, (height, width), "features")[layer]
    row = shape[1:] if pool is None else shape[-1:]
    batch_size = whole_shares(batch_size)
    settings = {"layer": layer, "pool": pool, "size": [height, width], "batch_size": batch_size}
    total = len(opened.ids)

    def computed(wanted: list[int], marks: list[str], hashed: bool) -> Iterator[_Rows]:
        placed, waiting = params, None
        for batch in batches(opened, share(wanted, batch_size), size=size, batch_size=batch_size):
            images, placed = over_devices(batch.images, placed)
            jax.block_until_ready(waiting)  # or else the network may run twice at once, with twice the memory
            values = _values(net, layer, pool, placed, images)  # runs on while the batch before is written
            if waiting is not None:
                yield _rows(opened.ids, marks, *waiting, hashed)
            waiting = batch, values
        if waiting is not None:
            yield _rows(opened.ids, marks, *waiting, hashed)

    with contextlib.nullcontext() if store is None else _alone_in(Path(store)):
        kept: _InMemory | _OnDisk = _InMemory(row)
        if store is not None:
            kept = _OnDisk(Path(store), row, settings | {"params": digest_of(params)})
        marks = [opened.mark(i) if kept.on_disk else "" for i in range(total)]
        wanted = [i for i, name in enumerate(opened.ids) if not kept.has(name, marks[i])]
        done = total - len(wanted)
        for some in rounds(computed(wanted, marks, kept.on_disk), -(-len(wanted) // batch_size)):
            for rows in some:
                kept.add(rows)
                done += len(rows.names) + len(rows.skipped)
            if agreed(callback is not None and callback(done, total)):
                break
        return kept.found(opened.ids)


class _Rows(NamedTuple):
    """What becomes of a batch."""

    names: list[str]
    hashes: list[str]
    """Of the images; none where nobody asks."""
    values: Any
    skipped: dict[str, str]
    marks: dict[str, str]
    """Of the images, and of those that could not be read, as their source gives them."""


def _rows(ids: Sequence[str], marks: list[str], batch: Loaded, values: Array, hashed: bool) -> _Rows:
    live = np.flatnonzero(batch.live)
    there = {ids[i]: marks[i] for i in batch.indices.tolist()}
    names = [ids[int(batch.indices[i])] for i in live]
    hashes = [hashlib.sha256(batch.images[i].data).hexdigest() for i in live] if hashed else []
    marked = {name: there[name] for name in [*names, *batch.skipped] if there[name]}
    return _Rows(names, hashes, np.asarray(values)[live], batch.skipped, marked)


@compiled(static_argnums=(0, 1, 2))
def _values(net: Net, layer: str, pool: Pool | None, params: Any, images: Images) -> Array:
    read = accelerate(read_arranged(net, {layer: _layout(pool)}, "features"))
    values = read(params, images.astype(dtype_of(params)))[layer]
    return _pooled(values, pool=pool).astype(jnp.float32)


def _layout(pool: Pool | None) -> Layout:
    """Return which axes a layer must have: whole maps are taken as they are, but for the images being first."""
    return "images" if pool is None else "channels"


def _pooled(values: Array, *, pool: Pool | None) -> Array:
    axes = tuple(range(1, values.ndim - 1))
    if pool is None or not axes:
        return values
    return values.mean(axes) if pool == "mean" else values.max(axes)


def digest_of(params: Any) -> str:
    """Return a hash of parameters: of their places, types, shapes and values."""
    whole = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        is_key = jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        whole.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


class _Kept:
    """Which row each image has, and why others have none; of what a store lists twice the last counts."""

    on_disk = False

    def __init__(self, row: tuple[int, ...]):
        self.row = row
        self.count = 0
        self.places: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self.marks: dict[str, str] = {}

    def has(self, name: str, mark: str) -> bool:
        return (name in self.places or name in self.skipped) and mark in ("", self.marks.get(name, mark))

    def list_rows(self, names: Iterable[str], skipped: dict[str, str], marks: dict[str, str]) -> None:
        for name in names:
            self.skipped.pop(name, None)
            self.places[name] = self.count
            self.count += 1
        for name, why in skipped.items():
            self.places.pop(name, None)
            self.skipped[name] = why
        self.marks |= marks

    def of_source(self, values: Any, ids: Sequence[str]) -> Features:
        there = [name for name in ids if name in self.places]
        places = [self.places[name] for name in there]
        rows = slice(0, len(places)) if places == list(range(len(places))) else np.array(places)
        return Features(values[rows], there, {name: self.skipped[name] for name in ids if name in self.skipped})


class _InMemory(_Kept):
    def __init__(self, row: tuple[int, ...]):
        super().__init__(row)
        self.parts: list[np.ndarray] = [np.zeros((0, *row), np.float32)]

    def add(self, rows: _Rows) -> None:
        self.parts.append(rows.values)
        self.list_rows(rows.names, rows.skipped, rows.marks)

    def found(self, ids: Sequence[str]) -> Features:
        return self.of_source(np.concatenate(self.parts[1:] or self.parts), ids)


class _OnDisk(_Kept):
    """A folder with rows. What `rows.jsonl` does not list yet counts as not written, whatever the array holds.

    Of several processes the first one writes, and the others, on whatever machines, read.
    """

    on_disk = True

    def __init__(self, folder: Path, row: tuple[int, ...], settings: dict[str, Any]):
        super().__init__(row)
        self.folder, self.journal = folder, folder / "rows.jsonl"
        self.writes = jax.process_index() == 0
        if not self.writes:
            wait_for_all()  # for the first one to come to its own, below
        kept = claim(folder / "settings.json", settings)
        other = [f"{name} {kept[name]} and not {value}" for name, value in settings.items() if name in kept]
        if other:
            raise ValueError(f"{folder}: this store holds features with {', '.join(other)}; give another folder")
        lines = self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if whole != lines:  # killed while the last one was written
            write_atomically(self.journal, b"".join(whole))
        for line in whole:
            batch = json.loads(line)
            self.list_rows(batch["hashes"], batch["skipped"], batch.get("marks", {}))
        self.array = _open_array(folder / "values", row)
        if self.writes:
            wait_for_all()

    def add(self, rows: _Rows) -> None:
        if self.writes:
            self._write(rows)
        self.list_rows(rows.names, rows.skipped, rows.marks)

    def _write(self, rows: _Rows) -> None:
        self.array = self.array.resize(exclusive_max=[self.count + len(rows.names), *self.row]).result()
        if rows.names:
            self.array[self.count :].write(rows.values).result()
        hashes = dict(zip(rows.names, rows.hashes, strict=True))
        with self.journal.open("a") as file:
            file.write(json.dumps({"hashes": hashes, "skipped": rows.skipped, "marks": rows.marks}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def found(self, ids: Sequence[str]) -> Features:
        wait_for_all()
        return self.of_source(self.array if self.writes else _open_array(self.folder / "values", self.row), ids)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs from writing to a store, where the system and the file system can."""
    if jax.process_index() > 0:  # the first process writes, and has the lock
        yield
        return
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another run is writing to this store; wait for it, or give another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def claim(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write the settings of a store that has none yet; return those that differ, as the store has them."""
    told = json.loads(json.dumps(settings, default=float))
    if not file.exists():
        write_atomically(file, json.dumps(told, indent=1).encode())
    kept = json.loads(file.read_text())
    return {name: kept.get(name) for name in told | kept if kept.get(name) != told.get(name)}


def _open_array(folder: Path, row: tuple[int, ...]) -> Any:
    import tensorstore

    where = {"driver": "zarr3", "kvstore": {"driver": "file", "path": os.path.abspath(folder)}}
    if (folder / "zarr.json").exists():
        return tensorstore.open(where, open=True).result()
    rows = max(1, 2**22 // (4 * max(1, math.prod(row))))  # 4 MB a chunk
    chunks = tensorstore.ChunkLayout(chunk_shape=[rows, *row])
    options = {"dtype": tensorstore.float32, "shape": [0, *row], "chunk_layout": chunks}
    return tensorstore.open(where, create=True, **options).result()
