"""Checkpoints of JAX programs: Flax's msgpack files and Orbax's folders."""

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy the name "bfloat16")
import numpy as np

from jaxviz._extras import extra
from jaxviz.models._keras_files import EXPANSION, SLACK
from jaxviz.models._trees import Budget, TensorFileError, named_tensors


def read_msgpack(path: Path, *, part: str | None = None) -> dict[str, np.ndarray]:
    """Read what `flax.serialization.to_bytes` wrote: data only, with sizes that its reader checks against the file."""
    with extra("weights"):
        from flax import serialization

    data = path.read_bytes()
    tree = serialization.msgpack_restore(data)
    if not isinstance(tree, dict):
        raise TensorFileError(f"expected a tree of tensors in {path}, as flax.serialization writes, got a {type(tree)}")
    return named_tensors(tree, Budget(len(data)), np.ndarray, part=part)


def is_orbax(folder: Path) -> bool:
    """Return whether Orbax wrote a folder; a CheckpointManager's holds one such folder for each step."""
    return (folder / "_METADATA").is_file() or (folder / "_CHECKPOINT_METADATA").is_file() or bool(_steps(folder))


def read_orbax(folder: Path, *, part: str | None = None) -> dict[str, np.ndarray]:
    """Read a folder that Orbax wrote; a CheckpointManager's must have just one step.

    The files are first read into memory, and the arrays from there, so nothing in them can lead to other files.
    """
    folder = _one_step(folder)
    files = dict(_files(folder))
    if "_METADATA" not in files:
        raise TensorFileError(f"expected _METADATA in {folder}, as Orbax writes it for a tree of arrays, got none")
    metadata = json.loads(files["_METADATA"])
    tree: dict[str, Any] = {}
    limit = EXPANSION * sum(map(len, files.values())) + SLACK
    open_array = _opener(files, metadata)
    for entry in metadata["tree_metadata"].values():
        keys = [str(key["key"]) for key in entry["key_metadata"]]
        if entry["value_metadata"]["value_type"] not in ("jax.Array", "np.ndarray"):
            continue
        array = open_array(".".join(keys))
        limit -= max([array.size, *map(math.prod, _chunks(array))]) * array.dtype.numpy_dtype.itemsize
        if limit < 0:
            raise TensorFileError(f"expected arrays about as large as {folder}, got over {EXPANSION} times its size")
        inner = tree
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = np.asarray(array.read().result())
    return named_tensors(tree, Budget(len(files["_METADATA"])), np.ndarray, part=part)


def _chunks(array: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the chunks that are unpacked at once, which may be larger than the array."""
    layout = array.chunk_layout
    return [chunk.shape for chunk in (layout.read_chunk, layout.write_chunk) if chunk.shape]


def _one_step(folder: Path) -> Path:
    steps = _steps(folder)
    if len(steps) > 1:
        raise TensorFileError(f"expected one checkpoint, got several steps: name one, such as {steps[-1]}")
    folder = steps[0] if steps else folder
    if (folder / "_METADATA").is_file():
        return folder
    inner = [path.parent for path in folder.glob("*/_METADATA")]
    if len(inner) > 1:
        raise TensorFileError(f"expected one tree of arrays, got several: name one, such as {inner[0]}")
    return inner[0] if inner else folder


def _steps(folder: Path) -> list[Path]:
    found = [path.parent for path in folder.glob("*/_CHECKPOINT_METADATA")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a folder by relative path; links and anything else are refused."""
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise TensorFileError(f"expected only files and folders, got a link or a special file: {path}")
            if stat.S_ISREG(mode):
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def _opener(files: dict[str, bytes], metadata: dict[str, Any]) -> Any:
    """Return a function that opens an array of a checkpoint by name."""
    with extra("data"):
        import tensorstore

    context = tensorstore.Context()
    memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
    for path, data in files.items():
        memory.write(path, data).result()
    base: Any = {"driver": "memory"}
    if "manifest.ocdbt" in files:
        base = {"driver": "ocdbt", "base": base}

    def open_array(name: str) -> Any:
        spec = {
            "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
            "kvstore": {**base, "path": f"{name}/"},
            # A missing file is an error, not zeros; but older checkpoints leave out arrays of zeros.
            "fill_missing_data_reads": not metadata.get("store_array_data_equal_to_fill_value"),
        }
        return tensorstore.open(spec, context=context, open=True).result()

    return open_array
