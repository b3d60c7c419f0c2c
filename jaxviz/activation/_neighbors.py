"""Nearest neighbours, exactly: in the space of a layer's features, or of pixels."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxviz._image import check_finite

Metric = Literal["cosine", "l2"]
MARGIN = 16  # candidates beyond k: those that rounding could put in each other's place
QUERIES = 1024  # at once


class Neighbors(NamedTuple):
    """What is nearest to each query, nearest first."""

    indices: Int[np.ndarray, "q k"]
    distances: Float[np.ndarray, "q k"]


def neighbors(bank: Any, queries: Any, *, k: int, metric: Metric = "cosine", block_size: int = 16384) -> Neighbors:
    """Find the `k` rows of `bank` that are nearest to each query, exactly, whatever the size of the bank.

    The bank goes through the device in blocks: a matrix product and a running top-k. Several local devices share each
    block. What comes out on top is measured once more in float64 and sorted, equal distances by their index, so that
    a row is at distance 0 from itself. A memory-mapped bank is read once for every 1024 queries and never held whole:
    of rows of 1280 numbers a block is 84 MB, and the products of 1024 queries with it are 67 MB.

    Args:
        bank: `(n, ...)`, an array in memory, memory-mapped, or of tensorstore; a vector, a map or an image a row:
            `(n, h, w, 3)` compares pixels.
        queries: `(q, ...)`, rows of the same shape.
        k: neighbours of each query, at most n. A query that is itself in the bank is its own first neighbour.
        metric: "cosine", `1 - x.y / |x||y|`, where a row of zeros is at distance 1; or "l2", `|x - y|`.
        block_size: rows of the bank on each device at once.

    Raises:
        ValueError: rows of different shapes, NaN or infinite values, a `k` that is not in 1 to n, another metric.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> bank = jnp.array([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
        >>> jaxviz.neighbors(bank, jnp.array([[2.0, 0.1]]), k=2).indices
        array([[0, 2]])
        >>> print(jaxviz.neighbors(bank, jnp.array([[2.0, 0.0]]), k=2, metric="l2").distances.round(2))
        [[1.   2.24]]

    Krizhevsky, Sutskever & Hinton 2012, ImageNet Classification with Deep CNNs (figure 4).
    """
    bank, queries = _rows("bank", bank), _rows("queries", queries)
    if bank.shape[1:] != queries.shape[1:]:
        raise ValueError(f"expected rows of one shape, got bank {bank.shape} and queries {queries.shape}")
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"k: expected 1 to {bank.shape[0]}, the rows of the bank, got {k}")
    if metric not in ("cosine", "l2"):
        raise ValueError(f"metric: expected 'cosine' or 'l2', got {metric!r}")
    if block_size < 1:
        raise ValueError(f"block_size: expected at least 1 row, got {block_size}")
    check_finite("queries", queries)
    indices, distances = [np.zeros((0, k), int)], [np.zeros((0, k))]
    for first in range(0, queries.shape[0], QUERIES):
        some = np.asarray(queries[first : min(first + QUERIES, queries.shape[0])])
        candidates = _candidates(bank, some, min(k + MARGIN, bank.shape[0]), metric, block_size)
        for query, near in zip(some, candidates, strict=True):
            exact = _distances(np.asarray(bank[near]), query, metric)
            best = np.lexsort((near, exact))[:k]
            indices.append(near[None, best])
            distances.append(exact[None, best])
    return Neighbors(np.concatenate(indices), np.concatenate(distances).astype(np.float32))


def _rows(name: str, values: Any) -> Any:
    """Return an array with one row for each thing; one that is on disk stays there."""
    rows = values if hasattr(values, "shape") else np.asarray(values, np.float32)
    if rows.ndim < 2:
        raise ValueError(f"{name}: expected (n, ...), a row for each vector or image, got shape {rows.shape}")
    return rows


def _candidates(bank: Any, queries: Any, count: int, metric: Metric, block_size: int) -> np.ndarray:
    """Return the rows that come out on top in float32, `(q, count)`, in no order that matters."""
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    merge = _merging(mesh, metric)
    each, all_of_it = jax.NamedSharding(mesh, jax.P("rows")), jax.NamedSharding(mesh, jax.P())
    size = min(block_size, -(-bank.shape[0] // len(devices)))
    flat = jax.device_put(jnp.asarray(queries, jnp.float32).reshape(len(queries), -1), all_of_it)
    best = jax.device_put(_nothing(len(devices), len(queries), count), each)
    for first in range(0, bank.shape[0], size * len(devices)):
        last = min(first + size * len(devices), bank.shape[0])
        some = np.asarray(bank[first:last], np.float32)
        block = np.zeros((len(devices) * size, flat.shape[1]), np.float32)
        block[: len(some)] = some.reshape(len(some), -1)
        if not np.isfinite(block).all():
            raise ValueError(
                f"bank: expected finite numbers, got some that are NaN or infinite in rows {first} to {last - 1}"
            )
        indices = (first + np.arange(len(block), dtype=np.int32)).reshape(len(devices), size)
        blocks = block.reshape(len(devices), size, -1)
        best = merge(best, flat, *jax.device_put((blocks, indices, indices < bank.shape[0]), each))
    scores, rows = (np.moveaxis(np.asarray(x), 0, 1).reshape(len(queries), -1) for x in best)
    order = np.lexsort((rows, -scores))[:, :count]
    return np.take_along_axis(rows, order, axis=1)


def _nothing(devices: int, queries: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (devices, queries, count)
    return np.full(shape, -np.inf, np.float32), np.full(shape, np.iinfo(np.int32).max, np.int32)


@functools.cache
def _merging(mesh: jax.sharding.Mesh, metric: Metric) -> Callable[..., Any]:
    """Return what merges a block into the best so far, each device for itself: XLA would gather them for `top_k`."""
    each = jax.P("rows")
    specs = {"in_specs": ((each, each), jax.P(), each, each, each), "out_specs": (each, each)}
    return jax.jit(jax.shard_map(functools.partial(_merge, metric=metric), mesh=mesh, **specs), donate_argnums=0)


def _merge(
    best: tuple[Float[Array, "d q c"], Int[Array, "d q c"]],
    queries: Float[Array, "q f"],
    blocks: Float[Array, "d b f"],
    indices: Int[Array, "d b"],
    live: Bool[Array, "d b"],
    *,
    metric: Metric,
) -> tuple[Float[Array, "d q c"], Int[Array, "d q c"]]:
    """Keep the best of what there was and of new blocks. The order of scores is that of nearness."""
    products = jnp.einsum("qf,dbf->dqb", queries, blocks, precision="highest")
    squares = jnp.sum(blocks * blocks, axis=-1)[:, None]
    # Less what all rows have in common: l2 is |q|² - |q - x|², and a query's own length changes no order of cosines.
    like = products / jnp.sqrt(jnp.where(squares > 0, squares, 1))
    scores = jnp.where(live[:, None], 2 * products - squares if metric == "l2" else like, -jnp.inf)
    rows = jnp.broadcast_to(indices[:, None], scores.shape)
    scores, rows = jnp.concatenate([best[0], scores], -1), jnp.concatenate([best[1], rows], -1)
    scores, places = jax.lax.top_k(scores, best[0].shape[-1])
    return scores, jnp.take_along_axis(rows, places, axis=-1)


def _distances(rows: np.ndarray, query: np.ndarray, metric: Metric) -> np.ndarray:
    rows, query = rows.reshape(len(rows), -1).astype(np.float64), query.ravel().astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(rows - query, axis=-1)
    lengths = np.linalg.norm(rows, axis=-1) * np.linalg.norm(query)
    return np.maximum(0.0, 1 - rows @ query / np.where(lengths > 0, lengths, 1))
