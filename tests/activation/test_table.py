"""Features as tables: what other programs read in them, and that nothing is lost or written half."""

import json

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from nets import small_net

import jaxviz
from jaxviz.activation import _table

VALUES = np.random.default_rng(0).random((7, 5), np.float32)
NAMES = [f"{i}.png" for i in range(7)]
SKIPPED = {"x.png": "cut short", "../<b>\udcff.png": "no\nimage"}


def found(values=VALUES, labels=None):
    return jaxviz.Features(values, NAMES[: len(values)], SKIPPED, labels)


def read(path):
    return pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else pyarrow.feather.read_table(path)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_a_row_for_each_image(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(_table, "_AT_ONCE", 3 * 5 * 4)  # three rows at a time
    path = tmp_path / f"made/a{suffix}"
    jaxviz.save_table(path, found(labels=list(range(7))))
    table = read(path)
    assert table.column_names == ["id", "label", "values"]
    assert table["id"].to_pylist() == NAMES
    assert table["label"].to_pylist() == list(range(7))
    np.testing.assert_array_equal(np.stack(table["values"].to_numpy()), VALUES)
    assert read(tmp_path / f"made/a-skipped{suffix}").to_pylist() == [
        {"id": "x.png", "reason": "cut short"},
        {"id": "../<b>\\udcff.png", "reason": "no\nimage"},
    ]
    before = path.read_bytes()
    jaxviz.save_table(str(path), found(labels=list(range(7))))
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("labels", "expected", "kind"),
    [
        (None, [None] * 3, pyarrow.null()),
        ([1, None, -3], [1, None, -3], pyarrow.int64()),
        ([1, 2.5, None], [1.0, 2.5, None], pyarrow.float64()),
        (["a", "b\udcff", None], ["a", "b\\udcff", None], pyarrow.string()),
        ([True, None, False], [True, None, False], pyarrow.bool_()),
        ([True, 1, 2], ["true", "1", "2"], pyarrow.string()),
        ([2**63, 1, 2], [str(2**63), "1", "2"], pyarrow.string()),
        ([[1, 2], {"a": "é"}, None], ["[1, 2]", '{"a": "\\u00e9"}', None], pyarrow.string()),
    ],
)
def test_labels(labels, expected, kind, tmp_path):
    jaxviz.save_table(tmp_path / "a.parquet", found(VALUES[:3], labels))
    column = read(tmp_path / "a.parquet")["label"]
    assert (column.to_pylist(), column.type) == (expected, kind)


def test_whole_maps_and_stores(tmp_path, small_params):
    images = np.random.default_rng(1).random((6, 16, 16, 3), np.float32)
    stored = jaxviz.features(
        small_net, small_params, (images, np.arange(6)), layer="relu_1", pool=None, store=tmp_path / "store"
    )
    jaxviz.save_table(tmp_path / "a.parquet", stored)
    table = read(tmp_path / "a.parquet")
    shape = json.loads(table.schema.field("values").metadata[b"shape"])
    assert tuple(shape) == stored.values.shape[1:]
    got = np.stack(table["values"].to_numpy()).reshape(-1, *shape)
    np.testing.assert_array_equal(got, np.asarray(stored.values))
    assert table["label"].to_pylist() == list(range(6))
    assert read(tmp_path / "a-skipped.parquet").num_rows == 0


def test_sparse_features_are_small(tmp_path):
    values = np.zeros((500, 512), np.float32)
    values[:, ::50] = 1
    big = jaxviz.Features(values, [str(i) for i in range(500)], {})
    jaxviz.save_table(tmp_path / "a.parquet", big)
    assert (tmp_path / "a.parquet").stat().st_size < values.nbytes / 10


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"a.csv: expected a name ending in .parquet, .arrow, .feather, got '.csv'"):
        jaxviz.save_table(tmp_path / "a.csv", found())

    class Damaged:
        shape = (7, 5)

        def __getitem__(self, rows):
            raise ValueError("this store is damaged")

    with pytest.raises(ValueError, match="this store is damaged"):
        jaxviz.save_table(tmp_path / "a.parquet", found()._replace(values=Damaged()))
    assert not (tmp_path / "a.parquet").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"a-skipped.parquet"}


@pytest.mark.foreign
def test_pandas_duckdb_and_xarray_read_it(tmp_path):
    pandas, duckdb, xarray = (pytest.importorskip(name) for name in ("pandas", "duckdb", "xarray"))
    path = tmp_path / "a.parquet"
    jaxviz.save_table(path, found(labels=["cat", "dog"] * 3 + ["cat"]))
    table = pandas.read_parquet(path)
    np.testing.assert_array_equal(np.stack(table["values"]), VALUES)
    data = xarray.DataArray(np.stack(table["values"]), dims=("id", "feature"), coords={"id": table["id"]})
    np.testing.assert_array_equal(data.sel(id="3.png"), VALUES[3])
    counts = duckdb.sql(f"SELECT label, count(*) FROM '{path}' GROUP BY label ORDER BY label").fetchall()
    assert counts == [("cat", 4), ("dog", 3)]
    ((first,),) = duckdb.sql(f"SELECT values[1] FROM '{path}' WHERE id = '2.png'").fetchall()
    assert first == VALUES[2, 0]
    ((why,),) = duckdb.sql(f"SELECT reason FROM '{tmp_path}/a-skipped.parquet' WHERE id = 'x.png'").fetchall()
    assert why == "cut short"
    np.testing.assert_array_equal(np.stack(pandas.read_feather(saved(tmp_path / "a.arrow"))["values"]), VALUES)


def saved(path):
    jaxviz.save_table(path, found())
    return path
