"""Approximate nearest neighbors: their distances are exact, few are missed, and an index survives being killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from processes import PATHS

import jaxviz
from jaxviz.activation import _approximate

faiss = pytest.importorskip("faiss")
pytestmark = pytest.mark.foreign


def clustered(count, numbers=32):
    """Return rows around 50 centers, as features of classes are."""
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(50, numbers))
    return (centers[rng.integers(0, 50, count)] + rng.normal(size=(count, numbers))).astype(np.float32)


BANK, QUERIES = np.split(clustered(20_032), [20_000])


def recall(found, exact):
    return np.mean([len(np.intersect1d(*rows)) / len(rows[0]) for rows in zip(found, exact, strict=True)])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_most_are_found_and_their_distances_are_exact(metric):
    exact = jaxviz.neighbors(BANK, QUERIES, k=10, metric=metric)
    found = jaxviz.approximate_neighbors(BANK, QUERIES, k=10, metric=metric, probes=8)
    assert recall(found.indices, exact.indices) > 0.9
    assert np.all(np.diff(found.distances) >= 0)
    for i in range(0, len(QUERIES), 7):  # what is not missed is where it belongs
        there = np.isin(found.indices[i], exact.indices[i])
        known = dict(zip(exact.indices[i].tolist(), exact.distances[i].tolist(), strict=True))
        kept = [known[j] for j in found.indices[i][there].tolist()]
        np.testing.assert_array_equal(found.distances[i][there], kept)
    more = jaxviz.approximate_neighbors(BANK, QUERIES, k=10, metric=metric, probes=512, candidates=2000)
    np.testing.assert_array_equal(more.indices, exact.indices)
    np.testing.assert_array_equal(more.distances, exact.distances)


def test_few_rows_are_compared_as_they_are():
    maps = BANK[:900].reshape(900, 4, 4, 2)
    exact = jaxviz.neighbors(maps, maps[:20], k=5, metric="l2")
    found = jaxviz.approximate_neighbors(maps, maps[:20], k=5, metric="l2", block_size=100)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.distances, exact.distances)


@pytest.mark.parametrize("change", [lambda x: 1e25 * x, lambda x: 1e-25 * x, lambda x: x.astype(np.float64) + 1e7])
def test_what_float32_could_not_hold(change):
    bank = change(BANK[:2000])
    exact = jaxviz.neighbors(bank, bank[:20], k=5, metric="l2")
    np.testing.assert_array_equal(
        jaxviz.approximate_neighbors(bank, bank[:20], k=5, metric="l2").indices, exact.indices
    )


def test_any_index_of_faiss():
    exact = jaxviz.neighbors(BANK, QUERIES, k=5)
    for index in ("HNSW32", "IVF64,SQ8", "PCA16,IVF64,Flat"):
        found = jaxviz.approximate_neighbors(BANK, QUERIES, k=5, index=index)
        assert recall(found.indices, exact.indices) > 0.8, index


def test_a_store_is_used_again(tmp_path, monkeypatch):
    first = jaxviz.approximate_neighbors(BANK, QUERIES, k=5, store=tmp_path / "index")
    monkeypatch.setattr(_approximate, "_train", None)  # there is nothing left to learn
    again = jaxviz.approximate_neighbors(BANK, QUERIES, k=5, store=tmp_path / "index")
    np.testing.assert_array_equal(again.indices, first.indices)
    for bank, options in ((BANK[:-1], {}), (np.flip(BANK, 0), {}), (BANK, {"metric": "l2"}), (BANK, {"index": "Flat"})):
        with pytest.raises(ValueError, match=r"holds an index of another (bank|rows|metric|index)"):
            jaxviz.approximate_neighbors(bank, QUERIES, k=5, store=tmp_path / "index", **options)
    content = bytearray((tmp_path / "index" / "index").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "index" / "index").write_bytes(content)
    with pytest.raises(ValueError, match="this index is damaged: delete the folder"):
        jaxviz.approximate_neighbors(BANK, QUERIES, k=5, store=tmp_path / "index")


@pytest.mark.slow
def test_kill_9_and_the_same_call_again(tmp_path):
    np.save(tmp_path / "bank.npy", BANK)
    script = f"""
        import sys, numpy as np, jaxviz
        from jaxviz.activation import _approximate
        _approximate.BLOCKS = 1
        bank = np.load({str(tmp_path / "bank.npy")!r}, mmap_mode="r")
        found = jaxviz.approximate_neighbors(bank, bank[:9], k=5, block_size=500, store=sys.argv[1])
        print(found.indices.tolist())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    there = {**os.environ, "PYTHONPATH": PATHS}
    run = lambda folder: subprocess.check_output([*command, tmp_path / folder], env=there, text=True)
    whole = run("whole")
    process = subprocess.Popen([*command, tmp_path / "killed"], env=there)
    while not (tmp_path / "killed" / "index").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run("killed") == whole
    assert (tmp_path / "killed" / "index").read_bytes() == (tmp_path / "whole" / "index").read_bytes()


@pytest.mark.usefixtures("users_view")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: expected 1 to 20000, the rows of the bank, got 0"),
        ({"metric": "l1"}, "metric: expected 'cosine' or 'l2', got 'l1'"),
        ({"probes": 0}, "probes: expected 1 or more, got 0"),
        ({"candidates": 3}, "candidates: expected 5 or more, got 3"),
        ({"block_size": 0}, "block_size: expected at least 1 row, got 0"),
        ({"index": "IVF"}, "index: expected what FAISS's index_factory takes, got 'IVF'"),
        ({"probes": 1, "k": 900, "index": "IVF256,Flat"}, "probes: the 1 lists that were searched have"),
        ({"bank": np.full((20, 32), np.nan, np.float32)}, "bank, rows 0 to 19: expected finite numbers, got 640"),
        ({"queries": np.zeros((2, 7))}, "expected rows of the same shape, got bank"),
    ],
)
def test_errors(options, message):
    given = {"bank": BANK, "queries": QUERIES, "k": 5} | options
    with pytest.raises(ValueError, match=message):
        jaxviz.approximate_neighbors(given.pop("bank"), given.pop("queries"), **given)
