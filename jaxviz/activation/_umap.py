"""UMAP, with the optional extra `umap`."""

import importlib
import warnings
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxviz._types import Key
from jaxviz.activation._pca import reduced, rows_of


def umap(
    x: ArrayLike, key: Key, *, neighbors: int = 15, distance: float | int = 0.1, steps: int | None = None
) -> Float[np.ndarray, "n 2"]:
    """Embed data in the plane with UMAP, which keeps more of how groups relate; needs the extra `umap`.

    More than 50 features are first reduced to 50 principal components, as for `tsne`.

    Args:
        x: `(n, ...)`; all axes after the first are flattened.
        key: the random key.
        neighbors: the number of neighbors considered for each point, 2 to n - 1.
        distance: the minimum distance between points in the plane, up to 1.
        steps: steps of gradient descent; None: 500, or 200 for more than 10,000 points.

    Returns:
        The embedding, `(n, 2)`.

    Raises:
        ImportError: umap-learn is not installed.
        ValueError: There are fewer than four rows, NaN or infinite values, or `neighbors` is not 2 to n - 1.

    Example:
        >>> import jax, jaxviz
        >>> x = jax.random.normal(jax.random.key(0), (20, 8))
        >>> jaxviz.umap(x, jax.random.key(1), neighbors=5).shape  # doctest: +SKIP
        (20, 2)

    McInnes, Healy & Melville 2018, UMAP: Uniform Manifold Approximation and Projection.
    """
    rows = rows_of(x, least=4)
    if not 2 <= neighbors < len(rows):
        raise ValueError(f"neighbors: expected 2 to {len(rows) - 1}, fewer than there are rows, got {neighbors}")
    try:
        with warnings.catch_warnings(action="ignore"):  # about other optional packages
            reducer = importlib.import_module("umap").UMAP  # hidden from type checkers, which may not have it
    except ImportError as error:
        raise ImportError("umap needs umap-learn: pip install 'jaxviz-cnn[umap]'") from error
    options: Any = {"n_neighbors": neighbors, "min_dist": float(distance), "n_epochs": steps}
    seed = int(jax.random.bits(key, dtype="uint32"))
    return np.asarray(reducer(**options, random_state=seed, n_jobs=1).fit_transform(reduced(rows)))
