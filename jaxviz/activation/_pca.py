"""Principal components of features."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxviz._extras import extra
from jaxviz.activation._neighbors import check_numbers, scaled_to_1
from jaxviz.show._shown import shown


@shown("points", lambda found: found.points)
class PCA(NamedTuple):
    """Principal components: `points @ axes + mean` is the best approximation of the data in that many dimensions.

    Attributes:
        points: `(n, c)`, the projected data.
        axes: `(c, f)`, directions of length 1, at right angles.
        mean: `(f,)`, the mean of the data.
        explained: `(c,)`, the fraction of the variance along each axis; zeros if nothing varies.
    """

    points: Float[np.ndarray, "n c"]
    axes: Float[np.ndarray, "c f"]
    mean: Float[np.ndarray, " f"]
    explained: Float[np.ndarray, " c"]


def pca(x: ArrayLike, *, components: int = 2) -> PCA:
    """Project data on the directions in which it varies most, by scikit-learn's full singular value decomposition.

    Args:
        x: `(n, ...)`; all axes after the first are flattened.
        components: the number of directions, at most n and at most the number of features.

    Returns:
        The projected points `(n, components)`, the axes, the mean, and the fraction of variance along each axis.

    Raises:
        ValueError: There are fewer than two rows, NaN or infinite values, or too many components.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> found = jaxviz.pca(jnp.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), components=1)
        >>> print(abs(found.points.ravel()).round(3), found.explained.round(3))
        [5. 0. 5.] [1.]
    """
    with extra("embed"):
        from sklearn.decomposition import PCA as Decomposition

    rows = rows_of(x, least=2)
    if not 1 <= components <= min(rows.shape):
        raise ValueError(f"components: expected 1 to {min(rows.shape)} for data {rows.shape}, got {components}")
    rows, power = scaled_to_1(rows)  # otherwise variances may over- or underflow
    found = Decomposition(components, svd_solver="full")
    with np.errstate(invalid="ignore"):  # 0 / 0 if nothing varies
        points = found.fit_transform(rows)
    explained = np.nan_to_num(np.asarray(found.explained_variance_ratio_), nan=0.0)
    return PCA(np.ldexp(points, power), np.asarray(found.components_), np.ldexp(found.mean_, power), explained)


def reduced(rows: np.ndarray) -> np.ndarray:
    """Return scaled data, reduced to 50 principal components if there are more features."""
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
    """Color similar features alike: the first three principal components over all positions of all images, as RGB.

    Places of the same color in two images have similar features. Each component is scaled to [0, 1] over all positions.
    With `foreground`, the first component separates objects from their background, as in DINOv2: of the positions above
    its mean and those below, those that cover less of the images' borders are the foreground. They are colored by their
    own three components, and the others are black.

    Args:
        maps: `(n, h, w, c)`, features with at least three channels, such as `features(..., pool=None)` returns for maps
            and for a transformer's tokens.
        foreground: whether to show objects only.

    Returns:
        `(n, h, w, 3)` in [0, 1]: one pixel per position; `resize` enlarges it.

    Raises:
        ValueError: for maps of another shape, NaN or infinite values, and fewer than three positions or channels.

    Example:
        >>> import jax.numpy as jnp, jaxviz
        >>> maps = jnp.eye(4).reshape(1, 2, 2, 4)  # four positions that have nothing in common
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
