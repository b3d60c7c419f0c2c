"""t-SNE: an embedding in the plane that keeps neighbors together."""

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxviz._extras import extra
from jaxviz._types import Key
from jaxviz.activation._pca import reduced, rows_of


def tsne(x: ArrayLike, key: Key, *, perplexity: float | int = 30.0, steps: int = 1000) -> Float[np.ndarray, "n 2"]:
    """Embed data in the plane so that neighbors stay neighbors: openTSNE's t-SNE with exact neighbors.

    More than 50 features are first reduced to 50 principal components, as in the paper; the embedding is initialized
    with the first two. Data are first scaled by a power of two, so that magnitudes of 1e-30 or 1e30 change nothing.

    Args:
        x: `(n, ...)`; all axes after the first are flattened.
        key: the random key.
        perplexity: roughly the number of neighbors considered; above 0, and at most a third of the others, (n - 1) / 3.
        steps: steps of gradient descent, 250 or more.

    Returns:
        The embedding, `(n, 2)`.

    Raises:
        ValueError: There are fewer than three rows, NaN or infinite values, or an option is outside its range.

    Example:
        >>> import jax, jaxviz
        >>> x = jax.random.normal(jax.random.key(0), (20, 8))
        >>> jaxviz.tsne(x, jax.random.key(1), perplexity=5, steps=250).shape
        (20, 2)

    van der Maaten & Hinton 2008, Visualizing Data using t-SNE; Poličar, Stražar & Zupan 2024, openTSNE.
    """
    with extra("embed"):
        from openTSNE import TSNE

    rows = rows_of(x, least=3)
    most = (len(rows) - 1) / 3
    if not 0 < perplexity <= most:
        raise ValueError(
            f"perplexity: expected above 0 and at most {most:.1f}, (n - 1) / 3 for {len(rows)} rows, got {perplexity}"
        )
    if steps < 250:
        raise ValueError(f"steps: expected at least 250, which exaggerate affinities, got {steps}")
    rows = reduced(rows)
    alike = rows.shape[1] == 1 or np.ptp(rows, axis=0).max() == 0  # fewer than two components
    # With few points, threads spend ten times as long waiting as one thread computing; the result is the same.
    threads = 1 if len(rows) < 2000 else -1
    options: Any = {"initialization": "random" if alike else "pca", "neighbors": "exact", "n_jobs": threads}
    options["perplexity"] = float(perplexity)
    seed = int(jax.random.bits(key, dtype="uint32"))
    made = TSNE(n_iter=steps - 250, random_state=seed, **options).fit(rows)
    return np.asarray(made)
