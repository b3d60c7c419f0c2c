"""Which image would ...? The synthesis methods as verbs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxviz.cli._options import (
    File,
    Files,
    ImageFiles,
    Images,
    Layer,
    Name,
    Names,
    Network,
    Numbers,
    Octaves,
    OneOutput,
    Run,
    Steps,
    StyleFiles,
    Tolerance,
    Unit,
    aside,
)

RECIPES = "simonyan|cs231n|yosinski-1|yosinski-2|yosinski-3|yosinski-4|olah2017|maco"
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True, kw_only=True)
class Ascend(OneOutput, Steps, Tolerance):
    """Find the image that a class, a channel or a layer responds to most."""

    verb = "ascend"
    layer: Name = None
    """Maximize a channel of this layer instead of a class."""
    target: Names = ()
    """Classes by name or number; with --layer, channels by number (by default the whole layer).
    Several give an image each."""
    recipe: Annotated[str | None, tyro.conf.arg(metavar=RECIPES)] = None
    """The options of a paper, which has its own --steps and --learning-rate."""
    start: File = None
    """An image to start from, instead of noise."""
    model: Name = None
    """A network that `jaxviz weights list` shows, or yours: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.
    That runs the file, and the function, which returns (net, params) or a jaxviz.Network.
    By default efficientnet_lite0 for classes, vgg16_features for layers."""
    size: int | None = None
    """Height and width in pixels; by default the network's own, or 224."""
    steps: int | None = None
    """How many; None: 128, or 512 with --start."""
    learning_rate: float | None = None
    """Of Adam; None: 1, or 0.05 with --start."""

    def run(self) -> None:
        """Find it."""
        from jaxviz.cli._maximize import ascend

        ascend(self)


@dataclass(frozen=True, kw_only=True)
class Sheet(Unit, Run):
    """Find the image that each channel of a layer responds to most, for all of them."""

    verb = "sheet"
    target: Names = ()
    """Channels of the layer by number; by default all."""
    size: int | None = None
    """Of each image, in pixels; by default what a network of yours says, or 96, or less where the units see less."""
    steps: int = 128
    """For each image."""
    batch_size: int = 16
    """Images that are optimized at once; rounded up to a multiple of the number of local devices."""

    def run(self) -> None:
        """Find them."""
        from jaxviz.cli._maximize import sheet

        sheet(self)


@dataclass(frozen=True, kw_only=True)
class Dream(Images, Unit, Steps):
    """Change images so that a layer sees more of what it sees in them, from coarse to fine."""

    verb = "dream"
    guide: File = None
    """Dream of what is in this image, instead of whatever the layer sees."""
    size: int = 512
    """Longer side in pixels to which larger images are reduced."""
    zoom: int = aside(0)
    """Make so many frames of a fall into the dream, NAME-dream-FRAME.png; a rerun continues after the last."""
    fps: float = aside(0.0)
    """With --zoom, also make a video of the frames, NAME-dream.mp4, of so many frames per second, such as 15."""
    octaves: int = 4
    """Sizes to dream at, the last being the images' own."""
    octave_scale: float = 1.4
    """Ratio between them."""
    steps: int = 10
    """In each octave."""
    step_size: float = 1.5 / 255
    """Mean change of a pixel in one step, in units of brightness."""
    jitter: int = 32
    """The largest shift, in pixels."""
    smoothing: float = 0.0
    """How much the finest detail of the gradient is damped: 1 makes softer and larger things."""
    tile: int | None = None
    """Compute the gradient in tiles of this side at most, in pixels, for large images: memory is that of one tile."""
    overlap: int = 64
    """How far a tile sees beyond what it changes, in pixels."""

    def run(self) -> None:
        """Dream of each image."""
        from jaxviz.cli._maximize import dream

        dream(self)


@dataclass(frozen=True, kw_only=True)
class Invert(Images, Layer, Steps, Tolerance):
    """Find images whose features at a layer match those of the given images: what the layer has kept of them."""

    verb = "invert"
    size: int | None = None
    """Height and width in pixels to which images are resized and cropped; by default the network's own, or 224."""
    steps: int = 200
    """How many. 250 leave 0.2% to 0.3% at VGG-16's relu3_3 and 1% to 3% at relu5_3."""
    smoothness: float = 0.5
    """Weight of the total variation."""

    def run(self) -> None:
        """Invert each image's features."""
        from jaxviz.cli._match import invert

        invert(self)


@dataclass(frozen=True, kw_only=True)
class Texture(Images, Network, Steps, Octaves):
    """Make an image of the same texture as a sample, of any size, from noise."""

    verb = "texture"
    images: Annotated[ImageFiles, tyro.conf.Positional] = aside(())
    """The samples: files, or folders of files."""
    method: Literal["gatys", "efros-leung"] = "gatys"
    """Gram matrices of features (gatys), or the sample's own pixels, one by one (efros-leung)."""
    sample: int = 256
    """Longer side in pixels to which larger samples are reduced."""
    window: int = 11
    """Side in pixels of what efros-leung compares."""
    model: str = "vgg16_features"
    size: int | None = None
    """Height and width in pixels; by default the sample's, 128 for efros-leung."""
    layers: Names = STYLE_LAYERS
    """Whose Gram matrices: the default's with weights of their own, others all of equal weight."""
    octaves: int = 1
    """Sizes to work at, each twice the one before; more than one for structure larger than the network sees."""
    smoothness: float = 0.0
    """Weight of the total variation, against noise in the finest detail."""

    def run(self) -> None:
        """Make one of each sample."""
        from jaxviz.cli._match import texture

        texture(self)


@dataclass(frozen=True, kw_only=True)
class Style(Network, Steps, Octaves):
    """Render the content of one image in the style of another, or of several."""

    verb = "style"
    content: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONTENT")]
    """The image to show."""
    styles: StyleFiles = ()
    """The images in whose style it is shown."""
    model: str = "vgg16_features"
    size: int = 512
    """Longer side in pixels to which the content is reduced."""
    style_weights: Numbers = ()
    """Of the relative error of Gram matrices; one for each style, or one that they share.
    By default 150 with the default layers, 20 with others."""
    masks: Files = ()
    """For each style an image of the content's size, white where it belongs."""
    style_masks: Files = ()
    """For each style an image of its own size, white where it counts."""
    start: str = "content"
    """What it starts from: content, noise, style or the name of an image file."""
    sweep: Numbers = aside(())
    """Make one image for each of these style weights, and a row of them."""
    sweep_size: Numbers = aside(())
    """Make one image for each of these style sizes, and a row of them."""
    content_weight: float = 1.0
    """Of the relative error of features."""
    content_layers: Names = ("relu4_2",)
    """Whose features, all of equal weight."""
    style_layers: Names = STYLE_LAYERS
    """Whose Gram matrices: the default's with weights of their own, others all of equal weight."""
    style_size: float = 1.0
    """Longer side of the styles, as a multiple of the content's: strokes grow with it."""
    colors: Literal["style", "luminance", "match"] = "style"
    """The style's (style), or the content's, of which only the brightness is painted (luminance).
    With match, the style is first given the mean color and covariance of the content."""
    octaves: int = 1
    """Sizes to work at, each twice the one before.
    Above 512 px take 2 or 3: strokes of the full width need what the network sees at a smaller size."""

    def run(self) -> None:
        """Render it."""
        from jaxviz.cli._match import style

        style(self)
