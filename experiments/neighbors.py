"""Which photographs are similar: nearest neighbors by features and by pixels, and all of them laid out by t-SNE.

    python experiments/neighbors.py ../shared/data/imagenet_samples

EfficientNet-Lite0's last vector (1280 numbers) by cosine, and the photographs at 32x32 by L2, as in the lecture. Writes
`neighbors.png` (one row per query: itself, five neighbors by features, five by pixels) and `embedding.png` (t-SNE of
the features, moved to a grid) to `--out`: third-party photographs are not committed.

Prints how often a neighbor is in the query's WordNet neighborhood. ImageNet's classes are numbered along WordNet's
tree, so related classes have nearby numbers (151 to 268 are dogs); a photograph is in a query's neighborhood if its
class number, with which file names start, is at most 10 away. Then the trustworthiness of the t-SNE (scikit-learn's, 10
neighbors, 1 is best) and that of the first two principal components.

Takes about 1 minute on two cores.
"""

from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from sklearn.manifold import trustworthiness

import jaxviz


def main(
    photographs: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    queries: int = 6,
    thumbnail: int = 48,
    out: Path = Path("out"),
) -> None:
    """Draw both pictures and print the measures.

    Args:
        photographs: a folder of files whose names start with the number of an ImageNet class.
        queries: number of rows in the first picture.
        thumbnail: side of a photograph in the second picture, in pixels.
        out: folder for the pictures.
    """
    net, params = jaxviz.load("efficientnet_lite0")
    found = jaxviz.features(net, params, photographs, layer="pool")
    paths = [photographs / name for name in found.ids]
    small = np.stack([jaxviz.load_image(path, size=32) for path in paths])
    banks = {"features": found.values, "pixels": small}
    near = {}
    for name, bank in banks.items():
        metric = "cosine" if name == "features" else "l2"
        near[name] = jaxviz.neighbors(bank, bank, k=6, metric=metric).indices[:, 1:]  # the first is the query itself
    numbers = np.array([int(path.name.split("_")[0]) for path in paths])
    alike = abs(numbers[:, None] - numbers) <= 10
    chance = (alike.sum() - len(numbers)) / (len(numbers) * (len(numbers) - 1))
    for name, indices in near.items():
        first, five = (np.take_along_axis(alike, indices[:, :count], axis=1).mean() for count in (1, 5))
        print(f"{name}: in the query's neighborhood are {first:.1%} of the first and {five:.1%} of five neighbors")
    print(f"by chance: {chance:.1%}")

    chosen = np.random.default_rng(0).choice(len(paths), queries, replace=False)
    rows = [[i, *near["features"][i], *near["pixels"][i]] for i in chosen]
    pictures = [jaxviz.load_image(paths[i], size=96) for row in rows for i in row]
    jaxviz.save_image(out / "neighbors.png", jaxviz.montage(pictures, columns=11))

    points = jaxviz.tsne(found.values, jax.random.key(0))
    for name, plane in (("t-SNE", points), ("two principal components", jaxviz.pca(found.values).points)):
        print(f"trustworthiness of {name}: {trustworthiness(found.values, plane, n_neighbors=10):.3f}")
    cells = jaxviz.grid_layout(points)
    pictures = [jaxviz.load_image(paths[i], size=thumbnail) for i in np.lexsort(cells.T[::-1])]  # row by row
    jaxviz.save_image(out / "embedding.png", jaxviz.montage(pictures, columns=int(cells[:, 1].max()) + 1, gap=0))


if __name__ == "__main__":
    tyro.cli(main)
