"""t-SNE: an embedding in the plane that keeps neighbors together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxviz._extras import extra
from jaxviz._progress import Progress
from jaxviz._types import Key
from jaxviz.activation._pca import reduced, rows_of
from jaxviz.show._bar import Watcher, watching
from jaxviz.show._shown import shown


class _Placed(NamedTuple):
    points: Float[np.ndarray, "n 2"]
    losses: Float[np.ndarray, " looks"]


@shown("points", lambda found: found.points)
class Placed(Progress, _Placed):
    """The points so far, with the divergences that were seen on the way."""


_EVERY = 25  # steps between two looks
_FIRST = 250  # steps with exaggerated affinities


def tsne(
    x: ArrayLike,
    key: Key,
    *,
    perplexity: float | int = 30.0,
    steps: int = 1000,
    progress: Watcher = False,
) -> Float[np.ndarray, "n 2"]:
    """Embed data in the plane so that neighbors stay neighbors: openTSNE's t-SNE with exact neighbors.

    More than 50 features are first reduced to 50 principal components, as in the paper; the embedding is initialized
    with the first two. Data are first scaled by a power of two, so that magnitudes of 1e-30 or 1e30 change nothing.

    Args:
        x: `(n, ...)`; all axes after the first are flattened.
        key: the random key.
        perplexity: roughly the number of neighbors considered; above 0, and at most a third of the others, (n - 1) / 3.
        steps: steps of gradient descent, 250 or more.
        progress: True: a bar in a terminal or notebook (see `ProgressBar`); or a function, called every 25 steps with
            the `points` so far and the `losses` at each call. If it returns true, they are the result.

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
    if steps < _FIRST:
        raise ValueError(f"steps: expected at least 250, which exaggerate affinities, got {steps}")
    rows = reduced(rows)
    alike = rows.shape[1] == 1 or np.ptp(rows, axis=0).max() == 0  # fewer than two components
    # With few points, threads spend ten times as long waiting as one thread computing; the result is the same.
    threads = 1 if len(rows) < 2000 else -1
    options: Any = {"initialization": "random" if alike else "pca", "neighbors": "exact", "n_jobs": threads}
    options["perplexity"] = float(perplexity)
    seed = int(jax.random.bits(key, dtype="uint32"))
    with watching(progress, None) as watch:
        if watch is not None:
            options |= {"callbacks": _look(watch, steps), "callbacks_every_iters": _EVERY}
        return np.asarray(TSNE(n_iter=steps - _FIRST, random_state=seed, **options).fit(rows))


def _look(watch: Callable[[Any], Any], steps: int) -> Callable[[int, float, np.ndarray], bool]:
    """Return what openTSNE calls: it counts the steps of its two stages each from the start."""
    losses: list[float] = []

    def look(step: int, loss: float, points: np.ndarray) -> bool:
        losses.append(float(loss))
        second = len(losses) > _FIRST // _EVERY
        placed = Placed(np.array(points), np.array(losses))
        return bool(watch(placed.told("tsne", step + _FIRST * second, steps)))

    return look
