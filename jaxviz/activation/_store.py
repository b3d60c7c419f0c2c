"""A folder that stores rows for images: an array, a journal of the images they belong to, and the settings.

Everything read is checked: the array's chunks by their checksums (zarr's crc32c), and missing or cut ones when the
folder is opened; the journal's lines by their checksums and the number of their first row. Chunks are compressed: by
43% for EfficientNet-Lite0's last pooled features, half of them zeros, and by 8% for maps without zeros. Shuffling the
bytes before saves less of the former.
"""

import contextlib
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxviz._extras import extra
from jaxviz._files import write_atomically
from jaxviz.activation._rows import Features, Kept, Rows, hash_of
from jaxviz.data._elements import channels_last
from jaxviz.data._multihost import wait_for_all
from jaxviz.data._source import Source
from jaxviz.image._checks import ImageError
from jaxviz.image._files import read_pixels

_FORMAT = 2  # of the folder; the first one had no checksums
_CHUNK = 2**22  # bytes
_LOOKED_AT = 8  # images whose pixels are compared if a source cannot tell whether they have changed


class OnDisk(Kept):
    """A folder with rows. Rows that `rows.jsonl` does not list count as not written, whatever the array holds.

    With several processes, the first one writes, and the others, on any machine, read.
    """

    on_disk = True

    def __init__(self, folder: Path, row: tuple[int, ...], settings: dict[str, Any]):
        super().__init__(row)
        self.folder, self.journal, self.ahead = folder, folder / "rows.jsonl", settings["batch_size"]
        self.writes = jax.process_index() == 0
        self.hashes: dict[str, bytes] = {}
        if not self.writes:
            wait_for_all()  # for the first process to reach its own call, below
        _check_settings(folder, settings)
        lines = self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        for number, line in enumerate(whole, 1):
            self._list(line, number)
        self.array = _open_array(folder, row, self.count, self.ahead)
        if whole != lines and self.writes:  # killed while the last one was written
            write_atomically(self.journal, b"".join(whole))
        if self.writes:
            wait_for_all()

    def _list(self, line: bytes, number: int) -> None:
        try:
            batch = json.loads(line)
            checked = batch.pop("crc32") == zlib.crc32(json.dumps(batch).encode())
        except (ValueError, KeyError, AttributeError, TypeError):
            checked, batch = False, {}
        if not checked:
            raise _damaged(self.folder, f"line {number} of rows.jsonl is not as it was written")
        if batch["first"] != self.count:
            raise _damaged(
                self.folder,
                f"line {number} of rows.jsonl begins at row {batch['first']}, where row {self.count} belongs: lines "
                "were lost, doubled or moved",
            )
        self.list_rows(batch["hashes"], batch["skipped"], batch["marks"], batch["labels"])
        self.hashes |= {name: bytes.fromhex(hash) for name, hash in batch["hashes"].items() if name not in self.marks}

    def check_same(self, source: Source, size: Any, channels: int) -> None:
        """Raise ValueError if images that a source identifies only by name are not those the rows were computed from.

        A data set's images are named by their numbers, as are another data set's.
        """
        there = [(i, name) for i, name in enumerate(source.ids) if name in self.places and name in self.hashes]
        for at in dict.fromkeys(np.linspace(0, len(there) - 1, min(len(there), _LOOKED_AT)).astype(int).tolist()):
            i, name = there[at]
            try:
                same = (
                    hash_of(read_pixels(channels_last(source.read(i), channels), size, channels))
                    == self.hashes[name].hex()
                )
            except ImageError:
                same = False
            if not same:
                raise ValueError(
                    f"{self.folder}: this store holds features of other images: image {name} is not the one that its "
                    "row was computed from, or is read differently each time (as with random crops, or by another "
                    "version of Pillow); give another folder"
                )

    def add(self, rows: Rows) -> None:
        if self.writes:
            self._write(rows)
        self.list_rows(rows.names, rows.skipped, rows.marks, rows.labels)

    def _write(self, rows: Rows) -> None:
        with _named(self.folder):
            self.array = self.array.resize(exclusive_max=[self.count + len(rows.names), *self.row]).result()
            if rows.names:
                self.array[self.count :].write(rows.values).result()
        hashes = dict(zip(rows.names, rows.hashes, strict=True))
        line = {"first": self.count, "hashes": hashes, "skipped": rows.skipped}
        line |= {"marks": rows.marks, "labels": rows.labels}
        line["crc32"] = zlib.crc32(json.dumps(line).encode())
        with self.journal.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def found(self, ids: Sequence[str]) -> Features:
        wait_for_all()
        return self.so_far(ids)

    def so_far(self, ids: Sequence[str]) -> Features:
        """Return what the first process has written; other processes have to wait for it first."""
        array = self.array if self.writes else _open_array(self.folder, self.row, self.count, self.ahead)
        return self.of_source(StoredRows(array, self.folder), ids)


class StoredRows:
    """Rows on disk: a tensorstore array whose errors name the store and what to do.

    `[i:j]`, or an array of indices, selects a part, which `numpy.asarray` reads; everything else is tensorstore's.
    """

    def __init__(self, array: Any, folder: Path):
        self.array, self.folder = array, folder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("array", "folder"):
            raise AttributeError(name)
        return getattr(self.array, name)

    def __getitem__(self, key: Any) -> "StoredRows":
        return StoredRows(self.array[key], self.folder)

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype, which JAX asks for."""
        return self.array.dtype.numpy_dtype

    def __len__(self) -> int:
        return self.array.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("expected copy=None or copy=True: rows on disk are read into a new array")
        with _named(self.folder):
            return np.asarray(self.array.read().result(), dtype)


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Let tensorstore's errors for damaged files name the store and what to do."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT")):
            raise
        raise _damaged(folder, str(error).partition(" [tensorstore_spec")[0]) from error


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(
        f"{folder}: this store is damaged: {what}; restore the folder from a copy, or delete it, and its features are "
        "computed again"
    )


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    notes = {"jax": jax.__version__}
    kept = claim(folder / "settings.json", settings | {"format": _FORMAT}, notes=notes, of=("rows.jsonl", "values"))
    if "format" in kept:
        raise ValueError(
            f"{folder}: this store was made by {'a later' if kept['format'] else 'an earlier'} version of jaxviz, with "
            "other checks of what is in it; give another folder, or delete this one"
        )
    # The program is that of the layer, at this size: it differs along with them.
    told = [name for name in settings if name in kept and name != "program"]
    other = [f"{name} {kept[name]} and not {settings[name]}" for name in told]
    if not other and "program" in kept:
        other = [f"another network, which has these parameters but computes something else{traced_by(folder)}"]
    if other:
        raise ValueError(f"{folder}: this store holds features with {', '.join(other)}; give another folder")


def traced_by(folder: Path) -> str:
    """Return a remark on a program that differs, if another version of JAX traced it."""
    version = json.loads((folder / "settings.json").read_text()).get("jax", jax.__version__)
    if version == jax.__version__:
        return ""
    return f" (or jax {version} traced it otherwise than {jax.__version__}, which is used now)"


def claim(
    file: Path, settings: dict[str, Any], *, notes: Mapping[str, Any] | None = None, of: Iterable[str] = ()
) -> dict[str, Any]:
    """Write the settings of a store that has none yet; return those that differ, as the store has them.

    Args:
        file: the settings' file in the store's folder.
        settings: what the store's content depends on.
        notes: what is written but not compared.
        of: files that exist only once there are settings; if there are any without settings, those were lost.
    """
    told, notes = json.loads(json.dumps(settings, default=float)), dict(notes or {})
    if not file.exists():
        left = [name for name in of if (file.parent / name).exists()]
        if left:
            raise _damaged(file.parent, f"{file.name}, which says what {' and '.join(left)} are of, is missing")
        write_atomically(file, json.dumps(told | notes, indent=1).encode())
    try:
        kept = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise _damaged(file.parent, f"{file.name} cannot be read ({error})") from error
    return {name: kept.get(name) for name in told | kept if name not in notes and kept.get(name) != told.get(name)}


# The array


def _open_array(folder: Path, row: tuple[int, ...], count: int, ahead: int) -> Any:
    """Open the array, or create one; raise ValueError unless everything that the journal lists is there.

    Args:
        folder: the store's folder.
        row: the shape of a row.
        count: the number of rows that the journal lists.
        ahead: how many more the array may have, since it is written first.
    """
    with extra("data"):
        import tensorstore

    values = folder / "values"
    where: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": os.path.abspath(values)}}
    where["store_data_equal_to_fill_value"] = True  # rows of NaN are rows too
    rows = max(1, _CHUNK // (4 * max(1, math.prod(row))))
    if not (values / "zarr.json").exists():
        if count or (values / "c").exists():
            raise _damaged(folder, f"values/zarr.json is missing, and rows.jsonl lists {count} rows")
        where["metadata"] = {
            "shape": [0, *row],
            "data_type": "float32",
            "fill_value": "NaN",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows, *row]}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": 3}},
                {"name": "crc32c"},
            ],
        }
        return tensorstore.open(where, create=True).result()
    with _named(folder):
        array = tensorstore.open(where, open=True).result()
    expected = (rows, *row)
    if array.shape[1:] != row or array.dtype.name != "float32" or array.chunk_layout.read_chunk.shape != expected:
        raise _damaged(folder, f"values holds {array.dtype.name} of shape {array.shape}, where rows of {row} belong")
    if not count <= array.shape[0] <= count + ahead:
        raise _damaged(folder, f"rows.jsonl lists {count} rows, and values holds {array.shape[0]}: one of them is old")
    codec: Any = array.codec
    packed = any(step["name"] == "zstd" for step in codec.to_json()["codecs"])  # not in earlier versions' stores
    _check_chunks(folder, expected, count, packed)
    return array


def _check_chunks(folder: Path, chunk: tuple[int, ...], count: int, packed: bool) -> None:
    """Raise ValueError if a file of the array is missing or truncated: missing values would be read as NaN."""
    for i in range(-(-count // chunk[0])):
        file = "/".join(map(str, itertools.chain(("values", "c", i), (0 for _ in chunk[1:]))))
        try:
            size = os.stat(folder / file).st_size
        except OSError:
            raise _damaged(folder, f"{file} is missing") from None
        whole = 4 + (frame_size(folder / file) if packed else 4 * math.prod(chunk))  # with its checksum
        if size != whole:
            raise _damaged(folder, f"{file} has {size} bytes, which are not a whole chunk")


def frame_size(file: Path) -> int:
    """Return how many bytes a Zstandard frame has by its own headers (RFC 8878), which are all that is read of it.

    Of a file that ends within a header, or is none, more than it has.
    """
    never = 2**62
    with file.open("rb") as chunk:
        start = chunk.read(5)
        if len(start) < 5 or start[:4] != b"\x28\xb5\x2f\xfd":
            return never
        single, sums = start[4] >> 5 & 1, start[4] >> 2 & 1
        at = 5 + (1 - single) + (0, 1, 2, 4)[start[4] & 3] + (single, 2, 4, 8)[start[4] >> 6]
        while True:
            chunk.seek(at)
            head = chunk.read(3)
            if len(head) < 3:
                return never
            number = int.from_bytes(head, "little")
            at += 3 + (1 if number >> 1 & 3 == 1 else number >> 3)  # one byte, repeated, or as many as it says
            if number & 1:
                return at + 4 * sums
