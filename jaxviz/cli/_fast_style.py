"""`jaxviz fast-style train|apply|list`: nets that show images in a style in one pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxviz.cli._options import File, ImageFiles, Names, Network, Seed, Source, StyleFiles, Verb


@dataclass(frozen=True, kw_only=True)
class Train(Network, Seed):
    """Train a net that shows any image in one of several styles, in one pass.

    The same command continues where it was stopped, by Ctrl-C or otherwise.
    """

    source: Source
    """Photographs to learn from: a folder, with the folders in it, or tfds:NAME[SPLIT]."""
    styles: StyleFiles = ()
    """An image for each style, which is named after the file."""
    out: Path = Path("fast-style")
    """Folder for the net (net.safetensors), checkpoints, the losses and a sheet of samples."""
    start: File = None
    """A net of as many styles to begin with; by default random numbers."""
    add_to: File = None
    """A trained net to add the styles to; nothing but the new styles' scales and offsets is trained."""
    model: str = "vgg16_features"
    """The network that compares; see `jaxviz weights list`."""
    width: int = 32
    """Channels of the net's first layer."""
    size: int = 256
    """Side of the crops in pixels."""
    batch_size: int = 4
    """Crops a step."""
    steps: int = 40_000
    """How many; a finished training can be given more."""
    content_weight: float = 1.0
    """Of the relative error of features."""
    style_weight: float = 20.0
    """Of the relative error of Gram matrices."""
    style_size: float = 1.0
    """Longer side of the styles, as a multiple of the crops': strokes grow with it."""
    smoothness: float = 8.0
    """Weight of the total variation."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Adam, the paper's, or Muon, which gets further in as many steps; a learning rate of 1e-2 suits it."""
    learning_rate: float = 1e-3
    """Of the optimizer."""
    cooldown: float = 0.0
    """The last part of the steps, over which the learning rate falls to zero."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; bfloat16 is meant for GPUs and TPUs."""
    samples: ImageFiles = ()
    """Photographs to draw on the way; by default the first four of the source."""
    every: int = 500
    """Steps from one checkpoint, and sheet of samples, to the next."""

    def run(self) -> None:
        """Train it."""
        from jaxviz.cli._train_style import train

        train(self)


@dataclass(frozen=True, kw_only=True)
class Apply(Verb):
    """Show images or videos in a style, in one pass."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    """Images, folders of images, or videos (.mp4, .mov, .mkv, .webm, .avi; these need PyAV)."""
    style: Names = ()
    """Styles that `jaxviz fast-style list` names; by default all of the net."""
    mix: Annotated[str | None, tyro.conf.arg(metavar="NAME=WEIGHT,...")] = None
    """A mixture instead, as mosaic=0.7,ink=0.3."""
    net: File = None
    """A net that `jaxviz fast-style train` made; by default the one that comes with jaxviz."""
    size: int | None = None
    """Longer side in pixels to which larger images are reduced."""
    tile: int = 1024
    """Side in pixels of what is computed at once: larger images are made in tiles."""
    out: Path = Path("out")
    """Folder for the results, NAME-STYLE.png, and .mp4 for videos."""

    def run(self) -> None:
        """Show each of them."""
        from jaxviz.cli._apply_style import apply

        apply(self)


@dataclass(frozen=True, kw_only=True)
class List(Verb):
    """List the styles of nets."""

    nets: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FILE ...]")] = ()
    """Files that `jaxviz fast-style train` made; by default the net that comes with jaxviz."""

    def run(self) -> None:
        """List them."""
        from jaxviz.cli._apply_style import list_styles

        list_styles(self)
