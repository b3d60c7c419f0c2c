"""What do the units respond to? Features, neighbors, embeddings and patches of a whole data set as verbs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxviz.cli._options import File, ImageFiles, Names, Network, Seed, Source, aside


@dataclass(frozen=True, kw_only=True)
class OfSource(Network):
    """Which images, of a source, and how they are read."""

    source: Source
    """A folder, with the folders in it; a zip, tar, .npy or .npz file, or tar files as in train-{0000..0146}.tar.
    Or tfds:NAME[SPLIT]."""
    size: int | None = None
    """Side in pixels to which the shorter side of an image is scaled, and to which its center is cropped.
    By default the network's own, or 224."""
    batch_size: int = aside(32)
    """Images at once."""


@dataclass(frozen=True, kw_only=True)
class Stored(OfSource):
    """Which features, and where they are kept."""

    layer: str = "pool"
    """Whose values, the mean over the positions of a map, are compared."""
    store: Path = Path("features")
    """Folder that keeps the features of the source."""


@dataclass(frozen=True, kw_only=True)
class Features(Stored):
    """Compute the features of all images of a source, into a store on disk."""

    layer: str = "pool"
    """Whose values."""
    pool: Literal["mean", "max", "none"] = "mean"
    """Mean or maximum over the positions of a map, or whole maps."""
    store: Path = Path("features")
    """Folder for the features.
    What is there is not computed again: a run that was stopped continues, and new images are added."""
    table: File = aside(None)
    """A file, .parquet or .arrow, for a table of names, labels and features, a row for each image.
    NAME-skipped beside it has the images that could not be read."""

    def run(self) -> None:
        """Compute them."""
        from jaxviz.cli._features import features

        features(self)


@dataclass(frozen=True, kw_only=True)
class Neighbors(Stored, Seed):
    """Find the images of a source that are most like some others."""

    queries: ImageFiles = ()
    """Image files; by default six of the source, chosen at random."""
    k: int = 5
    """Neighbors of each query."""
    metric: Literal["cosine", "l2"] = "cosine"
    """By angle or by distance of the features."""
    out: Path = Path("out")
    """Folder for neighbors.png, a row for each query, and neighbors.json: names, distances and labels."""
    seed: int = 0
    """Of the choice of queries."""

    def run(self) -> None:
        """Find them."""
        from jaxviz.cli._features import neighbors

        neighbors(self)


@dataclass(frozen=True, kw_only=True)
class Embed(Stored, Seed):
    """Lay the images of a source out in the plane, similar ones together, by t-SNE and PCA of their features."""

    perplexity: float | None = None
    """How many neighbors count, roughly; by default 30, or a third of the images if that is less."""
    umap: bool = False
    """Whether the page also has the layout of UMAP; needs the extra `umap`."""
    thumbnail: int = 48
    """Side in pixels of an image in the picture."""
    out: Path = Path("out")
    """Folder for embedding.html, a page to move about in, which shows an image's neighbors.
    It also gets embedding.png, the images in a grid, and embedding.npz: ids, points, and cells of the grid."""

    def run(self) -> None:
        """Lay them out."""
        from jaxviz.cli._features import embed

        embed(self)


@dataclass(frozen=True, kw_only=True)
class Patches(OfSource, Seed):
    """Find the patches of a source's images that each channel of a layer, or of several, responds to most."""

    verb = "patches"
    model: str = "vgg16_features"
    layer: Names = ("relu4_3",)
    """Whose channels; several layers cost one pass."""
    target: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")] = aside(())
    """Channels to show; by default nine of those that respond, chosen at random."""
    k: int = 9
    """Patches of each channel."""
    beside: Literal["none", "guided", "deconvnet", "gradient"] = aside("none")
    """What patches.html shows beside each patch: what in it excites the unit, which takes a while."""
    out: Path = aside(Path("out"))
    """Folder for patches.html, a page of the channels, and LAYER-patches.png, a row for each of them.
    LAYER-patches.npz has values, ids, positions and boxes of all channels.
    A run that was stopped continues from patches-state.npz.
    One that was finished reads only what is new in the source."""
    seed: int = aside(0)
    """Of the choice of channels."""

    def run(self) -> None:
        """Find them."""
        from jaxviz.cli._patches import patches

        patches(self)
