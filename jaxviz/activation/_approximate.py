"""Nearest neighbors among more rows than can be compared one by one: with an index of FAISS, then measured exactly."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxviz._extras import extra
from jaxviz._files import alone_in, write_atomically
from jaxviz._options import check_count
from jaxviz.activation._neighbors import (
    ORIGIN,
    Metric,
    Neighbors,
    check_block,
    check_metric,
    check_numbers,
    checked_rows,
    measured,
    prepared,
)
from jaxviz.activation._store import claim

FEWEST = 39  # rows for each centroid, below which FAISS warns that they are guessed
MOST = 64  # rows for each centroid that it learns from: with 256, twice as long for a recall of 0.999 instead of 0.997
CENTROIDS = 256  # of each part of a vector that is stored as a byte
BYTES = 64  # of a row in the index, at most
BLOCKS = 16  # blocks between checkpoints


def approximate_neighbors(
    bank: Any,
    queries: Any,
    *,
    k: int,
    metric: Metric = "cosine",
    index: str | None = None,
    probes: int = 64,
    candidates: int | None = None,
    block_size: int = 65536,
    store: str | os.PathLike[str] | None = None,
) -> Neighbors:
    """Find rows of `bank` that are near to each query, with an index: most of the `k` nearest; needs the extra `index`.

    `neighbors` reads the whole bank for every 1024 queries; for millions of rows and many queries, an index of FAISS
    reads it once. By default rows are divided into lists by their nearest centroid, and stored in 64 bytes or fewer
    (product quantization). The rows of the `probes` lists nearest to a query are compared by these bytes, and the best
    candidates are read from the bank and measured in float64. So every distance is exact, and what can be missed are
    rows of other lists, or that their bytes misplace: compare with `neighbors` for a few queries to know how many.

    Args:
        bank: `(n, ...)`, an array in memory, memory-mapped, or from tensorstore; each row is a vector, a map or an
            image. It is read once for the index, in blocks, and its centroids are learned from some of its rows.
        queries: `(q, ...)`, rows of the same shape.
        k: the number of neighbors for each query, 1 to n.
        metric: "cosine" or "l2", as in `neighbors`.
        index: how FAISS indexes the rows, as its `index_factory` takes it ("IVF4096,PQ32", "HNSW32", "Flat"). None:
            lists and bytes by the number of rows; below 10,000 rows they are stored as they are ("Flat").
        probes: how many lists are searched for each query, or of "HNSW" how many candidates: more find more, and take
            longer.
        candidates: how many rows are measured exactly for each query; None: ten times `k`, at least 100.
        block_size: rows that are indexed at once.
        store: a folder for the index, which later calls with the same bank use; a run that is stopped, even killed,
            resumes after the last million rows. None: it is built anew.

    Returns:
        The indices of the neighbors and their distances, both `(q, k)`, nearest first.

    Raises:
        MissingPackageError: FAISS is not installed.
        ValueError: Rows differ in shape, values are NaN, infinite or complex, an option is outside its range, FAISS
            does not know the index, or the store belongs to another bank or index, or is damaged.

    Example:
        >>> import jax, jaxviz
        >>> bank = jax.random.normal(jax.random.key(0), (500, 16))
        >>> found = jaxviz.approximate_neighbors(bank, bank[:2], k=3)  # doctest: +SKIP
        >>> found.indices[:, 0], found.distances[:, 0]  # doctest: +SKIP
        (array([0, 1]), array([0., 0.]))

    Jégou, Douze & Schmid 2011, Product Quantization for Nearest Neighbor Search; Douze et al. 2024, The Faiss Library.
    """
    with extra("index"):
        faiss: Any = importlib.import_module("faiss")

    bank, queries = checked_rows(bank, queries, k)
    check_metric(metric)
    check_block(block_size)
    check_count("probes", probes)
    wanted = max(10 * k, 100) if candidates is None else candidates
    check_count("candidates", wanted, least=k)
    described, form = _described(bank) if index is None else index, _form(bank, metric)
    with contextlib.nullcontext() if store is None else alone_in(Path(store)):
        made = _index(faiss, bank, form, described, int(block_size), None if store is None else Path(store))
    _search_more(faiss, made, probes)
    indices, distances = [np.zeros((0, k), int)], [np.zeros((0, k))]
    for first in range(0, queries.shape[0], block_size):
        some = np.asarray(queries[first : min(first + block_size, queries.shape[0])])
        check_numbers("queries", some)
        _, near = made.search(form(some), min(wanted, bank.shape[0]))
        for query, rows in zip(some, near, strict=True):
            there = np.sort(rows[rows >= 0])
            if len(there) < k:
                raise ValueError(
                    f"probes: the {probes} lists that were searched have {len(there)} rows, fewer than k, {k}; take "
                    "more probes, or an index with fewer lists"
                )
            best = measured(np.asarray(bank[there]), there, query, k, metric)
            indices.append(best[0][None])
            distances.append(best[1][None])
    return Neighbors(np.concatenate(indices), np.concatenate(distances))


def _described(bank: Any) -> str:
    """Return FAISS's name for the default index of so many rows of so many numbers."""
    count, numbers = bank.shape[0], math.prod(bank.shape[1:])
    if count < FEWEST * CENTROIDS:
        return "Flat"
    lists = min(2 ** round(math.log2(4 * math.sqrt(count))), count // FEWEST)
    parts = max(parts for parts in range(1, BYTES + 1) if numbers % parts == 0 and (numbers >= 4 * parts or parts == 1))
    return f"IVF{lists},PQ{parts}"


def _index(faiss: Any, bank: Any, form: _Form, described: str, block_size: int, store: Path | None) -> Any:
    """Return an index of all rows, from its store as far as it is there."""
    count, numbers = bank.shape[0], math.prod(bank.shape[1:])
    if store is not None:
        told = {"bank": list(bank.shape), "rows": _mark(bank), "metric": form.metric, "index": described}
        changed = claim(store / "settings.json", told, notes={"faiss": faiss.__version__}, of=["index"])
        if changed:
            raise ValueError(
                f"{store} holds an index of another {', '.join(sorted(changed))}: choose another folder, or delete it"
            )
    made = _kept(faiss, store, (numbers, count))
    if made is None:
        try:
            made = faiss.index_factory(numbers, described)
        except RuntimeError as error:
            raise ValueError(
                f"index: expected what FAISS's index_factory takes, got {described!r} ({error})"
            ) from error
        if not made.is_trained:
            _train(made, bank, form)
    for i, first in enumerate(range(made.ntotal, count, block_size)):
        last = min(first + block_size, count)
        rows = np.asarray(bank[first:last])
        check_numbers(f"bank, rows {first} to {last - 1}", rows)
        made.add(form(rows))
        if store is not None and (last == count or i % BLOCKS == BLOCKS - 1):
            _keep(faiss, store, made)
    return made


def _train(made: Any, bank: Any, form: _Form) -> None:
    """Learn the centroids of an index from some of the rows, spread over all of them."""
    centroids = max(getattr(made, "nlist", 1), CENTROIDS)
    step = max(1, bank.shape[0] // (MOST * centroids))
    rows = np.asarray(bank[::step])
    check_numbers("bank", rows)
    made.train(form(rows))


def _search_more(faiss: Any, made: Any, probes: int) -> None:
    """Set how many lists of an index, or how many neighbors in its graph, are searched."""
    for name in ("nprobe", "efSearch"):
        with contextlib.suppress(RuntimeError):  # other kinds have no such parameter
            faiss.ParameterSpace().set_index_parameter(made, name, probes)


class _Form(NamedTuple):
    """How rows become float32 vectors whose squared distances order them as the metric does.

    What the first rows have in common is subtracted, and they are scaled, so that float32 holds what differs.
    """

    metric: Metric
    origin: np.ndarray
    power: int

    def __call__(self, rows: Any) -> np.ndarray:
        with np.errstate(over="ignore"):  # a row far beyond the first ones is found by none
            return np.ascontiguousarray(np.ldexp(prepared(rows, self.metric, self.origin), -self.power), np.float32)


def _form(bank: Any, metric: Metric) -> _Form:
    rows = np.asarray(bank[: min(ORIGIN, bank.shape[0])])
    check_numbers(f"bank, rows 0 to {len(rows) - 1}", rows)
    flat = prepared(rows, metric).astype(np.float64)
    origin = flat.mean(0)
    return _Form(metric, origin, int(np.frexp(np.abs(flat - origin).max())[1]))


def _mark(bank: Any) -> str:
    """Return a hash of a few rows, by which another bank of the same shape is told."""
    some = np.unique(np.linspace(0, bank.shape[0] - 1, 64).astype(int))
    return hashlib.sha256(np.ascontiguousarray(bank[some]).tobytes()).hexdigest()


def _keep(faiss: Any, store: Path, made: Any) -> None:
    """Write an index with a hash in front: FAISS trusts what it reads."""
    content = faiss.serialize_index(made).tobytes()
    write_atomically(store / "index", hashlib.sha256(content).digest() + content)


def _kept(faiss: Any, store: Path | None, shape: tuple[int, int]) -> Any:
    """Return the index in a store, None if there is none yet."""
    if store is None or not (store / "index").exists():
        return None
    content = (store / "index").read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(f"{store / 'index'}: this index is damaged: delete the folder to build it anew")
    made = faiss.deserialize_index(np.frombuffer(content, np.uint8, offset=32))
    if made.d != shape[0] or made.ntotal > shape[1]:
        raise ValueError(f"{store / 'index'}: expected an index of the bank, got one of other rows: delete the folder")
    return made
