"""Exact nearest neighbors, in the space of a layer's features or of pixels."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxviz.show._shown import Table, shown

Metric = Literal["cosine", "l2"]
MARGIN = 16  # candidates beyond k: enough for most that rounding could reorder
QUERIES = 1024  # at once
ORIGIN = 1024  # rows whose mean is subtracted from all, as what they have in common
TINY, LARGE = 1e-35, 1e37  # squares beyond which float32 may under- or overflow
SHORT, LONG = 1e-150, 1e150  # lengths whose squares float64 represents accurately
_SHOWN = 8  # queries, and neighbors of each, in a notebook
MANY = 1e30  # a length that float32 represents, like its inverse


def _nearest(found: "Neighbors") -> Table:
    """Return a table of the first rows: each query's neighbors, with their distances."""
    shown = min(_SHOWN, found.indices.shape[1])
    cells = lambda i: (f"{found.indices[i, j]} ({found.distances[i, j]:.3g})" for j in range(shown))
    rows = [(i, *cells(i)) for i in range(min(_SHOWN, len(found.indices)))]
    return ("query", *(f"{j + 1}. (distance)" for j in range(shown))), rows


@shown(table=_nearest)
class Neighbors(NamedTuple):
    """The rows nearest to each query, nearest first.

    Attributes:
        indices: `(q, k)`, the rows' indices in the bank.
        distances: `(q, k)`, their distances from the query, in float64.
    """

    indices: Int[np.ndarray, "q k"]
    distances: Float[np.ndarray, "q k"]


def neighbors(bank: Any, queries: Any, *, k: int, metric: Metric = "cosine", block_size: int = 16384) -> Neighbors:
    """Find the `k` rows of `bank` that are nearest to each query, exactly, whatever the size of the bank.

    The bank passes through the device in blocks: a matrix product and a running top-k. Several local devices share each
    block. The best candidates are measured again in float64 and sorted, ties by index, so that a row's distance from
    itself is 0. If rounding could have hidden a row as near or nearer, the query is measured against the whole bank in
    float64. A memory-mapped bank is read once for every 1024 queries, a second time if there are such queries, and
    never loaded whole: with rows of 1280 numbers a block takes 84 MB, and its products with 1024 queries 67 MB.

    Args:
        bank: `(n, ...)`, an array in memory, memory-mapped, or from tensorstore; each row is a vector, a map or an
            image: `(n, h, w, c)` compares pixels.
        queries: `(q, ...)`, rows of the same shape.
        k: the number of neighbors for each query, 1 to n. A query that is itself in the bank is its own first neighbor.
        metric: "cosine", `1 - x.y / |x||y|`, or 1 if a row is zero; or "l2", `|x - y|`.
        block_size: rows of the bank on each device at once.

    Returns:
        The indices of the neighbors and their distances, both `(q, k)`.

    Raises:
        ValueError: Rows differ in shape, values are NaN, infinite or complex, or an option is outside its range.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> bank = jnp.array([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
        >>> jaxviz.neighbors(bank, jnp.array([[2.0, 0.1]]), k=2).indices
        array([[0, 2]])
        >>> print(jaxviz.neighbors(bank, jnp.array([[2.0, 0.0]]), k=2, metric="l2").distances.round(2))
        [[1.   2.24]]

    Krizhevsky, Sutskever & Hinton 2012, ImageNet Classification with Deep CNNs (figure 4).
    """
    bank, queries = checked_rows(bank, queries, k)
    check_metric(metric)
    check_block(block_size)
    indices, distances = [np.zeros((0, k), int)], [np.zeros((0, k))]
    for first in range(0, queries.shape[0], QUERIES):
        some = np.asarray(queries[first : min(first + QUERIES, queries.shape[0])])
        check_numbers("queries", some)
        found, unsure = [], []
        for i, (near, suffices) in enumerate(_candidates(bank, some, k, metric, block_size)):
            found.append(measured(np.asarray(bank[near]), near, some[i], k, metric))
            if len(near) < k or not suffices(float(found[i][1][-1])):
                unsure.append(i)
        for i, best in zip(unsure, _among_all(bank, some[unsure], k, metric, block_size), strict=True):
            found[i] = best
        indices += [best[0][None] for best in found]
        distances += [best[1][None] for best in found]
    return Neighbors(np.concatenate(indices), np.concatenate(distances))


def checked_rows(bank: Any, queries: Any, k: int) -> tuple[Any, Any]:
    """Return a bank and queries as arrays; raise ValueError unless their rows can be compared, and there are k."""
    bank, queries = _rows("bank", bank), _rows("queries", queries)
    if bank.shape[1:] != queries.shape[1:]:
        raise ValueError(f"expected rows of the same shape, got bank {bank.shape} and queries {queries.shape}")
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"k: expected 1 to {bank.shape[0]}, the rows of the bank, got {k}")
    return bank, queries


def check_metric(metric: str) -> None:
    if metric not in ("cosine", "l2"):
        raise ValueError(f"metric: expected 'cosine' or 'l2', got {metric!r}")


def check_block(block_size: int) -> None:
    if block_size < 1:
        raise ValueError(f"block_size: expected at least 1 row, got {block_size}")


def check_numbers(name: str, rows: np.ndarray) -> None:
    """Raise ValueError unless rows hold real numbers that are finite in their dtype."""
    if not any(jnp.issubdtype(rows.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise ValueError(f"{name}: expected real numbers, got {rows.dtype}")
    bad = np.size(rows) - np.count_nonzero(np.isfinite(rows))
    if bad:
        raise ValueError(f"{name}: expected finite numbers, got {bad} that are NaN or infinite")


def _rows(name: str, values: Any) -> Any:
    """Return an array with one row for each vector or image; an array on disk is not loaded."""
    rows = values if hasattr(values, "shape") else np.asarray(values)
    if rows.ndim < 2:
        raise ValueError(f"{name}: expected (n, ...), a row for each vector or image, got shape {rows.shape}")
    return rows


def prepared(rows: Any, metric: Metric, origin: Any = 0.0) -> np.ndarray:
    """Return rows `(n, f)` minus an origin, normalized to length 1 for cosine, in a dtype that holds them.

    Rows of length 1 are ordered by l2 distance as by cosine. Subtracting what all have in common, which would dominate
    their products, keeps rounding from hiding the differences.
    """
    exact = np.float32 if np.can_cast(rows.dtype, np.float32) else np.float64
    flat = np.asarray(rows, exact).reshape(len(rows), -1)
    if metric == "cosine":
        flat = of_length_1(flat)
    with np.errstate(over="ignore"):  # the query is then measured against all rows
        return np.subtract(flat, np.asarray(origin, exact), dtype=exact)


def _candidates(
    bank: Any, queries: np.ndarray, k: int, metric: Metric, block_size: int
) -> Iterator[tuple[np.ndarray, Callable[[float], bool]]]:
    """Yield for each query the best rows in float32, and a function that says if they suffice.

    They do if, given the distance of the k-th of them, no other row can be as near: its score would have to be off by
    more than rounding allows. A sum of f products is off by about sqrt(f) units in the last place (Higham & Mary 2019,
    A New Approach to Probabilistic Rounding Error Analysis); eight times that is allowed for.
    """
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    merge = _merging(mesh)
    each, all_of_it = jax.NamedSharding(mesh, jax.P("rows")), jax.NamedSharding(mesh, jax.P())
    size, count = min(block_size, -(-bank.shape[0] // len(devices))), min(k + MARGIN, bank.shape[0])
    origin = prepared(np.asarray(bank[: min(size, ORIGIN)]), metric).mean(0, dtype=np.float64)
    asked = prepared(queries, metric, origin)
    with np.errstate(over="ignore"):  # likewise
        flat = jax.device_put(asked.astype(np.float32), all_of_it)
    best = jax.device_put(_nothing(len(devices), len(queries), count), each)
    for first in range(0, bank.shape[0], size * len(devices)):
        rows = np.asarray(bank[first : min(first + size * len(devices), bank.shape[0])])
        check_numbers(f"bank, rows {first} to {first + len(rows) - 1}", rows)
        block = np.zeros((len(devices) * size, flat.shape[1]), np.float32)
        with np.errstate(over="ignore"):
            block[: len(rows)] = prepared(rows, metric, origin)
        # Subtracted from scores: infinity for padding, and for cosine what puts a row of zeros at distance 1 from
        # everything; a squared l2 distance is twice the cosine distance.
        less = np.full(len(block), np.inf, np.float32)
        less[: len(rows)] = (metric == "cosine") * ~rows.reshape(len(rows), -1).any(-1)
        indices = (first + np.arange(len(block), dtype=np.int32)).reshape(len(devices), size)
        parts = block.reshape(len(devices), size, -1), indices, less.reshape(indices.shape)
        best = merge(best, flat, *jax.device_put(parts, each))
    scores, rows = (np.moveaxis(np.asarray(x), 0, 1).reshape(len(queries), -1) for x in best)
    order = np.lexsort((rows, -scores))[:, :count]
    lengths = _norms(asked.astype(np.float64))
    unit = 8 * math.sqrt(flat.shape[1]) * float(np.finfo(np.float32).eps) / 2
    for i, near in enumerate(order):
        least = -math.inf if count == bank.shape[0] else float(scores[i, near[-1]])
        there = rows[i, near]  # not past the end of the bank, as when all other rows are too large for float32
        yield there[there < bank.shape[0]], functools.partial(_suffices, metric, float(lengths[i]), least, unit)


def _suffices(metric: Metric, length: float, least: float, unit: float, distance: float) -> bool:
    square = 2 * distance if metric == "cosine" else distance * distance
    reach = length + math.sqrt(square)  # no row within this distance is longer
    wrong = unit * (2 * length * reach + reach * reach) + TINY
    return length * length - square > least + wrong and reach * reach < LARGE


def measured(rows: Any, indices: np.ndarray, query: Any, k: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices and float64 distances of the nearest of some rows."""
    exact = _distances(rows, query, metric)
    best = np.lexsort((indices, exact))[:k]
    return indices[best], exact[best]


def _among_all(bank: Any, queries: Any, k: int, metric: Metric, block_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each query the nearest of all rows and their distances, all in float64."""
    best = [(np.zeros(0, int), np.zeros(0))] * len(queries)
    for first in range(0, bank.shape[0] if len(queries) else 0, block_size):
        rows = np.asarray(bank[first : min(first + block_size, bank.shape[0])])
        for i, query in enumerate(queries):
            near, exact = measured(rows, first + np.arange(len(rows)), query, k, metric)
            near, exact = np.concatenate([best[i][0], near]), np.concatenate([best[i][1], exact])
            order = np.lexsort((near, exact))[:k]
            best[i] = near[order], exact[order]
    return best


def _nothing(devices: int, queries: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (devices, queries, count)
    return np.full(shape, -np.inf, np.float32), np.full(shape, np.iinfo(np.int32).max, np.int32)


@functools.cache
def _merging(mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """Return a function that merges a block into the best so far, per device: XLA would gather all for `top_k`."""
    each = jax.P("rows")
    specs = {"in_specs": ((each, each), jax.P(), each, each, each), "out_specs": (each, each)}
    return jax.jit(jax.shard_map(_merge, mesh=mesh, **specs), donate_argnums=0)


def _merge(
    best: tuple[Float[Array, "d q c"], Int[Array, "d q c"]],
    queries: Float[Array, "q f"],
    blocks: Float[Array, "d b f"],
    indices: Int[Array, "d b"],
    less: Float[Array, "d b"],
) -> tuple[Float[Array, "d q c"], Int[Array, "d q c"]]:
    """Keep the best of those so far and of new blocks, by `|q|² - |q - x|²`: larger is nearer."""
    products = jnp.einsum("qf,dbf->dqb", queries, blocks, precision="highest")
    squares = jnp.sum(blocks * blocks, axis=-1)[:, None]
    scores = 2 * products - squares - less[:, None]
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)  # from rows too large for float32
    rows = jnp.broadcast_to(indices[:, None], scores.shape)
    scores, rows = jnp.concatenate([best[0], scores], -1), jnp.concatenate([best[1], rows], -1)
    scores, places = jax.lax.top_k(scores, best[0].shape[-1])
    return scores, jnp.take_along_axis(rows, places, axis=-1)


def _distances(rows: np.ndarray, query: np.ndarray, metric: Metric) -> np.ndarray:
    rows, query = rows.reshape(-1, query.size).astype(np.float64), query.ravel().astype(np.float64)
    if metric == "l2":
        return _norms(rows - query)
    # 1 - x.y / |x||y| as half a square, which is accurate even near 0
    unit, unit_query = of_length_1(rows), of_length_1(query[None])
    near = np.minimum(2.0, 0.5 * ((unit - unit_query) ** 2).sum(-1))
    return np.where(unit.any(-1) & unit_query.any(), near, 1.0)


def _norms(rows: np.ndarray) -> np.ndarray:
    """Return the lengths of float64 rows, even if their squares overflow or underflow."""
    with np.errstate(over="ignore"):
        found = np.linalg.norm(rows, axis=-1)
    odd = ~((found > SHORT) & (found < LONG))
    if odd.any():
        scaled, powers = scaled_to_1(rows[odd], axis=-1)
        found[odd] = np.ldexp(np.linalg.norm(scaled, axis=-1), powers[:, 0])
    return found


def scaled_to_1(rows: np.ndarray, *, axis: int | None = None) -> tuple[np.ndarray, Any]:
    """Return numbers divided by a power of two so that the largest is in [0.5, 1), and the exponent: this is exact.

    With `axis`, each row has its own exponent.
    """
    powers = np.frexp(np.abs(rows).max(axis, keepdims=axis is not None))[1]
    return np.ldexp(rows, -powers), powers


def of_length_1(rows: np.ndarray) -> np.ndarray:
    """Return rows normalized to length 1, except rows of zeros."""
    squares = functools.partial(np.einsum, "nf,nf->n", dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are reported later
        lengths = np.sqrt(squares(rows, rows))
    odd = ~((lengths > 1 / MANY) & (lengths < MANY))  # in float32 they may be 0 or infinite
    if odd.any():
        rows = rows.copy()
        rows[odd] = scaled_to_1(rows[odd], axis=-1)[0]
        lengths[odd] = np.sqrt(squares(rows[odd], rows[odd]))
    with np.errstate(invalid="ignore"):
        return rows / np.where(lengths > 0, lengths, 1).astype(rows.dtype)[:, None]
