"""UMAP, of the extra `umap`."""

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
        ValueError: fewer than four rows, NaN or infinite values, neighbors that are not 2 to n - 1.

    Example:
        >>> import jax, jaxviz
        >>> x = jax.random.normal(jax.random.key(0), (20, 8))
        >>> jaxviz.umap(x, jax.random.key(1), neighbors=5).shape  # doctest: +SKIP
        (20, 2)

    McInnes, Healy & Melville 2018, UMAP: Uniform Manifold Approximation and Projection.
    """
    rows = rows_of(x, least=4)
    if not 2 <= neighbors < len(rows):
        raise ValueError(f"neighbors: expected 2 to {len(rows) - 1}, less than the number of rows, got {neighbors}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what else might be installed for it
            reducer = importlib.import_module("umap").UMAP  # not by name: it need not be installed
    except ImportError as error:
        raise ImportError("umap needs umap-learn: pip install 'jaxviz-cnn[umap]'") from error
    options: Any = {"n_neighbors": neighbors, "min_dist": float(distance), "n_epochs": steps}
    seed = int(jax.random.bits(key, dtype="uint32"))
    return np.asarray(reducer(**options, random_state=seed, n_jobs=1).fit_transform(reduced(rows)))
