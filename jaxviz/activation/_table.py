"""Features as a table, a row an image, for pandas, DuckDB, xarray and whatever else reads Parquet or Arrow files."""

import importlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxviz._extras import extra
from jaxviz._files import write_atomically
from jaxviz.activation._rows import Features

SUFFIXES = (".parquet", ".arrow", ".feather")
_AT_ONCE = 2**24  # bytes of features in memory
_LONGEST = 2**63


def save_table(path: str | os.PathLike[str], found: Features) -> None:
    """Write features as a table, compressed: a row for each image, with its name, its label and its values.

    A second table beside it, NAME-skipped, has a row for each image that could not be read. Features on disk are read
    and written in parts, so memory does not grow with them; each file appears whole or not at all. The same features
    make the same bytes, with the same version of pyarrow.

    ```
    table = pandas.read_parquet("features.parquet")        # numpy.stack(table["values"]) is (n, f)
    duckdb.sql("SELECT label, count(*) FROM 'features.parquet' GROUP BY label")
    xarray.DataArray(numpy.stack(table["values"]), dims=("id", "feature"), coords={"id": table["id"]})
    ```

    Args:
        path: ends in .parquet, or in .arrow or .feather, which are one format.
        found: what `features` has returned. The columns are `id` (text), `label` (whole numbers, numbers, text or
            booleans if all labels are that; otherwise text in JSON) and `values`, a list of as many float32 as an image
            has features; of whole maps `(h, w, c)` they are flattened, and the column's metadata has their `shape`.

    Raises:
        ValueError: another suffix, or features that are damaged on disk.
        ImportError: pyarrow is not installed.

    Example:
        >>> import jaxviz, numpy as np, pyarrow.parquet, tempfile
        >>> found = jaxviz.Features(np.eye(2, dtype=np.float32), ["a.png", "b.png"], {"c.png": "cut short"}, [3, None])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     jaxviz.save_table(f"{folder}/features.parquet", found)
        ...     print(pyarrow.parquet.read_table(f"{folder}/features.parquet").to_pylist())
        ...     print(pyarrow.parquet.read_table(f"{folder}/features-skipped.parquet").to_pylist())
        [{'id': 'a.png', 'label': 3, 'values': [1.0, 0.0]}, {'id': 'b.png', 'label': None, 'values': [0.0, 1.0]}]
        [{'id': 'c.png', 'reason': 'cut short'}]
    """
    path = Path(path)
    check_table(path)
    arrow = _module("pyarrow")
    shape = tuple(found.values.shape[1:])
    labels, kind = _column(found.labels or [None] * len(found.ids), arrow)
    kind_of_row = arrow.list_(arrow.float32(), math.prod(shape))
    values = arrow.field("values", kind_of_row, metadata={"shape": json.dumps(shape)})
    schema = arrow.schema([("id", arrow.string()), ("label", kind), values])
    row = 4 * max(1, math.prod(shape))
    size = max(1, _AT_ONCE // row)

    def parts() -> Iterator[Any]:
        for first in range(0, len(found.ids), size):
            end = min(first + size, len(found.ids))  # tensorstore does not take more
            rows = np.ascontiguousarray(found.values[first:end], np.float32)
            flat = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.ravel()), type=kind_of_row)
            ids = arrow.array([_text(name) for name in found.ids[first:end]], arrow.string())
            yield arrow.record_batch([ids, arrow.array(labels[first:end], kind), flat], schema=schema)

    reasons = {_text(name): _text(why) for name, why in found.skipped.items()}
    names = arrow.schema([("id", arrow.string()), ("reason", arrow.string())])
    skipped = arrow.record_batch([[*reasons], [*reasons.values()]], schema=names)
    _write(path.with_name(f"{path.stem}-skipped{path.suffix}"), [skipped], names)
    _write(path, parts(), schema)


def check_table(path: Path) -> None:
    """Raise an error if a table cannot be written to a path, before what is to be in it is computed."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a name ending in {', '.join(SUFFIXES)}, got {path.suffix!r}")
    _module("pyarrow")


def _module(name: str) -> Any:
    with extra("table"):
        return importlib.import_module(name)  # hidden from type checkers, which know only a part of it


def _write(path: Path, parts: Iterable[Any], schema: Any) -> None:
    def write(file: Any) -> None:
        if path.suffix.lower() == ".parquet":
            opened = _module("pyarrow.parquet").ParquetWriter(file, schema, compression="zstd")
        else:
            options = _module("pyarrow").ipc.IpcWriteOptions(compression="zstd")
            opened = _module("pyarrow").ipc.new_file(file, schema, options=options)
        with opened as writer:
            for part in parts:
                writer.write_batch(part)

    write_atomically(path, write)


def _column(labels: Sequence[Any], arrow: Any) -> tuple[Sequence[Any], Any]:
    """Return labels as a column can hold them, and its type."""
    kinds = {type(label) for label in labels if label is not None}
    numbers = all(-_LONGEST <= label < _LONGEST for label in labels if type(label) is int)
    if kinds <= {bool}:
        return labels, arrow.bool_() if kinds else arrow.null()
    if kinds == {int} and numbers:
        return labels, arrow.int64()
    if kinds <= {int, float} and float in kinds and numbers:
        return [None if label is None else float(label) for label in labels], arrow.float64()
    if kinds == {str}:
        return [None if label is None else _text(label) for label in labels], arrow.string()
    return [None if label is None else json.dumps(label) for label in labels], arrow.string()


def _text(text: str) -> str:
    """Return a text in UTF-8; what is none, in the name of a file, is escaped."""
    return text.encode(errors="backslashreplace").decode()
