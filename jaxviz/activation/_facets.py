"""The facets of a unit: clusters of the pictures to which it responds, as where to start synthesis."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxviz._extras import extra
from jaxviz._options import check_batch, check_count
from jaxviz._types import AnyImages, Net
from jaxviz.activation._features import features
from jaxviz.show._shown import shown


@shown("images", lambda found: found.images)
class Facets(NamedTuple):
    """Clusters of images by their features, the largest first.

    Attributes:
        images: `(k, h, w, c)` in [0, 1], for each cluster the mean of the images nearest to its center.
        directions: `(k, f)`, each center minus the mean of all images: what sets a cluster apart.
        labels: `(n,)`, the cluster of each image.
    """

    images: Float[np.ndarray, "k h w c"]
    directions: Float[np.ndarray, "k f"]
    labels: Int[np.ndarray, " n"]


def facets(
    net: Net, params: Any, images: AnyImages, *, layer: str, count: int = 4, nearest: int = 15, batch_size: int = 32
) -> Facets:
    """Cluster images by a layer's features, for several pictures of a unit that responds to different things.

    Given the images or patches to which a unit responds most (`top_patches` finds them), each cluster is a facet: a
    dog's face and a car's wheel, say. `ascend` then starts from a facet's mean image, and can be kept to it by its
    direction, so that it makes one picture of each facet; without images, `diversity` makes several that differ.

    Args:
        net: any JAX function `net(params, images)`.
        params: its parameters.
        images: `(n, h, w, c)` in [0, 1], to which a unit responds: some tens or hundreds of them.
        layer: whose features to compare, averaged over positions, a name that `layers` lists; a layer above the unit
            sees more of what an image is.
        count: the number of clusters.
        nearest: how many images at most are averaged in each cluster, those nearest to its center.
        batch_size: images that the network is given at once.

    Returns:
        The mean images, the directions, and the cluster of each image. The same images give the same clusters.

    Raises:
        ValueError: for a layer that does not exist; fewer images than clusters, or fewer that differ; if `images` is
            not a batch of images in [0, 1]; and for options out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxviz
        >>> net = lambda params, images: jax.nn.relu(images)
        >>> red, blue = (jnp.full((3, 4, 4, 3), 0.1).at[..., i].set(0.9) for i in (0, 2))
        >>> found = jaxviz.facets(net, None, jnp.concatenate([red, blue[:2]]), layer="relu_0", count=2)
        >>> print(found.labels, found.images[:, 0, 0].argmax(-1))  # red, and blue
        [0 0 0 1 1] [0 2]
        >>> score = jaxviz.channel(net, "relu_0", jnp.full(2, 1)) + jaxviz.direction(net, "relu_0", found.directions)
        >>> made = jaxviz.ascend(score, None, jax.random.key(0), start=found.images, size=4, steps=8, transform=None)
        >>> print(made.images.shape)
        (2, 4, 4, 3)

    Nguyen, Yosinski & Clune 2016, Multifaceted Feature Visualization; Goh et al. 2021, Multimodal Neurons in Artificial
    Neural Networks (facets as directions).
    """
    check_batch("images", images)
    check_count("count", count)
    check_count("nearest", nearest)
    if len(images) < count:
        raise ValueError(f"count: expected at most the {len(images)} images, got {count}")
    pixels = np.asarray(images)
    values = np.asarray(features(net, params, pixels, layer=layer, batch_size=batch_size).values, np.float64)
    if len(np.unique(values, axis=0)) < count:
        raise ValueError(f"count: expected at most as many as there are different features in {layer!r}, got {count}")
    labels = _clusters(values, count)
    centers = np.stack([values[labels == i].mean(0) for i in range(count)])
    means = [_mean_nearest(pixels, values, labels == i, center, nearest) for i, center in enumerate(centers)]
    return Facets(np.stack(means), (centers - values.mean(0)).astype(np.float32), labels)


def _clusters(values: Float[np.ndarray, "n f"], count: int) -> Int[np.ndarray, " n"]:
    """Return the number of each row's cluster, the largest cluster first."""
    with extra("embed"):
        from sklearn.cluster import KMeans

    labels = KMeans(count, n_init=10, random_state=0).fit_predict(values)  # type: ignore[arg-type]
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return np.argsort(order)[labels]


def _mean_nearest(images: Any, values: Any, inside: Any, center: Any, nearest: int) -> Float[np.ndarray, "h w c"]:
    rows = np.flatnonzero(inside)
    distances = np.linalg.norm(values[rows] - center, axis=1)
    return images[rows[np.argsort(distances, kind="stable")[:nearest]]].mean(0)
