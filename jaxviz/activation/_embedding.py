"""Embeddings of features in the plane, and images laid out by them."""

import importlib
import math
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from jaxviz._types import Key
from jaxviz.activation._neighbors import check_numbers, scaled_to_1

EXACT = 1000  # points for which the best of all layouts is found soon enough
WINDOW = 16  # cells a side, otherwise


class PCA(NamedTuple):
    """Principal components: `points @ axes + mean` is the best approximation of the data in so many dimensions."""

    points: Float[np.ndarray, "n c"]
    axes: Float[np.ndarray, "c f"]
    mean: Float[np.ndarray, " f"]
    explained: Float[np.ndarray, " c"]
    """The part of the variance that lies along each axis; zeros if nothing varies."""


def pca(x: ArrayLike, *, components: int = 2) -> PCA:
    """Project data on the directions in which it varies most; scikit-learn's, by its full singular value decomposition.

    Args:
        x: `(n, ...)`, what lies beyond the first axis is flattened.
        components: directions, at most n and at most the number of features.

    Raises:
        ValueError: fewer than two rows, NaN or infinite values, or more components than there can be.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> found = jaxviz.pca(jnp.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), components=1)
        >>> print(abs(found.points.ravel()).round(3), found.explained.round(3))
        [5. 0. 5.] [1.]
    """
    from sklearn.decomposition import PCA as Decomposition

    rows = _rows(x, least=2)
    if not 1 <= components <= min(rows.shape):
        raise ValueError(f"components: expected 1 to {min(rows.shape)} for data {rows.shape}, got {components}")
    rows, power = scaled_to_1(rows)  # or else variances may be too large for their type, or too small
    found = Decomposition(components, svd_solver="full")
    with np.errstate(invalid="ignore"):  # no variance at all is divided by itself
        points = found.fit_transform(rows)
    explained = np.nan_to_num(np.asarray(found.explained_variance_ratio_), nan=0.0)
    return PCA(np.ldexp(points, power), np.asarray(found.components_), np.ldexp(found.mean_, power), explained)


def tsne(x: ArrayLike, key: Key, *, perplexity: float | int = 30.0, steps: int = 1000) -> Float[np.ndarray, "n 2"]:
    """Lay data out in the plane so that neighbours stay neighbours; openTSNE's t-SNE, by neighbours found exactly.

    More than 50 features are first reduced to 50 principal components, as the paper does; the plane starts from the
    first two of them. Data are first scaled by a power of two: whether they are about 1e-30 or 1e30 changes nothing.

    Args:
        x: `(n, ...)`, what lies beyond the first axis is flattened.
        key: of what is left to chance.
        perplexity: how many neighbours count, roughly; at most a third of the others, (n - 1) / 3.
        steps: of gradient descent, 250 or more.

    Raises:
        ValueError: fewer than three rows, NaN or infinite values, too large a perplexity, too few steps.

    Example:
        >>> import jax, jaxviz
        >>> x = jax.random.normal(jax.random.key(0), (20, 8))
        >>> jaxviz.tsne(x, jax.random.key(1), perplexity=5, steps=250).shape
        (20, 2)

    van der Maaten & Hinton 2008, Visualizing Data using t-SNE; Poličar, Stražar & Zupan 2024, openTSNE.
    """
    from openTSNE import TSNE

    rows = _rows(x, least=3)
    most = (len(rows) - 1) / 3
    if not 0 < perplexity <= most:
        raise ValueError(
            f"perplexity: expected at most {most:.1f} for {len(rows)} rows, a third of the others, got {perplexity}"
        )
    if steps < 250:
        raise ValueError(f"steps: expected 250, those with exaggerated affinities, or more, got {steps}")
    rows = _reduced(rows)
    alike = rows.shape[1] == 1 or np.ptp(rows, axis=0).max() == 0  # there are no two components
    # Of few points, threads take ten times as long to wait for each other as one takes; the result is the same.
    threads = 1 if len(rows) < 2000 else -1
    options: Any = {"initialization": "random" if alike else "pca", "neighbors": "exact", "n_jobs": threads}
    options["perplexity"] = float(perplexity)
    seed = int(jax.random.bits(key, dtype="uint32"))
    made = TSNE(n_iter=steps - 250, random_state=seed, **options).fit(rows)
    return np.asarray(made)


def umap(
    x: ArrayLike, key: Key, *, neighbors: int = 15, distance: float | int = 0.1, steps: int | None = None
) -> Float[np.ndarray, "n 2"]:
    """Lay data out in the plane by UMAP, which keeps more of how groups lie to each other; of the extra `umap`.

    More than 50 features are first reduced to 50 principal components, as for `tsne`.

    Args:
        x: `(n, ...)`, what lies beyond the first axis is flattened.
        key: of all that is left to chance.
        neighbors: that count for each point; less than n.
        distance: least between points in the plane, up to 1.
        steps: of gradient descent; None: 500, of more than 10,000 points 200.

    Raises:
        ImportError: umap-learn is not installed.
        ValueError: fewer than four rows, NaN or infinite values, neighbours that are not 2 to n - 1.

    Example:
        >>> import jax, jaxviz
        >>> x = jax.random.normal(jax.random.key(0), (20, 8))
        >>> jaxviz.umap(x, jax.random.key(1), neighbors=5).shape  # doctest: +SKIP
        (20, 2)

    McInnes, Healy & Melville 2018, UMAP: Uniform Manifold Approximation and Projection.
    """
    rows = _rows(x, least=4)
    if not 2 <= neighbors < len(rows):
        raise ValueError(f"neighbors: expected 2 to {len(rows) - 1}, less than the number of rows, got {neighbors}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what else might be installed for it
            reducer = importlib.import_module("umap").UMAP  # not by name: it need not be installed
    except ImportError as error:
        raise ImportError("umap needs umap-learn: pip install 'jaxviz-cnn[umap]'") from error
    options: Any = {"n_neighbors": neighbors, "min_dist": float(distance), "n_epochs": steps}
    seed = int(jax.random.bits(key, dtype="uint32"))
    return np.asarray(reducer(**options, random_state=seed, n_jobs=1).fit_transform(_reduced(rows)))


def _reduced(rows: np.ndarray) -> np.ndarray:
    """Return 50 principal components of what has more, scaled."""
    return scaled_to_1(pca(rows, components=50).points if min(rows.shape) > 50 else rows)[0]


def grid_layout(points: ArrayLike, *, columns: int | None = None) -> Int[np.ndarray, "n 2"]:
    """Move points of the plane to the cells of a grid, one each, by short squared ways in all.

    The grid has no holes: cells are left empty only at the end of the last row. The first coordinate grows to the
    right and the second one downwards, as in an image; both are scaled to the grid.

    Args:
        points: `(n, 2)`.
        columns: of the grid; None makes it about square.

    Returns:
        The row and the column of each point.

    Raises:
        ValueError: no points, another shape, NaN or infinite values, or less than one column.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> jaxviz.grid_layout(jnp.array([[0.9, 0.8], [0.0, 0.1], [1.0, 0.0], [0.2, 0.9]])).tolist()
        [[1, 1], [0, 0], [0, 1], [1, 0]]

    Up to 1,000 points the squared ways are the shortest that there are, by scipy's assignment (Crouse 2016). Of more,
    halves of the points go to halves of the grid, again and again, and then each window of 16 x 16 cells is assigned
    anew, in four arrangements of windows, twice: for 5,000 clustered points 2 s of one core instead of 360, and ways
    that are 0.5% longer.
    """
    places = scaled_to_1(_rows(points, least=1).astype(np.float64))[0]
    if places.shape[1] != 2:
        raise ValueError(f"points: expected (n, 2), got shape {places.shape}; tsne and pca make such")
    number = len(places)
    columns = math.ceil(math.sqrt(number)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}")
    rows = -(-number // columns)
    cells = np.stack(np.divmod(np.arange(number), columns), axis=-1)
    low, high = places.min(axis=0), places.max(axis=0)
    unit = (places - low) / np.where(high > low, high - low, 1)
    aims = unit[:, ::-1] * (rows - 1, min(columns, number) - 1)
    if number <= EXACT:
        return cells[_assigned(aims, cells)]
    taken = np.zeros(number, int)
    _share_out(aims, cells, np.arange(number), np.arange(number), taken)
    for _ in range(2):
        _exchange_within_windows(aims, cells, taken)
    return cells[taken]


def _assigned(aims: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the cell for each aim with the smallest sum of squared distances."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    return linear_sum_assignment(cdist(aims, cells, "sqeuclidean"))[1]


def _share_out(aims: np.ndarray, cells: np.ndarray, points: np.ndarray, free: np.ndarray, taken: np.ndarray) -> None:
    """Give some points the cells that are free for them, as many: the first in an axis to the first half of it."""
    if len(points) <= WINDOW**2:
        taken[points] = free[_assigned(aims[points], cells[free])]
        return
    axis = int(np.argmax(np.ptp(cells[free], axis=0)))
    lines, order = cells[free, axis], np.argsort(aims[points, axis], kind="stable")
    first = lines < (lines.min() + lines.max() + 1) // 2
    cut = int(first.sum())
    _share_out(aims, cells, points[order[:cut]], free[first], taken)
    _share_out(aims, cells, points[order[cut:]], free[~first], taken)


def _exchange_within_windows(aims: np.ndarray, cells: np.ndarray, taken: np.ndarray) -> None:
    """Let the points in each window change places where that makes ways shorter, in windows that overlap in turn."""
    owners = np.argsort(taken)
    half = WINDOW // 2
    for shift in ((0, 0), (half, half), (0, half), (half, 0)):
        windows = (cells + shift) // WINDOW
        _, numbers = np.unique(windows, axis=0, return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        for free in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            points = owners[free]
            taken[points] = free[_assigned(aims[points], cells[free])]
            owners[taken[points]] = points


def _rows(x: Any, *, least: int) -> np.ndarray:
    """Return data as a matrix of finite numbers, `(n, f)`."""
    rows = np.asarray(x)
    if rows.ndim < 2 or len(rows) < least:
        raise ValueError(f"expected (n, ...) with at least {least} rows, got shape {rows.shape}")
    rows = rows.reshape(len(rows), -1)
    check_numbers("data", rows)
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
