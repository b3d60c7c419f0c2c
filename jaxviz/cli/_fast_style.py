"""`jaxviz fast-style train|apply|list`: nets that render images in a style in one pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxviz.cli._options import File, ImageFiles, Names, Network, Seed, Source, StyleFiles, Verb


@dataclass(frozen=True, kw_only=True)
class Train(Network, Seed):
    """Train a net that renders any image in one of several styles, in one pass.

    If interrupted, by Ctrl-C or otherwise, the same command resumes training.
    """

    source: Source
    """Photographs to learn from: a folder, including its subfolders, or tfds:NAME[SPLIT]."""
    styles: StyleFiles = ()
    """An image for each style; the style is named after the file."""
    out: Path = Path("fast-style")
    """Folder for the net (net.safetensors), checkpoints, the losses and a sheet of samples."""
    start: File = None
    """A net with as many styles to start from; by default random parameters."""
    add_to: File = None
    """A trained net to which to add the styles; only the new styles' scales and offsets are trained."""
    model: str = "vgg16_features"
    """The loss network; see `jaxviz weights list`."""
    width: int | None = None
    """Channels of the net's first layer; by default 32, or those of the net to start from or to add to."""
    size: int = 256
    """Side of the crops in pixels."""
    batch_size: int = 4
    """Crops per step."""
    steps: int = 40_000
    """Number of steps; a larger number continues a finished run."""
    content_weight: float = 1.0
    """Weight of the relative error of features."""
    style_weight: float = 20.0
    """Weight of the relative error of Gram matrices."""
    style_size: tuple[float, ...] = (1.0,)
    """Longer side of the style images, as a multiple of the crops' side: strokes grow with it. With several, each style
    is learned at each of them, and `apply` chooses by the size of the image."""
    smoothness: float = 8.0
    """Weight of the total variation."""
    steadiness: float = 0.0
    """Weight of the change from one frame of a video to the next."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Adam, as in the paper, or Muon, which gets further in as many steps; use a learning rate of about 1e-2 for it."""
    learning_rate: float = 1e-3
    """The optimizer's learning rate."""
    cooldown: float = 0.0
    """Final fraction of the steps, over which the learning rate decays to zero."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the networks; bfloat16 is meant for GPUs and TPUs."""
    samples: ImageFiles = ()
    """Photographs to render during training; by default the first four of the source."""
    every: int = 500
    """Steps between checkpoints and sheets of samples."""

    def run(self) -> None:
        """Train the net."""
        from jaxviz.cli._train_style import train

        train(self)


@dataclass(frozen=True, kw_only=True)
class Apply(Verb):
    """Render images or videos in a style, in one pass."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    """Images, folders of images, or videos (.mp4, .mov, .mkv, .webm, .avi; these need PyAV)."""
    style: Names = ()
    """Styles, as listed by `jaxviz fast-style list`; by default all of the net's. Strokes fit the size of the image;
    scream@512 has those for 512 px."""
    mix: Annotated[str | None, tyro.conf.arg(metavar="NAME=WEIGHT,...")] = None
    """A mixture of styles instead, such as mosaic=0.7,ink=0.3."""
    net: File = None
    """A net trained by `jaxviz fast-style train`; by default the one that comes with jaxviz."""
    size: int | None = None
    """Longer side in pixels to which larger images are reduced."""
    tile: int = 1024
    """Side in pixels of a tile: larger images are computed tile by tile."""
    out: Path = Path("out")
    """Folder for the results, NAME-STYLE.png, and .mp4 for videos."""

    def run(self) -> None:
        """Render each of them."""
        from jaxviz.cli._apply_style import apply

        apply(self)


@dataclass(frozen=True, kw_only=True)
class List(Verb):
    """List the styles of nets."""

    nets: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FILE ...]")] = ()
    """Nets trained by `jaxviz fast-style train`; by default the one that comes with jaxviz."""

    def run(self) -> None:
        """List them."""
        from jaxviz.cli._apply_style import list_styles

        list_styles(self)
