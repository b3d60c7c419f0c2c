"""Principal components of features."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxviz.activation._neighbors import check_numbers, scaled_to_1


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

    rows = rows_of(x, least=2)
    if not 1 <= components <= min(rows.shape):
        raise ValueError(f"components: expected 1 to {min(rows.shape)} for data {rows.shape}, got {components}")
    rows, power = scaled_to_1(rows)  # or else variances may be too large for their type, or too small
    found = Decomposition(components, svd_solver="full")
    with np.errstate(invalid="ignore"):  # no variance at all is divided by itself
        points = found.fit_transform(rows)
    explained = np.nan_to_num(np.asarray(found.explained_variance_ratio_), nan=0.0)
    return PCA(np.ldexp(points, power), np.asarray(found.components_), np.ldexp(found.mean_, power), explained)


def reduced(rows: np.ndarray) -> np.ndarray:
    """Return 50 principal components of what has more, scaled."""
    return scaled_to_1(pca(rows, components=50).points if min(rows.shape) > 50 else rows)[0]


def rows_of(x: Any, *, least: int) -> np.ndarray:
    """Return data as a matrix of finite numbers, `(n, f)`."""
    rows = np.asarray(x)
    if rows.ndim < 2 or len(rows) < least:
        raise ValueError(f"expected (n, ...) with at least {least} rows, got shape {rows.shape}")
    rows = rows.reshape(len(rows), -1)
    check_numbers("data", rows)
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)


def pca_colors(maps: ArrayLike, *, foreground: bool = False) -> Float[np.ndarray, "n h w 3"]:
    """Color what features are alike: the first three principal components over all places of all images, as RGB.

    What has the same color in two images has like features. Each component is scaled to [0, 1] over all places. With
    `foreground`, the first component tells objects from what is around them, as in DINOv2: of the places above its mean
    and those below, those that take less of the images' borders are the foreground. They are colored by their own three
    components, and the others are black.

    Args:
        maps: `(n, h, w, c)` features of at least three channels, as `features(..., pool=None)` gives them of maps and
            of a transformer's tokens.
        foreground: show objects only.

    Returns:
        `(n, h, w, 3)` in [0, 1]: a pixel for each place; `resize` enlarges it.

    Raises:
        ValueError: for maps of another shape, NaN or infinite values, and fewer than three places or channels.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> maps = jnp.eye(4).reshape(1, 2, 2, 4)  # four places that have nothing in common
        >>> jaxviz.pca_colors(maps).shape
        (1, 2, 2, 3)

    Oquab et al. 2023, DINOv2: Learning Robust Visual Features without Supervision.
    """
    values = np.asarray(maps)
    if values.ndim != 4:
        raise ValueError(f"maps: expected features (n, h, w, c), got shape {values.shape}")
    rows = values.reshape(-1, values.shape[-1])
    shown = np.ones(len(rows), bool)
    if foreground:
        shown = pca(rows, components=1).points[:, 0] > 0
        border = np.ones(values.shape[:3], bool)
        border[:, 1:-1, 1:-1] = False
        around = border.reshape(-1)
        shown = ~shown if shown[around].sum() > (~shown)[around].sum() else shown
    points = pca(rows[shown], components=3).points
    low, high = points.min(0), points.max(0)
    colors = np.zeros((len(rows), 3), points.dtype)
    colors[shown] = (points - low) / np.where(high > low, high - low, 1)
    return colors.reshape(*values.shape[:3], 3)
