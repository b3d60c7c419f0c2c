"""Damaged stores: whatever was lost, doubled, changed or cut short is told, with the store's name and the way out."""

import json
import re
import shutil
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from nets import small_net

import jaxviz
from jaxviz.activation import _store

IMAGES = np.random.default_rng(1).random((23, 16, 16, 3), np.float32)


def find(params, store=None, source=IMAGES, **options):
    settings = {"layer": "relu_1", "size": 16, "batch_size": 4, "store": store}
    return jaxviz.features(small_net, params, source, **settings | options)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Let a chunk have five rows, so that there are five chunks, the last of them not full."""
    monkeypatch.setattr(_store, "_CHUNK", 5 * 6 * 4)


@pytest.fixture(scope="module")
def kept(small_params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_store, "_CHUNK", 5 * 6 * 4)
        find(small_params, folder)
    return folder


@pytest.fixture
def store(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "my store")


def changed(name, change):
    """Return a function that changes a file of a store."""

    def damage(store):
        (store / name).write_bytes(change((store / name).read_bytes()))

    return damage


def lines(change):
    return changed("rows.jsonl", lambda data: b"".join(change(data.splitlines(keepends=True))))


def flipped(place, bit=6):
    def flip(data):
        at = place % len(data)
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]

    return flip


def without_sums(data):
    """Return a journal as an earlier version wrote it."""
    rows = [json.loads(line) for line in data.splitlines()]
    return "".join(json.dumps({"hashes": row["hashes"], "skipped": {}, "marks": {}}) + "\n" for row in rows).encode()


def renamed(data):
    first = data.splitlines(keepends=True)[0]
    return first.replace(b'"2":', b'"3":').replace(b'"3":', b'"2":', 1) + data[len(first) :]


CHUNK = "values/c/2/0"
OLD = json.dumps({"layer": "relu_1", "pool": "mean", "size": [16, 16], "batch_size": 4, "params": ""})
DAMAGES = {
    "a chunk is missing": (lambda store: (store / CHUNK).unlink(), f"{CHUNK} is missing"),
    "the last chunk is missing": (lambda store: (store / "values/c/4/0").unlink(), "values/c/4/0 is missing"),
    "a chunk is cut short": (changed(CHUNK, lambda data: data[:50]), f"{CHUNK} has 50 bytes, which are not"),
    "a chunk is empty": (changed(CHUNK, lambda data: b""), f"{CHUNK} has 0 bytes, which are not"),
    "a chunk lacks a byte": (changed(CHUNK, lambda data: data[:-1]), f"{CHUNK} has [0-9]+ bytes, which are not"),
    "a chunk is of zeros": (changed(CHUNK, lambda data: bytes(len(data))), f"{CHUNK} has [0-9]+ bytes, which are not"),
    "a chunk is longer": (changed(CHUNK, lambda data: data + b"0"), f"{CHUNK} has [0-9]+ bytes, which are not"),
    "no values": (lambda store: shutil.rmtree(store / "values"), "values/zarr.json is missing"),
    "no description": (lambda store: (store / "values/zarr.json").unlink(), "values/zarr.json is missing"),
    "a broken description": (changed("values/zarr.json", lambda data: data[:60]), "DATA_LOSS: .*Invalid JSON"),
    "values of another shape": (
        changed("values/zarr.json", lambda data: data.replace(b"[5,6]", b"[6,5]").replace(b"[23,6]", b"[23,5]")),
        r"values holds float32 of shape \(23, 5\), where rows of \(6,\) belong",
    ),
    "fewer values than rows": (
        changed("values/zarr.json", lambda data: data.replace(b"[23,6]", b"[19,6]")),
        "rows.jsonl lists 23 rows, and values holds 19",
    ),
    "no journal": (lambda store: (store / "rows.jsonl").unlink(), "rows.jsonl lists 0 rows, and values holds 23"),
    "an empty journal": (lines(lambda rows: []), "rows.jsonl lists 0 rows, and values holds 23"),
    "the first line lost": (lines(lambda rows: rows[1:]), "line 1 of rows.jsonl begins at row 4, where row 0"),
    "a line lost": (lines(lambda rows: rows[:2] + rows[3:]), "line 3 of rows.jsonl begins at row 12, where row 8"),
    "the last lines lost": (lines(lambda rows: rows[:3]), "rows.jsonl lists 12 rows, and values holds 23"),
    "a line doubled": (lines(lambda rows: rows[:2] + rows[1:]), "line 3 of rows.jsonl begins at row 4, where row 8"),
    "lines exchanged": (lines(lambda rows: [rows[1], rows[0], *rows[2:]]), "line 1 of rows.jsonl begins at row 4"),
    "a line edited": (changed("rows.jsonl", renamed), "line 1 of rows.jsonl is not as it was written"),
    "a bit of the journal": (changed("rows.jsonl", flipped(40)), "line 1 of rows.jsonl is not as it was written"),
    "another journal": (changed("rows.jsonl", lambda data: b"[1]\n7\n"), "line 1 of rows.jsonl is not as it was"),
    "no settings": (lambda store: (store / "settings.json").unlink(), "settings.json, which says what .* is missing"),
    "broken settings": (changed("settings.json", lambda data: data[:30]), "settings.json cannot be read"),
    "empty settings": (changed("settings.json", lambda data: b""), "settings.json cannot be read"),
    "an earlier version's": (changed("settings.json", lambda data: OLD.encode()), "made by an earlier version of"),
    "no checksums": (changed("rows.jsonl", without_sums), "line 1 of rows.jsonl is not as it was written"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_when_a_store_is_opened(damage, store, small_params):
    do, message = DAMAGES[damage]
    do(store)
    before = content(store)
    way_out = "restore the folder from a copy, or delete it|give another folder, or delete this one"
    with pytest.raises(ValueError, match=f"{re.escape(str(store))}: .*{message}.*({way_out})"):
        find(small_params, store)
    assert content(store) == before  # nothing is made worse


@pytest.mark.parametrize("place", [20, 37, -6, -2])
def test_a_flipped_bit_is_told_when_it_is_read(place, store, small_params):
    changed(CHUNK, flipped(place))(store)
    values = find(small_params, store).values
    damaged = f"{re.escape(str(store))}: this store is damaged: .*{CHUNK}.*restore the folder from a copy, or delete it"
    for read in (
        lambda: np.asarray(values),
        lambda: np.asarray(values[10:12]),
        lambda: np.asarray(values[np.array([14, 1])]),
        lambda: jnp.asarray(values[11]),
        lambda: jaxviz.neighbors(values, np.ones((1, 6), np.float32), k=1),
    ):
        with pytest.raises(ValueError, match=damaged):
            read()
    np.testing.assert_array_equal(np.asarray(values[15:]), find(small_params).values[15:])  # of other chunks


def test_a_damaged_chunk_is_not_written_to(store, small_params):
    changed("values/c/4/0", flipped(20))(store)
    more = np.concatenate([IMAGES, IMAGES[:1]])
    with pytest.raises(ValueError, match=f"{re.escape(str(store))}: this store is damaged: .*values/c/4/0"):
        find(small_params, store, more)


@pytest.mark.parametrize(
    "cut",
    [lambda rows: rows[:-1], lambda rows: [*rows[:-1], rows[-1][:30]], lambda rows: [*rows[:-1], b"\0" * 9]],
    ids=["the last line lost", "the last line cut short", "zeros for the last line"],
)
def test_what_a_kill_leaves_is_gone_on_with(cut, kept, store, small_params):
    lines(cut)(store)
    told = []
    found = find(small_params, store, callback=lambda found: told.append((found.done, found.total)))
    assert told == [(23, 23)]
    assert content(store) == content(kept)
    np.testing.assert_array_equal(np.asarray(found.values), find(small_params).values)


@pytest.mark.parametrize("left", ["settings.json", "values/zarr.json"])
def test_killed_before_the_first_row(left, kept, tmp_path, small_params):
    store = tmp_path / "store"
    (store / "values").mkdir(parents=True)
    shutil.copy(kept / "settings.json", store)
    if left != "settings.json":
        text = (kept / left).read_text().replace("[23,6]", "[0,6]")
        (store / left).write_text(text)
    find(small_params, store)
    assert content(store) == content(kept)


def test_rows_of_nan_are_rows(small_params, tmp_path):
    """Chunks of nothing but the fill value are written like others."""
    nan = {name: value * float("nan") for name, value in small_params.items()}
    for _ in range(2):
        found = find(nan, tmp_path)
    assert np.isnan(np.asarray(found.values)).all()
    assert len(content(tmp_path / "values")) == 1 + 5


def test_what_the_checks_of_a_line_are(kept):
    first = json.loads((kept / "rows.jsonl").read_text().splitlines()[1])
    sum = first.pop("crc32")
    assert sum == zlib.crc32(json.dumps(first).encode())
    assert first["first"] == 4
    described = json.loads((kept / "values" / "zarr.json").read_text())
    assert described["fill_value"] == "NaN"
    assert [codec["name"] for codec in described["codecs"]] == ["bytes", "zstd", "crc32c"]


@pytest.mark.parametrize("shape", [(1,), (4000,), (60_000,), (300_000,)])
@pytest.mark.parametrize("kind", ["random", "sparse", "zeros"])
def test_what_a_frame_says_of_its_size_is_true(shape, kind, tmp_path):
    """Of tensorstore's own: of one and of many blocks, packed, raw and repeated ones."""
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values = {"random": values, "sparse": np.maximum(values, 0), "zeros": 0 * values + 1}[kind]
    written(tmp_path, values, shape, [{"name": "zstd", "configuration": {"level": 3}}])
    file = tmp_path / "c" / "0"
    size = len(file.read_bytes())
    assert _store.frame_size(file) == size
    for cut in {0, 3, 5, 8, size // 2, size - 1}:
        file.write_bytes(file.read_bytes()[:cut] if cut < len(file.read_bytes()) else b"")
        assert _store.frame_size(file) > cut


def written(folder, values, chunk, codecs):
    metadata = {
        "shape": values.shape,
        "data_type": "float32",
        "fill_value": "NaN",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, *codecs],
    }
    where = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}, "metadata": metadata}
    tensorstore.open(where, create=True).result().write(values).result()


def test_a_store_of_before_they_were_compressed_is_gone_on_with(kept, store, tmp_path, small_params):
    """Its chunks stay as they are, and those that are added are like them."""
    values = np.asarray(find(small_params, kept).values)
    shutil.rmtree(store / "values")
    lines(lambda rows: rows[:5])(store)  # 20 rows
    written(store / "values", values[:20], (5, 6), [{"name": "crc32c"}])
    np.testing.assert_array_equal(np.asarray(find(small_params, store).values), values)
    assert {path.stat().st_size for path in (store / "values" / "c").rglob("*") if path.is_file()} == {124}
    changed(CHUNK, lambda data: data[:50])(store)
    with pytest.raises(ValueError, match=f"{CHUNK} has 50 bytes, which are not a whole chunk"):
        find(small_params, store)


def test_stored_rows_are_an_array(kept, small_params):
    values, plain = find(small_params, kept).values, find(small_params).values
    assert (len(values), values.shape, values.ndim) == (23, (23, 6), 2)
    np.testing.assert_array_equal(values.read().result(), plain)
    np.testing.assert_array_equal(np.stack([values[2], values[7]]), plain[[2, 7]])
    np.testing.assert_array_equal(np.asarray(values[3:9][4:6]), plain[4:6])  # tensorstore's slices keep their numbers
    np.testing.assert_array_equal(np.asarray(values, np.float64), plain.astype(np.float64))
    with pytest.raises(IndexError):
        values[23]
