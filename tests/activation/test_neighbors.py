"""Nearest neighbors: scikit-learn's brute force, ties, blocks, a bank on disk, several devices, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import on_eight_devices
from sklearn.neighbors import NearestNeighbors

import jaxviz
from jaxviz.activation import _neighbors

RANDOM = np.random.default_rng(0)
BANK = RANDOM.normal(size=(203, 17)).astype(np.float32)
QUERIES = RANDOM.normal(size=(11, 17)).astype(np.float32)


@pytest.mark.parametrize(("metric", "theirs"), [("cosine", "cosine"), ("l2", "euclidean")])
@pytest.mark.parametrize("block_size", [1, 50, 203, 1000])
def test_scikit_learns(metric, theirs, block_size):
    found = jaxviz.neighbors(BANK, QUERIES, k=9, metric=metric, block_size=block_size)
    search = NearestNeighbors(n_neighbors=9, algorithm="brute", metric=theirs).fit(BANK.astype(np.float64))
    distances, indices = search.kneighbors(QUERIES.astype(np.float64))
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)


FRAME = RANDOM.integers(60, 200, size=(24, 24, 3))
HARD = {
    "frames of a video": (FRAME + (RANDOM.random((500, 24, 24, 3)) < 1e-3)).astype(np.uint8),
    "far from zero": (1000 + 0.1 * RANDOM.normal(size=(500, 64))).astype(np.float32),
    "nearly parallel": (10 + 0.01 * RANDOM.normal(size=(500, 64))).astype(np.float32),
    "float64, alike to eight digits": 1e6 + 1e-2 * RANDOM.normal(size=(500, 8)),
    "integers beyond float32": 2**30 + RANDOM.integers(0, 50, size=(500, 8)),
    "squares too large": 1e20 * RANDOM.normal(size=(500, 8)).astype(np.float32),
    "squares too small": 1e-25 * RANDOM.normal(size=(500, 8)).astype(np.float32),
    "a few small among large": RANDOM.normal(size=(500, 8)) * np.where(np.arange(500) < 20, 1, 1e25)[:, None],
    "each row fifty times": np.repeat(RANDOM.normal(size=(10, 8)), 50, axis=0).astype(np.float32),
    "bfloat16": np.asarray(jnp.asarray(RANDOM.normal(size=(500, 8)), jnp.bfloat16)),
}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("bank", HARD.values(), ids=HARD)
def test_rounding_decides_nothing(bank, metric):
    """What float32 confuses is in the order of differences in float64, equal ones by their index."""
    rows = bank.reshape(len(bank), -1).astype(np.float64)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = [0, 7, 19, 123, 499]
    exact = np.linalg.norm(rows[chosen, None] - rows, axis=-1)
    found = jaxviz.neighbors(bank, bank[chosen], k=5, metric=metric, block_size=64)
    np.testing.assert_array_equal(found.indices, np.argsort(exact, axis=1, kind="stable")[:, :5])
    np.testing.assert_array_equal(found.distances[:, 0], 0)


SCALES = {1e20: np.float32, 1e30: np.float32, 1e-30: np.float32, 1e-44: np.float32, 6e4: np.float16,
          1e200: np.float64, 1e-200: np.float64}  # fmt: skip


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("scale", SCALES)
def test_numbers_of_any_scale(scale, metric):
    """As in float64 at scale 1, of the very numbers that the type can hold."""
    rows = (RANDOM.uniform(-1, 1, size=(60, 6)) * scale).astype(SCALES[scale])
    exact = rows.astype(np.float64) / scale
    found = jaxviz.neighbors(rows, rows[:7], k=9, metric=metric, block_size=16)
    wanted = jaxviz.neighbors(exact, exact[:7], k=9, metric=metric)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    unit = scale if metric == "l2" else 1.0
    np.testing.assert_allclose(found.distances / unit, wanted.distances, rtol=1e-9, atol=1e-12)


def test_equal_distances_come_in_the_order_of_the_bank():
    found = jaxviz.neighbors(np.ones((40, 3), np.float32), np.ones((2, 3), np.float32), k=5, block_size=7)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2, 3, 4]] * 2)
    np.testing.assert_array_equal(found.distances, 0)


def test_a_row_of_zeros_is_like_nothing():
    found = jaxviz.neighbors(np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), np.array([[2.0, 0.0]]), k=3)
    np.testing.assert_array_equal(found.indices, [[1, 0, 2]])
    np.testing.assert_array_equal(found.distances, [[0, 1, 2]])
    nothing = jaxviz.neighbors(BANK, np.zeros((1, 17)), k=2)
    np.testing.assert_array_equal(nothing.distances, 1)


def test_images_are_compared_pixel_by_pixel(images):
    found = jaxviz.neighbors(images, images[::-1], k=2, metric="l2")
    np.testing.assert_array_equal(found.indices, [[1, 0], [0, 1]])
    np.testing.assert_allclose(found.distances[:, 1], jnp.linalg.norm((images[0] - images[1]).ravel()), rtol=1e-6)


def test_more_queries_than_go_at_once(monkeypatch):
    whole = jaxviz.neighbors(BANK, BANK, k=3)
    monkeypatch.setattr(_neighbors, "QUERIES", 50)
    parts = jaxviz.neighbors(BANK, BANK, k=3)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_array_equal(whole.indices[:, 0], np.arange(203))


def test_a_bank_on_disk_is_not_read_whole(tmp_path):
    np.save(tmp_path / "bank.npy", BANK)
    bank = np.load(tmp_path / "bank.npy", mmap_mode="r")
    taken = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            taken.append(len(found))
            return found

    found = jaxviz.neighbors(bank.view(Watched), QUERIES, k=2, block_size=64)
    np.testing.assert_array_equal(found.indices, jaxviz.neighbors(BANK, QUERIES, k=2).indices)
    assert len(taken) > 11
    assert max(taken) <= 64


def test_another_bank_of_the_same_size_compiles_nothing():
    jaxviz.neighbors(BANK, QUERIES, k=4)
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("rows",))
    merge = _neighbors._merging(mesh)
    before = merge._cache_size()
    jaxviz.neighbors(BANK + 1, QUERIES - 1, k=4)
    assert merge._cache_size() == before > 0


def test_several_devices_find_the_same(tmp_path):
    """Eight virtual devices, no communication inside the loop."""
    script = """
        import sys, jax, numpy as np, jaxviz
        from jaxviz.activation import _neighbors
        assert jax.local_device_count() == 8
        bank, queries = np.load(sys.argv[1]), np.load(sys.argv[2])
        compiled = []
        merging = _neighbors._merging
        def watched(*settings):
            merge = merging(*settings)
            def merged(*args):
                compiled.append(merge.lower(*args).compile().as_text())
                return merge(*args)
            return merged
        _neighbors._merging = watched
        for metric in ("cosine", "l2"):
            found = jaxviz.neighbors(bank, queries, k=9, metric=metric, block_size=10)
            np.savez(sys.argv[3] + metric, indices=found.indices, distances=found.distances)
        assert len(compiled) == 2 * -(-len(bank) // 80)
        for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            assert word not in compiled[0], word
    """
    np.save(tmp_path / "bank.npy", BANK)
    np.save(tmp_path / "queries.npy", QUERIES)
    files = [str(tmp_path / name) for name in ("bank.npy", "queries.npy", "found-")]
    on_eight_devices(script, *files)
    for metric in ("cosine", "l2"):
        one, eight = jaxviz.neighbors(BANK, QUERIES, k=9, metric=metric), np.load(f"{files[2]}{metric}.npz")
        np.testing.assert_array_equal(eight["indices"], one.indices)
        np.testing.assert_array_equal(eight["distances"], one.distances)


BAD = BANK.copy()
BAD[150, 3] = np.nan


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": QUERIES[:, :5]}, r"expected rows of the same shape, got bank \(203, 17\) and queries \(11, 5\)"),
        ({"queries": QUERIES[0]}, r"queries: expected \(n, ...\), a row for each vector or image, got shape \(17,\)"),
        ({"k": 0}, "k: expected 1 to 203, the rows of the bank, got 0"),
        ({"k": 204}, "k: expected 1 to 203, the rows of the bank, got 204"),
        ({"metric": "l1"}, "metric: expected 'cosine' or 'l2', got 'l1'"),
        ({"block_size": 0}, "block_size: expected at least 1 row, got 0"),
        ({"queries": QUERIES * 1j}, "queries: expected real numbers, got complex64"),
        ({"queries": QUERIES * np.inf}, "queries: expected finite numbers"),
        ({"bank": BAD, "block_size": 100}, "bank, rows 100 to 199: expected finite numbers, got 1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxviz.neighbors(**{"bank": BANK, "queries": QUERIES, "k": 3} | arguments)


def test_device_arrays_do():
    found = jaxviz.neighbors(jnp.asarray(BANK), jax.device_put(QUERIES), k=3)
    np.testing.assert_array_equal(found.indices, jaxviz.neighbors(BANK, QUERIES, k=3).indices)
