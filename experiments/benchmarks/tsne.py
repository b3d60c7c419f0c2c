"""t-SNE by scikit-learn and by openTSNE: time, and the remaining Kullback-Leibler divergence.

    python experiments/benchmarks/tsne.py

The points are Gaussian clusters of different sizes in 50 dimensions. Both start from the first two principal
components, and take 1,000 steps with a perplexity of 30. The divergence is measured by the same code for both: the
affinities are openTSNE's, of exact neighbors, and the sum over all pairs in the plane is computed in full.

Measured with 10,000 points on 2 cores shared with other work, one run (scikit-learn 1.9.1, openTSNE 1.0.4):
scikit-learn 375 s, 150 s of processor time, divergence 1.246; openTSNE 228 s, 94 s of processor time, divergence 1.230.
Hence `jaxviz.tsne` uses openTSNE.
"""

import time
from collections.abc import Callable

import numpy as np
import tyro


def main(*, points: int = 10_000, dimensions: int = 50, clusters: int = 100, steps: int = 1000) -> None:
    """Print a line for each.

    Args:
        points: number of points.
        dimensions: number of features.
        clusters: number of clusters from which points are drawn.
        steps: steps of gradient descent, including the 250 with exaggeration.
    """
    random = np.random.default_rng(0)
    centers = 3 * random.normal(size=(clusters, dimensions))
    spread = random.uniform(0.5, 2, size=(clusters, 1))
    of = random.choice(clusters, points, p=random.dirichlet(np.ones(clusters)))
    x = centers[of] + spread[of] * random.normal(size=(points, dimensions))
    ways: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"scikit-learn": by_sklearn, "openTSNE": by_opentsne}
    for name, way in ways.items():
        start, used = time.perf_counter(), time.process_time()
        plane = way(x, steps)
        took, used = time.perf_counter() - start, time.process_time() - used
        print(f"{name}: {took:.1f} s, {used:.1f} s of all cores, divergence {divergence(x, plane):.3f}", flush=True)


def by_sklearn(x: np.ndarray, steps: int) -> np.ndarray:
    """Return the points in the plane, `(n, 2)`."""
    from sklearn.manifold import TSNE

    return TSNE(perplexity=30, max_iter=steps, init="pca", random_state=0, n_jobs=-1).fit_transform(x)


def by_opentsne(x: np.ndarray, steps: int) -> np.ndarray:
    """Return the points in the plane, `(n, 2)`."""
    from openTSNE import TSNE

    made = TSNE(perplexity=30, n_iter=steps - 250, initialization="pca", neighbors="exact", random_state=0, n_jobs=-1)
    return np.asarray(made.fit(x))


def divergence(x: np.ndarray, plane: np.ndarray, block: int = 1000) -> float:
    """Return the Kullback-Leibler divergence of the plane's affinities from those of the data."""
    from openTSNE.affinity import PerplexityBasedNN
    from scipy.sparse import coo_array

    near = coo_array(PerplexityBasedNN(x, perplexity=30, method="exact", n_jobs=-1).P)
    squares = np.square(plane).sum(axis=1)
    whole = -float(len(plane))  # no point is a pair with itself
    for first in range(0, len(plane), block):
        some = plane[first : first + block]
        apart = squares[first : first + block, None] + squares - 2 * some @ plane.T
        whole += (1 / (1 + np.maximum(apart, 0))).sum()
    alike = 1 / (1 + np.square(plane[near.row] - plane[near.col]).sum(axis=1)) / whole
    return float(np.sum(near.data * np.log(near.data / alike)))


if __name__ == "__main__":
    tyro.cli(main)
