"""t-SNE: neighbors stay neighbors in the plane."""

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxviz._types import Key
from jaxviz.activation._pca import reduced, rows_of


def tsne(x: ArrayLike, key: Key, *, perplexity: float | int = 30.0, steps: int = 1000) -> Float[np.ndarray, "n 2"]:
    """Lay data out in the plane so that neighbors stay neighbors; openTSNE's t-SNE, by neighbors found exactly.

    More than 50 features are first reduced to 50 principal components, as the paper does; the plane starts from the
    first two of them. Data are first scaled by a power of two: whether they are about 1e-30 or 1e30 changes nothing.

    Args:
        x: `(n, ...)`, what lies beyond the first axis is flattened.
        key: of what is left to chance.
        perplexity: how many neighbors count, roughly; at most a third of the others, (n - 1) / 3.
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

    rows = rows_of(x, least=3)
    most = (len(rows) - 1) / 3
    if not 0 < perplexity <= most:
        raise ValueError(
            f"perplexity: expected at most {most:.1f} for {len(rows)} rows, a third of the others, got {perplexity}"
        )
    if steps < 250:
        raise ValueError(f"steps: expected 250, those with exaggerated affinities, or more, got {steps}")
    rows = reduced(rows)
    alike = rows.shape[1] == 1 or np.ptp(rows, axis=0).max() == 0  # there are no two components
    # Of few points, threads take ten times as long to wait for each other as one takes; the result is the same.
    threads = 1 if len(rows) < 2000 else -1
    options: Any = {"initialization": "random" if alike else "pca", "neighbors": "exact", "n_jobs": threads}
    options["perplexity"] = float(perplexity)
    seed = int(jax.random.bits(key, dtype="uint32"))
    made = TSNE(n_iter=steps - 250, random_state=seed, **options).fit(rows)
    return np.asarray(made)
